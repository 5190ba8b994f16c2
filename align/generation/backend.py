"""What a generation backend is: prompts and seeds in, completions out.

Each engine has a file of its own; `local.py` is transformers in this process. A backend knows token ids only; messages
are `align/chat/`.
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
    """The model ended it by itself, and did not run into the length limit."""


class Backend(Protocol):
    """An engine that completes prompts.

    A completion depends on its prompt, its seed and the backend's `identity`, and not on its neighbours in a batch
    (up to the float noise of another batch shape).
    """

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprints of all that completions depend on besides prompt and seed: weights, chat protocol, sampling."""
        ...

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that leaves room for a completion."""
        ...

    def complete(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        """len(seeds[i]) completions of prompts[i], in the order of the seeds.

        Raises RowError for a prompt that is empty or longer than `max_prompt_tokens`.
        """
        ...
