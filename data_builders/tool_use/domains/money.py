"""Loans, savings, tax, discounts and small business; banks' offers and second-hand values stand for services and are "
"made up."""

from __future__ import annotations

import math
import random
from typing import Literal

from data_builders.tool_use.dialogs.samplers import LAST_NAMES, Sampler, Value, decimal, one_of, percent, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up


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


_ARTICLES = ("racing bike", "pine table", "bass guitar", "sewing machine", "leather sofa", "coffee machine",
             "film camera", "kayak", "grand piano", "telescope", "drum kit", "pottery wheel")  # fmt: skip
_BANKS = tuple(f"{name} {kind}" for name in LAST_NAMES[:24] for kind in ("Bank", "Savings", "& Sons Bank"))


_SERVICES = ("Filmhaus", "Tonbox", "CloudNest", "Daily Courier", "PuzzleClub", "LinguaTop", "FitStream", "Mapster Pro")


def _expenses() -> Sampler:
    kinds = ("rent", "food", "bus pass", "phone", "insurance", "gym", "electricity", "clothes", "cat food", "childcare")

    def sample(rng: random.Random) -> Value:
        found = {kind: rng.randint(15, 700) for kind in rng.sample(kinds, rng.randint(2, 4))}
        return Value(found, ", ".join(f"{kind} {amount}" for kind, amount in found.items()))

    return sample


