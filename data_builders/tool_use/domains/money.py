"""Loans, savings, tax, discounts and small business; banks' offers and second-hand values stand for services and are "
"made up."""

from __future__ import annotations

import math
from typing import Literal

from data_builders.tool_use.made_up import made_up


def car_loan_installment(vehicle_price: float, annual_rate: float, months: int, down_payment: float = 0) -> float:
    """The monthly installment of a car loan.

    Args:
        vehicle_price: Price of the vehicle.
        annual_rate: Yearly interest in percent, such as 5.9.
        months: Number of monthly payments.
        down_payment: What is paid at once. Default is 0.
    """
    owed, rate = vehicle_price - down_payment, annual_rate / 1200
    if owed <= 0 or months < 1:
        raise ValueError("the down payment must be below the price, and months must be at least 1")
    return round(owed / months if not rate else owed * rate / (1 - (1 + rate) ** -months), 2)


def months_until_goal(goal_amount: float, monthly_deposit: float, already_saved: float = 0) -> int:
    """How many months of saving reach an amount, without interest.

    Args:
        goal_amount: Amount to be reached.
        monthly_deposit: Amount put aside every month.
        already_saved: Amount there is to start with (optional).
    """
    if monthly_deposit <= 0:
        raise ValueError("monthly_deposit must be above 0")
    return max(0, math.ceil((goal_amount - already_saved) / monthly_deposit))


def stacked_discount(list_price: float, discounts: list[float]) -> float:
    """The price that remains after several discounts, one taken after the other.

    Args:
        list_price: Price before any discount.
        discounts: Percentages in the order they are taken, e.g. [20, 5].
    """
    return round(list_price * math.prod(1 - discount / 100 for discount in discounts), 2)


def budget_left(monthly_income: float, expenses: dict[str, float]) -> dict:
    """What remains of an income after the listed expenses, and the largest of them.

    Args:
        monthly_income: Income of the month.
        expenses: Amount by kind of expense, such as {"rent": 800, "food": 250}.
    """
    if not expenses:
        raise ValueError("expenses must name at least one expense")
    left = round(monthly_income - sum(expenses.values()), 2)
    return {"left": left, "largest_expense": max(expenses, key=lambda name: expenses[name])}


def bill_share_each(bill_total: float, people: int, tip_percent: float = 0, round_up: bool = False) -> float:
    """What everyone pays when a bill is split evenly.

    Args:
        bill_total: Sum on the bill.
        people: How many share it.
        tip_percent: Tip in percent of the sum. Default is 0.
        round_up: Whether each share becomes a whole amount.
    """
    if people < 1:
        raise ValueError("people must be at least 1")
    share = round(bill_total * (1 + tip_percent / 100) / people, 2)
    return math.ceil(share) if round_up else share


def used_price_estimate(article: str, condition: Literal["like_new", "good", "worn"], asking_city: str = "") -> int:
    """Estimates what an article sells for second-hand.

    Args:
        article: What is sold, e.g. "oak table".
        condition: State that it is in.
        asking_city: City of the seller, if it matters.
    """
    share = {"like_new": 80, "good": 60, "worn": 35}[condition]
    return made_up(200, 1900, "used", article.lower(), asking_city.lower()) * share // 100


def savings_offer(bank: str, term: Literal["6 months", "1 year", "3 years", "5 years"]) -> dict:
    """The interest that a bank pays on a fixed deposit.

    Args:
        bank: Name of the bank.
        term: How long the money is tied up.
    """
    return {"bank": bank, "rate_percent": made_up(50, 450, "savings", bank.lower(), term) / 100}


def tax_above_allowance(gross_income: float, tax_rate: float, allowance: float = 0) -> float:
    """Tax at a flat rate on what exceeds the allowance.

    Args:
        gross_income: Income of the year.
        tax_rate: Rate as a fraction, e.g. 0.2 for 20%.
        allowance: Income that stays free of tax. Default is 0.
    """
    return round(max(0, gross_income - allowance) * tax_rate, 2)


def subscription_cost(
    service: str, fee: float, billing: Literal["weekly", "monthly", "yearly"], years: int = 1
) -> dict:
    """What a subscription costs in the long run.

    Args:
        service: Name of what is subscribed to.
        fee: Amount of one payment.
        billing: How often the fee is paid.
        years: Years that it runs. Default is 1.
    """
    payments = {"weekly": 52, "monthly": 12, "yearly": 1}[billing] * years
    return {"service": service, "payments": payments, "total": round(fee * payments, 2)}


def price_after_inflation(todays_price: float, inflation: float, years_ahead: int) -> float:
    """What something costs after years of steady inflation.

    Args:
        todays_price: Price now.
        inflation: Yearly rise of prices in percent.
        years_ahead: How many years to look ahead.
    """
    return round(todays_price * (1 + inflation / 100) ** years_ahead, 2)
