"""ChatML: the text it writes, and SmolLM2's real tokenizer."""

from __future__ import annotations

import random

import pytest

from align.chat import TokenKind, load_protocol
from align.rows import Message, ToolCall

TOOLS = '[{"name": "get_weather", "description": "Weather", "parameters": {"type": "object", "properties": {}}}]'
OFFER = (
    "You may call functions. Their signatures are within <tools></tools>:\n<tools>\n"
    '{"name": "get_weather", "description": "Weather", "parameters": {"type": "object", "properties": {}}}\n</tools>\n'
    "To call one, write a JSON object with its name and arguments within <tool_call></tool_call>:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def shown(tokenizer, messages: list[Message], tools: str = "", **kinds: bool) -> str:
    ids = load_protocol(tokenizer).encode(messages, tools, **kinds).ids
    return tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def test_a_plain_dialog_has_no_system_prompt_that_no_row_has(chatml_tokenizer) -> None:
    messages = [Message(role="user", content="Hi"), Message(role="assistant", content="Hello!")]
    assert shown(chatml_tokenizer, messages) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>"
    )
    assert shown(chatml_tokenizer, messages[:1], open_assistant=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_functions_and_calls_are_written_the_hermes_way(chatml_tokenizer) -> None:
    calls = (
        ToolCall(name="get_weather", arguments='{"city":"Paris"}'),
        ToolCall(name="get_weather", arguments={"city": "Köln"}),
    )
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Paris, Köln?"),
        Message(role="assistant", content="Let me see.", tool_calls=calls),
        Message(role="tool", content="18 °C"),
        Message(role="tool", content="17 °C"),
    ]
    assert shown(chatml_tokenizer, messages, TOOLS, open_assistant=True) == (
        f"<|im_start|>system\nBe brief.\n\n{OFFER}<|im_end|>\n"
        "<|im_start|>user\nParis, Köln?<|im_end|>\n"
        "<|im_start|>assistant\nLet me see.\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n18 °C<|im_end|>\n<|im_start|>tool\n17 °C<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_system_message_made_for_functions_belongs_to_no_turn(chatml_tokenizer) -> None:
    encoded = load_protocol(chatml_tokenizer).encode([Message(role="user", content="Hi")], TOOLS)
    text = shown(chatml_tokenizer, [Message(role="user", content="Hi")], TOOLS)
    assert text == f"<|im_start|>system\n{OFFER}<|im_end|>\n<|im_start|>user\nHi<|im_end|>"
    made = encoded.turns.index(0)
    assert set(encoded.turns[:made]) == {-1}
    assert set(encoded.turns[made:]) == {0}
    assert encoded.kinds[made - 1] == TokenKind.TERMINATOR


def test_a_line_break_between_messages_belongs_to_the_later_header(chatml_tokenizer) -> None:
    encoded = load_protocol(chatml_tokenizer).encode(
        [Message(role="user", content="a"), Message(role="user", content="b")]
    )
    second = encoded.turns.index(1)
    assert chatml_tokenizer.decode(encoded.ids[second : second + 2]) == "\n<|im_start|>"
    assert encoded.kinds[second] == TokenKind.HEADER


@pytest.fixture(scope="module")
def smollm2():
    from transformers import AutoTokenizer

    from align.assets import starting_checkpoint

    return AutoTokenizer.from_pretrained(starting_checkpoint())


@pytest.mark.slow
@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_smollm2s_tokenizer_keeps_every_promise(make_dialog, smollm2) -> None:
    protocol = load_protocol(smollm2)
    assert (protocol.name, protocol.stop_ids[0], protocol.pad_id) == ("chatml", 2, 0)
    rng = random.Random(11)
    for _ in range(200):
        messages, tools = make_dialog(rng)
        encoded = protocol.encode(messages, tools)
        made = bool(tools) and messages[0].role != "system"
        assert sum(i < 17 for i in encoded.ids) == 2 * (len(messages) + made)  # its control tokens are ids 0 to 16
        opened = protocol.encode(messages[:-1], tools, open_assistant=True)
        assert encoded.ids[: len(opened.ids)] == opened.ids
        assert protocol.parse(encoded.ids[len(opened.ids) :]).content == messages[-1].content
        plain = [{"role": m.role, "content": m.content} for m in messages if not m.tool_calls]
        text = smollm2.apply_chat_template(plain, chat_template=protocol.chat_template, tokenize=False)
        ids = protocol.encode([m for m in messages if not m.tool_calls]).ids
        assert smollm2.backend_tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.slow
@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_smollm2s_own_template_gives_our_ids_where_a_system_message_is_given(smollm2) -> None:
    own = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    messages = [
        Message(role="system", content="You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        Message(role="user", content="What is the capital of Italy?"),
    ]
    plain = [{"role": m.role, "content": m.content} for m in messages]
    ids = smollm2.apply_chat_template(plain, chat_template=own, add_generation_prompt=True, return_dict=False)
    assert load_protocol(smollm2).encode(messages, open_assistant=True).ids == ids


@pytest.mark.slow
@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_a_content_that_begins_with_white_space_is_all_that_a_server_reads_otherwise(smollm2) -> None:
    """Its tokenizer joins white space to the line break of the header, which is a text of its own for us."""
    protocol = load_protocol(smollm2)
    end = smollm2.encode(" of Italy<|im_end|>", add_special_tokens=False)
    differ = []
    for space in ["", " ", "  ", "\t", "\n", "\n\n", " \n", "\r\n", "\u00a0"]:
        for role in ("user", "assistant", "tool"):
            message = Message(role=role, content=f"{space}capital of Italy")
            ours = protocol.encode([message]).ids
            served = smollm2.apply_chat_template(
                [{"role": role, "content": message.content}], chat_template=protocol.chat_template, return_dict=False
            )
            assert smollm2.decode(ours) == smollm2.decode(served)
            begin = smollm2.encode(f"<|im_start|>{role}", add_special_tokens=False)
            assert ours[: len(begin)] == served[: len(begin)] == begin
            assert ours[-len(end) :] == served[-len(end) :] == end
            differ += [space] if ours != served else []
    assert "" not in differ
    assert {"  ", " \n", "\n\n"} <= set(differ)
