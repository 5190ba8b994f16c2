"""The rows that stages hand to each other: messages, prompts, SFT rows, preferences, candidates, questions.

Each row has an `id`, by which rows meet, and a `source`, which says where it came from. A row checks itself when it is
made. Reading and writing them is `align/jsonl.py`; other toolkits' forms are `align/formats/rows.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from align.files import fingerprint_of

MAX_TOOLS_CHARACTERS = 2**20
"""Of the schemas that a row offers. A list of a million choices would take gigabytes in every prompt."""
Role = Literal["system", "user", "assistant", "tool"]
Level = Literal["significantly better", "better", "slightly better", "marginally better"]
"""How much better the chosen response is than the rejected one (Llama 3, section 4.2.1)."""

STRONG_LEVELS: tuple[Level, ...] = ("significantly better", "better")
"""The levels that Llama 3 trains on."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(Frozen):
    """One call that the assistant makes."""

    name: str = Field(min_length=1)
    arguments: str = "{}"
    """A JSON object as text, as OpenAI has it: Arrow would fill a nested object's missing keys with nulls. An object is
    written out as it is, nulls included; readers of records leave out those that Arrow may have filled in."""

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_json_object(cls, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
        _json_of(text, dict, "a JSON object of argument names and values")
        return text

    def parsed(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.arguments)
        return value


class ToolSpec(Frozen):
    """A function that may be called: what is offered to the model."""

    name: str = Field(min_length=1)
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON schema of the arguments."""


class Message(Frozen):
    """One message of a dialog. `tool` is the output of a call; it is never trained on."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls, made after `content`. Assistant only."""
    name: str | None = None
    """Which function a `tool` message answers for, where that is known."""
    trained: bool = True
    """False for an assistant message that is context only and never a target, such as a call that failed."""

    @model_validator(mode="after")
    def _calls_come_from_the_assistant(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls stand on a {self.role} message; only an assistant makes calls")
        if not self.trained and self.role != "assistant":
            raise ValueError(f"trained is set on a {self.role} message; only an assistant's messages are trained on")
        return self


Messages = tuple[Message, ...]


def order_problem(messages: Sequence[Message]) -> str | None:
    """What is wrong with the order of a dialog's roles, or None.

    A dialog has one system message at most, at its beginning, and something is said before the assistant speaks. The
    output of a tool may come without a call: files that a user uploads are such messages.
    """
    for turn, message in enumerate(messages):
        before = messages[turn - 1].role if turn else None
        if message.role == "system" and turn:
            return f"messages[{turn}] is a system message after the first message; a dialog has one, at its beginning"
        if message.role == "assistant" and before in (None, "system"):
            return f"messages[{turn}] is an assistant message, and nothing was asked before it"
    return None


def _check_order(messages: Sequence[Message]) -> None:
    problem = order_problem(messages)
    if problem is not None:
        raise ValueError(problem)


def completion_start(messages: Sequence[Message], train_on: Literal["final", "all"]) -> int:
    """Index of the first message that is trained on: always an assistant message.

    final: the assistant's messages after the last user (or system) message. all: every assistant message.
    """
    roles = [message.role for message in messages]
    if train_on == "all":
        return roles.index("assistant")
    last_asked = max((place for place, role in enumerate(roles) if role in ("user", "system")), default=-1)
    return roles.index("assistant", last_asked + 1)


class Row(Frozen):
    """What every row has."""

    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    """Where the row came from, such as `nq-open` or `round-1/rejection-sampling`."""
    tools: str = ""
    """The functions offered, as a JSON list of schemas in text; empty for none."""
    made_from: tuple[str, ...] = ()
    """What it was made from, where its other columns do not say so: ids of rows of an earlier stage, or `file:line` of
    records of another form. Empty if unknown, and for a row that was written as it was read."""

    def json_line(self) -> str:
        """The row as a line of a file, without what has its default."""
        return self.model_dump_json(exclude_defaults=True) + "\n"

    @field_validator("tools")
    @classmethod
    def _tools_parse(cls, value: str) -> str:
        if value:
            tools_of(value)
        return value


class PromptRow(Row):
    """A prompt to be completed."""

    prompt: Messages = Field(min_length=1)

    @model_validator(mode="after")
    def _roles_are_in_order(self) -> Self:
        _check_order(self.prompt)
        return self


class VerifiedPromptRow(PromptRow):
    """A prompt with what its completions are verified for (`align/judges/verifiers/`)."""

    verify: str = ""
    """A JSON object as text: name of a verifier -> what it requires, such as {"maths": {"answer": "42"}}. An object is
    written out. Empty if nothing is required."""

    @field_validator("verify", mode="before")
    @classmethod
    def _verify_is_json(cls, value: Any) -> str:
        if value in (None, "", {}):
            return ""
        text = value if isinstance(value, str) else arguments_text(value)
        _json_of(text, dict, "a JSON object of names of verifiers and what they require")
        return text

    def required(self) -> dict[str, Any]:
        """Name of a verifier -> what it requires."""
        found: dict[str, Any] = json.loads(self.verify) if self.verify else {}
        return found


class MathsProblemRow(VerifiedPromptRow):
    """A problem of mathematics to evaluate on. Its `verify` has an entry of the verifier maths."""

    template: str = ""
    """The template that the problem was generated from; empty for a problem of its own wording."""


class QuestionRow(PromptRow):
    """A prompt with known right answers, for probing and factuality."""

    entity: str
    """What the question is about. Held-out splits are cut by it."""
    relation: str
    """What is asked of the entity, such as `capital`."""
    answers: tuple[str, ...] = Field(min_length=1)
    """Every accepted answer."""
    tolerance: float = Field(0.0, ge=0, lt=1)
    """A number within this share of an accepted one is right: 0.01 takes 99 to 101 for 100."""
    reference: str = ""
    """The text that contains the answer. Judges read it; the model that is asked never does."""
    topic: str = ""
    """What the question belongs to, such as `countries`; empty if unknown."""
    subject: str = ""
    """What a refusal names, in the question's language: `the capital of Chad`. Empty where it cannot name anything."""
    language: str = Field("en", pattern=r"^[a-z]{2,3}$")
    """Of the question and of its refusal: an ISO 639 code."""


class ToolQuestionRow(PromptRow):
    """A prompt that functions are on offer for, with what is known of the right calls and the right answer."""

    calls: tuple[ToolCall, ...] | None = None
    """Calls that lead to the answer, in order; empty where none must be made, None if unknown."""
    answers: tuple[str, ...] = ()
    """What the final message must hold, any one of them; empty if unknown."""


class SFTRow(Row):
    """A dialog whose last message is the target."""

    messages: Messages = Field(min_length=2)
    candidate: str = ""
    """The id of the candidate that the target was, for a row that rejection sampling kept; empty for others."""
    score: float | None = Field(None, allow_inf_nan=False)
    """The candidate's score, in the judge's units."""
    model: str = ""
    """What wrote the target: a Hub name, or the end of a checkpoint's path; empty where unknown."""
    round: int | None = Field(None, ge=0)
    """The round of post-training that the target was sampled in; None where unknown."""

    @model_validator(mode="after")
    def _ends_with_the_assistant(self) -> Self:
        if self.messages[-1].role != "assistant":
            raise ValueError(f"messages end with a {self.messages[-1].role} message; the last one is the target")
        _check_order(self.messages)
        return self


class PreferenceRow(Row):
    """A prompt with two or three completions, best first (edited > chosen > rejected when there are three).

    A completion is a run of messages: one assistant message, or calls, tool outputs and answers in turn.
    """

    prompt: Messages = Field(min_length=1)
    completions: tuple[Messages, ...] = Field(min_length=2, max_length=3)
    level: Level | None = None
    """How much better chosen is than rejected; None if unknown."""
    models: tuple[str, ...] = ()
    """Who made each completion, in their order, "" where unknown; empty if unknown."""
    raters: tuple[str, ...] = ()
    """Whose judgement this is: all who judged the comparison, those who were outvoted too; empty if unknown."""
    round: int | None = Field(None, ge=0)
    """The round of post-training that the comparison was collected in; None if unknown."""
    batch: str = ""
    """The batch of collection that it came with, such as a week or a capability."""
    candidates: tuple[str, ...] = ()
    """The ids of the sampled candidates that the completions were, in their order; empty for rows from elsewhere."""
    scores: tuple[float, ...] = ()
    """The score of each completion, in the judge's units and in the completions' order; empty where unknown."""
    seeds: tuple[int, ...] = ()
    """The seed that each completion was sampled with; empty where unknown."""
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    """The sampling temperature of the completions; None where unknown."""
    failed: tuple[str, ...] = ()
    """What the rejected completion failed, as `verifier: reason`, if verifiers decided the pair; the scores may
    contradict them. Empty if nothing was verified, or if both passed."""

    @field_validator("scores")
    @classmethod
    def _scores_are_numbers(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for place, score in enumerate(value):
            if not math.isfinite(score):
                raise ValueError(f"scores[{place}] is {score}; a score must be a finite number")
        return value

    @model_validator(mode="after")
    def _completions_are_the_assistants(self) -> Self:
        for rank, completion in enumerate(self.completions):
            if not completion or completion[0].role != "assistant" or completion[-1].role != "assistant":
                raise ValueError(f"completions[{rank}] must begin and end with an assistant message")
            _check_order((*self.prompt, *completion))
        if self.completions[0] == self.completions[-1]:
            raise ValueError("chosen and rejected are the same, word for word; such a row prefers nothing")
        if self.models and len(self.models) != len(self.completions):
            raise ValueError(
                f"models names {len(self.models)} for {len(self.completions)} completions; name each or none"
            )
        for name in ("candidates", "scores", "seeds"):
            given = len(getattr(self, name))
            if given not in (0, len(self.completions)):
                raise ValueError(f"{name} has {given} for {len(self.completions)} completions; give each or none")
        if self.scores and self.scores[0] <= self.scores[-1] and not self.failed:
            raise ValueError(f"scores {list(self.scores)} contradict the order of the completions, best first")
        return self

    @property
    def chosen(self) -> Messages:
        """The best completion: the edited one, where there is one."""
        return self.completions[0]

    @property
    def rejected(self) -> Messages:
        """The worst completion."""
        return self.completions[-1]


class Candidate(Row):
    """One of K completions sampled for a prompt."""

    prompt_id: str
    prompt: Messages = Field(min_length=1)
    completion: Messages = Field(min_length=1)
    index: int = Field(ge=0)
    """Which of the K it is."""
    seed: int
    finished: bool
    """The model ended it by itself, and did not run into the length limit."""
    score: float | None = None
    """What the judge returned, in its own units; None until it has been asked."""
    failed: tuple[str, ...] = ()
    """What the candidate failed, as `verifier: reason`; empty if it passed, and if nothing was verified."""
    passed: tuple[str, ...] = ()
    """The verifiers that it passed; empty if nothing was verified."""
    model: str = ""
    """What wrote it: a Hub name, or the end of a checkpoint's path; empty where unknown."""
    round: int | None = Field(None, ge=0)
    """The round of post-training that it was sampled in; None where unknown."""
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    """The sampling temperature; None where unknown."""
    steering: str = ""
    """The system prompt and the examples that steered it, as text; empty if it was not steered. They are the first
    messages of `prompt` if `keep_steering` was set; otherwise `prompt` is without them."""


def row_id(*parts: object) -> str:
    """An id that is the same whenever the parts are: 16 hex digits of BLAKE3."""
    return fingerprint_of(*parts)[:16]


def arguments_text(value: Any) -> str:
    """Arguments that a record gives as an object, as JSON text without the keys whose value is null.

    Arrow fills missing keys with nulls, so that calls of f(x) and g(y) in one column become f(x, y=null) and
    g(x=null, y).
    """
    return json.dumps(_without_null_keys(value), ensure_ascii=False, allow_nan=False)


def _without_null_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null_keys(item) for key, item in value.items() if item is not None}
    return [_without_null_keys(item) for item in value] if isinstance(value, list) else value


def tools_of(text: str) -> tuple[ToolSpec, ...]:
    """The functions in a row's `tools` text: bare schemas, or OpenAI's `{"type": "function", "function": ...}`."""
    if not text:
        return ()
    if len(text) > MAX_TOOLS_CHARACTERS:
        raise ValueError(f"tools: expected at most {MAX_TOOLS_CHARACTERS} characters of schemas, found {len(text)}")
    found = _json_of(text, list, "a JSON list of function schemas")
    return tuple(ToolSpec(**_bare_schema(schema)) for schema in found)


def tools_text(tools: tuple[ToolSpec, ...] | list[ToolSpec]) -> str:
    """The text that a row's `tools` holds; keys keep their order, so equal specs give equal text."""
    return json.dumps([tool.model_dump() for tool in tools], ensure_ascii=False) if tools else ""


def _bare_schema(schema: Any) -> dict[str, Any]:
    if isinstance(schema, dict) and isinstance(schema.get("function"), dict):
        schema = schema["function"]
    if not isinstance(schema, dict) or "name" not in schema:
        raise ValueError(f"tools: expected function schemas with a name, found {str(schema)[:80]}")
    kept = {key: schema[key] for key in ("name", "description", "parameters") if schema.get(key) is not None}
    return kept


def strict_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for NaN and infinities too, which Python reads and JSON has not."""
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _refuse_constant(text)  # 1e999 is read as infinity


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _json_of(text: str, kind: type, expected: str) -> Any:
    try:
        found = strict_json(text)
    except ValueError as error:
        raise ValueError(f"expected {expected}, found text that is not JSON ({error}): {text[:80]}") from None
    if not isinstance(found, kind):
        raise ValueError(f"expected {expected}, found {text[:80]}")
    return found