TASKS = (
    Task(
        car_loan_installment,
        arguments={
            "vehicle_price": whole(9000, 60000),
            "annual_rate": percent(1, 11),
            "months": one_of(24, 36, 48, 60, 72),
            "down_payment": whole(500, 6000),
        },
        queries=(
            "What would I pay each month for a ${vehicle_price} car over {months} months at {annual_rate} interest?",
            "Car loan: price {vehicle_price}, rate {annual_rate}, {months} payments, {down_payment} down. Installment?",
            "We found a van for {vehicle_price} euros. The dealer offers {annual_rate} a year, spread over {months} "
            "months, "
            "and we can put down {down_payment}. How much is that a month?",
            "Give me the monthly rate on a {months}-month loan for a {vehicle_price} vehicle at {annual_rate}, please.",
        ),
        answers=("The monthly installment is {result}.", "You would pay {result} a month."),
        names=("vehicle_finance_payment", "auto_loan_monthly", "monthly_car_payment"),
        parameters={
            "vehicle_price": ("car_price",),
            "annual_rate": ("interest_percent", "apr"),
            "months": ("term_months",),
            "down_payment": ("deposit",),
        },
    ),
    Task(
        months_until_goal,
        arguments={
            "goal_amount": whole(800, 20000),
            "monthly_deposit": whole(40, 900),
            "already_saved": whole(50, 700),
        },
        queries=(
            "If I put away {monthly_deposit} every month, when will I have {goal_amount}? In months, please.",
            "I have {already_saved} in a jar and add {monthly_deposit} a month. How many months until I reach "
            "{goal_amount}?",
            "Savings goal {goal_amount}, deposit {monthly_deposit} per month. Months needed?",
            "Our club wants {goal_amount} for a new roof. There are {already_saved} in the till and the members bring "
            "{monthly_deposit} each month. How long will it take?",
        ),
        answers=("It takes {result} months.", "You will be there after {result} months."),
        names=("savings_duration", "months_to_save", "time_to_savings_target"),
        parameters={"goal_amount": ("target",), "monthly_deposit": ("per_month",), "already_saved": ("start_balance",)},
    ),
    Task(
        stacked_discount,
        arguments={
            "list_price": decimal(20, 900, 2),
            "discounts": several(one_of(*((n, f"{n}%") for n in (5, 8, 10, 15, 20, 25, 30))), 2, 3),
        },
        queries=(
            "A coat costs {list_price}. They take off {discounts}, one after the other. What do I pay?",
            "Apply discounts of {discounts} in turn to {list_price}.",
            "The tag says {list_price}, and I may use these coupons in this order: {discounts}. What is left to pay?",
            "List price {list_price}; successive discounts: {discounts}. Final price?",
        ),
        answers=("You pay {result}.", "After all discounts the price is {result}."),
        names=("price_after_discounts", "apply_coupons", "chain_discount"),
        parameters={"list_price": ("original_price", "price"), "discounts": ("percentages", "reductions")},
    ),
    Task(
        budget_left,
        arguments={"monthly_income": whole(2900, 6000), "expenses": _expenses()},
        queries=(
            "I earn {monthly_income} a month and spend this: {expenses}. What is left?",
            "Budget check. Income: {monthly_income}. Expenses: {expenses}.",
            "How much of my {monthly_income} remains after {expenses}, and what costs me the most?",
            "My pay is {monthly_income}. Please take off {expenses} and tell me what I can still spend.",
        ),
        answers=(
            "You have {left} left; the largest expense is {largest_expense}.",
            "{left} remains. Most goes into {largest_expense}.",
        ),
        names=("monthly_budget", "remaining_income", "what_is_left"),
        parameters={"monthly_income": ("income", "salary"), "expenses": ("costs", "spending")},
    ),
    Task(
        bill_share_each,
        arguments={"bill_total": decimal(30, 400, 2), "people": whole(2, 12), "tip_percent": percent(5, 20, 0)},
        queries=(
            "We are {people} and the bill is {bill_total}. What does each of us pay?",
            "Split {bill_total} {people} ways with a {tip_percent} tip.",
            Query(
                "Dinner was {bill_total} for {people} people; add {tip_percent} for the waiter and round every share "
                "up.",
                fixed={"round_up": True},
            ),
            Query(
                "{people} friends, {bill_total} on the bill, whole amounts only please (up, not down). How much each?",
                fixed={"round_up": True},
            ),
        ),
        answers=("Everyone pays {result}.", "That is {result} each."),
        names=("split_evenly", "bill_per_head", "divide_check"),
        parameters={
            "bill_total": ("amount", "check"),
            "people": ("guests", "party_size"),
            "tip_percent": ("tip",),
            "round_up": ("whole_amounts",),
        },
    ),
    Task(
        used_price_estimate,
        arguments={
            "article": one_of(*_ARTICLES),
            "condition": one_of(("like_new", "like new"), "good", "worn"),
            "asking_city": one_of("Lyon", "Denver", "Turin", "Oslo", "Leeds", "Porto", "Graz", "Tampa"),
        },
        queries=(
            "What can I get for my {article}? The condition is {condition}.",
            "Second-hand value of a {article}, {condition}, in {asking_city}?",
            "My aunt in {asking_city} wants to sell her {article}. I'd call its state {condition}. What should she "
            "ask?",
            "used price / {article} / condition: {condition}",
        ),
        answers=("About {result}.", "It should sell for around {result}."),
        names=("second_hand_value", "resale_estimate", "value_used_item"),
        parameters={"article": ("item", "product"), "condition": ("state",), "asking_city": ("city", "location")},
    ),
    Task(
        savings_offer,
        arguments={"bank": one_of(*_BANKS), "term": one_of("6 months", "1 year", "3 years", "5 years")},
        queries=(
            "What does {bank} pay on a deposit for {term}?",
            "Fixed deposit, {term}, at {bank}: which rate?",
            "I'd like to leave some money with {bank} for {term}. What interest would they give me?",
            "Look up the {term} deposit rate of {bank}.",
        ),
        answers=("{bank} pays {rate_percent} percent.", "The rate is {rate_percent}%."),
        names=("deposit_rate", "bank_interest_quote", "term_deposit_offer"),
        parameters={"bank": ("institution", "bank_name"), "term": ("duration", "period")},
    ),
    Task(
        tax_above_allowance,
        arguments={
            "gross_income": whole(18000, 150000),
            "tax_rate": percent(10, 42, as_share=True),
            "allowance": whole(2000, 15000),
        },
        queries=(
            "I earned {gross_income} last year. The first {allowance} are free, the rest is taxed at {tax_rate}. How "
            "much tax is that?",
            "Flat tax of {tax_rate} on {gross_income}, no allowance: amount?",
            "What do I owe the tax office on an income of {gross_income} at a rate of {tax_rate}?",
            "gross {gross_income}, rate {tax_rate}, allowance {allowance} - tax due?",
        ),
        answers=("The tax is {result}.", "You owe {result} in tax."),
        names=("flat_tax_due", "income_tax_amount", "tax_owed"),
        parameters={"gross_income": ("income", "yearly_income"), "tax_rate": ("rate",), "allowance": ("tax_free",)},
    ),
    Task(
        subscription_cost,
        arguments={
            "service": one_of(*_SERVICES),
            "fee": decimal(2, 60, 2),
            "billing": one_of("weekly", "monthly", "yearly"),
            "years": whole(2, 9),
        },
        queries=(
            "{service} wants {fee} {billing}. What is that in a year?",
            "How much do I pay {service} over {years} years at {fee} {billing}?",
            "Subscription {service}: {fee}, billed {billing}, {years} years. Total?",
            "I pay {fee} to {service} on a {billing} basis and wonder what it comes to per year.",
        ),
        answers=("{service} costs {total} in {payments} payments.", "In all it is {total}."),
        names=("total_of_subscription", "membership_total", "recurring_fee_total"),
        parameters={
            "service": ("subscription", "provider"),
            "fee": ("price",),
            "billing": ("billed", "interval"),
            "years": ("duration_years",),
        },
    ),
    Task(
        price_after_inflation,
        arguments={"todays_price": decimal(1, 900, 2), "inflation": percent(1, 9), "years_ahead": whole(2, 25)},
        queries=(
            "What will a basket of {todays_price} cost in {years_ahead} years with {inflation} inflation?",
            "inflation {inflation}, {years_ahead} years, price today {todays_price}",
            "A ticket is {todays_price} now. If prices rise {inflation} a year, what is it after {years_ahead} years?",
            "Please project {todays_price} over {years_ahead} years at {inflation} of inflation.",
        ),
        answers=("It will cost {result}.", "The price rises to {result}."),
        names=("inflated_price", "future_price", "project_price"),
        parameters={"todays_price": ("price",), "inflation": ("inflation_rate",), "years_ahead": ("years",)},
    ),
)

