"""Llama 3.1's protocol against Meta's own chat_format.py and tokenizer, and against the formats of Meta's documents."""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast

from align.chat import Llama3, TokenKind, load_protocol
from align.errors import RowError
from align.rows import Message, ToolCall

BUILT_IN = {"brave_search", "wolfram_alpha", "code_interpreter"}
PYTHON_TAG = 128010
ASSISTANT_HEADER = [128006, 78191, 128007, 271]


@pytest.fixture(scope="module")
def meta() -> SimpleNamespace:
    """Meta's modules, loaded from the unpacked package under a name of their own; images are not read."""
    from align.assets import path_of

    folder = path_of("llama-models") / "models"
    package = "meta_llama_models"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            package, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("PIL") is None:
            patch.setitem(sys.modules, "PIL", SimpleNamespace(Image=SimpleNamespace(Image=object)))
        chat_format = importlib.import_module(f"{package}.llama3.chat_format")
    tokenizer = importlib.import_module(f"{package}.llama3.tokenizer").Tokenizer(folder / "llama3" / "tokenizer.model")
    types = importlib.import_module(f"{package}.datatypes")
    return SimpleNamespace(format=chat_format.ChatFormat(tokenizer), tokenizer=tokenizer, types=types, folder=folder)


@pytest.fixture(scope="module")
def llama3(meta: SimpleNamespace) -> Llama3:
    return load_protocol(real_tokenizer(meta.folder / "llama3" / "tokenizer.model", meta.tokenizer.special_tokens))


def real_tokenizer(model: Path, special_tokens: dict[str, int]) -> PreTrainedTokenizerFast:
    """Llama 3's tokenizer as transformers has it, from Meta's tokenizer.model."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    names = sorted(special_tokens, key=special_tokens.__getitem__)
    converted = TikTokenConverter(vocab_file=str(model), extra_special_tokens=names).converted()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=converted, bos_token=names[0], eos_token="<|eot_id|>")
    tokenizer.chat_template = load_protocol(tokenizer).chat_template
    return tokenizer


def meta_ids(meta: SimpleNamespace, messages: tuple[Message, ...]) -> list[int]:
    """Meta's ids for a prompt, with what Meta's documents ask for and its late code leaves out.

    Two things are put right by hand. Before a search call the code has dropped the `<|python_tag|>` that the documents
    show. A custom call is handed to Meta as text, because the code adds `"type": "function"` to the form that the
    published chat template asks the model for.
    """
    ids = [meta.tokenizer.bos_id]
    environment = messages[0].role == "system" and "Environment: ipython\n" in messages[0].content
    for message in messages:
        raw, tag = raw_message(meta, message, environment)
        found = meta.format.encode_message(raw, meta.types.ToolPromptFormat.json)[0]
        if tag:
            place = len(ASSISTANT_HEADER) + len(meta.tokenizer.encode(message.content, bos=False, eos=False))
            found.insert(place, PYTHON_TAG)
        ids += found
    return ids + ASSISTANT_HEADER


def raw_message(meta: SimpleNamespace, message: Message, environment: bool):
    """Our message as Meta's, and whether the tag of a search call is missing there."""
    types = meta.types
    stop = types.StopReason.end_of_turn if message.role == "assistant" else None
    if not message.tool_calls:
        return types.RawMessage(role=message.role, content=message.content, stop_reason=stop), False
    (call,) = message.tool_calls
    if environment and call.name in BUILT_IN:
        made = types.ToolCall(call_id="1", tool_name=call.name, arguments=call.parsed())
        stop = types.StopReason.end_of_message
        raw = types.RawMessage(role="assistant", content=message.content, stop_reason=stop, tool_calls=[made])
        return raw, call.name != "code_interpreter"
    text = json.dumps({"name": call.name, "parameters": call.parsed()}, ensure_ascii=False)
    text = f"{message.content}\n{text}" if message.content else text
    return types.RawMessage(role="assistant", content=text, stop_reason=stop), False


