"""The interface of a generation backend: prompts and seeds in, completions out. And what all backends here share.

A backend knows token ids only; `engine.py` joins it with the chat protocol of its model. Each backend has a file of its
own: `local.py` runs transformers in this process, `vllm.py` runs vLLM, `server.py` asks running servers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from align.chat.protocol import ChatProtocol
from align.errors import ConfigError, RowError
from align.files import fingerprint_of
from align.settings import SamplingConfig


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion, as token ids."""

    ids: tuple[int, ...]
    """The stop token is the last one when `finished`."""
    finished: bool
    """Whether the model ended it with a stop token; False if it was cut at the length limit."""


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


class CheckedBackend(ABC):
    """What the backends of this project share: the checks of lengths, and the form of an identity.

    A subclass says how long a prompt with its completion may be, what its model is, and how it samples.
    """

    protocol: ChatProtocol
    """Gives the stop ids."""
    sampling: SamplingConfig

    @property
    @abstractmethod
    def max_model_len(self) -> int:
        """The longest prompt with its completion, in tokens."""

    @property
    def limit_cause(self) -> str:
        """Why `max_model_len` is less than what the model has, in words for a message; empty if it is not."""
        return ""

    @property
    def max_prompt_tokens(self) -> int:
        """See `Backend.max_prompt_tokens`."""
        return self.max_model_len - self.sampling.max_completion_tokens

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None = None,
    ) -> list[list[Completion]]:
        """See `Backend.complete`."""
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise RowError(f"prompt {number}", "has no tokens", "Give it at least one message")
            if len(prompt) > self.max_prompt_tokens:
                most = f"at most {self.max_prompt_tokens} leave space for a completion{self.limit_cause}"
                what = f"has {len(prompt)} tokens; {most}"
                raise RowError(f"prompt {number}", what, "Leave it out, or lower sampling.max_completion_tokens")
        return self._complete(prompts, seeds, temperatures)

    @abstractmethod
    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None,
    ) -> list[list[Completion]]:
        """`complete`, for prompts whose lengths are checked."""

    def _each_temperature(
        self, seeds: Sequence[Sequence[int]], temperatures: Sequence[Sequence[float]] | None
    ) -> Sequence[Sequence[float]]:
        """A temperature for each seed, where `complete` was given none: `sampling.temperature`."""
        return [[self.sampling.temperature] * len(own) for own in seeds] if temperatures is None else temperatures

    def _require_space(self, limit: str, how: str = "Lower it") -> None:
        """Raise ConfigError if no prompt fits. limit: what sets the limit, such as "the model has 512 positions"."""
        if self.max_prompt_tokens < 1:
            what = f"{self.sampling.max_completion_tokens} leaves no space for a prompt: {limit}{self.limit_cause}"
            raise ConfigError("sampling.max_completion_tokens", what, how)

    def _identity_with(self, model: str, sampling: Mapping[str, object]) -> dict[str, str]:
        """`Backend.identity`, of a fingerprint of the model and the settings that completions depend on."""
        return {
            "model": model,
            "protocol": fingerprint_of(*self.protocol.identity, self.protocol.stop_ids),
            "sampling": ", ".join(f"{name} {value}" for name, value in sampling.items()),
        }
