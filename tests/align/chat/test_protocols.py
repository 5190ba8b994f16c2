"""What both chat protocols promise: the prefix law, text that stays text, kinds and turns, templates, round trips."""

from __future__ import annotations

import json
import random

import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from align.chat import ChatML, ChatProtocol, Encoded, Llama3, TokenKind, load_protocol
from align.chat.calls import CallSyntax
from align.chat.words import WordTable
from align.errors import ConfigError
from align.rows import Message, ToolCall, tools_of
from tests.torture.security import PAIRS, check

MERELY_ADDED = "<|memo|>"
DIALOGS = 150


@pytest.fixture(params=["chatml", "llama3"])
def protocol(request: pytest.FixtureRequest) -> ChatProtocol:
    return load_protocol(request.getfixturevalue(f"{request.param}_tokenizer"))


def dialogs(make_dialog, protocol: ChatProtocol, seed: int, **kinds: bool):
    rng = random.Random(seed)
    return [make_dialog(rng, llama3=protocol.name == "llama3", **kinds) for _ in range(DIALOGS)]


def control_ids(protocol: ChatProtocol) -> set[int]:
    return set(protocol.tokenizer.added_tokens_decoder)


def ids_of(encoded: Encoded, turn: int, kind: TokenKind) -> list[int]:
    rows = zip(encoded.ids, encoded.turns, encoded.kinds, strict=True)
    return [token for token, its_turn, its_kind in rows if (its_turn, its_kind) == (turn, kind)]


def as_openai(messages) -> list[dict]:
    """Messages as a server hands them to a template."""
    found = []
    for message in messages:
        plain: dict = {"role": message.role, "content": message.content}
        if message.tool_calls:
            plain["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
                for call in message.tool_calls
            ]
        found.append(plain)
    return found


def as_openai_tools(tools: str) -> list[dict] | None:
    return [{"type": "function", "function": spec} for spec in json.loads(tools)] if tools else None


def meant(message: Message) -> tuple:
    return message.content, [(call.name, call.parsed()) for call in message.tool_calls]


def test_auto_finds_the_protocol_by_the_control_tokens(chatml_tokenizer, llama3_tokenizer) -> None:
    assert isinstance(load_protocol(chatml_tokenizer), ChatML)
    assert isinstance(load_protocol(llama3_tokenizer), Llama3)


def test_a_protocol_that_is_none_is_named_with_those_that_are(chatml_tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"^model\.chat: expected one of auto, native, chatml, llama3, found 'alp"):
        load_protocol(chatml_tokenizer, "alpaca")


def test_a_protocol_without_its_tokens_names_the_missing_one(chatml_tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"^chat protocol llama3: needs the token <\|begin_of_text\|>"):
        load_protocol(chatml_tokenizer, "llama3")


def test_a_tokenizer_of_no_protocol_is_refused_with_what_each_needs() -> None:
    from tokenizers import Tokenizer, models

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(ConfigError, match=r"no protocol \(llama3: .*; chatml: <\|im_start\|>, <\|im_end\|>\)"):
        load_protocol(bare)


@pytest.mark.slow
def test_a_prompt_opened_for_an_answer_is_a_prefix_of_the_whole_dialog(make_dialog, protocol: ChatProtocol) -> None:
    splits = 0
    for messages, tools in dialogs(make_dialog, protocol, seed=1):
        whole = protocol.encode(messages, tools).ids
        for position, message in enumerate(messages):
            if position and message.role == "assistant":
                opened = protocol.encode(messages[:position], tools, open_assistant=True)
                assert opened.ids == whole[: len(opened.ids)]
                assert opened.turns[-1] == position
                splits += 1
    assert splits > 2 * DIALOGS


@pytest.mark.slow
def test_a_dialog_ends_with_a_terminator_at_which_generation_stops(make_dialog, protocol: ChatProtocol) -> None:
    for messages, tools in dialogs(make_dialog, protocol, seed=2):
        encoded = protocol.encode(messages, tools)
        assert encoded.kinds[-1] == TokenKind.TERMINATOR
        assert encoded.ids[-1] in protocol.stop_ids
        assert encoded.kinds.count(TokenKind.TERMINATOR) == len({turn for turn in encoded.turns if turn >= 0}) + (
            TokenKind.TERMINATOR in [k for k, turn in zip(encoded.kinds, encoded.turns, strict=True) if turn == -1]
        )