@pytest.mark.slow
@pytest.mark.asset("llama-models")
def test_ids_equal_metas_own_on_dialogs_of_every_kind(meta, llama3: Llama3, make_dialog) -> None:
    rng = random.Random(20240723)
    seen: Counter[str] = Counter()
    for _ in range(300):
        messages = make_dialog(rng, llama3=True, tools=False).messages
        assert llama3.encode(messages, open_assistant=True).ids == meta_ids(meta, messages), messages
        seen["system"] += messages[0].role == "system"
        seen["multi-turn"] += sum(message.role == "user" for message in messages) > 1
        seen["unicode"] += any(not message.content.isascii() for message in messages)
        seen["typed control token"] += any("<|" in message.content for message in messages)
        seen["tool output"] += any(message.role == "tool" for message in messages)
        ids = llama3.encode(messages).ids
        seen["end of message"] += 128008 in ids
        seen["custom call"] += any(m.tool_calls and m.tool_calls[0].name not in BUILT_IN for m in messages)
        for name in BUILT_IN:
            seen[name] += PYTHON_TAG in ids and any(m.tool_calls and m.tool_calls[0].name == name for m in messages)
    assert min(seen.values()) >= 20, seen
    assert len(seen) == 10


@pytest.mark.asset("llama-models")
def test_the_tokenizer_gives_tiktokens_ids_for_text(meta, llama3: Llama3) -> None:
    rng = random.Random(1)
    ranges = [(32, 127), (0, 255), (0x370, 0x52F), (0x4E00, 0x4FFF), (0x1F300, 0x1F6FF), (9, 13), (0x2000, 0x200F)]
    for _ in range(500):
        text = "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 60)))
        encoded = llama3.encode([Message(role="user", content=text)])
        said = [i for i, kind in zip(encoded.ids, encoded.kinds, strict=True) if kind == TokenKind.CONTENT]
        assert said == meta.tokenizer.encode(text, bos=False, eos=False)


@pytest.mark.asset("llama-models")
def test_known_ids(llama3: Llama3) -> None:
    encoded = llama3.encode([Message(role="user", content="This is a test sentence.")], open_assistant=True)
    user = [128006, 882, 128007, 271, 2028, 374, 264, 1296, 11914, 13, 128009]
    assert encoded.ids == [128000, *user, *ASSISTANT_HEADER]
    assert encoded.kinds == [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 1, 1, 1, 1]
    assert encoded.turns == [-1] + [0] * 11 + [1] * 4
    tool = llama3.encode([Message(role="tool", content="7")])
    assert tool.ids == [128000, 128006, 23799, 4690, 128007, 271, 22, 128009]
    assert tool.kinds == [0, 1, 1, 1, 1, 1, 4, 3]
    assert set(llama3.stop_ids) == {128001, 128008, 128009}
    assert llama3.pad_id == 128004
    assert len(llama3.tokenizer) == 128256


