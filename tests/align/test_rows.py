"""Rows check themselves when they are made."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from align.rows import (
    Message,
    PreferenceRow,
    PromptRow,
    SFTRow,
    ToolCall,
    ToolSpec,
    row_id,
    tools_of,
    tools_text,
)

ASK = Message(role="user", content="Capital of Italy?")
BEST, GOOD, BAD = (Message(role="assistant", content=text) for text in ("Rome, Italy.", "Rome.", "Milan."))


def test_three_completions_stand_best_first() -> None:
    row = PreferenceRow(id="1", source="s", prompt=(ASK,), completions=((BEST,), (GOOD,), (BAD,)))
    assert (row.chosen, row.rejected) == ((BEST,), (BAD,))


@pytest.mark.parametrize("completions", [((GOOD,),), ((GOOD,), (BAD,), (BAD,), (BAD,))])
def test_a_preference_has_two_or_three_completions(completions) -> None:
    with pytest.raises(ValidationError, match=r"at (least 2|most 3) items"):
        PreferenceRow(id="1", source="s", prompt=(ASK,), completions=completions)


@pytest.mark.parametrize("completion", [(), (ASK,), (GOOD, ASK), (ASK, GOOD)])
def test_a_completion_begins_and_ends_with_the_assistant(completion) -> None:
    with pytest.raises(ValidationError, match=r"completions\[1\] must begin and end with an assistant message"):
        PreferenceRow(id="1", source="s", prompt=(ASK,), completions=((GOOD,), completion))


def test_the_target_of_a_dialog_is_the_assistants() -> None:
    with pytest.raises(ValidationError, match="messages end with a user message; the last one is the target"):
        SFTRow(id="1", source="s", messages=(ASK, GOOD, ASK))


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_only_an_assistant_makes_calls(role: str) -> None:
    with pytest.raises(ValidationError, match=f"tool_calls stand on a {role} message"):
        Message(role=role, tool_calls=(ToolCall(name="f"),))


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        PromptRow(id="1", source="s", prompt=(ASK,), tols="")


def test_arguments_are_kept_as_text_and_must_be_an_object() -> None:
    assert ToolCall(name="f", arguments={"a": "ü"}).arguments == '{"a": "ü"}'
    assert ToolCall(name="f", arguments='{"a":  1}').arguments == '{"a":  1}'
    assert ToolCall(name="f").parsed() == {}
    for arguments in ("[1]", "{", ""):
        with pytest.raises(ValidationError, match="expected a JSON object of argument names and values, found"):
            ToolCall(name="f", arguments=arguments)


def test_tools_come_bare_or_as_openai_nests_them() -> None:
    bare = '[{"name": "f", "description": "d", "parameters": {}, "strict": true}]'
    nested = '[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]'
    assert tools_of(bare) == tools_of(nested) == (ToolSpec(name="f", description="d", parameters={}),)
    assert tools_of(tools_text(tools_of(bare))) == tools_of(bare)
    assert tools_of("") == ()
    assert tools_text([]) == ""


@pytest.mark.parametrize("tools", ["{", "{}", '[{"type": "function"}]', "[1]"])
def test_tools_that_are_no_schemas_are_refused_by_the_row(tools: str) -> None:
    with pytest.raises(ValidationError, match="expected"):
        PromptRow(id="1", source="s", prompt=(ASK,), tools=tools)


def test_an_id_is_the_same_for_the_same_parts_and_for_no_others() -> None:
    assert row_id("a", 1) == row_id("a", "1")
    assert len(row_id("a")) == 16
    assert len({row_id("ab", "c"), row_id("a", "bc"), row_id("abc"), row_id("ab", "c", "")}) == 4


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ASK.content = "x"


def test_a_preference_names_a_model_for_each_completion_or_for_none() -> None:
    said = tuple((Message(role="assistant", content=text),) for text in ("Rome.", "Milan."))
    known = {"id": "1", "source": "s", "prompt": (Message(role="user", content="?"),), "completions": said}
    assert PreferenceRow(**known, models=("a", "")).models == ("a", "")
    with pytest.raises(ValidationError, match="models names 1 for 2 completions; name each or none"):
        PreferenceRow(**known, models=("a",))
    bare = PreferenceRow(**known).model_dump_json(exclude_defaults=True)
    assert not {"models", "raters", "round", "batch"} & json.loads(bare).keys(), "files stay small"
