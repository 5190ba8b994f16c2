"""The settings of the annotation page. This file imports nothing heavy, so `--help` and config errors are immediate."""

from __future__ import annotations

import ipaddress
from typing import Self

from pydantic import Field, model_validator

from align.config import Section
from align.settings import InputSource, Reading


class TasksConfig(Reading):
    """What raters compare. The files may grow between two starts: new lines are added to the comparisons."""

    pairs: tuple[InputSource, ...] = ()
    """Ready comparisons: records with `prompt`, `responses` (texts, messages, or objects with text and model) and
    `models`, or preference rows, whose judgements are not shown. Two of more than two responses are chosen at
    random."""
    candidates: dict[str, InputSource] = Field(default_factory=dict)
    """Name of a model -> its candidates.jsonl from recipes/rejection_sample.py. For each prompt with finished
    completions of two or more models, two models and one completion of each are chosen at random."""
    prompts: tuple[InputSource, ...] = ()
    """Prompts that two of the `models` answer while raters work."""
    batch: str = ""
    """Name of the batch, such as a week, for rows that have none. The agreement of raters is reported by batch."""
    round: int | None = Field(None, ge=0)
    """The round of post-training, for rows that have none."""

    @model_validator(mode="after")
    def _there_is_something_to_compare(self) -> Self:
        if not (self.pairs or self.candidates or self.prompts):
            raise ValueError("expected pairs, candidates or prompts to compare, found none")
        if len(self.candidates) == 1:
            raise ValueError("candidates of a single model cannot be compared. Add the candidates of another model")
        return self


class RatingConfig(Section):
    """Who judges which comparisons."""

    raters: tuple[str, ...] = ()
    """Names of the raters; if empty, anyone can rate under any name. There are no passwords: names are trusted."""
    raters_per_pair: int = Field(1, ge=1)
    """Number of different raters for each comparison. With 2 or more, the builder `preferences` reports their
    agreement."""
    hold_minutes: float = Field(60, gt=0)
    """Minutes for which a comparison stays reserved for the rater who opened it. After that, others may get it."""
    max_turns: int = Field(10, ge=1)
    """Maximum number of turns of a dialog, each with its own comparison; requires `models`. 1: dialogs are not
    continued."""
    ahead: int = Field(4, ge=0)
    """Number of prompts that the models answer in advance, so that raters do not have to wait; requires `models`."""
    seed: int = 0
    """Seed of the side on which each completion is shown, of the choice of models, and of their sampling."""


class ServerConfig(Section):
    """Where the page is served."""

    host: str = "127.0.0.1"
    """Address to listen on. With any address other than a loopback address (for example 0.0.0.0), every visitor needs a
    token, which is printed at the start. Set ANNOTATE_TOKEN in the environment to keep the same token over restarts."""
    port: int = Field(8765, ge=0, le=65535)
    """Port to listen on. 0 takes any free port."""

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
            raise ValueError("server.host is empty. Set it to 127.0.0.1, or to 0.0.0.0 for all addresses")
        return self
