"""A small office: prices, books, invoices and meeting rooms."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Literal

from data_builders.tool_use.dialogs.samplers import LAST_NAMES, date, decimal, one_of, percent, person, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, day_of


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
_PAYEES = tuple(f"{name}{kind}" for name in LAST_NAMES for kind in (" Taxi", " Printing", "'s Bakery", " Hotel"))
_ROOMS = ("Blue Room", "Atlas", "Room 204", "Garden Studio", "Room B12", "Aquarium", "Loft 3", "Kepler Hall", "Room 7")


TASKS = (
    Task(
        asset_book_value,
        arguments={
            "purchase_cost": whole(2000, 90000),
            "useful_life": whole(6, 15),
            "years_used": whole(2, 5),
            "salvage_value": whole(100, 1500),
        },
        queries=(
            "We bought a machine for {purchase_cost} and write it off over {useful_life} years. What is its book value "
            "after {years_used} years?",
            "Straight-line: cost {purchase_cost}, life {useful_life} years, salvage {salvage_value}, in use for "
            "{years_used}. Book value?",
            "Our delivery van cost {purchase_cost}, will be worth {salvage_value} after {useful_life} years, and is "
            "now "
            "{years_used} years old. At what value does it stand in the books?",
            "Tell me the remaining book value of a {purchase_cost} oven with a useful life of {useful_life} years, "
            "{years_used} of them over.",
        ),
        answers=("The book value is {result}.", "It stands in the books at {result}."),
        names=("straight_line_value", "remaining_book_value", "depreciated_value"),
        parameters={
            "purchase_cost": ("cost", "initial_value"),
            "useful_life": ("life_years",),
            "years_used": ("age",),
            "salvage_value": ("residual",),
        },
    ),
    Task(
        net_from_gross_price,
        arguments={"gross_price": decimal(5, 3000, 2), "vat_percent": percent(4, 25)},
        queries=(
            "How much of {gross_price} is tax if VAT is {vat_percent}?",
            "Net price and VAT for a gross {gross_price} at {vat_percent}.",
            "The receipt says {gross_price}, tax of {vat_percent} included. What was it before tax?",
            "Take {vat_percent} VAT out of {gross_price} for me.",
        ),
        answers=("It is {net} net and {tax} of tax.", "Without the tax of {tax} the price is {net}."),
        names=("remove_vat", "price_before_tax", "reverse_vat"),
        parameters={"gross_price": ("price_with_tax", "total"), "vat_percent": ("tax_rate", "vat_rate")},
    ),
    Task(
        selling_price,
        arguments={"unit_cost": decimal(1, 400, 2), "percentage": percent(8, 70), "basis": one_of("markup", "margin")},
        queries=(
            "A lamp costs me {unit_cost}. At what price do I sell it with a {basis} of {percentage}?",
            "Selling price for cost {unit_cost} plus {percentage}?",
            "We buy at {unit_cost} and want a {percentage} {basis}. What goes on the price tag?",
            Query(
                "What should I charge for jam that costs {unit_cost} a jar if {percentage} of the price is to be my "
                "profit?",
                fixed={"basis": "margin"},
            ),
        ),
        answers=("Sell it at {result}.", "The price is {result}."),
        names=("price_for_profit", "retail_price", "price_tag"),
        parameters={"unit_cost": ("cost",), "percentage": ("profit_percent",), "basis": ("method", "kind")},
    ),
    Task(
        units_to_break_even,
        arguments={"fixed_costs": whole(500, 50000), "price_each": decimal(21, 90, 2), "cost_each": decimal(2, 19, 2)},
        queries=(
            "Fixed costs are {fixed_costs}, each mug sells for {price_each} and costs {cost_each}. When do we break "
            "even?",
            "Break-even: fixed {fixed_costs} / price {price_each} / unit cost {cost_each}",
            "I paid {fixed_costs} for a press. A poster costs me {cost_each} to print and brings {price_each}. How "
            "many must I sell to get the money back?",
            "How many tickets at {price_each} cover {fixed_costs} of hall rent if every guest costs us {cost_each}?",
        ),
        answers=("You must sell {result}.", "The break-even point is at {result} units."),
        names=("break_even_quantity", "minimum_sales_volume", "break_even_units"),
        parameters={"fixed_costs": ("overhead",), "price_each": ("unit_price",), "cost_each": ("variable_cost",)},
    ),
    Task(
        invoice_late_fee,
        arguments={
            "amount_due": decimal(90, 9000, 2),
            "days_late": whole(15, 120),
            "yearly_interest": percent(2, 14),
            "grace_days": whole(2, 14),
        },
        queries=(
            "An invoice of {amount_due} was paid {days_late} days late. What late fee may I ask for?",
            "Late fee: {amount_due} due, {days_late} days over, {yearly_interest} a year, {grace_days} days of grace.",
            "My customer still owes {amount_due}, {days_late} days after the due date. We agreed on {yearly_interest} "
            "yearly. How much interest is that?",
            "Could you work out the interest for {days_late} days of delay on {amount_due}, the first {grace_days} "
            "days being free?",
        ),
        answers=("The late fee is {result}.", "That makes {result} of interest."),
        names=("overdue_interest", "late_payment_charge", "fee_for_late_invoice"),
        parameters={
            "amount_due": ("invoice_amount",),
            "days_late": ("overdue_days",),
            "yearly_interest": ("rate",),
            "grace_days": ("free_days",),
        },
    ),
    Task(
        sales_commission,
        arguments={
            "salesperson": person(),
            "sales": whole(4000, 200000),
            "commission_rate": percent(1, 12, as_share=True),
        },
        queries=(
            "{salesperson} sold goods for {sales} and gets {commission_rate} commission. How much is that?",
            "Commission of {commission_rate} on {sales} for {salesperson}",
            "What do we owe {salesperson} at {commission_rate} of {sales} in sales?",
            "Please work out this quarter's commission: seller {salesperson}, turnover {sales}, rate "
            "{commission_rate}.",
        ),
        answers=("{salesperson} gets {commission}.", "The commission is {commission}."),
        names=("commission_for", "seller_bonus", "compute_commission"),
        parameters={"salesperson": ("name", "agent"), "sales": ("turnover",), "commission_rate": ("rate", "fraction")},
    ),
    Task(
        record_expense,
        arguments={"payee": one_of(*_PAYEES), "amount": decimal(3, 600, 2), "currency": one_of(*_CURRENCIES)},
        queries=(
            "Put down {amount} {currency} paid to {payee}.",
            Query(
                "I paid {payee} {amount} {currency} on my business trip; the company gives it back to me. Enter it, "
                "please.",
                fixed={"reimbursable": True},
            ),
            "New expense: {payee}, {amount} {currency}",
            Query(
                "Record {amount} {currency} for {payee} as a private expense that nobody pays back.",
                fixed={"reimbursable": False},
            ),
        ),
        answers=("I entered: {result}.", "Done. The line reads: {result}"),
        names=("add_expense", "book_payment", "log_spending"),
        parameters={"payee": ("paid_to", "vendor"), "amount": ("value", "paid"), "reimbursable": ("paid_back",)},
        slips={
            "currency": (
                ("euros", "EUR"),
                ("dollars", "USD"),
                ("pounds", "GBP"),
                ("Swiss francs", "CHF"),
                ("yen", "JPY"),
            )
        },
    ),
    Task(
        payment_due_date,
        arguments={"issued_on": date(), "terms_days": one_of(7, 10, 14, 21, 30, 45, 60, 90)},
        queries=(
            "An invoice of {issued_on} is payable within {terms_days} days. When is it due?",
            "Due date? Issued {issued_on}, net {terms_days}.",
            Query(
                "I sent the bill on {issued_on} with {terms_days} days to pay; if it falls on a weekend, Monday "
                "counts. Last day?",
                fixed={"skip_weekends": True},
            ),
            Query(
                "Invoice dated {issued_on}, {terms_days} days, moved to Monday when due on a weekend.",
                fixed={"skip_weekends": True},
            ),
        ),
        answers=("It is due on {result}.", "The last day to pay is {result}."),
        names=("invoice_due_on", "due_date", "last_payment_day"),
        parameters={"issued_on": ("invoice_date",), "terms_days": ("net_days",), "skip_weekends": ("to_monday",)},
    ),
    Task(
        working_days,
        arguments={"from_day": date("2021-01-01", "2022-12-31"), "until_day": date("2023-01-01", "2023-12-31")},
        queries=(
            "How many working days are there from {from_day} to {until_day}?",
            Query(
                "Count the working days between {from_day} and {until_day}; we work on Saturdays as well.",
                fixed={"saturdays_count": True},
            ),
            "The contract ran from {from_day} until {until_day}. On how many weekdays was that?",
            "working days, {from_day} - {until_day}",
        ),
        answers=("There are {result} working days.", "{result} working days."),
        names=("count_business_days", "business_days_in_period", "weekdays_between"),
        parameters={"from_day": ("start", "first"), "until_day": ("end", "last"), "saturdays_count": ("six_day_week",)},
    ),
    Task(
        confirm_room_booking,
        arguments={
            "room": one_of(*_ROOMS),
            "on_day": date(),
            "begins": one_of(*(f"{h:02d}:{m}" for h in range(8, 18) for m in ("00", "15", "30"))),
            "duration_minutes": one_of(15, 30, 45, 90, 120),
        },
        queries=(
            "Book {room} for {on_day} at {begins}.",
            "We need {room} for {duration_minutes} minutes on {on_day}, from {begins}. Could you reserve it?",
            "room: {room} / day: {on_day} / start: {begins} / {duration_minutes} min",
            "The team wants to meet in {room} on {on_day}, beginning at {begins}. Please make the reservation.",
        ),
        answers=("Reserved: {result}.", "Done: {result}."),
        names=("block_room", "room_reservation", "hold_room"),
        parameters={
            "room": ("room_name", "place"),
            "on_day": ("date",),
            "begins": ("start_time",),
            "duration_minutes": ("length", "minutes"),
        },
    ),
)

CHAINS = (
    Chain(
        asset_book_value,
        selling_price,
        feeds="unit_cost",
        queries=(
            "A lathe cost {purchase_cost}, is written off over {useful_life} years and is {years_used} years old. At "
            "what price do I sell it, {percentage} above book value?",
            "Book value of a {purchase_cost} crane after {years_used} of {useful_life} years, and the price with "
            "{percentage} markup on that, please.",
            "We sell a truck at its book value plus {percentage}. New it cost {purchase_cost}; life {useful_life} "
            "years, age {years_used}. Price?",
        ),
        between=("The book value is {given}.", "It stands at {given}. I add the profit."),
        answers=("Sell it for {result}.", "With a book value of {given} the price is {result}."),
    ),
    Chain(
        net_from_gross_price,
        sales_commission,
        feeds="sales",
        takes="net",
        queries=(
            "{salesperson} made a sale of {gross_price} including {vat_percent} VAT and gets {commission_rate} of the "
            "net. How much is it?",
            "Commission for {salesperson}: {commission_rate} of the amount before tax. Gross {gross_price}, VAT "
            "{vat_percent}.",
            "Take {vat_percent} VAT out of {gross_price}, then give {salesperson} a commission of {commission_rate} "
            "on the net.",
        ),
        between=("The net amount is {given}.", "Before tax it was {given}. Now the commission."),
        answers=("{salesperson} gets {commission}.", "The commission on {given} is {commission}."),
    ),
    Chain(
        invoice_late_fee,
        record_expense,
        feeds="amount",
        queries=(
            "We paid {payee} {days_late} days late on {amount_due}. Work out the late fee and enter it in {currency}.",
            "Late fee on {amount_due} for {days_late} days at {yearly_interest} a year, then book it as paid to "
            "{payee}, {currency}.",
            "Please enter the interest that {payee} gets from us ({currency}): invoice {amount_due}, {days_late} days "
            "overdue.",
        ),
        between=("The fee is {given}. I enter it.", "That is {given} of interest."),
        answers=("Entered: {result}.", "The fee of {given} is in the books: {result}"),
    ),
    Chain(
        payment_due_date,
        confirm_room_booking,
        feeds="on_day",
        queries=(
            "Invoice of {issued_on}, {terms_days} days to pay. Reserve {room} at {begins} on the due date for a talk "
            "about it.",
            "We go through the payments in {room} on the day the bill of {issued_on} (net {terms_days}) is due. Book "
            "it for {begins}.",
            "due date of {issued_on} + {terms_days} days, then {room} that day from {begins}, {duration_minutes} min",
        ),
        between=("It is due on {given}.", "The due date is {given}; now the room."),
        answers=("Reserved: {result}.", "The room is yours: {result}."),
    ),
    Chain(
        net_from_gross_price,
        record_expense,
        feeds="amount",
        takes="net",
        queries=(
            "We paid {payee} {gross_price} with {vat_percent} VAT in it. Enter only the net amount, in {currency}.",
            "Take {vat_percent} VAT out of {gross_price} and book the net as paid to {payee}, {currency}.",
            "{payee}, gross {gross_price} {currency}, VAT {vat_percent}: record it net, please",
        ),
        between=("Net it is {given}.", "Without tax that is {given}. I enter it."),
        answers=("Entered: {result}.", "The net amount of {given} is booked: {result}."),
    ),
)
