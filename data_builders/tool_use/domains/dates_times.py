"""Dates, durations, shifts and schedules, computed from what is given; nothing looks at a clock."""

from __future__ import annotations

import calendar
from datetime import date as Date
from datetime import datetime, timedelta
from typing import Literal

from data_builders.tool_use.dialogs.samplers import MONTHS, Sampler, clock, date, one_of, several, weekday, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, day_of


def weekday_name(calendar_day: str) -> str:
    """The day of the week of a date.

    Args:
        calendar_day: Date as YYYY-MM-DD.
    """
    return f"{day_of(calendar_day):%A}"


def shift_hours(clock_in: str, clock_out: str, break_minutes: int = 0) -> float:
    """Hours worked in a shift, which may run past midnight.

    Args:
        clock_in: Start of work as HH:MM (24 hours).
        clock_out: End of work as HH:MM.
        break_minutes: Unpaid pause in minutes. Default is 0.
    """
    return round(((_minutes(clock_out) - _minutes(clock_in)) % 1440 - break_minutes) / 60, 2)


def alarm_time(arrive_by: str, travel_minutes: int, morning_minutes: int = 45) -> str:
    """When to get up so as to arrive in time.

    Args:
        arrive_by: Time of arrival, HH:MM.
        travel_minutes: Minutes on the way.
        morning_minutes: Minutes between getting up and leaving. Default is 45.
    """
    return _clock(_minutes(arrive_by) - travel_minutes - morning_minutes)


def nth_weekday_of_month(
    year: int,
    month: int,
    weekday: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    nth: int = 1,
) -> str:
    """The date of, for instance, the third Friday of a month.

    Args:
        year: Four digits.
        month: Number of the month, 1 to 12.
        weekday: Day of the week.
        nth: 1 for the first in the month, up to 4. Default is 1.
    """
    if not 1 <= month <= 12 or not 1 <= nth <= 4:
        raise ValueError("month must be 1 to 12, and nth 1 to 4")
    first = Date(year, month, 1)
    ahead = (list(calendar.day_name).index(weekday) - first.weekday()) % 7
    return (first + timedelta(days=ahead + 7 * (nth - 1))).isoformat()


def meeting_overlap(first_start: str, first_end: str, second_start: str, second_end: str) -> int:
    """Minutes that two appointments on the same day have in common.

    Args:
        first_start: HH:MM
        first_end: HH:MM
        second_start: HH:MM
        second_end: HH:MM
    """
    if _minutes(first_end) < _minutes(first_start) or _minutes(second_end) < _minutes(second_start):
        raise ValueError("an appointment must not end before it starts")
    starts, ends = max(_minutes(first_start), _minutes(second_start)), min(_minutes(first_end), _minutes(second_end))
    return max(0, ends - starts)


def shift_date(base_date: str, amount: int, unit: str, backwards: bool = False) -> str:
    """Moves a date by some days, weeks, months or years.

    Args:
        base_date: Date to start from, in the form YYYY-MM-DD.
        amount: How many units to move.
        unit: Unit of the amount.
        backwards: Whether to go into the past. Default is false.
    """
    if unit not in ("days", "weeks", "months", "years"):
        raise ValueError(f"unit {unit!r} is not known; use one of days, weeks, months, years")
    day, step = day_of(base_date), -amount if backwards else amount
    if unit in ("days", "weeks"):
        return (day + timedelta(days=step * (7 if unit == "weeks" else 1))).isoformat()
    months = day.year * 12 + day.month - 1 + step * (12 if unit == "years" else 1)
    year, month = months // 12, months % 12 + 1
    return Date(year, month, min(day.day, calendar.monthrange(year, month)[1])).isoformat()


def plan_reminder(title: str, event_date: str, days_before: int = 1) -> dict:
    """Sets a reminder some days before an event.

    Args:
        title: What to be reminded of.
        event_date: Day of the event (YYYY-MM-DD).
        days_before: Days between the reminder and the event. Default is 1.
    """
    return {"title": title, "reminder_on": (day_of(event_date) - timedelta(days=days_before)).isoformat()}


def recurring_dates(starting: str, every_days: int, times: int) -> list[str]:
    """The dates of something that is done every so many days.

    Args:
        starting: First date, such as 2024-05-01.
        every_days: Days from one date to the next.
        times: How many dates to list, the first included.
    """
    if not 1 <= times <= 30:
        raise ValueError("times must be 1 to 30")
    return [(day_of(starting) + timedelta(days=every_days * index)).isoformat() for index in range(times)]


def total_time(parts: list[int], as_unit: Literal["minutes", "hours"] = "minutes") -> float:
    """Adds up durations.

    Args:
        parts: Durations in minutes.
        as_unit: Unit of the sum. Default is minutes.
    """
    return round(sum(parts) / (60 if as_unit == "hours" else 1), 2)


