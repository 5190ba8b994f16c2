"""Shops, parcels, funds, homes and insurance: apart from plain sums, stand-ins for services with made-up answers."""

from __future__ import annotations

from typing import Literal

from data_builders.tool_use.made_up import made_up, made_up_choice

# fmt: off
# fmt: on


def parcel_position(tracking_number: str, courier: str) -> str:
    """Say where a parcel is at the moment.

    Args:
        tracking_number: Number on the shipping label.
        courier: Company that carries it: swift, postline or cargo24.
    """
    if courier not in ("swift", "postline", "cargo24"):
        raise ValueError(f"courier {courier!r} is unknown; accepted are swift, postline, cargo24")
    places = ("in the sorting center", "on the delivery van", "at the pickup shop", "at customs", "delivered")
    return made_up_choice(places, tracking_number, courier)


def latest_order(customer: str, shop: str = "web") -> dict:
    """Look up the latest order of a customer.

    Args:
        customer: First and last name of the customer.
        shop: Where it was placed, web or the name of a branch. Default is web.
    """
    return {"order_number": f"OR-{made_up(10000, 99999, customer, shop)}", "pieces": made_up(1, 7, customer, shop)}


def branch_stock(article: str, branch: str, color: str = "any") -> int:
    """How many pieces of an article a branch has on its shelves.

    Args:
        article: The article, such as "desk lamp".
        branch: Name of the branch.
        color: Color wanted; any by default.
    """
    return made_up(0, 14, article, branch, color)


def article_price(product: str, quantity: int = 1, gift_wrap: bool = False) -> float:
    """Price of an article in the web shop, in dollars.

    Args:
        product: Name of the article.
        quantity: Number of pieces.
        gift_wrap: Whether it is wrapped as a gift, for 3.50 more.
    """
    return round(made_up(990, 24900, product) / 100 * quantity + (3.5 if gift_wrap else 0), 2)


def redeem_voucher(basket_total: float, voucher: str) -> float:
    """What is left to pay after a voucher is applied.

    Args:
        basket_total: Sum of the basket in dollars.
        voucher: Voucher code, exactly as printed.
    """
    return round(basket_total * (1 - made_up(1, 6, voucher) * 5 / 100), 2)


def return_goods(
    order_number: str, articles: list[str], reason: Literal["damaged", "wrong_size", "not_needed", "late"]
) -> dict:
    """Register a return and get a label for it.

    Args:
        order_number: Number of the order.
        articles: What is sent back.
        reason: Why it is sent back.
    """
    return {"label": f"RT{made_up(100000, 999999, order_number, *articles)}", "free": reason != "not_needed"}


def fund_unit_value(fund: str, day: str) -> float:
    """Value of one unit of an investment fund on a day.

    Args:
        fund: Name of the fund.
        day: The day, YYYY-MM-DD.
    """
    return round(made_up(2000, 18000, fund) / 100 + made_up(-300, 300, fund, day) / 100, 2)


def units_affordable(unit_value: float, budget: float, order_fee: float = 0) -> int:
    """Whole units that a sum of money buys.

    Args:
        unit_value: Price of one unit.
        budget: Money to be invested.
        order_fee: Fixed fee for the order, taken from the budget. Default is 0.
    """
    return max(0, int((budget - order_fee) // unit_value))


def appraise_home(street_address: str, town: str, square_meters: int, balcony: bool = False) -> int:
    """Estimate the market value of a home in dollars.

    Args:
        street_address: House number and street.
        town: City in which the home lies.
        square_meters: Living area in square meters.
        balcony: Whether there is a balcony.
    """
    return square_meters * made_up(1400, 7800, street_address, town) + (9000 if balcony else 0)


def gross_rental_yield(purchase_price: float, monthly_rent: float) -> float:
    """Yearly rent in percent of what a home cost.

    Args:
        purchase_price: Price paid for the home.
        monthly_rent: Rent per month.
    """
    return round(monthly_rent * 12 / purchase_price * 100, 2)


def cover_premium(
    insured_value: float, risk: Literal["fire", "flood", "theft", "storm"], deductible: Literal[0, 250, 500, 1000] = 250
) -> float:
    """Yearly premium for insuring something against one risk.

    Args:
        insured_value: Value to be covered in dollars.
        risk: What the policy covers.
        deductible: Part of a damage that the owner bears: 0, 250, 500 or 1000 dollars.
    """
    rate = {"fire": 0.0012, "flood": 0.0031, "theft": 0.0022, "storm": 0.0017}[risk]
    return round(insured_value * rate * (1.2 - deductible / 2500) + 15, 2)


def claim_state(policy_number: str, damage_date: str) -> str:
    """How far an insurance claim has come.

    Args:
        policy_number: Number of the policy.
        damage_date: Day of the damage as YYYY-MM-DD.
    """
    states = ("received", "with the assessor", "approved, payment pending", "paid", "more documents needed")
    return made_up_choice(states, policy_number, damage_date)
