"""The interface of a generation backend: prompts and seeds in, completions out.

A backend knows token ids only; `engine.py` joins it with the chat protocol of its model. Each backend has a file of its
own: `local.py` runs transformers in this process, `vllm.py` runs vLLM, `server.py` asks running servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion, as token ids."""

    ids: tuple[int, ...]
    """The stop token is the last one when `finished`."""
    finished: bool
    """Whether the model ended it with a stop token; False if it was cut at the length limit."""
    logprobs: tuple[float, ...] | None = None
    """The log-probability in nats that the model gave to each token, before temperature and top_p; None if the backend
    does not return them."""


class Backend(Protocol):
    """Completes prompts of token ids.

    A completion depends on its prompt, its seed and the backend's `identity`. It does not depend on the other prompts
    of a batch, except for the rounding of another batch shape.
    """

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprints of all that completions depend on other than prompt and seed: weights, protocol, sampling."""
        ...

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that leaves space for a completion."""
        ...

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None = None,
    ) -> list[list[Completion]]:
        """len(seeds[i]) completions of prompts[i], in the order of the seeds.

        temperatures: one for each seed, instead of `sampling.temperature`.
        Raises RowError for a prompt that is empty or longer than `max_prompt_tokens`.
        """
        ...