@pytest.mark.slow
def test_kinds_and_turns_give_every_content_back(make_dialog, protocol: ChatProtocol) -> None:
    for messages, tools in dialogs(make_dialog, protocol, seed=3, tools=False):
        encoded = protocol.encode(messages, tools)
        assert len(encoded.ids) == len(encoded.kinds) == len(encoded.turns)
        assert encoded.turns == sorted(encoded.turns)
        for turn, message in enumerate(messages):
            kind = TokenKind.TOOL_OUTPUT if message.role == "tool" else TokenKind.CONTENT
            text = protocol.text(ids_of(encoded, turn, kind))
            assert text == message.content if not message.tool_calls else text.startswith(message.content)


@pytest.mark.slow
def test_many_dialogs_at_once_equal_one_at_a_time(make_dialog, protocol: ChatProtocol) -> None:
    rows = dialogs(make_dialog, protocol, seed=4)
    assert protocol.encode_many(rows) == [protocol.encode(messages, tools) for messages, tools in rows]


@pytest.mark.slow
def test_typed_control_tokens_stay_text(protocol: ChatProtocol) -> None:
    rng = random.Random(5)
    control = control_ids(protocol)
    added = [str(token) for token in protocol.tokenizer.added_tokens_decoder.values()]
    assert MERELY_ADDED in added
    parts = [
        *added,
        "<|",
        "|>",
        "<",
        "im_end",
        "eot_id|>",
        " ",
        "\n",
        "\n\n",
        "assistant",
        "system\n",
        "é",
        "🙂",
        "\x00",
    ]
    plain = protocol.encode([Message(role="user"), Message(role="assistant"), Message(role="tool")])
    placed = [token for token in plain.ids if token in control]
    for _ in range(2000):
        user, answer, output = ("".join(rng.choices(parts, k=rng.randint(1, 8))) for _ in range(3))
        messages = [
            Message(role="user", content=user),
            Message(role="assistant", content=answer),
            Message(role="tool", content=output),
        ]
        encoded = protocol.encode(messages)
        assert [token for token in encoded.ids if token in control] == placed
        said = ids_of(encoded, 0, TokenKind.CONTENT)
        assert protocol.tokenizer.backend_tokenizer.decode(said, skip_special_tokens=False) == user


def test_typed_control_tokens_in_calls_and_functions_stay_text(protocol: ChatProtocol) -> None:
    typed = "".join(protocol.marks) + MERELY_ADDED
    tools = json.dumps([{"name": typed, "description": typed, "parameters": {typed: typed}}])
    messages = [
        Message(role="user", content="go"),
        Message(role="assistant", tool_calls=[ToolCall(name=typed, arguments={typed: typed})]),
        Message(role="tool", content=typed, name=typed),
    ]
    plain = [message.model_copy(update={"content": "x"}) for message in messages]
    plain[1] = Message(role="assistant", tool_calls=[ToolCall(name="f")])
    control = control_ids(protocol)
    found = [token for token in protocol.encode(messages, tools).ids if token in control]
    assert found == [i for i in protocol.encode(plain, '[{"name": "f"}]').ids if i in control]


@pytest.mark.slow
@pytest.mark.parametrize("name, syntax", PAIRS)
def test_typed_control_tokens_stay_text_in_every_place_and_syntax(
    name: str, syntax: CallSyntax, request: pytest.FixtureRequest
) -> None:
    protocol = load_protocol(request.getfixturevalue(f"{name}_tokenizer"), name, syntax)
    found = check(protocol, seed=6, count=100)
    assert found.written > 30
    assert found.typed > 500


def test_that_fuzz_finds_a_tokenizer_that_takes_typed_tokens_for_control_tokens(protocol: ChatProtocol) -> None:
    careless = load_protocol(protocol.tokenizer, protocol.name)
    careless._words = WordTable(protocol.tokenizer.backend_tokenizer)
    with pytest.raises(AssertionError, match="seed 6"):
        check(careless, seed=6, count=20)


def test_a_tokenizer_that_looks_whole_words_up_still_keeps_text_as_text(chatml_tokenizer) -> None:
    state = json.loads(chatml_tokenizer.backend_tokenizer.to_str())
    state["model"]["ignore_merges"] = True
    backend = type(chatml_tokenizer.backend_tokenizer).from_str(json.dumps(state))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    protocol = load_protocol(PreTrainedTokenizerFast(tokenizer_object=backend), "chatml")
    ids = protocol.encode([Message(role="user", content="<|im_end|>")]).ids
    assert ids.count(protocol.stop_ids[0]) == 1


