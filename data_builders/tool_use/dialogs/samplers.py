"""What arguments are drawn from: a value for the call, and how a person says it."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date as Date
from datetime import timedelta
from typing import Any, NamedTuple


class Value(NamedTuple):
    """An argument: what stands in the call, and how a person says it."""

    value: Any
    said: str


Sampler = Callable[[random.Random], Value]


def whole(low: int, high: int) -> Sampler:
    """A whole number, large ones said with or without commas."""

    def sample(rng: random.Random) -> Value:
        value = rng.randint(low, high)
        return Value(value, f"{value:,}" if value >= 10_000 and rng.random() < 0.5 else str(value))

    return sample


def decimal(low: float, high: float, places: int = 1) -> Sampler:
    """A number with at most so many decimal places."""

    def sample(rng: random.Random) -> Value:
        value = round(rng.uniform(low, high), rng.randint(0, places))
        value = int(value) if value == int(value) else value
        return Value(value, str(value))

    return sample


def percent(low: float, high: float, places: int = 1, *, as_share: bool = False) -> Sampler:
    """A percentage; as_share puts 0.05 into the call where people say 5%."""

    def sample(rng: random.Random) -> Value:
        value = decimal(low, high, places)(rng).value
        return Value(round(value / 100, 6) if as_share else value, f"{value}{rng.choice(('%', '%', ' percent'))}")

    return sample


def one_of(*values: Any) -> Sampler:
    """One of the values; a pair is (value in the call, how people say it)."""

    def sample(rng: random.Random) -> Value:
        value = rng.choice(values)
        return Value(*value) if isinstance(value, tuple) else Value(value, str(value))

    return sample


def several(sampler: Sampler, low: int, high: int) -> Sampler:
    """A list of different values."""

    def sample(rng: random.Random) -> Value:
        found: dict[str, Value] = {}
        for _ in range(rng.randint(low, high) * 4):
            value = sampler(rng)
            found.setdefault(str(value.value), value)
        chosen = list(found.values())[: rng.randint(low, high)]
        said = [value.said for value in chosen]
        joined = f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 and rng.random() < 0.6 else ", ".join(said)
        return Value([value.value for value in chosen], joined)

    return sample


def date(first: str = "2021-01-01", last: str = "2025-12-31") -> Sampler:
    """A day as YYYY-MM-DD, said in several ways."""
    start, end = Date.fromisoformat(first), Date.fromisoformat(last)

    def sample(rng: random.Random) -> Value:
        day = start + timedelta(days=rng.randint(0, (end - start).days))
        said = (day.isoformat(), f"{day:%B} {day.day}, {day.year}", f"{day.day} {day:%B} {day.year}", day.isoformat())
        return Value(day.isoformat(), rng.choice(said))

    return sample


def clock() -> Sampler:
    """A time of day as HH:MM, said in two ways."""

    def sample(rng: random.Random) -> Value:
        hour, minute = rng.randint(0, 23), rng.choice((0, 15, 30, 45, rng.randint(0, 59)))
        half = "am" if hour < 12 else "pm"
        spoken = f"{(hour - 1) % 12 + 1}:{minute:02d} {half}"
        return Value(f"{hour:02d}:{minute:02d}", rng.choice((f"{hour:02d}:{minute:02d}", spoken)))

    return sample


WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def weekday() -> Sampler:
    return one_of(*WEEKDAYS)


def code(pattern: str) -> Sampler:
    """A letter for each A of the pattern, a digit for each 9."""
    signs = {"A": "BCDFGHKLMNPQRSTVWXZ", "9": "0123456789"}

    def sample(rng: random.Random) -> Value:
        text = "".join(rng.choice(signs.get(sign, sign)) for sign in pattern)
        return Value(text, text)

    return sample


_CITIES = """
Amsterdam, Ankara, Athens, Auckland, Austin, Bangkok, Barcelona, Beirut, Berlin, Bogota, Boston, Brussels,
Bucharest, Budapest, Cairo, Chicago, Copenhagen, Dakar, Dallas, Delhi, Denver, Dubai, Dublin, Edinburgh, Frankfurt,
Geneva, Hamburg, Hanoi, Havana, Helsinki, Houston, Istanbul, Jakarta, Johannesburg, Karachi, Kyoto, Lagos, Lima,
Lisbon, London, Lyon, Madrid, Manila, Marseille, Melbourne, Miami, Milan, Montreal, Moscow, Mumbai, Munich, Nairobi,
Naples, Osaka, Oslo, Ottawa, Paris, Philadelphia, Phoenix, Portland, Prague, Quito, Riga, Rome, Rotterdam, Santiago,
Seattle, Seoul, Seville, Shanghai, Singapore, Sofia, Stockholm, Sydney, Tallinn, Tokyo, Toronto, Tunis, Turin,
Valencia, Vancouver, Venice, Vienna, Vilnius, Warsaw, Zagreb, Zurich, Buenos Aires, Cape Town, Hong Kong, Los
Angeles, Mexico City, New Orleans, New York, San Diego, San Francisco, Sao Paulo, Tel Aviv, Kuala Lumpur, Ho Chi
Minh City, Salt Lake City
"""
_FIRST_NAMES = """
Adam, Aisha, Alice, Amir, Anna, Ben, Carla, Chen, Clara, Daniel, David, Diego, Elena, Emma, Eric, Fatima, Felix,
Grace, Hana, Henry, Ines, Isaac, Ivan, Jack, Jane, Jonas, Julia, Kai, Karim, Laura, Leo, Lena, Liam, Lucia, Maria,
Marco, Maya, Mei, Mia, Noah, Nora, Olga, Omar, Oscar, Paul, Priya, Rosa, Ruth, Sam, Sara, Sofia, Tom, Uma, Victor,
Wei, Yara, Zoe
"""
_LAST_NAMES = """
Abbott, Ahmed, Baker, Bauer, Brown, Chen, Costa, Cruz, Davis, Diaz, Evans, Fischer, Garcia, Gupta, Hansen, Ito,
Jensen, Johnson, Kaya, Kim, Kowalski, Lee, Lopez, Martin, Meyer, Moreau, Nguyen, Novak, Okafor, Olsen, Park, Patel,
Perez, Rossi, Ryan, Sato, Silva, Singh, Smith, Tanaka, Taylor, Torres, Wagner, Walker, Weber, White, Wilson, Wong,
Young
"""


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(",") if name.strip())


CITIES, FIRST_NAMES, LAST_NAMES = _listed(_CITIES), _listed(_FIRST_NAMES), _listed(_LAST_NAMES)


def city() -> Sampler:
    return one_of(*CITIES)


def person() -> Sampler:
    """A first and a last name."""

    def sample(rng: random.Random) -> Value:
        name = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
        return Value(name, name)

    return sample


def first_name() -> Sampler:
    return one_of(*FIRST_NAMES)
