"""Every column of a record is read, known to be harmless, or refused by name; null means absent; a system prompt in a
column of its own is the system message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError, UnusableRow
from align.formats.columns import HARMLESS, SYSTEM
from align.jsonl import row_of
from align.rows import (
    Candidate,
    Message,
    PreferenceRow,
    PromptRow,
    QuestionRow,
    Row,
    SFTRow,
    ToolCall,
    ToolQuestionRow,
)
from data_builders.preferences.comparisons import Comparison, majority_row
from data_builders.preferences.importers import ImportConfig, comparisons_in

HERE = "data/my.jsonl:7"
RULE = "Talk like a pirate."
ASKED, ARR, HELLO = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Arr"},
    {"role": "assistant", "content": "Hello"},
)
HUMAN, GPT, OTHER_GPT = (
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Arr"},
    {"from": "gpt", "value": "Hello"},
)
SCHEMA = {"name": "f", "parameters": {"type": "object", "properties": {}}}


def said_by(row: Row) -> list[tuple[str, str]]:
    """Roles and contents of a row, its best completion last."""
    messages = [*getattr(row, "messages", ()), *getattr(row, "prompt", ())]
    messages += row.completions[0] if isinstance(row, PreferenceRow) else ()
    return [(message.role, message.content) for message in messages]


def built(folder: Path, *records: Any, **config: Any) -> list[Comparison]:
    """The comparisons of the records; a bad one is raised."""
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found: list[Comparison] = []
    for one in comparisons_in(path, ImportConfig(**config)):
        if isinstance(one, RowError):
            raise one
        found += one
    return found


WITHOUT_SYSTEM: dict[str, tuple[type[Row], dict[str, Any]]] = {
    "messages": (SFTRow, {"messages": [ASKED, ARR]}),
    "conversations": (SFTRow, {"conversations": [HUMAN, GPT]}),
    "prompt and completion": (SFTRow, {"prompt": "Hi", "completion": "Arr"}),
    "messages of a prompt and a completion": (SFTRow, {"prompt": [ASKED], "completion": [ARR]}),
    "instruction and output": (SFTRow, {"instruction": "Hi", "output": "Arr"}),
    "question and response": (SFTRow, {"question": "Hi", "response": "Arr"}),
    "prompt, chosen, rejected": (PreferenceRow, {"prompt": "Hi", "chosen": "Arr", "rejected": "Hello"}),
    "messages of a prompt and a pair": (PreferenceRow, {"prompt": [ASKED], "chosen": [ARR], "rejected": [HELLO]}),
    "whole dialogs": (PreferenceRow, {"chosen": [ASKED, ARR], "rejected": [ASKED, HELLO]}),
    "prompt and whole dialogs": (PreferenceRow, {"prompt": "Hi", "chosen": [ASKED, ARR], "rejected": [ASKED, HELLO]}),
    "instruction, chosen, rejected": (PreferenceRow, {"instruction": "Hi", "chosen": "Arr", "rejected": "Hello"}),
    "conversations and a pair": (PreferenceRow, {"conversations": [HUMAN], "chosen": GPT, "rejected": OTHER_GPT}),
    "transcripts": (
        PreferenceRow,
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Arr", "rejected": "\n\nHuman: Hi\n\nAssistant: Hello"},
    ),
    "ranked completions": (PreferenceRow, {"prompt": [ASKED], "completions": [[ARR], [HELLO]]}),
    "scored responses": (PreferenceRow, {"prompt": "Hi", "responses": ["Hello", "Arr"], "scores": [1, 2]}),
    "HelpSteer3": (
        PreferenceRow,
        {"context": [ASKED], "response1": "Arr", "response2": "Hello", "overall_preference": -1},
    ),
    "OpenAI": (
        PreferenceRow,
        {"input": {"messages": [ASKED]}, "preferred_output": [ARR], "non_preferred_output": [HELLO]},
    ),
    "prompt": (PromptRow, {"prompt": "Hi"}),
    "messages of a prompt": (PromptRow, {"messages": [ASKED]}),
    "BFCL": (PromptRow, {"question": [[ASKED]], "function": [SCHEMA]}),
    "question row": (QuestionRow, {"prompt": "Hi", "entity": "e", "relation": "r", "answers": ["x"]}),
    "tool question row": (ToolQuestionRow, {"prompt": "Hi", "tools": [SCHEMA], "calls": []}),
}


@pytest.mark.parametrize("name", SYSTEM)
def test_each_name_of_a_system_prompt_is_read(name: str) -> None:
    row = row_of({name: RULE, "prompt": "Hi", "chosen": "Arr", "rejected": "Hello"}, PreferenceRow, HERE)
    assert said_by(row) == [("system", RULE), ("user", "Hi"), ("assistant", "Arr")]


@pytest.mark.parametrize("form", WITHOUT_SYSTEM)
def test_a_system_prompt_in_its_own_column_is_the_system_message_of_every_form(form: str) -> None:
    kind, record = WITHOUT_SYSTEM[form]
    plain = said_by(row_of(record, kind, HERE))
    assert plain[0] == ("user", "Hi")
    for system in (RULE, [{"type": "text", "text": RULE}], {"role": "system", "content": RULE}):
        assert said_by(row_of(record | {"system_prompt": system}, kind, HERE)) == [("system", RULE), *plain]
    for absent in ("", " ", None, []):
        assert said_by(row_of(record | {"system": absent}, kind, HERE)) == plain


@pytest.mark.parametrize("form", [form for form, (kind, _) in WITHOUT_SYSTEM.items() if kind is PreferenceRow])
def test_the_builder_reads_the_same_system_prompt(form: str, tmp_path: Path) -> None:
    (compared,) = built(tmp_path, WITHOUT_SYSTEM[form][1] | {"system": RULE})
    row = majority_row(compared, 0.5)
    assert isinstance(row, PreferenceRow)
    assert said_by(row) == [("system", RULE), ("user", "Hi"), ("assistant", "Arr")]


def test_two_system_prompts_that_differ_are_refused_and_equal_ones_are_one() -> None:
    dialog = [{"role": "system", "content": RULE}, ASKED, ARR]
    row = row_of({"system": RULE + " ", "messages": dialog}, SFTRow, HERE)
    assert [role for role, _ in said_by(row)] == ["system", "user", "assistant"]
    with pytest.raises(RowError, match=r":7: system: says 'Be brief\.', and the dialog's own system message 'Talk"):
        row_of({"system": "Be brief.", "messages": dialog}, SFTRow, HERE)
    with pytest.raises(RowError, match=r":7: system_prompt: says 'Be brief\.', and system says 'Talk"):
        row_of({"system": RULE, "system_prompt": "Be brief.", "messages": [ASKED, ARR]}, SFTRow, HERE)
    pair = {"prompt": [{"role": "system", "content": "Be brief."}, ASKED], "chosen": dialog, "rejected": dialog[:2]}
    with pytest.raises(RowError, match="chosen: has the system message 'Talk"):
        row_of(pair | {"rejected": [*dialog[:2], HELLO]}, PreferenceRow, HERE)
    with pytest.raises(RowError, match="system: expected text, found 5"):
        row_of({"system": 5, "messages": [ASKED, ARR]}, SFTRow, HERE)


def test_a_system_message_of_the_prompt_alone_is_kept_with_dialogs_that_have_none() -> None:
    prompt = [{"role": "system", "content": RULE}, ASKED]
    row = row_of({"prompt": prompt, "chosen": [ASKED, ARR], "rejected": [ASKED, HELLO]}, PreferenceRow, HERE)
    assert said_by(row) == [("system", RULE), ("user", "Hi"), ("assistant", "Arr")]


def test_ultrafeedbacks_system_prompts_are_of_each_response_and_must_agree(tmp_path: Path) -> None:
    def record(*systems: str) -> dict[str, Any]:
        answers = [("Arr", 9, systems[0]), ("Hello", 3, systems[1])]
        given = [{"response": said, "overall_score": n, "custom_system_prompt": rule} for said, n, rule in answers]
        return {"instruction": "Hi", "models": ["m", "n"], "completions": given}

    for row in (
        row_of(record(RULE, RULE), PreferenceRow, HERE),
        majority_row(built(tmp_path, record(RULE, RULE))[0], 0.5),
    ):
        assert isinstance(row, PreferenceRow)
        assert said_by(row) == [("system", RULE), ("user", "Hi"), ("assistant", "Arr")]
    differ = record(RULE, "Be brief.")
    with pytest.raises(RowError, match="completions: were written under different system prompts"):
        built(tmp_path, differ)
    (compared,) = built(tmp_path, differ, ignore_columns=("custom_system_prompt",))
    assert [message.role for message in compared.prompt] == ["user"]
    assert row_of(differ, PreferenceRow, HERE, ("custom_system_prompt",)).prompt == compared.prompt


@pytest.mark.parametrize("form", WITHOUT_SYSTEM)
@pytest.mark.parametrize(
    "name, meant",
    [
        ("levell", "level"),
        ("tool", "tools"),
        ("Tools", "tools"),
        ("systemPrompt", "system_prompt"),
        ("mesages", "messages"),
        ("images", None),
    ],
)
def test_a_column_that_nothing_reads_is_refused_in_every_form(form: str, name: str, meant: str | None) -> None:
    kind, record = WITHOUT_SYSTEM[form]
    record = record | {name: [{"any": "thing"}]}
    with pytest.raises(RowError) as caught:
        row_of(record, kind, HERE)
    assert caught.value.where == f"{HERE}: {name}"
    assert "would be lost" in caught.value.what
    assert caught.value.how.startswith(f"Did you mean {meant}? " if meant else "Rename it")
    assert row_of(record, kind, HERE, ignore={name}) == row_of(WITHOUT_SYSTEM[form][1], kind, HERE)


def test_our_own_rows_with_another_column_are_refused() -> None:
    rows = [
        SFTRow(id="1", source="s", messages=(Message(**ASKED), Message(**ARR))),
        PreferenceRow(
            id="1", source="s", prompt=(Message(**ASKED),), completions=((Message(**ARR),), (Message(**HELLO),))
        ),
        PromptRow(id="1", source="s", prompt=(Message(**ASKED),)),
        QuestionRow(id="1", source="s", prompt=(Message(**ASKED),), entity="e", relation="r", answers=("x",)),
        Candidate(
            id="1",
            source="s",
            prompt_id="0",
            prompt=(Message(**ASKED),),
            completion=(Message(**ARR),),
            index=0,
            seed=5,
            finished=True,
        ),
    ]
    for row in rows:
        record = row.model_dump(mode="json", exclude_defaults=True)
        assert row_of(record, type(row), HERE) == row
        assert row_of(record | {"extra": "x"}, type(row), HERE, {"extra"}) == row
        with pytest.raises(RowError, match=r":7: extra: "):
            row_of(record | {"extra": "x"}, type(row), HERE)


@pytest.mark.parametrize("form", WITHOUT_SYSTEM)
def test_harmless_columns_and_empty_ones_change_nothing(form: str) -> None:
    kind, record = WITHOUT_SYSTEM[form]
    harmless = {name: "x" for name in HARMLESS - kind.model_fields.keys() - {"status", "generation_models"}}
    empty: dict[str, Any] = {"images": [], "foo": "", "bar": {}, "baz": None}
    assert row_of(record | harmless | empty, kind, HERE) == row_of(record, kind, HERE)


@pytest.mark.parametrize("form", WITHOUT_SYSTEM)
def test_null_means_absent_in_every_form(form: str) -> None:
    kind, record = WITHOUT_SYSTEM[form]
    names = (
        "messages",
        "prompt",
        "completion",
        "conversations",
        "chosen",
        "rejected",
        "instruction",
        "input",
        "output",
    )
    names += ("question", "query", "response", "responses", "completions", "scores", "ratings", "tools", "functions")
    names += ("level", "models", "raters", "rater", "round", "batch", "id", "source", "history", "label", "context")
    nulls = dict.fromkeys(names) | record
    assert row_of(nulls, kind, HERE) == row_of(record, kind, HERE)


def test_nulls_in_messages_calls_and_functions_are_absent() -> None:
    fields = {"name": None, "tool_calls": None, "tool_call_id": None, "weight": None, "reasoning_content": None}
    call = {"id": None, "type": None, "function": {"name": "f", "arguments": None}}
    calls = [{**fields, **ASKED}, {**fields, "role": "assistant", "content": None, "tool_calls": [None, call]}, None]
    tools = [None, {"type": "function", "function": {"name": "f", "description": None, "parameters": None}}]
    row = row_of({"id": "1", "source": "s", "messages": calls, "tools": tools}, SFTRow, HERE)
    assert row.messages[1].tool_calls == (ToolCall(name="f"),)
    assert len(row.messages) == 2


def test_our_rows_come_back_whole_from_a_table_that_filled_them_with_nulls() -> None:
    row = PreferenceRow(
        id="1",
        source="s",
        prompt=(Message(**ASKED),),
        completions=((Message(**ARR),), (Message(**HELLO),)),
        models=("m", "n"),
        candidates=("c", "d"),
        scores=(2.0, 1.0),
        seeds=(1, 2),
        temperature=1.0,
    )
    assert row_of(row.model_dump(mode="json"), PreferenceRow, HERE) == row
    sft = SFTRow(id="1", source="s", messages=(Message(**ASKED), Message(**ARR)), candidate="c", score=0.5, round=0)
    assert row_of(sft.model_dump(mode="json"), SFTRow, HERE) == sft


KTO = {"prompt": "Hi", "completion": "Go away."}


@pytest.mark.parametrize("name", ["label", "kto_tag"])
@pytest.mark.parametrize("record", [KTO, {"messages": [ASKED, ARR]}, {"conversations": [HUMAN, GPT]}])
def test_a_completion_that_was_marked_as_bad_is_no_target(name: str, record: dict[str, Any]) -> None:
    assert row_of(record | {name: True}, SFTRow, HERE) == row_of(record, SFTRow, HERE)
    for bad in (False, 0):
        with pytest.raises(UnusableRow, match=f":7: {name}: is false") as caught:
            row_of(record | {name: bad}, SFTRow, HERE)
        assert caught.value.reason == f"{name} is false"
    with pytest.raises(RowError, match=f"{name}: expected true or false, found 'good'"):
        row_of(record | {name: "good"}, SFTRow, HERE)


def test_rows_of_kto_are_no_pairs_and_their_prompts_are_read(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="label: says of the one completion"):
        row_of(KTO | {"label": True}, PreferenceRow, HERE)
    with pytest.raises(RowError, match="label: says of the one completion"):
        built(tmp_path, KTO | {"label": False})
    assert said_by(row_of(KTO | {"label": False}, PromptRow, HERE)) == [("user", "Hi")]


@pytest.mark.parametrize(
    "message, said",
    [
        ({"reasoning_content": "Hm."}, "messages[1].reasoning_content: holds reasoning apart from the text"),
        ({"thinking": "Hm."}, "messages[1].thinking: holds reasoning apart from the text"),
        ({"refusal": "No."}, "messages[1].refusal: is not a field that is read"),
        ({"from": "human"}, "messages[1].from: says 'human', and role says 'assistant'"),
        ({"value": "Ho"}, "messages[1].value: says 'Ho', and content says 'Arr'"),
        (
            {"tool_calls": [{"name": "f"}], "function_call": {"name": "f"}},
            "messages[1].function_call: is given next to tool_calls, and would be made twice",
        ),
        (
            {"tool_calls": [{"name": "f", "arguments": {"x": float("nan")}}]},
            "messages[1].tool_calls[0].arguments: is not",
        ),
        ({"tool_calls": [{"name": "f", "arguments": '{"x": 1e999}'}]}, "messages[1].tool_calls[0].arguments: is not"),
    ],
)
def test_a_field_of_a_message_that_would_be_lost_is_named(message: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError) as caught:
        row_of({"messages": [ASKED, ARR | message]}, SFTRow, HERE)
    assert str(caught.value).startswith(f"{HERE}: {said}")


@pytest.mark.parametrize("own", [{}, {"id": "1", "source": "s"}], ids=["another toolkit's", "ours"])
@pytest.mark.parametrize(
    "messages, said",
    [
        (
            [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, ASKED, ARR],
            "is a system message after",
        ),
        ([ASKED, {"role": "system", "content": "b"}, ARR], "is a system message after the first"),
        ([ARR, ASKED, ARR], "is an assistant message, and nothing was asked before it"),
        ([{"role": "system", "content": "a"}, ARR], "is an assistant message, and nothing was asked before it"),
        ([{"role": "tool", "content": "1"}, ASKED, ARR], "is the output of a tool"),
        ([ASKED, {"role": "tool", "content": "1"}, ARR], "is the output of a tool after a user message"),
    ],
)
def test_roles_that_contradict_each_other_are_named(own: dict[str, str], messages: list[Any], said: str) -> None:
    if own and "output" in said:
        assert row_of(own | {"messages": messages}, SFTRow, HERE)  # a file that a user uploads is such a message
        return
    with pytest.raises(RowError, match=said):
        row_of(own | {"messages": messages}, SFTRow, HERE)


def test_a_column_that_repeats_a_message_counts_as_read_and_another_text_does_not() -> None:
    record = {"prompt": "Hi", "prompt_id": "7", "messages": [ASKED, ARR], "response": "Arr"}
    assert said_by(row_of(record, SFTRow, HERE)) == [("user", "Hi"), ("assistant", "Arr")]
    with pytest.raises(RowError, match=":7: response: is not a column that is read"):
        row_of(record | {"response": "Hello"}, SFTRow, HERE)
    with pytest.raises(RowError, match=":7: prompt: is not a column that is read"):
        row_of(record | {"prompt": "Ho"}, SFTRow, HERE)


def test_an_id_that_the_record_has_no_name_for_is_of_what_it_says_alone() -> None:
    record = {"prompt": "Hi", "chosen": "Arr", "rejected": "Hello"}
    row = row_of(record, PreferenceRow, HERE)
    assert row.id == row_of(record | {"category": "x", "system": None}, PreferenceRow, "other.jsonl:1").id
    assert row.id != row_of(record | {"system": RULE}, PreferenceRow, HERE).id


def test_cells_of_a_table_of_texts_are_read_as_what_they_mean() -> None:
    assert row_of(KTO | {"label": "True"}, SFTRow, HERE) == row_of(KTO, SFTRow, HERE)
    with pytest.raises(UnusableRow):
        row_of(KTO | {"label": "False"}, SFTRow, HERE)
    pair = {
        "prompt": "Hi",
        "chosen": "Arr",
        "rejected": "Hello",
        "round": "2",
        "score_chosen": "8",
        "score_rejected": "6.5",
    }
    assert row_of(pair, PreferenceRow, HERE).round == 2
    better = {"prompt": "Hi", "response_0": "Arr", "response_1": "Hello", "better_response_id": "1"}
    assert row_of(better, PreferenceRow, HERE).chosen[0].content == "Hello"
    strength = {"prompt": "Hi", "response_1": "Arr", "response_2": "Hello", "preference_strength": "-3"}
    assert row_of(strength, PreferenceRow, HERE).level == "significantly better"


@pytest.mark.parametrize("name", ["messages", "context"])
def test_messages_without_an_answer_are_the_prompt_of_a_pair(name: str) -> None:
    for chosen, rejected in (("Arr", "Hello"), ([ARR], [HELLO])):
        record = {name: [ASKED], "chosen": chosen, "rejected": rejected}
        assert said_by(row_of(record, PreferenceRow, HERE)) == [("user", "Hi"), ("assistant", "Arr")]


def test_every_column_that_would_be_lost_is_listed() -> None:
    with pytest.raises(RowError, match=r":7: a: is not a column .* would be lost \(so would b, c\)"):
        row_of({"messages": [ASKED, ARR], "a": 1, "b": 2, "c": 3, "category": "x"}, SFTRow, HERE)


@pytest.mark.slow
def test_a_record_that_is_nested_too_deeply_is_named() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RowError, match=":7: is nested too deeply"):
        row_of({"messages": [ASKED, ARR], "tools": deep}, SFTRow, HERE)
    text = "[" * 100_000 + "]" * 100_000
    with pytest.raises(RowError, match=r"tools: .*nested too deeply"):
        row_of({"messages": [ASKED, ARR], "tools": text}, SFTRow, HERE)
    with pytest.raises(RowError, match=r"arguments: is not JSON .nested too deeply"):
        row_of({"messages": [ASKED, {**ARR, "tool_calls": [{"name": "f", "arguments": text}]}]}, SFTRow, HERE)


def test_a_system_prompt_of_glaives_dialogs_is_read_under_its_other_names() -> None:
    record = {"system_prompt": "SYSTEM: Talk like a pirate.", "chat": "USER: Hi\n\nASSISTANT: Arr <|endoftext|>"}
    assert said_by(row_of(record, SFTRow, HERE))[0] == ("system", RULE)
