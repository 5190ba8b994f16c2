"""Sampling temperatures of the K candidates of a prompt: one for all, or a range that may change with the round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from align.config import Section


class TemperatureRange(Section):
    """Temperatures that are spread evenly over the candidates of each prompt, from a round on."""

    lowest: float = Field(ge=0, le=100)
    """The temperature of the first candidate. 0 is greedy decoding."""
    highest: float = Field(ge=0, le=100)
    """The temperature of the last candidate."""
    from_round: int = Field(0, ge=0)
    """The first round (setting `round`) that this range is used in. The range with the highest from_round that is not
    above the round is used; if there is none, sampling.temperature is used."""

    @model_validator(mode="after")
    def _lowest_is_not_above_highest(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest is {self.lowest:g}, above highest, which is {self.highest:g}")
        return self


def _with_different_rounds(ranges: tuple[TemperatureRange, ...]) -> tuple[TemperatureRange, ...]:
    for begins, count in Counter(one.from_round for one in ranges).items():
        if count > 1:
            raise ValueError(f"two temperatures begin with round {begins}. Give them different from_round")
    return ranges


Temperatures = Annotated[tuple[TemperatureRange, ...], AfterValidator(_with_different_rounds)]
"""The ranges of a config, at most one from each round on."""


def candidate_temperatures(
    ranges: Sequence[TemperatureRange], k: int, round_number: int | None
) -> tuple[float, ...] | None:
    """The temperature of each of k candidates. None: no range is used, so that sampling.temperature is for all.

    From 0.6 to 1.0 over 5 candidates: 0.6, 0.7, 0.8, 0.9, 1.0. A single candidate has the lowest one.
    round_number: None counts as round 0.
    """
    usable = [one for one in ranges if one.from_round <= (round_number or 0)]
    if not usable:
        return None
    chosen = max(usable, key=lambda one: one.from_round)
    step = (chosen.highest - chosen.lowest) / max(k - 1, 1)
    return tuple(round(chosen.lowest + index * step, 6) for index in range(k))