def clock_at_offset(local_time: str, from_offset: float, to_offset: float) -> str:
    """Translates a time of day from one UTC offset to another.

    Args:
        local_time: Time of day as HH:MM.
        from_offset: Hours ahead of UTC where the time is given, e.g. 5.5 or -3.
        to_offset: Hours ahead of UTC where it is wanted.
    """
    return _clock(_minutes(local_time) + round((to_offset - from_offset) * 60))


def dose_times(medicine: str, first_dose: str, hours_apart: int, doses: int = 3) -> dict:
    """The times of day at which a medicine is taken.

    Args:
        medicine: Name of the medicine.
        first_dose: Time of the first dose, HH:MM.
        hours_apart: Hours from one dose to the next.
        doses: Number of doses. Default is 3.
    """
    times = [_clock(_minutes(first_dose) + 60 * hours_apart * index) for index in range(doses)]
    return {"medicine": medicine, "times": ", ".join(times)}


def _minutes(text: str) -> int:
    try:
        read = datetime.strptime(text, "%H:%M")
    except ValueError:
        raise ValueError(f"{text!r} is no time; use HH:MM, such as 08:30") from None
    return read.hour * 60 + read.minute


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


_NTH = ((1, "first"), (2, "second"), (3, "third"), (4, "fourth"))
_OFFSETS = tuple((n, f"UTC{n:+g}") for n in (-8, -5, -3, 0, 1, 2, 3, 4, 5.5, 7, 8, 9, 10))
_TITLES = ("dentist appointment", "car inspection", "parents' evening", "tax return", "choir concert", "vet visit",
           "book return", "passport renewal", "Nora's birthday", "flu shot", "piano exam")  # fmt: skip
_MEDICINES = (
    "ibuprofen",
    "the antibiotic",
    "cough syrup",
    "eye drops",
    "Paxor",
    "vitamin drops",
    "Lumadin",
    "iron tablets",
)


def _time_in(first_hour: int, last_hour: int) -> Sampler:
    return one_of(*(f"{hour:02d}:{m:02d}" for hour in range(first_hour, last_hour + 1) for m in (0, 15, 20, 30, 45)))