@pytest.mark.asset("llama-models")
def test_meta_reads_our_calls_and_we_read_metas(meta, llama3: Llama3) -> None:
    types = meta.types
    system = Message(role="system", content="Environment: ipython\nTools: brave_search, wolfram_alpha\n")
    user = Message(role="user", content="go")
    cases = [
        ToolCall(name="brave_search", arguments={"query": "latest price of 1oz gold"}),
        ToolCall(name="wolfram_alpha", arguments={"query": "100th decimal of π"}),
        ToolCall(name="code_interpreter", arguments={"code": "def f(n):\n    return n\n\nprint(f(7))"}),
        ToolCall(name="trending_songs", arguments={"n": "10", "genre": "all", "deep": {"a": 1}}),
    ]
    start = len(llama3.encode([system, user], open_assistant=True).ids)
    for call in cases:
        ours = llama3.encode([system, user, Message(role="assistant", tool_calls=[call])]).ids[start:]
        read = meta.format.decode_assistant_message(ours, types.StopReason.end_of_turn)
        name = read.tool_calls[0].tool_name
        assert getattr(name, "value", name) == call.name
        assert read.tool_calls[0].arguments == call.parsed()
        built_in = call.name in BUILT_IN
        assert read.stop_reason == (types.StopReason.end_of_message if built_in else types.StopReason.end_of_turn)

        made = types.ToolCall(call_id="1", tool_name=call.name, arguments=call.parsed())
        raw = types.RawMessage(role="assistant", content="", stop_reason=read.stop_reason, tool_calls=[made])
        theirs = meta.format.encode_message(raw, types.ToolPromptFormat.json)[0][len(ASSISTANT_HEADER) :]
        for written in (theirs, [PYTHON_TAG, *theirs]):  # with the tag as in the documents, without as in the code
            found = llama3.parse(written)
            assert found.content == ""
            if call.name != "code_interpreter":
                assert [(c.name, c.parsed()) for c in found.tool_calls] == [(call.name, call.parsed())]


@pytest.mark.asset("llama-models")
def test_the_saved_template_gives_the_same_ids_on_the_real_tokenizer(llama3: Llama3, make_dialog) -> None:
    rng = random.Random(3)
    for _ in range(60):
        messages, _ = make_dialog(rng, llama3=True, typed=False, ragged=False, tools=False)
        plain = [message.model_dump() for message in messages]
        for message in plain:
            message["tool_calls"] = [
                call | {"arguments": json.loads(call["arguments"])} for call in message["tool_calls"]
            ]
        ids = llama3.tokenizer.apply_chat_template(plain, return_dict=False)
        assert ids == llama3.encode(messages).ids


def shown(llama3_tokenizer, messages: list[Message], tools: str = "", **kinds: bool) -> str:
    ids = load_protocol(llama3_tokenizer).encode(messages, tools, **kinds).ids
    return llama3_tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def test_a_built_in_dialog_reads_as_in_metas_document(llama3_tokenizer) -> None:
    system = (
        "Environment: ipython\nTools: brave_search, wolfram_alpha\nCutting Knowledge Date: December 2023\n"
        "Today Date: 21 September 2024\n\nYou are a helpful assistant.\n"
    )
    call = ToolCall(name="wolfram_alpha", arguments={"query": "100th decimal of pi"})
    messages = [
        Message(role="system", content=system),
        Message(role="user", content="What is the 100th decimal of pi?"),
        Message(role="assistant", tool_calls=[call]),
        Message(role="tool", content='{"queryresult": {"success": true}}'),
        Message(role="assistant", content="The 100th decimal of pi is 7."),
    ]
    assert shown(llama3_tokenizer, messages) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Environment: ipython\nTools: brave_search, wolfram_alpha\nCutting Knowledge Date: December 2023\n"
        "Today Date: 21 September 2024\n\nYou are a helpful assistant.\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is the 100th decimal of pi?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '<|python_tag|>wolfram_alpha.call(query="100th decimal of pi")<|eom_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n{"queryresult": {"success": true}}<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\nThe 100th decimal of pi is 7.<|eot_id|>"
    )


