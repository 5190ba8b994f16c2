"""Rows as other toolkits' records: read back by our own readers they are the rows, or the difference is named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from align.errors import RowError, UnusableRow
from align.formats.export import EARLIER, MASKED, MIDDLE, OUTPUTS, WHOLE, Exported, exported
from align.jsonl import row_of
from align.rows import Candidate, Message, PreferenceRow, PromptRow, QuestionRow, SFTRow, ToolCall, tools_of

FORMS = ("trl", "openai", "sharegpt")
TOOLS = json.dumps(
    [
        {
            "name": "f",
            "description": "Finds it",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        }
    ]
)


def said(role: str, content: str, **more: Any) -> Message:
    return Message(role=role, content=content, **more)


def called(*names: str, content: str = "", **more: Any) -> Message:
    calls = tuple(ToolCall(name=name, arguments={"a": place}) for place, name in enumerate(names))
    return Message(role="assistant", content=content, tool_calls=calls, **more)


def read_back(found: Exported, kind: type) -> Any:
    """The row that our reader makes of the line in the file."""
    return row_of(json.loads(json.dumps(found.record)), kind, "rows.jsonl:1")


def dialog_of(row: Any) -> tuple[Any, ...]:
    """What a row trains on, without how its functions are spelled."""
    messages = row.messages if isinstance(row, SFTRow) else (row.prompt, row.chosen, row.rejected)
    return messages, tools_of(row.tools)


def without_nulls(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages without arguments that are null, which readers of objects take for absent."""
    kept = []
    for message in messages:
        calls = [(call.name, {k: v for k, v in call.parsed().items() if v is not None}) for call in message.tool_calls]
        made = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in calls)
        kept.append(message.model_copy(update={"tool_calls": made}))
    return tuple(kept)


@pytest.fixture(scope="module")
def dialogs(make_dialog: Callable[..., Any]) -> list[SFTRow]:
    """Of all kinds: systems, several turns, calls with outputs, functions, odd texts."""
    rng = random.Random(7)
    rows = []
    for number in range(150):
        messages, tools = make_dialog(rng, ragged=number % 2 == 0)
        rows.append(SFTRow(id=f"r{number}", source="test", messages=without_nulls(messages), tools=tools))
    return rows


@pytest.mark.parametrize("form", FORMS)
def test_a_dialog_read_back_is_the_dialog(form: Any, dialogs: list[SFTRow]) -> None:
    dropped: dict[str, int] = {}
    equal = 0
    for row in dialogs:
        try:
            found = exported(row, form, "all")
        except UnusableRow as error:
            dropped[error.reason] = dropped.get(error.reason, 0) + 1
            continue
        assert found.changed == ([WHOLE] if form == "trl" else [])
        back = read_back(found, SFTRow)
        assert dialog_of(back) == dialog_of(row), row.id
        if form == "openai":
            assert found.lost == ["id", "source"]
        else:
            assert not found.lost
            assert (back.id, back.source) == (row.id, row.source)
        equal += 1
    if form == "sharegpt":
        known = {"turns that do not alternate between user or tool and assistant", "text and calls in one message"}
        assert set(dropped) <= {*known, "a blank system message"}
        assert equal >= 60, dropped
    else:
        assert not dropped
        assert equal == len(dialogs)


def test_trl_has_prompt_and_completion_where_the_last_answer_is_the_target(dialogs: list[SFTRow]) -> None:
    several = 0
    for row in dialogs:
        found = exported(row, "trl", "final")
        assert [message["role"] for message in found.record["prompt"]][-1] == "user"
        assert found.record["completion"][0]["role"] == "assistant"
        assert found.changed == ([OUTPUTS] if any(m["role"] == "tool" for m in found.record["completion"]) else [])
        assert dialog_of(read_back(found, SFTRow)) == dialog_of(row)
        several += len(found.record["completion"]) > 1
    assert several > 10


def test_openai_gives_earlier_answers_no_weight() -> None:
    row = SFTRow(
        id="1",
        source="s",
        messages=(
            said("user", "a"), called("f"), said("tool", "1", name="f"), said("assistant", "b"), said("user", "c"),
            called("f", trained=False), said("tool", "2", name="f"), said("assistant", "d"),
        ),
    )  # fmt: skip
    weights = {train_on: exported(row, "openai", train_on).record["messages"] for train_on in ("final", "all")}
    given = {name: [m.get("weight") for m in messages] for name, messages in weights.items()}
    assert given["final"] == [None, 0, None, 0, None, 0, None, None]
    assert given["all"] == [None, None, None, None, None, 0, None, None]
    assert dialog_of(read_back(exported(row, "openai", "all"), SFTRow)) == dialog_of(row)
    for form in ("trl", "sharegpt"):
        assert MASKED in exported(row, form).changed, "these forms cannot say it"


@pytest.mark.parametrize(
    "texts, train_on, expected",
    [
        (("a", "b", "c", "d"), "final", [EARLIER]),
        (("a", "b", "c", "d"), "all", []),
        (("a", "b"), "final", []),
    ],
)
def test_sharegpt_says_where_earlier_answers_would_be_trained_on(texts: Any, train_on: Any, expected: Any) -> None:
    messages = tuple(said(("user", "assistant")[place % 2], text) for place, text in enumerate(texts))
    row = SFTRow(id="1", source="s", messages=messages)
    assert exported(row, "sharegpt", train_on).changed == expected
    calls = said("user", "a"), called("f"), said("tool", "1", name="f"), said("assistant", "b")
    assert exported(SFTRow(id="1", source="s", messages=calls), "sharegpt").changed == [], "its target is all of it"


