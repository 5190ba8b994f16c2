"""Shops, parcels, funds, homes and insurance: apart from plain sums, stand-ins for services with made-up answers."""

from __future__ import annotations

from typing import Literal

from data_builders.tool_use.dialogs.samplers import city, code, date, decimal, one_of, person, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up, made_up_choice

# fmt: off
GOODS = ("desk lamp", "rain jacket", "espresso machine", "yoga mat", "running shoes", "cordless drill", "bunk bed",
         "picture frame", "bike helmet", "wool blanket", "garden hose", "baby monitor", "camping stove", "headphones")
# fmt: on
BRANCHES = ("Northgate", "Union Square", "Harborside", "Westfield Road", "Station Arcade")
FUNDS = tuple(f"{a} {b}" for a in ("Alder", "Summit", "Blue Ridge", "Meridian") for b in ("Growth", "Income", "Green"))
STREETS = tuple(f"{n} {s}" for n in range(3, 180, 13) for s in ("Elm Street", "Canal Road", "Mill Lane", "Oak Avenue"))


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


TASKS = (
    Task(
        parcel_position,
        arguments={"tracking_number": code("AA9999999"), "courier": one_of("swift", "postline", "cargo24")},
        queries=(
            "Where is my parcel {tracking_number}? It was sent with {courier}.",
            "{courier} {tracking_number} - where?",
            "I've been waiting for days. The label says {tracking_number}, carried by {courier}. Can you find it?",
            "Please track {tracking_number} for me ({courier}).",
        ),
        answers=("Your parcel is {result}.", "State of the parcel: {result}."),
        names=("find_parcel", "shipment_status", "where_is_package", "track_delivery"),
        parameters={"tracking_number": ("label_number", "tracking_id"), "courier": ("carrier", "company")},
        slips={"courier": (("Swift Express", "swift"), ("Post Line", "postline"), ("Cargo", "cargo24"))},
    ),
    Task(
        latest_order,
        arguments={"customer": person(), "shop": one_of(*BRANCHES)},
        queries=(
            "What was the last order of {customer}?",
            "{customer} is on the phone about an order placed at {shop}. Which number is it?",
            "latest order, customer {customer}, shop {shop}",
            "Look up the most recent purchase in {customer}'s account, please.",
        ),
        answers=("It is order {order_number} with {pieces} pieces.", "{order_number}, {pieces} pieces."),
        names=("last_purchase", "most_recent_order", "get_customer_order"),
        parameters={"customer": ("customer_name", "client"), "shop": ("store", "channel")},
    ),
    Task(
        branch_stock,
        arguments={
            "article": one_of(*GOODS),
            "branch": one_of(*BRANCHES),
            "color": one_of("red", "navy", "olive", "black"),
        },
        queries=(
            "Does the {branch} store have the {article}?",
            "I need the {article} in {color} today. How many are left at {branch}?",
            "stock {branch}: {article}",
            "Before I drive to {branch}: is there a {color} {article} on the shelf?",
        ),
        answers=("There are {result} in stock.", "The branch has {result}."),
        names=("shelf_count", "check_store_inventory", "pieces_available"),
        parameters={"article": ("item", "product"), "branch": ("store", "location"), "color": ("variant",)},
    ),
    Task(
        article_price,
        arguments={"product": one_of(*GOODS), "quantity": whole(2, 9)},
        queries=(
            "How much is the {product} in your web shop?",
            "I'd like {quantity} of the {product}. What do they cost together?",
            Query("It's a present: one {product}, gift wrapped. The price?", {"gift_wrap": True}),
            "{quantity} x {product} = ?",
            Query("{quantity} of the {product}, no wrapping needed. Total, please.", {"gift_wrap": False}),
        ),
        answers=("The price is {result} dollars.", "That is ${result}."),
        names=("web_shop_price", "product_cost", "quote_article"),
        parameters={"product": ("item", "article_name"), "quantity": ("pieces", "count"), "gift_wrap": ("as_gift",)},
    ),
    Task(
        redeem_voucher,
        arguments={"basket_total": decimal(20, 600, 2), "voucher": code("SAVE-AA99")},
        queries=(
            "My basket is {basket_total} dollars and I've got the voucher {voucher}. What do I pay?",
            "Apply {voucher} to {basket_total}.",
            "A friend gave me the code {voucher}. How much is left of {basket_total} dollars with it?",
            "basket: {basket_total} / voucher: {voucher} / to pay?",
        ),
        answers=("You pay {result} dollars.", "{result} dollars are left to pay."),
        names=("apply_discount_code", "use_coupon", "total_after_voucher"),
        parameters={"basket_total": ("total", "amount"), "voucher": ("coupon_code", "promo_code")},
    ),
    Task(
        return_goods,
        arguments={
            "order_number": code("OR-99999"),
            "articles": several(one_of(*GOODS), 1, 3),
            "reason": one_of("damaged", ("wrong_size", "wrong size"), ("not_needed", "not needed"), "late"),
        },
        queries=(
            "I want to send back {articles} from order {order_number}. Reason: {reason}.",
            "Return for {order_number}: {articles} ({reason})",
            "Please make me a return label. Order {order_number}, {articles}, and the reason is: {reason}.",
            Query("From {order_number} the {articles} came broken. I'd like to return that.", {"reason": "damaged"}),
        ),
        answers=("Use return label {label}.", "The return is registered; the label is {label}."),
        names=("start_return", "create_return_label", "send_back_items"),
        parameters={"order_number": ("order_id", "order"), "articles": ("items", "products"), "reason": ("cause",)},
    ),
    Task(
        fund_unit_value,
        arguments={"fund": one_of(*FUNDS), "day": date()},
        queries=(
            "What was a unit of {fund} worth on {day}?",
            "{fund}, unit value, {day}",
            "For my tax return I need the price of the fund {fund} on {day}.",
            "Could you look up how {fund} stood on {day}?",
        ),
        answers=("One unit was worth {result}.", "The unit value was {result}."),
        names=("fund_price_on", "net_asset_value", "fund_quote"),
        parameters={"fund": ("fund_name",), "day": ("date", "valuation_date")},
    ),
    Task(
        units_affordable,
        arguments={"unit_value": decimal(8, 190, 2), "budget": whole(500, 25000), "order_fee": decimal(2, 30, 2)},
        queries=(
            "How many units at {unit_value} each can I buy for {budget} dollars?",
            "I inherited {budget} dollars. A unit is {unit_value} and the bank takes {order_fee}. How many can I get?",
            "budget {budget}, fee {order_fee}, unit {unit_value}: whole units?",
            "With {budget} to invest and a price of {unit_value}, what's the most units I can get?",
        ),
        answers=("You can buy {result} units.", "The money is enough for {result} units."),
        names=("max_units", "shares_for_budget", "how_many_units"),
        parameters={"unit_value": ("price", "unit_price"), "budget": ("cash", "money"), "order_fee": ("fee",)},
    ),
    Task(
        appraise_home,
        arguments={"street_address": one_of(*STREETS), "town": city(), "square_meters": whole(35, 240)},
        queries=(
            "What might a {square_meters} square meter flat at {street_address} in {town} be worth?",
            Query("Value of {street_address}, {town}: {square_meters} m2, with balcony", {"balcony": True}),
            "We're selling our house in {town}, {street_address}. It has {square_meters} square meters. Its value?",
            "Please appraise {street_address}, {town}, living area {square_meters} square meters.",
        ),
        answers=("It may be worth {result} dollars.", "The estimate is ${result}."),
        names=("estimate_property_value", "home_valuation", "house_market_value"),
        parameters={"street_address": ("address",), "town": ("city",), "square_meters": ("area", "living_area")},
    ),
    Task(
        gross_rental_yield,
        arguments={"purchase_price": whole(90000, 900000), "monthly_rent": whole(500, 4500)},
        queries=(
            "I'd pay {purchase_price} for a flat and rent it out for {monthly_rent} a month. What's the gross yield?",
            "yield: price {purchase_price}, rent {monthly_rent}/month",
            "Is it worth it? A home for {purchase_price} brings {monthly_rent} a month; tell me the yield in percent.",
            "Rent is {monthly_rent} monthly and the purchase price was {purchase_price}. Work out the rental yield.",
        ),
        answers=("The gross yield is {result} percent.", "It yields {result}% a year."),
        names=("rent_yield_percent", "rental_return", "property_yield"),
        parameters={"purchase_price": ("price", "home_price"), "monthly_rent": ("rent", "rent_per_month")},
    ),
    Task(
        cover_premium,
        arguments={
            "insured_value": whole(8000, 400000),
            "risk": one_of("fire", "flood", "theft", "storm"),
            "deductible": one_of(0, 500, 1000),
        },
        queries=(
            "What does it cost a year to insure {insured_value} dollars against {risk}?",
            "{risk} insurance, value {insured_value}, deductible {deductible}",
            "After last winter I want cover against {risk}. The value is {insured_value} dollars. Yearly premium?",
            "I'd bear {deductible} dollars myself. What premium for {risk} on a value of {insured_value}?",
        ),
        answers=("The premium is {result} dollars a year.", "You would pay ${result} per year."),
        names=("insurance_quote", "yearly_premium", "risk_cover_price"),
        parameters={"insured_value": ("value", "sum_insured"), "risk": ("peril",), "deductible": ("own_share",)},
    ),
    Task(
        claim_state,
        arguments={"policy_number": code("P-999-AA"), "damage_date": date()},
        queries=(
            "What about my claim? Policy {policy_number}, the damage happened on {damage_date}.",
            "claim status {policy_number} {damage_date}",
            "My cellar was under water on {damage_date}. Has my insurer decided yet? The policy is {policy_number}.",
            "Would you look how far the claim of {damage_date} under policy {policy_number} is?",
        ),
        answers=("The claim is: {result}.", "Its state is: {result}."),
        names=("insurance_claim_status", "claim_progress", "check_claim"),
        parameters={"policy_number": ("policy", "policy_id"), "damage_date": ("loss_date", "date_of_damage")},
    ),
)