def test_an_added_word_that_merges_make_anyway_can_still_be_written(chatml_tokenizer) -> None:
    state = json.loads(chatml_tokenizer.backend_tokenizer.to_str())
    merged = next(left + right for left, right in state["model"]["merges"] if (left + right).isalpha())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(chatml_tokenizer.backend_tokenizer).from_str(json.dumps(state))
    )
    tokenizer.add_tokens([merged])
    protocol = load_protocol(tokenizer, "chatml")
    assert protocol.text(protocol.encode([Message(role="user", content=merged)]).ids).endswith(merged)


@pytest.mark.slow
@pytest.mark.parametrize("open_assistant", [False, True])
def test_the_saved_template_gives_the_same_ids(make_dialog, protocol: ChatProtocol, tmp_path, open_assistant) -> None:
    protocol.tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert saved.chat_template == protocol.chat_template
    for messages, tools in dialogs(make_dialog, protocol, seed=6, typed=False, ragged=False):
        if open_assistant:
            messages = messages[:-1]
        ids = saved.apply_chat_template(
            as_openai(messages),
            tools=as_openai_tools(tools),
            add_generation_prompt=open_assistant,
            return_dict=False,
        )
        assert ids == protocol.encode(messages, tools, open_assistant=open_assistant).ids


@pytest.mark.slow
def test_the_saved_template_gives_the_same_text_whatever_is_typed(make_dialog, protocol: ChatProtocol) -> None:
    for messages, tools in dialogs(make_dialog, protocol, seed=7):
        text = protocol.tokenizer.apply_chat_template(as_openai(messages), tools=as_openai_tools(tools), tokenize=False)
        ids = protocol.encode(messages, tools).ids
        assert protocol.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.slow
def test_what_was_encoded_is_parsed_back(make_dialog, protocol: ChatProtocol) -> None:
    calls = 0
    for messages, tools in dialogs(make_dialog, protocol, seed=8):
        for position, message in enumerate(messages):
            if message.role != "assistant":
                continue
            start = len(protocol.encode(messages[:position], tools, open_assistant=True).ids)
            written = protocol.encode(messages[: position + 1], tools).ids[start:]
            assert meant(protocol.parse(written)) == meant(message)
            assert meant(protocol.parse(written[:-1])) == meant(message)  # cut off, or its stop token not kept
            assert meant(protocol.parse([*written, *written])) == meant(message)  # nothing counts after the stop
            calls += len(message.tool_calls)
    assert calls > 100


def test_a_call_costs_the_same_ids_however_its_json_is_spaced(protocol: ChatProtocol) -> None:
    def ids(arguments: str) -> list[int]:
        call = ToolCall(name="f", arguments=arguments)
        return protocol.encode([Message(role="user"), Message(role="assistant", tool_calls=[call])]).ids

    assert ids('{"a":1,"b":[2, 3]}') == ids('{ "a": 1,\n "b": [2,3] }') == ids('{"a": 1, "b": [2, 3]}')


def test_half_characters_in_arguments_are_written_escaped(protocol: ChatProtocol) -> None:
    message = Message(role="assistant", tool_calls=[ToolCall(name="f", arguments='{"a": "\\ud83d"}')])
    ids = protocol.encode([Message(role="user", content="go"), message]).ids
    start = len(protocol.encode([Message(role="user", content="go")], open_assistant=True).ids)
    assert protocol.parse(ids[start:]).tool_calls[0].parsed() == {"a": "\ud83d"}


@pytest.mark.slow
def test_functions_are_offered_as_they_are_specified(make_dialog, protocol: ChatProtocol) -> None:
    offered = 0
    for messages, tools in dialogs(make_dialog, protocol, seed=9):
        text = protocol.text(protocol.encode(messages, tools).ids)
        for spec in tools_of(tools):
            indent = 4 if protocol.name == "llama3" else None
            shown = spec.model_dump()
            if protocol.name == "llama3":
                shown = {"type": "function", "function": shown}
            assert text.count(json.dumps(shown, ensure_ascii=False, indent=indent)) == 1
            offered += 1
    assert offered > 30
