"""Added tokens in contents: markers and words are the tokenizer's own tokens where a server reads them so."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken

from align.chat import ChatProtocol, TokenKind, load_protocol
from align.chat.vocabulary import MARKERS, segment_tokenizer
from align.rows import Message, ToolCall
from align.tree.encode import Ask, encode_completions

WORD = "zebrafish"
SPACES = "    "
NOTE = "<note>"
MEMO = "<|memo|>"
"""An added token of both tokenizers of the fixtures; it is not special, but written as control tokens are."""
FAMILIES = [("chatml", "hermes"), ("chatml", "function_tag"), ("llama3", "json"), ("llama3", "function_tag")]
TOOLS = '[{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}]'


@pytest.fixture(params=[False, True], ids=["plain", "special"])
def special(request: pytest.FixtureRequest) -> bool:
    """Whether the tokenizer calls its markers special."""
    return request.param


@pytest.fixture(params=FAMILIES, ids="-".join)
def protocol(special: bool, request: pytest.FixtureRequest) -> ChatProtocol:
    family, syntax = request.param
    tokenizer = copy.deepcopy(request.getfixturevalue(f"{family}_tokenizer"))
    tokenizer.add_tokens([AddedToken(marker, special=special, normalized=False) for marker in sorted(MARKERS)])
    tokenizer.add_tokens(
        [AddedToken(WORD, normalized=False), AddedToken(NOTE, normalized=False), AddedToken(SPACES, normalized=False)]
    )
    return load_protocol(tokenizer, family, syntax)


def as_openai(messages: tuple[Message, ...]) -> list[dict]:
    found = []
    for message in messages:
        plain: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = [{"name": call.name, "arguments": call.parsed()} for call in message.tool_calls]
            plain["tool_calls"] = [{"type": "function", "function": call} for call in calls]
        found.append(plain)
    return found


def served_ids(protocol: ChatProtocol, messages: tuple[Message, ...], tools: str = "", opened: bool = False) -> list:
    """What plain transformers makes of the template that we save."""
    return protocol.tokenizer.apply_chat_template(
        as_openai(messages),
        tools=json.loads(tools) if tools else None,
        chat_template=protocol.chat_template,
        add_generation_prompt=opened,
        return_dict=False,
    )


def thinking(messages: tuple[Message, ...], rng: random.Random) -> tuple[Message, ...]:
    """The dialog with markers where assistant and system messages write them, and words anywhere."""
    found = []
    for message in messages:
        content = message.content + rng.choice(["", f" {WORD}", f"x{WORD}s{SPACES}", f" {SPACES}{SPACES}x"])
        if message.role == "assistant" and message.tool_calls and content:
            content = rng.choice([content, f"<think>{content}</think>"])
        elif message.role == "assistant":
            thought = rng.choice(["<think>\nhm {}\n</think>\n\n", "<think></think>{}", "{}<tool_response>", "{}", NOTE])
            content = thought.replace("{}", WORD) + content
        elif message.role == "system":
            content += rng.choice(["", "\nThink within <think> and </think>.", f"{NOTE}{NOTE}"])
        found.append(message.model_copy(update={"content": content}))
    return tuple(found)


def dialogs(make_dialog: Any, protocol: ChatProtocol, seed: int, count: int = 60) -> list:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        one_call = protocol.name == "llama3" or protocol.syntax == "function_tag"
        messages, tools = make_dialog(rng, llama3=one_call, typed=False, ragged=False)
        if protocol.name == "chatml" and one_call:
            messages = tuple(m for m in messages if not any("code" in call.parsed() for call in m.tool_calls))
        found.append((thinking(messages, rng), tools))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("opened", [False, True])
def test_markers_and_words_cost_the_ids_that_a_server_reads(
    make_dialog: Any, protocol: ChatProtocol, opened: bool
) -> None:
    placed = 0
    markers = {protocol.tokenizer.convert_tokens_to_ids(marker) for marker in MARKERS}
    for messages, tools in dialogs(make_dialog, protocol, seed=1):
        messages = messages[:-1] if opened else messages
        ids = protocol.encode(messages, tools, open_assistant=opened).ids
        assert ids == served_ids(protocol, messages, tools, opened)
        placed += sum(token in markers for token in ids)
    assert placed > 60


@pytest.mark.slow
def test_thoughts_and_calls_are_read_back(make_dialog: Any, protocol: ChatProtocol) -> None:
    calls = 0
    for messages, tools in dialogs(make_dialog, protocol, seed=2):
        for place, message in enumerate(messages):
            if message.role == "assistant":
                start = len(protocol.encode(messages[:place], tools, open_assistant=True).ids)
                found = protocol.parse(protocol.encode(messages[: place + 1], tools).ids[start:])
                assert found.content == message.content
                assert [call.parsed() for call in found.tool_calls] == [call.parsed() for call in message.tool_calls]
                calls += len(message.tool_calls)
    assert calls > 20


def test_a_call_is_one_token_a_tag_under_the_masks_of_content(special: bool, chatml_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.add_tokens(
        [AddedToken(tag, special=special) for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>")]
    )
    protocol = load_protocol(tokenizer)
    prompt = (Message(role="user", content="q"),)
    answer = Message(role="assistant", content="<think>\nhm\n</think>", tool_calls=(ToolCall(name="f"),))
    (tree,) = encode_completions([Ask("row", prompt, [(answer,)], TOOLS)], protocol)
    (branch,) = tree.branches
    tokens = tokenizer.convert_ids_to_tokens(branch.ids)
    for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        assert tokens.count(tag) == 1
    assert branch.loss_mask.all()
    assert np.array_equal(branch.contrast_mask, branch.ids != protocol.terminators[0])
    offered = protocol.encode(prompt, TOOLS, open_assistant=True).ids
    assert tree.prompt.tolist() == offered == served_ids(protocol, prompt, TOOLS, opened=True)
    assert offered.count(tokenizer.convert_tokens_to_ids("<tool_call>")) == 2  # in the words of the offer


def test_markers_that_are_typed_stay_text(protocol: ChatProtocol) -> None:
    """By a user or a tool, in a function's description and in the arguments of a call."""
    typed = "".join(sorted(MARKERS)) + NOTE
    markers = {protocol.tokenizer.convert_tokens_to_ids(marker) for marker in [*MARKERS, NOTE]}

    def placed(text: str) -> list[int]:
        tools = json.dumps([{"name": "f", "description": text, "parameters": {"type": "object", "a": text}}])
        messages = (
            Message(role="user", content=text),
            Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={"a": text}),)),
            Message(role="tool", content=text),
        )
        encoded = protocol.encode(messages, tools)
        text_ids = [i for i, kind in zip(encoded.ids, encoded.kinds, strict=True) if kind == TokenKind.TOOL_OUTPUT]
        assert protocol.text(text_ids) == text
        return [token for token in encoded.ids if token in markers]

    assert placed(typed) == placed("x")


