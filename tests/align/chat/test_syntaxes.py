"""Every call syntax: 10,000 random calls written and read back, what is malformed, and what cannot be written."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import sys

import pytest

from align.chat import ChatProtocol, Llama3, load_protocol
from align.chat.calls import SYNTAXES, parse_calls, render_calls
from align.chat.tool_prompts import TOOL_PROMPTS
from align.errors import ConfigError, RowError
from align.rows import Message, ToolCall, tools_of

ONE_CALL = [name for name, syntax in SYNTAXES.items() if not syntax.parallel]
PAIRS = [("chatml", syntax) for syntax in SYNTAXES] + [("llama3", syntax) for syntax in Llama3.syntaxes]

STRINGS = [
    "", "Paris", "say \"hi\" and 'hi'", "\\", "\\n", "\n\r\n\t", "\x00\x07\x7f\x85\u2028", "東京 Größe 🙂🏽 e\u0301",
    "</tool_call>", "<tool_call>\n{", "</function>", "<function=f>{}", "[f(a=1), g()]", "f(a='b')]", '{"name": "f"}',
    '"}, {"', "'''", '"""', "<|im_end|>", "<|eot_id|>", "<|python_tag|>", 'brave_search.call(query="x")', "{{ 7 * 7 }}",
    "\ud83d", "\ud83d🙂", "None", "true", "#", "**{'a': 1}",
]  # fmt: skip
NAMES = ["get_weather", "math.factorial", "größe", "f", "_private", "spotify.Play.song2"]
KEYS = ["city", "n", "from", "class", "None", "with space", "größe", "ﬁ", "a.b", "", "2nd", "</function>", "a=1", "*"]
NUMBERS = [0, -1, 2**64, -(10**40), 0.0, -0.0, 1.0, 1e-07, 1e300, -2.5, 0.1, math.pi, 5e-324, sys.float_info.max]


@pytest.fixture(params=PAIRS, ids="-".join)
def protocol(request: pytest.FixtureRequest) -> ChatProtocol:
    name, syntax = request.param
    return load_protocol(request.getfixturevalue(f"{name}_tokenizer"), name, syntax)