CHAINS = (
    Chain(
        budget_left,
        months_until_goal,
        feeds="monthly_deposit",
        takes="left",
        queries=(
            "I earn {monthly_income}, spend {expenses}, and save all the rest. How many months until I have "
            "{goal_amount}?",
            "Income {monthly_income}; expenses: {expenses}. With what is left each month, when do I reach "
            "{goal_amount}?",
            "Take {expenses} from my pay of {monthly_income}. In how many months does the remainder add up to "
            "{goal_amount}?",
        ),
        between=("That leaves {given} a month.", "{given} is left every month. Now the time."),
        answers=("It takes {result} months.", "With {given} a month you need {result} months."),
    ),
    Chain(
        price_after_inflation,
        bill_share_each,
        feeds="bill_total",
        queries=(
            "A feast costs {todays_price} today. After {years_ahead} years of {inflation} inflation, what does each "
            "of {people} guests pay?",
            "{todays_price} now, prices up {inflation} yearly for {years_ahead} years, then split by {people}. Each "
            "share?",
            "Project {todays_price} over {years_ahead} years at {inflation} and divide it among {people} people.",
        ),
        between=("By then it costs {given}.", "The price will be {given}. I split it."),
        answers=("Everyone pays {result}.", "Each of them pays {result} of the {given}."),
    ),
    Chain(
        used_price_estimate,
        price_after_inflation,
        feeds="todays_price",
        queries=(
            "What does a used {article} ({condition}) sell for, and what would that be in {years_ahead} years at "
            "{inflation} inflation?",
            "Second-hand {article}, {condition}: price after {years_ahead} years if prices rise {inflation} a year?",
            "Look up the {article} in {condition} condition and add {years_ahead} years of {inflation} inflation.",
        ),
        between=("It sells for {given} now.", "Today it is about {given}."),
        answers=("It would be {result} then.", "From {given} it rises to {result}."),
    ),
    Chain(
        used_price_estimate,
        months_until_goal,
        feeds="goal_amount",
        queries=(
            "I want to buy a used {article} ({condition}) and can save {monthly_deposit} a month. How many months do "
            "I need?",
            "Find out what a {article} costs second-hand in {condition} condition, and how long I save for it at "
            "{monthly_deposit} monthly.",
            "At {monthly_deposit} a month, when could I afford a second-hand {article}? Condition should be "
            "{condition}.",
        ),
        between=(
            "It sells for about {given}. Now the months of saving.",
            "A price of {given}; let me see how long that takes.",
        ),
        answers=("You need {result} months to save the {given}.", "After {result} months you can buy it."),
    ),
    Chain(
        stacked_discount,
        bill_share_each,
        feeds="bill_total",
        queries=(
            "{people} of us buy a present for {list_price}, less {discounts} in turn. What does each pay?",
            "A tent is {list_price}. Discounts of {discounts} come off one after the other, then {people} people "
            "share it. How much each?",
            "Take {discounts} off {list_price} and split what is left {people} ways.",
        ),
        between=("The price falls to {given}.", "After the discounts it is {given}; now I split it."),
        answers=("Everyone pays {result}.", "It costs {given}, so {result} each."),
    ),
)
