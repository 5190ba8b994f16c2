"""Other toolkits' records become our rows, and what cannot be read is named with file, line and field."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from align.errors import RowError, UnusableRow
from align.formats.rows import to_row
from align.rows import (
    Candidate,
    Message,
    PreferenceRow,
    PromptRow,
    QuestionRow,
    Row,
    SFTRow,
    ToolCall,
    tools_of,
    tools_text,
)

HERE = "data/my.pairs.jsonl:7"
SYSTEM = Message(role="system", content="Be brief.")
ASK = Message(role="user", content="Capital of Italy?")
ROME = Message(role="assistant", content="Rome.")
MILAN = Message(role="assistant", content="Milan.")
SPEC = {"name": "f", "description": "", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def plain(*messages: Message) -> list[dict]:
    return [{"role": message.role, "content": message.content} for message in messages]


def sharegpt(*messages: Message) -> list[dict]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[message.role], "value": message.content} for message in messages]


OWN = [
    PromptRow(id="1", source="s", prompt=(ASK,)),
    SFTRow(id="1", source="s", messages=(ASK, ROME), tools=tools_text(tools_of(json.dumps([SPEC])))),
    PreferenceRow(id="1", source="s", prompt=(ASK,), completions=((ROME,), (MILAN,)), level="better"),
    QuestionRow(id="1", source="s", prompt=(ASK,), entity="Italy", relation="capital", answers=("Rome",)),
    Candidate(
        id="1", source="s", prompt_id="0", prompt=(ASK,), completion=(ROME,), index=0, seed=5, finished=True, score=0.5
    ),
    SFTRow(
        id="1",
        source="s",
        messages=(
            ASK,
            Message(role="assistant", tool_calls=[ToolCall(name="f")]),
            Message(role="tool", content="7", name="f"),
            ROME,
        ),
    ),
]


@pytest.mark.parametrize("row", OWN, ids=lambda row: type(row).__name__)
def test_our_own_rows_pass_through(row: Row) -> None:
    assert to_row(json.loads(row.model_dump_json(exclude_defaults=True)), type(row), HERE) == row


def test_our_own_rows_are_checked_by_their_class() -> None:
    with pytest.raises(ValidationError, match="better"):
        to_row(OWN[2].model_dump() | {"level": "much better"}, PreferenceRow, HERE)
    with pytest.raises(ValidationError, match="end with a user message"):
        to_row({"id": "1", "source": "s", "messages": plain(ROME, ASK)}, SFTRow, HERE)


SFT_FORMS = {
    "TRL messages": {"messages": plain(SYSTEM, ASK, ROME)},
    "content parts": {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
            *plain(ASK, ROME),
        ]
    },
    "TRL prompt and completion": {"prompt": plain(SYSTEM, ASK), "completion": plain(ROME)},
    "ShareGPT": {"conversations": sharegpt(SYSTEM, ASK, ROME)},
    "ShareGPT with system": {"conversations": sharegpt(ASK, ROME), "system": "Be brief.", "tools": "[]"},
    "alpaca": {"instruction": "Capital of Italy?", "input": "", "output": "Rome.", "system": "Be brief."},
}


@pytest.mark.parametrize("record", SFT_FORMS.values(), ids=SFT_FORMS)
def test_sft_records(record: dict) -> None:
    row = to_row(record, SFTRow, HERE)
    assert row.messages == (SYSTEM, ASK, ROME)
    assert row.source == "my.pairs"
    assert row.id == to_row({"messages": plain(SYSTEM, ASK, ROME)}, SFTRow, "elsewhere.jsonl:1").id


def test_a_message_of_weight_0_is_context_only() -> None:
    asked, failed = {"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "Lyon.", "weight": 0}
    messages = [asked, failed, {**asked, "content": "Sure?"}, {"role": "assistant", "content": "Paris.", "weight": 1}]
    row = to_row({"id": "1", "source": "s", "messages": messages}, SFTRow, HERE)
    assert [message.trained for message in row.messages] == [True, False, True, True]
    assert to_row(json.loads(row.model_dump_json(exclude_defaults=True)), SFTRow, HERE) == row
    for message in ({**failed, "weight": 0.5}, {**asked, "weight": 0}):
        with pytest.raises(RowError, match=r"messages\[1\].weight: expected 0 or 1 on an assistant message"):
            to_row({"messages": [asked, message]}, SFTRow, HERE)


def test_a_plain_prompt_and_completion_become_a_user_and_an_assistant_message() -> None:
    row = to_row({"prompt": "Capital of Italy?", "completion": "Rome."}, SFTRow, HERE)
    assert row.messages == (ASK, ROME)


def test_alpacas_input_and_history_come_before_the_answer() -> None:
    record = {"instruction": "Translate.", "input": "ciao", "output": "hello", "history": [["Hi", "Hello!"]]}
    row = to_row(record, SFTRow, HERE)
    assert [m.content for m in row.messages] == ["Hi", "Hello!", "Translate.\nciao", "hello"]


PREFERENCE_FORMS = {
    "TRL conversational": {"prompt": plain(ASK), "chosen": plain(ROME), "rejected": plain(MILAN)},
    "TRL plain": {"prompt": "Capital of Italy?", "chosen": "Rome.", "rejected": "Milan."},
    "TRL implicit prompt": {"chosen": plain(ASK, ROME), "rejected": plain(ASK, MILAN)},
    "prompt said twice": {"prompt": "Capital of Italy?", "chosen": plain(ASK, ROME), "rejected": plain(ASK, MILAN)},
    "LLaMA-Factory": {
        "conversations": sharegpt(ASK),
        "chosen": sharegpt(ROME)[0],
        "rejected": sharegpt(MILAN)[0],
    },
    "alpaca": {"instruction": "Capital of Italy?", "input": "", "chosen": "Rome.", "rejected": "Milan."},
    "HH-RLHF": {
        "chosen": "\n\nHuman: Capital of Italy?\n\nAssistant: Rome.",
        "rejected": "\n\nHuman: Capital of Italy?\n\nAssistant: Milan.",
    },
    "ours without id": {"prompt": plain(ASK), "completions": [plain(ROME), plain(MILAN)]},
}


@pytest.mark.parametrize("record", PREFERENCE_FORMS.values(), ids=PREFERENCE_FORMS)
def test_preference_records(record: dict) -> None:
    row = to_row(record, PreferenceRow, HERE)
    assert (row.prompt, row.chosen, row.rejected) == ((ASK,), (ROME,), (MILAN,))
    assert row.level is None
    assert row.id == to_row(PREFERENCE_FORMS["TRL plain"], PreferenceRow, HERE).id


def test_an_implicit_plain_prompt_is_what_both_texts_share_up_to_a_word() -> None:
    row = to_row({"chosen": "The sky is blue.", "rejected": "The sky is green."}, PreferenceRow, HERE)
    assert [m.content for m in (*row.prompt, *row.chosen, *row.rejected)] == ["The sky is", " blue.", " green."]


def test_an_implicit_prompt_ends_where_the_assistant_goes_on() -> None:
    called = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    chosen = [*plain(ASK), called, {"role": "tool", "content": "1"}, *plain(ROME)]
    rejected = [*plain(ASK), called, {"role": "tool", "content": "2"}, *plain(MILAN)]
    row = to_row({"chosen": chosen, "rejected": rejected}, PreferenceRow, HERE)
    assert row.prompt == (ASK,)
    assert [m.role for m in row.chosen] == [m.role for m in row.rejected] == ["assistant", "tool", "assistant"]


def test_two_equal_dialogs_prefer_nothing() -> None:
    with pytest.raises(UnusableRow, match="chosen: is the same as the rejected completion") as caught:
        to_row({"chosen": plain(ASK, ROME), "rejected": plain(ASK, ROME)}, PreferenceRow, HERE)
    assert caught.value.reason == "identical completions"


PROMPT_FORMS = [
    {"prompt": "Capital of Italy?"},
    {"prompt": plain(ASK)},
    {"messages": plain(ASK)},
    {"conversations": sharegpt(ASK)},
    {"instruction": "Capital of Italy?"},
    {"prompt": "Capital of Italy?", "chosen": "Rome.", "rejected": "Milan."},
    {"chosen": plain(ASK, ROME), "rejected": plain(ASK, MILAN)},
]


@pytest.mark.parametrize("record", PROMPT_FORMS, ids=lambda record: "+".join(record))
def test_prompt_records(record: dict) -> None:
    assert to_row(record, PromptRow, HERE).prompt == (ASK,)


def test_openai_calls_and_outputs_meet_by_their_id() -> None:
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    record = {
        "messages": [
            {"role": "user", "content": "Capital of Italy?", "name": None},
            {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None},
            {"role": "tool", "tool_call_id": "call_2", "content": "two"},
            {"role": "tool", "tool_call_id": "call_1", "content": "one"},
            {"role": "assistant", "content": "Rome."},
        ],
        "tools": [{"type": "function", "function": SPEC}],
    }
    row = to_row(record, SFTRow, HERE)
    made = (ToolCall(name="f", arguments={"a": 1}), ToolCall(name="g"))
    outputs = (Message(role="tool", content="two", name="g"), Message(role="tool", content="one", name="f"))
    assert row.messages == (ASK, Message(role="assistant", tool_calls=made), *outputs, ROME)
    assert row.tools == tools_text(tools_of(json.dumps([SPEC])))


def test_openai_calls_in_a_row_with_our_id_and_source_are_read_too() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    record = {"id": "9", "source": "s", "messages": [*plain(ASK), {"role": "assistant", "tool_calls": [call]}]}
    row = to_row(record, SFTRow, HERE)
    assert (row.id, row.source, row.messages[1].tool_calls) == ("9", "s", (ToolCall(name="f"),))


def test_sharegpt_calls_and_observations() -> None:
    record = {
        "conversations": [
            *sharegpt(ASK),
            {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "[1]"},
            {"from": "function_call", "value": '[{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": {}}]'},
            {"from": "observation", "value": "2"},
            *sharegpt(ROME),
        ],
        "tools": json.dumps([SPEC]),
    }
    row = to_row(record, SFTRow, HERE)
    assert [m.role for m in row.messages] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert row.messages[1].tool_calls == (ToolCall(name="f", arguments='{"a": 1}'),)
    assert [call.name for call in row.messages[3].tool_calls] == ["f", "g"]
    assert tools_of(row.tools)[0].name == "f"


def test_nulls_that_arrow_put_into_a_schema_are_taken_out() -> None:
    properties = {"a": {"type": "integer", "enum": None, "default": None}, "of another function": None}
    tools = [
        {"type": "function", "function": {"name": "f", "description": None, "parameters": {"properties": properties}}}
    ]
    row = to_row({"messages": plain(ASK, ROME), "tools": tools}, SFTRow, HERE)
    assert tools_of(row.tools)[0].parameters == {"properties": {"a": {"type": "integer", "default": None}}}


def test_a_given_id_and_source_are_kept() -> None:
    row = to_row({"id": 17, "source": "mine", "prompt": "a", "completion": "b", "category": "x"}, SFTRow, HERE)
    assert (row.id, row.source) == ("17", "mine")


@pytest.mark.parametrize("given", [[], ["a"], {}, {"a": 1}, True, False, float("nan"), float("inf"), b"a"])
@pytest.mark.parametrize("columns", [{"prompt": "a", "completion": "b"}, {"source": "s", "messages": plain(ASK, ROME)}])
def test_an_id_that_names_nothing_is_refused(given: object, columns: dict[str, object]) -> None:
    with pytest.raises(RowError, match=r"x\.jsonl:1: id: expected a text or a number, found .* Give each row an id"):
        to_row({"id": given, **columns}, SFTRow, "x.jsonl:1")


@pytest.mark.parametrize("given, expected", [(0, "0"), (3.0, "3.0"), ("7", "7")])
def test_numbers_are_ids_too(given: object, expected: str) -> None:
    assert to_row({"id": given, "prompt": "a", "completion": "b"}, SFTRow, HERE).id == expected


def test_made_ids_differ_by_content_and_not_by_place() -> None:
    first, second = ({"prompt": "a", "completion": answer} for answer in "bc")
    assert to_row(first, SFTRow, "x.jsonl:1").id == to_row(first, SFTRow, "y.jsonl:2").id
    assert to_row(first, SFTRow, HERE).id != to_row(second, SFTRow, HERE).id


CALL = {"id": "c1", "function": {"name": "f", "arguments": "{}"}}
ERRORS = [
    (
        SFTRow,
        {"text": "hello"},
        ": is no SFTRow and no form known here; its columns: text. Read are: messages",
    ),
    (
        PreferenceRow,
        {"prompt": "a", "completion": "b"},
        ": is no PreferenceRow and no form known here; its columns: completion, prompt. These are dialogs without a",
    ),
    (
        SFTRow,
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        ": is no SFTRow and no form known here; its columns: chosen, prompt, rejected. These are preference rows",
    ),
    (PromptRow, {}, ": is no PromptRow and no form known here; its columns: nothing"),
    (SFTRow, {"messages": "hi there"}, None),
    (SFTRow, {"messages": []}, ": messages: expected text or a list of messages, found []"),
    (
        SFTRow,
        {"messages": [*plain(ASK), {"role": "bot", "content": "x"}]},
        ": messages[1].role: expected a role, found 'bot'",
    ),
    (SFTRow, {"conversations": [{"from": ["human"]}]}, ": conversations[0].from: expected a role, found ['human']"),
    (SFTRow, {"messages": [*plain(ASK), "x"]}, ": messages[1]: expected a message, found 'x'"),
    (
        SFTRow,
        {"messages": [{"role": "user", "content": 5}, *plain(ROME)]},
        ": messages[0].content: expected text, found 5",
    ),
    (
        SFTRow,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        ": messages[0].content: expected text, found {'type': 'image_url'",
    ),
    (
        SFTRow,
        {"messages": [{"role": "user", "content": "x", "loss_weight": 0.0}]},
        ": messages[0].loss_weight: is not a field that is read, and would be lost",
    ),
    (
        SFTRow,
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
        ": messages[0].tool_calls[0]: expected a call with a function's name",
    ),
    (
        SFTRow,
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        ": messages[0].tool_calls[0].arguments: is not JSON",
    ),
    (
        SFTRow,
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c2"}]},
        ": messages[1].tool_call_id: 'c2' answers no call made before it. Calls so far: c1.",
    ),
    (
        SFTRow,
        {"conversations": [{"from": "function_call", "value": "f()"}]},
        ": conversations[0].value: is not JSON",
    ),
    (SFTRow, {"messages": plain(ASK, ROME), "tools": "{"}, ": tools: expected a JSON list of function schemas"),
    (
        SFTRow,
        {"messages": plain(ASK, ROME), "tools": [{"type": "function"}]},
        ": tools: tools: expected function schemas",
    ),
    (SFTRow, {"instruction": 5, "output": "x"}, ": instruction: expected text, found 5"),
    (SFTRow, {"instruction": "a", "output": "x", "history": [["a"]]}, ": history[0]: expected [prompt, answer]"),
    (PromptRow, {"messages": plain(ASK, ROME)}, ": messages: ends with an assistant message"),
    (PreferenceRow, {"chosen": "Yes", "rejected": "No"}, ": chosen: shares no beginning with rejected"),
    (PreferenceRow, {"chosen": plain(ROME), "rejected": plain(MILAN)}, ": chosen: shares no prompt with rejected"),
    (
        PreferenceRow,
        {"chosen": plain(ASK, ROME, ASK, ROME), "rejected": plain(ASK, ROME, SYSTEM, ROME)},
        ": chosen: holds a system or user message that the other completion has not",
    ),
    (
        PreferenceRow,
        {"prompt": "Something else?", "chosen": plain(ASK, ROME), "rejected": plain(ASK, MILAN)},
        ": chosen: holds a dialog that does not contain the prompt 'Something else?'",
    ),
    (
        PreferenceRow,
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "b"},
        ": rejected: is no transcript, and the other completion is one",
    ),
]


@pytest.mark.parametrize("kind, record, said", ERRORS)
def test_errors_name_place_and_field(kind: type[Row], record: dict, said: str | None) -> None:
    with pytest.raises((RowError, ValidationError)) as caught:
        to_row(record, kind, HERE)
    if said is None:
        assert isinstance(caught.value, ValidationError)  # align/jsonl.py words it, with the same file and line
    else:
        assert str(caught.value).startswith(HERE + said)


def test_what_is_known_of_ranked_completions_comes_along() -> None:
    known = {"level": "better", "models": ["a", "b"], "raters": ["ann"], "round": 1, "batch": "week-7"}
    row = to_row({"prompt": plain(ASK), "completions": [plain(ROME), plain(MILAN)]} | known, PreferenceRow, HERE)
    assert (row.level, row.models, row.raters, row.round, row.batch) == ("better", ("a", "b"), ("ann",), 1, "week-7")


def test_a_completion_given_as_the_whole_dialog_does_not_repeat_its_prompt() -> None:
    expected = (SYSTEM, ASK, ROME)
    for prompt, said in ((plain(SYSTEM, ASK), plain(ASK, ROME)), (plain(ASK), plain(SYSTEM, ASK, ROME))):
        assert to_row({"prompt": prompt, "completion": said}, SFTRow, HERE).messages == expected
    with pytest.raises(RowError, match=":7: completion: begins with a user message, and is not the prompt"):
        to_row({"prompt": "Capital of France?", "completion": plain(ASK, ROME)}, SFTRow, HERE)


@pytest.mark.parametrize(
    "value",
    [
        ["Be brief."],
        [{"type": "text", "text": "Be brief."}],
        {"role": "system", "content": "Be brief."},
        [{"role": "system", "content": "Be brief."}],
    ],
)
def test_a_system_prompt_in_a_column_may_be_parts_or_a_message(value: object) -> None:
    assert to_row({"system": value, "messages": plain(ASK, ROME)}, SFTRow, HERE).messages == (SYSTEM, ASK, ROME)