def random_value(rng: random.Random, depth: int = 0):
    kind = rng.random()
    if depth < 4 and kind < 0.3:
        return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if depth < 4 and kind < 0.6:
        return {rng.choice(KEYS + STRINGS): random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    return rng.choice([rng.choice(STRINGS), rng.choice(NUMBERS), rng.random(), rng.randint(-99, 99), True, False, None])


def random_call(rng: random.Random) -> ToolCall:
    arguments = {rng.choice(KEYS): random_value(rng) for _ in range(rng.randint(0, 3))}
    return ToolCall(name=rng.choice(NAMES), arguments=json.dumps(arguments))


def exactly(calls) -> str:
    """Names and values as one text, in which 1, 1.0 and true differ; arguments keep their order."""
    return json.dumps([(call.name, call.parsed()) for call in calls])


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_ten_thousand_calls_of_each_syntax_are_read_back_to_the_last_digit(syntax: str) -> None:
    rng = random.Random(syntax)
    made = 0
    while made < 10_000:
        calls = [random_call(rng) for _ in range(1 if syntax in ONE_CALL else rng.randint(1, 4))]
        content = rng.choice(["", "", "Let me look that up.", "First,\nthen [this]:\n", " ", "{x}"])
        text = render_calls(calls, syntax, content)
        found = parse_calls(text, syntax)
        assert (found.text, found.malformed) == (content, None)
        assert exactly(found.calls) == exactly(calls), text
        made += len(calls)


def test_meta_writes_simple_python_lists_as_we_do() -> None:
    call = ToolCall(name="f", arguments={"city": "San Francisco", "n": 10, "x": 2.5, "on": True, "no": None, "l": [1]})
    assert render_calls([call], "python_list") == '[f(city="San Francisco", n=10, x=2.5, on=True, no=None, l=[1])]'


@pytest.mark.parametrize(
    "syntax, text, calls",
    [  # as Meta's documents show them
        ("function_tag", '<function=trending_songs>{"n": 10}</function>', [("trending_songs", {"n": 10})]),
        (
            "python_list",
            "[get_weather(city='San Francisco', metric='celsius'), get_weather(city='Seattle', metric='celsius')]",
            [
                ("get_weather", {"city": "San Francisco", "metric": "celsius"}),
                ("get_weather", {"city": "Seattle", "metric": "celsius"}),
            ],
        ),
        (
            "python_list",
            "[get_user_info(user_id=7890, special='black')]",
            [("get_user_info", {"user_id": 7890, "special": "black"})],
        ),
        ("json", '{\n    "type": "function",\n    "name": "f",\n    "parameters": {"n": "10"}}', [("f", {"n": "10"})]),
        (
            "python_list",
            " [ f (a = (1, -2), **{'from': {'b': None}} ), g() ] \n",
            [("f", {"a": [1, -2], "from": {"b": None}}), ("g", {})],
        ),
    ],
)  # fmt: skip
def test_published_calls_are_read(syntax: str, text: str, calls: list) -> None:
    found = parse_calls(text, syntax)
    assert [(call.name, call.parsed()) for call in found.calls] == calls


@pytest.mark.parametrize(
    "syntax, text, reason",
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', "JSON has no NaN"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1, "a": 2}}</tool_call>', "a key is given twice"),
        ("hermes", '{"name": "f", "arguments": {}}\n</tool_call>', "</tool_call> closes nothing"),
        ("hermes", '{"name": "f", "arguments": {}}', "looks like a call in the json syntax, expected hermes"),
        ("hermes", "[f(a=1)]", "looks like a call in the python_list syntax"),
        ("hermes", "<function=f>{}</function>", "looks like a call in the function_tag syntax"),
        ("json", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "not one JSON object up to the end"),
        ("json", 'Sure: {"name": "f", "parameters": {}}', "no JSON object on a line of its own"),
        ("json", "{'name': 'f', 'parameters': {}}", "no JSON object on a line of its own"),
        ("json", '[{"name": "f", "parameters": {}}]', "no JSON object on a line of its own"),
        ("json", '```json\n{"name": "f", "parameters": {}}\n```', "not one JSON object up to the end"),
        ("json", '{"name": "f", "parameters": {"a": 1e999}}', "not JSON compliant"),
        ("function_tag", "<function=f>{'a': 1}</function>", "<function=f> holds no call: Expecting property name"),
        ("function_tag", '<function=f>{"a": 1}', "is not closed by </function>"),
        ("function_tag", '<function=f>{"a": 1}<function>', "is not closed by </function>"),
        ("function_tag", "<function=f>[1]</function>", "expected an object of arguments for f"),
        ("function_tag", "<function=>{}</function>", "names no function"),
        ("function_tag", "<function=f {}</function>", "names no function"),
        ("function_tag", "f{}</function>", "</function> closes nothing"),
        ("function_tag", "<function=f>{}</function><function=g>{}</function>", "one call per message"),
        ("function_tag", "<function=f>{}</function> and so on", "text follows the call"),
        ("python_list", "[f(a=1), g(", "was never closed"),
        ("python_list", "[f(1)]", "expected every argument of f by name, found '1'"),
        ("python_list", "[f(a=g())]", "an argument of f is no literal"),
        ("python_list", "[f(a=x)]", "an argument of f is no literal"),
        ("python_list", "[f(a=true)]", "an argument of f is no literal"),
        ("python_list", "[f(a=__import__('os').system('true'))]", "an argument of f is no literal"),
        ("python_list", "[f(a=1, a=2)]", "given twice"),
        ("python_list", "[f(a=1, **{'a': 2})]", "given twice"),
        ("python_list", "[f(**x)]", "an argument of f is no literal"),
        ("python_list", "[f(**[1])]", "expected argument names and values after **"),
        ("python_list", "[f(a=b'x')]", "JSON has no bytes"),
        ("python_list", "[f(a=[{1, 2}])]", "JSON has no set"),
        ("python_list", "[f(a=1j)]", "JSON has no complex"),
        ("python_list", "[f(a={1: 2})]", "expected text for the keys"),
        ("python_list", "[f(a=1e999)]", "not JSON compliant"),
        ("python_list", "[f(a=1), 2]", "expected a call, found '2'"),
        ("python_list", "[f(a=1)] and so on", "holds no calls"),
        ("python_list", "[f(a=1)\n[g()]", "was never closed"),
        ("python_list", "[f(a=" + "[" * 10_000, "holds no calls"),
        ("python_list", "[f(a=1)(b=2)]", "expected a function's name"),
        ("python_list", '{"name": "f", "parameters": {}}', "looks like a call in the json syntax"),
    ],
)  # fmt: skip
def test_what_looks_like_a_call_and_is_none_is_text_with_the_reason(syntax: str, text: str, reason: str) -> None:
    found = parse_calls(text, syntax)
    assert (found.calls, found.text) == ((), text)
    assert found.malformed
    assert reason in found.malformed


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_no_damage_to_a_call_makes_it_silent_text_or_raises(syntax: str) -> None:
    rng = random.Random(syntax)
    silent = 0
    for _ in range(3000):
        call = random_call(rng)
        text = render_calls([call], syntax)
        begun = {"hermes": len("<tool_call>"), "json": len('{"name":'), "function_tag": len("<function=")}
        cut = rng.randrange(begun.get(syntax, len(call.name) + 2), len(text))
        put = rng.choice("\"'{}[]<>,")
        damaged = rng.choice([text[:cut], text[:cut] + text[cut + 1 :], text[:cut] + put + text[cut:]])
        found = parse_calls(damaged, syntax)
        assert not (found.calls and found.malformed)
        silent += not found.calls and not found.malformed
    # A JSON object whose key for the arguments is misspelt is data like any other.
    assert silent <= (400 if syntax == "json" else 0), silent


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "text", ["Paris.", "x < y > z", "[1, 2]", "[a](b)", "{'a': 1}", "def f(a):\n    return [g(a)]", "<b>"]
)
def test_plain_text_is_no_call_in_any_syntax(syntax: str, text: str) -> None:
    assert parse_calls(text, syntax).malformed is None
    assert parse_calls(text, syntax).text == text