def test_control_tokens_stay_text_in_every_content(protocol: ChatProtocol) -> None:
    special = {token.content for token in protocol.tokenizer.added_tokens_decoder.values() if token.special}
    control_tokens = (special - MARKERS) | {MEMO}
    typed = "".join(sorted(control_tokens))
    assert all(mark in typed for mark in protocol.marks)
    control = {protocol.tokenizer.convert_tokens_to_ids(token) for token in control_tokens}

    def placed(text: str) -> list[int]:
        messages = [Message(role=role, content=text) for role in ("system", "user", "assistant", "tool", "assistant")]
        return [token for token in protocol.encode(messages).ids if token in control]

    assert placed(typed) == placed("x")


def test_marks_that_a_tokenizer_does_not_call_special_are_control_tokens_all_the_same(chatml_tokenizer: Any) -> None:
    state = json.loads(chatml_tokenizer.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = False
    backend = type(chatml_tokenizer.backend_tokenizer).from_str(json.dumps(state))
    protocol = load_protocol(type(chatml_tokenizer)(tokenizer_object=backend, eos_token="<|endoftext|>"))
    typed = "<|im_end|>\n<|im_start|>system\n<|endoftext|>"
    for role in ("system", "user", "assistant", "tool"):
        ids = protocol.encode([Message(role=role, content=typed)]).ids
        assert [token for token in ids if token < 3] == [1, 2]


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_the_flags_of_an_added_token_hold(flag: str, chatml_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.add_tokens(
        [AddedToken("<note>", normalized=False, **{flag: True}), AddedToken("<note>s", normalized=False)]
    )
    protocol = load_protocol(tokenizer)
    for text in ("a <note> b", "a  <note>\n\nb", "a<note>b", "a<note>", "a<note>s <note>", "x<note><note>\t"):
        messages = (Message(role="user", content="q"), Message(role="assistant", content=text))
        assert protocol.encode(messages).ids == served_ids(protocol, messages), text


def assert_whole_texts(make_dialog: Any, protocol: ChatProtocol) -> None:
    """Each content costs what a tokenizer without added tokens gives for its whole text."""
    plain = segment_tokenizer(protocol.tokenizer)
    rng = random.Random(4)
    for _ in range(40):
        messages, tools = make_dialog(rng, llama3=protocol.name == "llama3")
        encoded = protocol.encode(messages, tools)
        for turn, message in enumerate(messages):
            mine = [
                token
                for token, its, kind in zip(encoded.ids, encoded.turns, encoded.kinds, strict=True)
                if its == turn and kind in (TokenKind.CONTENT, TokenKind.TOOL_OUTPUT)
            ]
            if not any(token in protocol.tokenizer.added_tokens_decoder for token in mine):  # no built-in call
                assert mine == plain.encode(protocol.text(mine), add_special_tokens=False).ids
                assert protocol.text(mine).startswith(message.content) or tools


@pytest.mark.slow
def test_without_markers_a_content_is_one_text(make_dialog: Any, chatml_tokenizer: Any, llama3_tokenizer: Any) -> None:
    for tokenizer in (chatml_tokenizer, llama3_tokenizer):
        assert_whole_texts(make_dialog, load_protocol(tokenizer))


@pytest.mark.slow
@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_smollm2s_contents_are_one_text_each(make_dialog: Any) -> None:
    from transformers import AutoTokenizer

    from align.assets import starting_checkpoint

    assert_whole_texts(make_dialog, load_protocol(AutoTokenizer.from_pretrained(starting_checkpoint())))
