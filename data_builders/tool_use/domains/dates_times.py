"""Dates, durations, shifts and schedules, computed from what is given; nothing looks at a clock."""

from __future__ import annotations

import calendar
from datetime import date as Date
from datetime import datetime, timedelta
from typing import Literal

from data_builders.tool_use.iso_dates import day_of


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