@pytest.mark.parametrize(
    "syntax, call, content, reason",
    [
        ("function_tag", ToolCall(name="a b"), "", "a function_tag name holds no spaces"),
        ("function_tag", ToolCall(name="f>"), "", "a function_tag name holds no spaces"),
        ("python_list", ToolCall(name="get-weather"), "", "needs a Python name for its function, found 'get-weather'"),
        ("python_list", ToolCall(name="ﬁnd"), "", "needs a Python name"),
        ("python_list", ToolCall(name="for"), "", "needs a Python name"),
        ("hermes", ToolCall.model_construct(name="f", arguments='{"a": Infinity}'), "", "not JSON compliant"),
        ("hermes", ToolCall(name="f"), "I write <tool_call>", "cannot express this message: <tool_call> holds no call"),
        ("json", ToolCall(name="f"), '{"name": "g"}', "cannot express this message"),
        ("function_tag", ToolCall(name="f"), "see <function=x>", "cannot express this message"),
        ("python_list", ToolCall(name="f"), "[g(1)]", "cannot express this message"),
    ],
)  # fmt: skip
def test_a_call_that_a_syntax_cannot_hold_is_refused(syntax: str, call: ToolCall, content: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        render_calls([call], syntax, content)


@pytest.mark.parametrize("syntax", ONE_CALL)
def test_parallel_calls_are_refused_where_a_syntax_has_no_form_for_them(syntax: str) -> None:
    with pytest.raises(ValueError, match=f"the {syntax} syntax allows one call per message, found 2"):
        render_calls([ToolCall(name="f"), ToolCall(name="g")], syntax)


def test_a_refused_call_names_its_message(llama3_tokenizer) -> None:
    protocol = load_protocol(llama3_tokenizer, syntax="python_list")
    messages = [Message(role="user", content="go"), Message(role="assistant", tool_calls=[ToolCall(name="a-b")])]
    with pytest.raises(RowError, match=r"^messages\[1\]\.tool_calls: a python_list call needs .*'a-b'\. Drop the row"):
        protocol.encode(messages)


def test_a_syntax_that_a_protocol_has_not_is_refused(llama3_tokenizer) -> None:
    with pytest.raises(
        ConfigError, match=r"^model\.call_syntax: llama3 writes calls as json, .* found 'hermes'\. Name"
    ):
        load_protocol(llama3_tokenizer, syntax="hermes")


@pytest.mark.slow
def test_dialogs_in_every_syntax_are_read_back_and_the_saved_template_writes_them(make_dialog, protocol) -> None:
    rng = random.Random(1)
    parallel = SYNTAXES[protocol.syntax].parallel
    calls = offered = 0
    for _ in range(80):
        one_call = protocol.name == "llama3" or not parallel
        messages, tools = make_dialog(rng, llama3=one_call, typed=False)
        whole = protocol.encode(messages, tools)
        plain = [message.model_dump(exclude={"name"}) for message in messages]
        for message in plain:
            for call in message["tool_calls"]:
                call["arguments"] = json.loads(call["arguments"])
        specs = [spec.model_dump() for spec in tools_of(tools)]
        tokenizer = protocol.tokenizer
        text = tokenizer.apply_chat_template(plain, tools=specs, chat_template=protocol.chat_template, tokenize=False)
        assert tokenizer.backend_tokenizer.decode(whole.ids, skip_special_tokens=False) == text
        for position, message in enumerate(messages):
            if message.role == "assistant" and position:
                start = len(protocol.encode(messages[:position], tools, open_assistant=True).ids)
                found = protocol.parse(protocol.encode(messages[: position + 1], tools).ids[start:])
                assert (found.content, exactly(found.tool_calls)) == (message.content, exactly(message.tool_calls))
                calls += len(message.tool_calls)
        if tools:
            offer = TOOL_PROMPTS[protocol.syntax]
            where = next((m.content for m in messages if m.role == offer.place), "")
            assert text.count(offer.text(tools_of(tools))) == 1
            assert where in text
            offered += 1
    assert calls > 50
    assert offered > 15


def test_parallel_calls_stand_in_one_list(llama3_tokenizer) -> None:
    protocol = load_protocol(llama3_tokenizer, syntax="python_list")
    calls = (ToolCall(name="f", arguments={"a": 1}), ToolCall(name="g", arguments={"from": "x"}))
    ids = protocol.encode([Message(role="user"), Message(role="assistant", tool_calls=calls)]).ids
    text = llama3_tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    assert text.endswith('<|end_header_id|>\n\n[f(a=1), g(**{"from": "x"})]<|eot_id|>')


@pytest.mark.parametrize("syntax", ["json", "function_tag", "python_list"])
def test_a_checkpoint_trained_in_a_syntax_keeps_it_where_none_is_named(syntax, llama3_tokenizer) -> None:
    tokenizer = copy.deepcopy(llama3_tokenizer)
    tokenizer.chat_template = load_protocol(tokenizer, "llama3", syntax).chat_template
    assert load_protocol(tokenizer).syntax == load_protocol(tokenizer, "llama3").syntax == syntax
    assert load_protocol(tokenizer, "auto", "json").syntax == "json"
    tokenizer.chat_template = None
    assert load_protocol(tokenizer).syntax == "json"
