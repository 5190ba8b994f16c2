"""A small office: prices, books, invoices and meeting rooms."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Literal

from data_builders.tool_use.iso_dates import day_of


def asset_book_value(purchase_cost: float, useful_life: int, years_used: int, salvage_value: float = 0) -> float:
    """Book value of an asset under straight-line depreciation.

    Args:
        purchase_cost: What the asset cost when it was new.
        useful_life: Years over which it is written off.
        years_used: Years since the purchase.
        salvage_value: What it is worth in the end. Default is 0.
    """
    if useful_life < 1:
        raise ValueError("useful_life must be at least 1 year")
    worn = min(years_used, useful_life) / useful_life
    return round(purchase_cost - (purchase_cost - salvage_value) * worn, 2)


def net_from_gross_price(gross_price: float, vat_percent: float) -> dict:
    """Takes the value added tax out of a price that includes it.

    Args:
        gross_price: Price with tax.
        vat_percent: Tax rate in percent (for instance 19).
    """
    net = round(gross_price / (1 + vat_percent / 100), 2)
    return {"net": net, "tax": round(gross_price - net, 2)}


def selling_price(unit_cost: float, percentage: float, basis: Literal["markup", "margin"] = "markup") -> float:
    """The price at which an article sells for a wanted profit.

    Args:
        unit_cost: What one article costs the seller.
        percentage: Wanted profit in percent.
        basis: markup counts from the cost, margin from the price.
    """
    if basis == "margin" and percentage >= 100:
        raise ValueError("a margin must be below 100 percent")
    share = percentage / 100
    return round(unit_cost * (1 + share) if basis == "markup" else unit_cost / (1 - share), 2)


def units_to_break_even(fixed_costs: float, price_each: float, cost_each: float) -> int:
    """How many units must be sold before a product covers its costs.

    Args:
        fixed_costs: Costs that do not depend on the number sold.
        price_each: Selling price of one unit.
        cost_each: Cost of making one unit; below the price.
    """
    if price_each <= cost_each:
        raise ValueError("price_each must be above cost_each")
    return math.ceil(round(fixed_costs / (price_each - cost_each), 6))


def invoice_late_fee(amount_due: float, days_late: int, yearly_interest: float = 8.0, grace_days: int = 0) -> float:
    """Interest on an invoice that was paid too late.

    Args:
        amount_due: Amount of the invoice.
        days_late: Days after the due date.
        yearly_interest: Percent per year. Default is 8.
        grace_days: Days that cost nothing.
    """
    return round(amount_due * yearly_interest / 100 * max(0, days_late - grace_days) / 365, 2)


def sales_commission(salesperson: str, sales: float, commission_rate: float) -> dict:
    """The commission that a salesperson earns.

    Args:
        salesperson: Full name.
        sales: Value of what was sold.
        commission_rate: Share of the sales as a fraction, such as 0.05.
    """
    return {"salesperson": salesperson, "commission": round(sales * commission_rate, 2)}


def record_expense(payee: str, amount: float, currency: str, reimbursable: bool = False) -> str:
    """Enters an expense into the books and gives the line as it was written.

    Args:
        payee: Who was paid.
        amount: Amount that was paid.
        currency: Currency of the amount.
        reimbursable: Whether the employer pays it back.
    """
    if currency not in _CURRENCIES:
        raise ValueError(f"currency {currency!r} is not known; use a code: {', '.join(_CURRENCIES)}")
    return f"{payee}: {amount:.2f} {currency}{' (reimbursable)' if reimbursable else ''}"


def payment_due_date(issued_on: str, terms_days: int, skip_weekends: bool = False) -> str:
    """The last day on which an invoice may be paid.

    Args:
        issued_on: Day of the invoice, YYYY-MM-DD.
        terms_days: Days allowed for payment.
        skip_weekends: Whether a Saturday or Sunday moves on to Monday.
    """
    due = day_of(issued_on) + timedelta(days=terms_days)
    if skip_weekends and due.weekday() >= 5:
        due += timedelta(days=7 - due.weekday())
    return due.isoformat()


def working_days(from_day: str, until_day: str, saturdays_count: bool = False) -> int:
    """Counts the working days of a period, both ends included.

    Args:
        from_day: First day (YYYY-MM-DD).
        until_day: Last day (YYYY-MM-DD); not before the first.
        saturdays_count: Whether Saturdays are working days too.
    """
    start, end = day_of(from_day), day_of(until_day)
    if end < start:
        raise ValueError("until_day must not be before from_day")
    last = 6 if saturdays_count else 5
    return sum((start + timedelta(days=n)).weekday() < last for n in range((end - start).days + 1))


def confirm_room_booking(room: str, on_day: str, begins: str, duration_minutes: int = 60) -> str:
    """Enters a meeting room's reservation and confirms it in one line.

    Args:
        room: Name of the room.
        on_day: Date, YYYY-MM-DD.
        begins: Start as HH:MM.
        duration_minutes: Length in minutes, 60 unless told.
    """
    return f"{room}, {day_of(on_day).isoformat()}, {begins}, {duration_minutes} minutes"


_CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF", "SEK")
