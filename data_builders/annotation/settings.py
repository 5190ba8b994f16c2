"""The settings of the annotation page. This file imports nothing heavy, so `--help` and config errors are immediate."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from align.config import Section
from align.rows import Level
from align.settings import InputSource, ModelConfig, Reading
from align.tools.catalog import ToolsConfig
from align.tools.sandbox.session import SandboxLimits


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
    continued. A message after the results of tools is a turn too."""
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

    def libraries(self) -> dict[str, str]:
        page = ("fastapi", "uvicorn", "starlette", "markdown_it", "mdit_py_plugins", "latex2mathml", "nh3")
        return dict.fromkeys(page, "annotate")

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


class ToolTurnsConfig(ToolsConfig):
    """Tools that make the calls of a chosen response, so that the dialog continues with their results (Llama 3, section
    4.3.5). Prompts offer functions in their column `tools`; a prompt without it may call every tool."""

    interpreter: bool = False
    """Whether code_interpreter is among the tools. Its code runs in the sandbox."""
    sandbox: SandboxLimits = SandboxLimits()
    """Limits for the code of one dialog."""

    @model_validator(mode="after")
    def _there_are_tools(self) -> Self:
        if not (self.built_in or self.functions or self.interpreter):
            raise ValueError("expected built_in, functions or interpreter, found no tool")
        return self


def _default_levels() -> dict[Level, float]:
    return {"significantly better": 2.0, "better": 1.0, "slightly better": 0.5}


class ScriptedRaterConfig(Section):
    """A program that judges by a fixed rule, through the page's own requests, to exercise a collection without people.
    Its judgements are not those of a person: rows name it in `raters`."""

    name: str = Field("scripted-rater", pattern=r"^scripted[\w -]{0,50}$")
    """Its name in the rows. It begins with `scripted`, so that it is never taken for a person's."""
    rule: Literal["reward_model", "shorter"] = "reward_model"
    """reward_model: the response with the higher score of `reward_model` is better. shorter: the one with fewer
    characters."""
    reward_model: ModelConfig | None = None
    """The reward model of the rule reward_model."""
    token_budget: int = Field(4096, gt=0)
    """Tokens in one forward pass of the reward model."""
    pause_seconds: float = Field(0.0, ge=0)
    """Time between two judgements, to watch it at work."""
    levels: dict[Level, Annotated[float, Field(gt=0)]] = Field(default_factory=_default_levels)
    """Level -> the smallest difference of two scores for which it is given: of log-odds, or of hundreds of characters
    for the rule shorter. A smaller difference is marginally better, none is a tie."""

    @model_validator(mode="after")
    def _the_rule_has_its_model(self) -> Self:
        if (self.rule == "reward_model") != (self.reward_model is not None):
            found = "is missing" if self.reward_model is None else f"is given, which the rule {self.rule} does not read"
            raise ValueError(f"reward_model {found}. Give it with the rule reward_model, and only then")
        return self