TASKS = (
    Task(
        weekday_name,
        arguments={"calendar_day": date("1960-01-01", "2030-12-31")},
        queries=(
            "What day of the week is {calendar_day}?",
            "I was born on {calendar_day}. Which weekday was that?",
            "weekday of {calendar_day}",
            "Does {calendar_day} fall on a weekend, or what day is it?",
            "Please tell me which day {calendar_day} is, Monday, Tuesday or what.",
        ),
        answers=("It is a {result}.", "That day is a {result}."),
        names=("day_of_week", "get_weekday", "which_weekday"),
        parameters={"calendar_day": ("day", "date", "iso_date")},
    ),
    Task(
        shift_hours,
        arguments={"clock_in": clock(), "clock_out": clock(), "break_minutes": one_of(15, 20, 30, 45)},
        queries=(
            "I clocked in at {clock_in} and out at {clock_out}. How many hours did I work?",
            "Shift {clock_in} to {clock_out}, {break_minutes} min break. Hours?",
            "Our night nurse started at {clock_in}, left at {clock_out} and took a {break_minutes}-minute break. What "
            "do I write down?",
            "Hours between a start of work at {clock_in} and an end at {clock_out}, please.",
        ),
        answers=("That is {result} hours.", "The shift lasted {result} hours."),
        names=("hours_worked", "shift_length", "work_duration"),
        parameters={"clock_in": ("start", "from_time"), "clock_out": ("end", "to_time"), "break_minutes": ("pause",)},
        different=("clock_in", "clock_out"),
    ),
    Task(
        alarm_time,
        arguments={
            "arrive_by": clock(),
            "travel_minutes": whole(5, 120),
            "morning_minutes": one_of(20, 30, 35, 40, 50, 60, 75, 90),
        },
        queries=(
            "I have to be there by {arrive_by} and the way takes {travel_minutes} minutes. When should I get up?",
            "Set my alarm: arrive {arrive_by}, travel {travel_minutes} min, {morning_minutes} min to get ready",
            "The exam starts at {arrive_by}. It is {travel_minutes} minutes by bus, and I need {morning_minutes} "
            "minutes for breakfast and so on. What time do I rise?",
            "What time must the alarm ring for me to be at work at {arrive_by} with a {travel_minutes} minute commute?",
        ),
        answers=("Get up at {result}.", "The alarm should ring at {result}."),
        names=("wake_up_time", "when_to_rise", "set_alarm_for"),
        parameters={"arrive_by": ("arrival",), "travel_minutes": ("commute",), "morning_minutes": ("preparation",)},
    ),
    Task(
        nth_weekday_of_month,
        arguments={
            "year": whole(2019, 2032),
            "month": one_of(*enumerate(MONTHS, start=1)),
            "weekday": weekday(),
            "nth": one_of(*_NTH),
        },
        queries=(
            "Which date is the {nth} {weekday} of {month} {year}?",
            "The book club meets on the {nth} {weekday} of the month. What date is that in {month} {year}?",
            Query("When is the first {weekday} in {month} {year}?", fixed={"nth": 1}),
            "{month} {year}: date of the {nth} {weekday}?",
        ),
        answers=("It is {result}.", "That is {result}."),
        names=("find_weekday_date", "weekday_in_month", "meeting_date"),
        parameters={"year": ("in_year",), "month": ("month_number",), "weekday": ("day_name",), "nth": ("occurrence",)},
    ),
    Task(
        meeting_overlap,
        arguments={
            "first_start": _time_in(8, 9),
            "first_end": _time_in(11, 13),
            "second_start": _time_in(10, 12),
            "second_end": _time_in(13, 16),
        },
        queries=(
            "One call runs from {first_start} to {first_end}, another from {second_start} to {second_end}. How many "
            "minutes do they overlap?",
            "overlap of {first_start}-{first_end} and {second_start}-{second_end}",
            "I'm in class {first_start} until {first_end} and Ben is free {second_start} until {second_end}. How long "
            "are both going on at once?",
            "My slot: {first_start} till {first_end}. Hers: {second_start} till {second_end}. Minutes in common, "
            "please.",
        ),
        answers=("They overlap for {result} minutes.", "{result} minutes in common."),
        names=("overlap_minutes", "common_time", "schedule_conflict_minutes"),
        parameters={
            "first_start": ("start_a",),
            "first_end": ("end_a",),
            "second_start": ("start_b",),
            "second_end": ("end_b",),
        },
    ),
    Task(
        shift_date,
        arguments={"base_date": date(), "amount": whole(2, 40), "unit": one_of("days", "weeks", "months", "years")},
        queries=(
            "What date is {amount} {unit} after {base_date}?",
            Query("Go back {amount} {unit} from {base_date}. Which day is it?", fixed={"backwards": True}),
            "My lease began on {base_date} and runs for {amount} {unit}. When does it end?",
            "{base_date} plus {amount} {unit}",
            Query("Which date was {amount} {unit} before {base_date}, please?", fixed={"backwards": True}),
        ),
        answers=("That is {result}.", "The date is {result}."),
        names=("add_to_date", "move_date", "date_offset"),
        parameters={"base_date": ("day",), "amount": ("count",), "unit": ("period",), "backwards": ("subtract",)},
        slips={"unit": (("d", "days"), ("wks", "weeks"), ("mo", "months"), ("yrs", "years"))},
    ),
    Task(
        plan_reminder,
        arguments={"title": one_of(*_TITLES), "event_date": date(), "days_before": whole(2, 14)},
        queries=(
            'Remind me of "{title}" {days_before} days before {event_date}.',
            "The {title} is on {event_date}; I'd like a reminder {days_before} days earlier.",
            "reminder: {title}, {event_date}",
            "I keep forgetting things. Could you set a reminder for the {title} on {event_date}?",
        ),
        answers=("You will be reminded of {title} on {reminder_on}.", "The reminder is set for {reminder_on}."),
        names=("set_reminder", "remind_before", "schedule_reminder"),
        parameters={"title": ("subject", "what"), "event_date": ("date", "on"), "days_before": ("lead_days",)},
    ),
    Task(
        recurring_dates,
        arguments={"starting": date(), "every_days": whole(2, 30), "times": whole(2, 6)},
        queries=(
            "I water the cactus every {every_days} days, beginning {starting}. Give me the first {times} dates.",
            "List {times} dates, {every_days} days apart, from {starting} on.",
            "Cleaning rota: start {starting}, interval {every_days} days, {times} times",
            "Our meetings take place every {every_days} days and the first was on {starting}. On which days are the "
            "first {times}?",
        ),
        answers=("The dates are {result}.", "Here they are: {result}."),
        names=("repeat_schedule", "interval_dates", "list_occurrences"),
        parameters={"starting": ("first_date", "begin"), "every_days": ("interval",), "times": ("count",)},
    ),
    Task(
        total_time,
        arguments={"parts": several(whole(5, 180), 3, 6)},
        queries=(
            "Add up these durations in minutes: {parts}.",
            Query("I practiced for {parts} minutes this week. How many hours is that?", fixed={"as_unit": "hours"}),
            "The songs of my set last {parts} minutes. How many minutes in all?",
            Query("sum of {parts} min, in hours", fixed={"as_unit": "hours"}),
        ),
        answers=("It comes to {result}.", "The total is {result}."),
        names=("sum_durations", "add_minutes", "combined_length"),
        parameters={"parts": ("durations", "minutes"), "as_unit": ("result_unit",)},
    ),
    Task(
        clock_at_offset,
        arguments={"local_time": clock(), "from_offset": one_of(*_OFFSETS), "to_offset": one_of(*_OFFSETS)},
        queries=(
            "If it is {local_time} at {from_offset}, what time is it at {to_offset}?",
            "The webinar is at {local_time} ({from_offset}). I live at {to_offset}. When do I log in?",
            "{local_time} {from_offset} -> {to_offset}",
            "Please turn {local_time} in {from_offset} into the time at {to_offset}.",
        ),
        answers=("It is {result} there.", "That is {result}."),
        names=("change_utc_offset", "time_elsewhere", "translate_time"),
        parameters={"local_time": ("time", "clock_time"), "from_offset": ("source_utc",), "to_offset": ("target_utc",)},
        different=("from_offset", "to_offset"),
    ),
    Task(
        dose_times,
        arguments={
            "medicine": one_of(*_MEDICINES),
            "first_dose": clock(),
            "hours_apart": whole(3, 12),
            "doses": whole(2, 5),
        },
        queries=(
            "I take {medicine} every {hours_apart} hours, first at {first_dose}. When are the {doses} doses?",
            "{medicine}: start {first_dose}, {hours_apart} h apart, {doses} doses",
            "The doctor told me to take {medicine} at {first_dose} and then every {hours_apart} hours. At what times?",
            "Plan the doses of {medicine} for my son: {doses} in all, {hours_apart} hours between them, beginning at "
            "{first_dose}.",
        ),
        answers=("Take {medicine} at {times}.", "The times are {times}."),
        names=("medication_schedule", "plan_doses", "pill_times"),
        parameters={"medicine": ("drug",), "first_dose": ("start_time",), "hours_apart": ("gap",), "doses": ("count",)},
    ),
)