CHAINS = (
    Chain(
        latest_order,
        return_goods,
        feeds="order_number",
        takes="order_number",
        queries=(
            "{customer} wants to return {articles} from the latest order. The reason: {reason}.",
            "Send back {articles} from the last order of {customer} ({reason}).",
            "Customer {customer}, latest order at {shop}: make a return label for {articles}, reason {reason}.",
        ),
        between=("That is order {given}. Now the return.", "The latest order is {given}."),
        answers=("Order {given}: use the label {label}.", "The return label is {label}."),
    ),
    Chain(
        article_price,
        redeem_voucher,
        feeds="basket_total",
        queries=(
            "What do I pay for {quantity} of the {product} with voucher {voucher}?",
            Query("One {product} as a wrapped gift, with my code {voucher}. Final price?", {"gift_wrap": True}),
            "{product}, voucher {voucher}: what's left to pay?",
        ),
        between=("Without the voucher it is {given} dollars.", "The price is {given}. Now the voucher."),
        answers=("With the voucher you pay {result} dollars.", "{result} instead of {given} dollars."),
    ),
    Chain(
        fund_unit_value,
        units_affordable,
        feeds="unit_value",
        queries=(
            "How many units of {fund} could I have bought on {day} for {budget} dollars?",
            "{budget} into {fund} on {day}, fee {order_fee}: number of units?",
            "Look up {fund} on {day} and tell me how many units {budget} dollars would buy.",
        ),
        between=("One unit was worth {given}.", "The unit value was {given}. Now the number."),
        answers=("It was enough for {result} units.", "At {given} each, you get {result} units."),
    ),
    Chain(
        appraise_home,
        gross_rental_yield,
        feeds="purchase_price",
        queries=(
            "What is {street_address} in {town} worth ({square_meters} m2), and its yield at a rent of {monthly_rent}?",
            "Appraise {square_meters} square meters at {street_address}, {town}. Yield at {monthly_rent} a month?",
            "{town}, {street_address}, {square_meters} sqm, rented for {monthly_rent}: yield at market value?",
        ),
        between=("It may be worth {given} dollars.", "The estimate is {given}. Now the yield."),
        answers=("At {given} dollars it yields {result} percent.", "The yield is {result}%."),
    ),
    Chain(
        appraise_home,
        cover_premium,
        feeds="insured_value",
        queries=(
            "What would {risk} insurance cost for {square_meters} square meters at {street_address} in {town}?",
            "Estimate {street_address}, {town} ({square_meters} m2) and quote {risk} cover, deductible {deductible}.",
            "My home: {square_meters} m2, {street_address}, {town}. Insure its value against {risk}. Premium?",
        ),
        between=("The home is worth about {given} dollars.", "Its value: {given}. Now the premium."),
        answers=("The premium is {result} dollars a year.", "Covering {given} dollars costs {result} a year."),
    ),
)
