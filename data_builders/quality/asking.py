"""How gates ask a model for a short reply, and which of their settings the results depend on.

A changed setting that results do not depend on (a server's address or concurrency, batch sizes) must not change the key
of the shards: all of them would be made again, by a model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from align.config import Section
from align.settings import ModelConfig, SamplingConfig

if TYPE_CHECKING:
    from align.generation.engine import GenerationEngine

_SPEED = frozenset(("batch_size", "token_budget"))
"""Settings that change the speed, and rounding."""
_NUMBER = re.compile(r"\d+")


def greedy_engine(model: ModelConfig | None, sampling: SamplingConfig, max_tokens: int) -> GenerationEngine:
    """Load a model that decodes greedily, with at most `max_tokens` tokens in a reply."""
    from align.generation.engine import GenerationEngine

    assert model is not None
    return GenerationEngine.from_settings(model, sampling.greedy(max_tokens))


def key_settings(config: Section, sampling: SamplingConfig | None = None) -> dict[str, Any]:
    """The settings of a gate that its results depend on, for the key of its shards, as JSON values.

    sampling: how its model is asked; None if it asks none, whatever its section `sampling` says.
    """
    values = config.model_dump(mode="json", exclude={"sampling", *_SPEED})
    return values if sampling is None else {**values, "sampling": sampling.result_settings()}


def read_number(reply: str | None, highest: int) -> int | None:
    """The number in a reply, from 1 to `highest`; None if there is no reply, no number, several different ones, or
    another one."""
    numbers = {int(number) for number in _NUMBER.findall(reply or "")}
    return numbers.pop() if len(numbers) == 1 and numbers <= set(range(1, highest + 1)) else None
