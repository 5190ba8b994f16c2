"""Dates as functions of several domains take them. A file of functions may import this module."""

from __future__ import annotations

from datetime import date as Date


def day_of(text: str) -> Date:
    """The day that YYYY-MM-DD names. The error says what is expected, so that a model can correct its call."""
    try:
        return Date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date; use YYYY-MM-DD, such as 2024-03-09") from None