CHAINS = (
    Chain(
        nth_weekday_of_month,
        plan_reminder,
        feeds="event_date",
        queries=(
            "The {title} is on the {nth} {weekday} of {month} {year}. Remind me {days_before} days before.",
            "Set a reminder for the {title}, {nth} {weekday} in {month} {year}.",
            "{title}: {nth} {weekday} of {month} {year}, reminder {days_before} days ahead",
        ),
        between=("That is {given}. I set the reminder.", "The date is {given}."),
        answers=("You will be reminded on {reminder_on}.", "The reminder for {given} comes on {reminder_on}."),
    ),
    Chain(
        clock_at_offset,
        alarm_time,
        feeds="arrive_by",
        queries=(
            "A call starts at {local_time} {from_offset}; I live at {to_offset} and need {travel_minutes} minutes to "
            "the office. When do I get up?",
            "The meeting is {local_time} ({from_offset}), my zone is {to_offset}, my way {travel_minutes} min, and I "
            "take {morning_minutes} minutes to get ready. Alarm?",
            "Turn {local_time} {from_offset} into {to_offset} time and tell me when to rise with a way of "
            "{travel_minutes} minutes.",
        ),
        between=("Here that is {given}.", "It starts at {given} local time."),
        answers=("Get up at {result}.", "To be there at {given}, get up at {result}."),
    ),
    Chain(
        plan_reminder,
        weekday_name,
        feeds="calendar_day",
        takes="reminder_on",
        queries=(
            "Remind me of the {title} on {event_date}, {days_before} days ahead. Which weekday will the reminder come?",
            "Set a reminder for the {title} ({event_date}) and tell me what day of the week it goes off.",
            "Reminder {days_before} days before the {title} of {event_date}, and its weekday please.",
        ),
        between=("The reminder comes on {given}.", "It is set for {given}."),
        answers=("It comes on a {result}.", "{given} is a {result}."),
    ),
    Chain(
        shift_date,
        weekday_name,
        feeds="calendar_day",
        queries=(
            "Which weekday is it {amount} {unit} after {base_date}?",
            "My visa of {base_date} is good for {amount} {unit}. On what day of the week does it end?",
            "{base_date} plus {amount} {unit}: date and weekday, please",
        ),
        between=("The date is {given}.", "That is {given}. Now the weekday."),
        answers=("It is a {result}.", "{given} is a {result}."),
    ),
    Chain(
        shift_date,
        plan_reminder,
        feeds="event_date",
        queries=(
            "The {title} is {amount} {unit} after {base_date}. Remind me {days_before} days before.",
            "Count {amount} {unit} from {base_date}; on that day I have the {title}. Set a reminder.",
            "reminder for {title}, due {amount} {unit} from {base_date}, {days_before} days ahead",
        ),
        between=("That is on {given}.", "The day is {given}; I set the reminder."),
        answers=("You will be reminded on {reminder_on}.", "The reminder comes on {reminder_on}, before {given}."),
    ),
)