def test_custom_functions_stand_in_the_first_user_message_as_in_the_published_template(llama3_tokenizer) -> None:
    tools = '[{"name": "get_weather", "description": "Weather", "parameters": {"type": "object", "properties": {}}}]'
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Paris?"),
        Message(role="assistant", tool_calls=[ToolCall(name="get_weather", arguments='{"city":"Paris"}')]),
        Message(role="tool", content="18 °C"),
        Message(role="assistant", content="18 degrees."),
        Message(role="user", content="Thanks"),
    ]
    schema = (
        '{\n    "type": "function",\n    "function": {\n        "name": "get_weather",\n'
        '        "description": "Weather",\n        "parameters": {\n            "type": "object",\n'
        '            "properties": {}\n        }\n    }\n}'
    )
    assert shown(llama3_tokenizer, messages, tools, open_assistant=True) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
        "Given the following functions, please respond with a JSON for a function call with its proper arguments that "
        'best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
        f"argument name and its value}}.Do not use variables.\n\n{schema}\n\nParis?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "get_weather", "parameters": {"city": "Paris"}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\n18 °C<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n18 degrees.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nThanks<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_a_built_in_name_is_a_custom_call_without_the_environment_or_with_other_arguments(llama3_tokenizer) -> None:
    search = Message(role="assistant", tool_calls=[ToolCall(name="brave_search", arguments={"query": "x"})])
    other = Message(role="assistant", tool_calls=[ToolCall(name="brave_search", arguments={"query": "x", "n": 1})])
    on = Message(role="system", content="Environment: ipython")
    talked_about = Message(role="system", content="Say Environment: ipython to turn it on")
    assert "<|python_tag|>" in shown(llama3_tokenizer, [on, search])
    assert "<|python_tag|>" not in shown(llama3_tokenizer, [talked_about, search])
    assert shown(llama3_tokenizer, [on, other]).endswith(
        '{"name": "brave_search", "parameters": {"query": "x", "n": 1}}<|eot_id|>'
    )


def test_two_calls_in_one_message_are_refused(llama3_tokenizer) -> None:
    message = Message(role="assistant", tool_calls=[ToolCall(name="f"), ToolCall(name="g")])
    with pytest.raises(
        RowError, match=r"^messages\[1\]\.tool_calls: the json syntax makes one call a message, found 2\. Give"
    ):
        load_protocol(llama3_tokenizer).encode([Message(role="user", content="go"), message])


def test_functions_without_a_user_message_are_refused(llama3_tokenizer) -> None:
    with pytest.raises(
        RowError, match=r"^messages: hold no user message, .* Add a user message, or leave `tools` empty"
    ):
        load_protocol(llama3_tokenizer).encode([Message(role="system", content="s")], '[{"name": "f"}]')


@pytest.mark.parametrize(
    "written, malformed",
    [
        ('{"name": "f", "parameters": {"a": 1}', "one JSON object up to the end"),
        ('{"name": "f", "parameters": {"a": 1}} and so on', "one JSON object up to the end"),
        ("", "nothing follows"),
    ],
)
def test_a_malformed_call_after_the_tag_stays_text(llama3_tokenizer, written: str, malformed: str) -> None:
    protocol = load_protocol(llama3_tokenizer)
    ids = protocol.encode([Message(role="user", content=written)])
    said = [i for i, kind in zip(ids.ids, ids.kinds, strict=True) if kind == TokenKind.CONTENT]
    tag = llama3_tokenizer.convert_tokens_to_ids("<|python_tag|>")
    found = protocol.parse_calls([tag, *said])
    assert malformed in found.malformed
    assert protocol.parse([tag, *said]) == Message(role="assistant", content=written)


@pytest.mark.asset("llama-models")
def test_only_white_space_with_a_line_break_joins_a_header_for_a_server(llama3) -> None:
    tokenizer = llama3.tokenizer
    end = tokenizer.encode(" of Italy<|eot_id|>", add_special_tokens=False)
    differ = set()
    for space in ["", " ", "  ", "\t", "\n", "\n\n", " \n", "\t\n ", "\r\n", "\u00a0"]:
        message = Message(role="user", content=f"{space}capital of Italy")
        ours = llama3.encode([message]).ids
        served = tokenizer.apply_chat_template([{"role": "user", "content": message.content}], return_dict=False)
        assert tokenizer.decode(ours) == tokenizer.decode(served)
        assert ours[:4] == served[:4]
        assert ours[-len(end) :] == served[-len(end) :] == end
        differ |= {space} if ours != served else set()
    assert {"\n", "\n\n"} <= differ
    assert all("\n" in space for space in differ)
