"""The settings of the raters' page. They import nothing heavy, so `--help` and a bad config answer at once."""

from __future__ import annotations

import ipaddress
from typing import Self

from pydantic import Field, model_validator

from align.config import Section
from align.settings import InputSource, Reading


class TasksConfig(Reading):
    """What is compared. Files may grow between two starts: new lines are added, the old ones stay what they are."""

    pairs: tuple[InputSource, ...] = ()
    """Ready comparisons: `prompt`, `responses` (texts, messages, or objects with text and model) and `models`;
    or preference rows, whose judgements are neither shown nor kept. Of more than two responses two are drawn."""
    candidates: dict[str, InputSource] = Field(default_factory=dict)
    """Name of a model -> its candidates.jsonl from recipes/rejection_sample.py. For each prompt that two of them
    finished, one completion of each of two models is drawn."""
    prompts: tuple[InputSource, ...] = ()
    """Prompts that two of `models` answer while the raters work."""
    batch: str = ""
    """The batch of collection, such as a week; for rows that name none. Agreement is reported by it."""
    round: int | None = Field(None, ge=0)
    """The round of post-training; for rows that name none."""

    @model_validator(mode="after")
    def _there_is_something_to_compare(self) -> Self:
        if not (self.pairs or self.candidates or self.prompts):
            raise ValueError("expected pairs, candidates or prompts to compare, found none")
        if len(self.candidates) == 1:
            raise ValueError("candidates of one model have nothing to be compared with: name those of another")
        return self


class RatingConfig(Section):
    """Who judges what."""

    raters: tuple[str, ...] = ()
    """The names that may rate; none given: whoever types a name. Names are trusted, not proved."""
    raters_per_pair: int = Field(1, ge=1)
    """Different raters who judge each comparison. With 2 or more the builder reports how far they agree."""
    hold_minutes: float = Field(60, gt=0)
    """A comparison that a rater has opened and not judged goes to others after this time."""
    max_turns: int = Field(10, ge=1)
    """With `models`: turns of one dialog, each with a comparison of its own. 1: no dialog goes on."""
    ahead: int = Field(4, ge=0)
    """With `models`: prompts that are answered before anybody has opened them, so that raters do not wait."""
    seed: int = 0
    """Which completion stands left for whom, which models answer, and what they sample."""


class ServerConfig(Section):
    """Where the page is served."""

    host: str = "127.0.0.1"
    """The address to listen on. Any but a loopback address (such as 0.0.0.0) asks every visitor for a token, which
    stands in the start line; ANNOTATE_TOKEN in the environment names one that stays the same over restarts."""
    port: int = Field(8765, ge=0, le=65535)
    """0 takes one that is free."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @model_validator(mode="after")
    def _host_is_an_address(self) -> Self:
        if not self.host.strip():
            raise ValueError("server.host is empty: name 127.0.0.1, or 0.0.0.0 for all addresses")
        return self