def test_what_is_known_of_a_sampled_target_is_kept_or_named() -> None:
    row = SFTRow(
        id="1", source="s", messages=(said("user", "a"), said("assistant", "b")), candidate="c1", score=0.5, model="m"
    )
    assert read_back(exported(row, "trl", "all"), SFTRow) == row
    assert exported(row, "trl").lost == ["candidate", "score", "model"]
    assert exported(row, "openai").lost == ["id", "source", "candidate", "score", "model"]


def pair(**more: Any) -> PreferenceRow:
    completions = (said("assistant", "good"),), (said("assistant", "bad"),)
    prompt = (said("system", "Be brief."), said("user", "a"))
    return PreferenceRow(**{"id": "1", "source": "s", "prompt": prompt, "completions": completions, **more})


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_read_back_is_the_pair(form: Any) -> None:
    known = {"level": "better", "models": ("m1", "m2"), "raters": ("ann",), "round": 2, "batch": "week-7"}
    calls = (called("f"),), (said("assistant", "I cannot."),)
    more = {"scores": (2.0, 1.0), "seeds": (5, 6), "candidates": ("x", "y"), "temperature": 0.7}
    for row in (pair(tools=TOOLS, **known), pair(tools=TOOLS, completions=calls), pair(**known, **more)):
        found = exported(row, form)
        assert not found.changed
        back = read_back(found, PreferenceRow)
        assert dialog_of(back) == dialog_of(row)
        if form == "openai":
            assert found.lost == [name for name in row.model_dump(exclude_defaults=True) if name not in
                                  ("prompt", "completions", "tools")]  # fmt: skip
        else:
            assert found.lost == [name for name in ("candidates", "seeds", "temperature") if getattr(row, name)]
            assert back.model_dump(include=known.keys() | {"id"}) == row.model_dump(include=known.keys() | {"id"})
            assert found.record.get("score_rejected") == (1.0 if row.scores else None)


def test_scores_that_contradict_a_pair_of_verifiers_are_not_written() -> None:
    row = pair(scores=(1.0, 2.0), failed=("maths: wrong answer",))
    found = exported(row, "trl")
    assert found.lost == ["scores", "failed"]
    assert dialog_of(read_back(found, PreferenceRow)) == dialog_of(row)


@pytest.mark.parametrize("form", FORMS)
def test_of_three_completions_the_best_and_the_worst_are_written(form: Any) -> None:
    best, middle, worst = ((said("assistant", text),) for text in ("edited", "chosen", "rejected"))
    found = exported(pair(completions=(best, middle, worst), models=("ann", "m1", "m2")), form)
    back = read_back(found, PreferenceRow)
    assert (back.chosen, back.rejected) == (best, worst)
    assert found.changed == [MIDDLE]
    assert form == "openai" or back.models == ("ann", "m2")


def test_completions_with_calls_and_outputs_are_a_pair_in_trl_and_nowhere_else() -> None:
    chosen = called("f"), said("tool", "1", name="f"), said("assistant", "It is 1.")
    row = pair(completions=(chosen, (said("assistant", "It is 2."),)))
    found = exported(row, "trl")
    assert found.changed == [OUTPUTS]
    assert dialog_of(read_back(found, PreferenceRow)) == dialog_of(row)
    for form in ("openai", "sharegpt"):
        with pytest.raises(UnusableRow, match=r"row 1: has a completion of several messages"):
            exported(row, form)


@pytest.mark.parametrize(
    "messages, reason",
    [
        ((said("user", "a"), said("tool", "file"), said("assistant", "b")), "an output of a tool that answers no call"),
        ((said("user", "a"), called("f"), said("user", "b"), said("assistant", "c")), "a call without an output"),
        (
            (said("user", "a"), called("f"), said("tool", "1", name="g"), said("assistant", "c")),
            "an output of a tool that answers no call",
        ),
    ],
)
def test_openai_has_no_form_for_an_output_without_a_call(messages: Any, reason: str) -> None:
    with pytest.raises(UnusableRow, match=f"row 1: has {reason}"):
        exported(SFTRow(id="1", source="s", messages=messages), "openai")


def test_outputs_of_several_calls_find_their_calls() -> None:
    """By name where they have one: here in the other order."""
    messages = (said("user", "a"), called("f", "g"), said("tool", "of g", name="g"), said("tool", "of f"),
                said("assistant", "b"))  # fmt: skip
    found = exported(SFTRow(id="1", source="s", messages=messages), "openai").record["messages"]
    calls = {call["id"]: call["function"]["name"] for call in found[1]["tool_calls"]}
    assert [(calls[one["tool_call_id"]], one["content"]) for one in found[2:4]] == [("g", "of g"), ("f", "of f")]
    assert found[1]["content"] is None


def test_prompts_are_trls_prompts_and_candidates_no_record() -> None:
    prompt = PromptRow(id="1", source="s", prompt=(said("user", "a"),), tools=TOOLS)
    assert read_back(exported(prompt, "trl"), PromptRow).model_dump(exclude={"tools"}) == prompt.model_dump(
        exclude={"tools"}
    )
    question = QuestionRow(id="1", source="s", prompt=prompt.prompt, entity="Chad", relation="capital", answers=("N",))
    assert read_back(exported(question, "trl"), QuestionRow) == question
    candidate = Candidate(
        id="1", source="s", prompt_id="p", prompt=prompt.prompt, completion=(said("assistant", "b"),), index=0, seed=1,
        finished=True,
    )  # fmt: skip
    with pytest.raises(RowError, match=r"row 1: is a Candidate, .*Export sft\.jsonl or preferences\.jsonl"):
        exported(candidate, "trl")
    with pytest.raises(RowError, match=r"is a PromptRow, which the form sharegpt has no record for"):
        exported(prompt, "sharegpt")
