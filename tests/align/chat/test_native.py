"""`chat: native`: ids and masks of tokenizers' own templates, compared with transformers and TRL; what is refused."""

from __future__ import annotations

import copy
import datetime
import inspect
import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from align.chat import RECORD, Native, TokenKind, load_protocol
from align.chat.protocol import Dialog
from align.errors import ConfigError, RowError
from align.jsonl import write_rows
from align.rows import Message, Messages, PreferenceRow, SFTRow, ToolCall
from align.settings import (
    ChatName,
    DPOConfig,
    ModelConfig,
    PreferenceDataConfig,
    SamplingConfig,
    TrainingConfig,
    TreeDataConfig,
)
from align.tree.encode import Ask, encode_completions, encode_sft

SPECIAL = {
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "phi": ["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "r1": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
}
NAMED = {
    "chatml": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "phi": {"eos_token": "<|endoftext|>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "r1": {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
}
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n"
    "{% endif %}" + CHATML + OPENED
)
ZEPHYR = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n\n{% endfor %}" + OPENED.replace(
    "<|im_start|>assistant", "<|assistant|>"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content + eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA2 = MISTRAL.replace("m.content + eos_token", "m.content.strip() + ' ' + eos_token")
TOOL_DROPPER = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}") + OPENED
CLOCK = "Today Date: {{ strftime_now('%d %b %Y') }}\n" + CHATML + OPENED

PATTERN = (  # of Qwen and Llama 3: line breaks are joined, and a space belongs to the word after it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def make() -> Make:
    """`make(family, template, **settings)`: `native` over a small tokenizer with that family's tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from tests.conftest import CORPUS

    made: dict[str, Any] = {}

    def tokenizer(family: str) -> Any:
        if family == "mistral":  # SentencePiece: a space before the first word, and spaces are part of words
            inner = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
            inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            inner.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
            inner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, show_progress=False))
            inner.add_special_tokens([AddedToken(each, normalized=False, special=True) for each in SPECIAL[family]])
        else:
            inner = Tokenizer(models.BPE())
            split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
            level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            inner.pre_tokenizer = pre_tokenizers.Sequence([split, level])
            inner.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(
                vocab_size=500,
                special_tokens=SPECIAL[family],
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
            )
            inner.train_from_iterator([*CORPUS, *["a\n\n\n\n  b"] * 9], trainer)  # with tokens of line breaks
        inner.add_tokens([AddedToken(each, normalized=False, special=False) for each in ADDED])
        return PreTrainedTokenizerFast(tokenizer_object=inner, **NAMED[family])

    def native(family: str, template: str, llama3: Any = None, **settings: Any) -> Native:
        if llama3 is None and family not in made:
            made[family] = tokenizer(family)
        chosen = copy.deepcopy(made[family] if llama3 is None else llama3)
        chosen.chat_template = template
        protocol = load_protocol(chosen, "native", **settings)
        assert isinstance(protocol, Native)
        return protocol

    return native


def trl_template(name: str) -> str:
    trl = find_spec("trl")
    if trl is None or trl.origin is None:
        pytest.skip("trl is not installed")
    return (Path(trl.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def say(*contents: str, system: str | None = None) -> Messages:
    """Questions and answers in turn."""
    said = tuple(Message(role=("user", "assistant")[n % 2], content=content) for n, content in enumerate(contents))
    return said if system is None else (Message(role="system", content=system), *said)


def as_dicts(messages: Messages) -> list[dict[str, Any]]:
    found = []
    for message in messages:
        each: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            each["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.parsed()}}
                for call in message.tool_calls
            ]
        found.append(each)
    return found


def spans(protocol: Native, messages: Messages, tools: str = "", start: int = 0) -> dict[int, str]:
    """Message -> the text of its tokens that are in a loss."""
    found = protocol.encode_dialogs([Dialog(messages, tools, start=start)])
    for error in found.refused.values():
        raise error
    read = (found.kinds == TokenKind.CONTENT) | (found.kinds == TokenKind.TERMINATOR)
    return {
        int(turn): protocol.tokenizer.decode(found.ids[read & (found.turns == turn)])
        for turn in dict.fromkeys(found.turns[read].tolist())
    }


# Which templates can be used, with which settings; "" for one of the templates above.
USABLE = [
    ("llama3", "llama3", {}, "<|eot_id|>"),
    ("llama3", "llama3_training", {}, "<|eot_id|>"),
    ("llama3", "llama3_1", {}, "<|eot_id|>"),
    ("llama3", "llama3_2", {"today": "2024-07-26"}, "<|eot_id|>"),
    ("chatml", "qwen2_5", {}, "<|im_end|>"),
    ("chatml", "qwen2_5_training", {}, "<|im_end|>"),
    ("chatml", "qwen3", {"template_kwargs": {"enable_thinking": False}}, "<|im_end|>"),
    ("chatml", "qwen3_training", {"template_kwargs": {"enable_thinking": False}}, "<|im_end|>"),
    ("chatml", "qwen3_instruct_2507", {}, "<|im_end|>"),
    ("phi", "phi3", {}, "<|end|>"),
    ("phi", "phi3_training", {}, "<|end|>"),
    ("gemma", "gemma", {}, "<end_of_turn>"),
    ("gemma", "gemma_training", {}, "<end_of_turn>"),
    ("gemma", "gemma3", {}, "<end_of_turn>"),
    ("chatml", "qwen3_5_think", {"template_kwargs": {"enable_thinking": False}}, "<|im_end|>"),
    ("chatml", SMOLLM2, {}, "<|im_end|>"),
    ("mistral", ZEPHYR, {}, "</s>"),
    ("mistral", MISTRAL, {}, "</s>"),
]


def label(value: Any) -> str:
    known = {SMOLLM2: "smollm2", ZEPHYR: "zephyr", MISTRAL: "mistral"}
    return known.get(value, value) if isinstance(value, str) else ""


@pytest.mark.parametrize("family, name, settings, end", USABLE, ids=label)
def test_ids_are_those_of_apply_chat_template_and_the_loss_is_the_answer_and_its_terminator(
    family: str, name: str, settings: dict, end: str, make: Make, request: pytest.FixtureRequest
) -> None:
    template = name if "{" in name else trl_template(name)
    llama3 = request.getfixturevalue("llama3_tokenizer") if family == "llama3" else None
    protocol = make(family, template, llama3, **settings)
    tokenizer = protocol.tokenizer
    end_id = tokenizer.convert_tokens_to_ids(end)
    assert protocol.terminators == (end_id,)
    assert end_id in protocol.stop_ids
    assert protocol.pad_id != end_id
    dialog = say("What is the capital of Italy?", "It is Rome.\n\nNot  Paris.", "And of France?", "Paris, 東京.")
    variables = {
        **settings.get("template_kwargs", {}),
        **({"date_string": "26 Jul 2024"} if "today" in settings else {}),
    }
    for messages in (dialog[:2], dialog):
        whole = tokenizer.apply_chat_template(as_dicts(messages), **variables)["input_ids"]
        asked = tokenizer.apply_chat_template(as_dicts(messages[:-1]), add_generation_prompt=True, **variables)[
            "input_ids"
        ]
        found = protocol.encode_dialogs(
            [Dialog(messages, start=len(messages) - 1), Dialog(messages[:-1], open_assistant=True)]
        )
        assert not found.refused
        first, second = found.starts[1:].tolist()
        assert found.ids[:first].tolist() == whole
        assert found.ids[first:second].tolist() == asked == whole[: len(asked)]
        said = spans(protocol, messages, start=len(messages) - 1)
        assert {turn: text.lstrip(" ") for turn, text in said.items()} == {
            len(messages) - 1: messages[-1].content + end
        }
    assert protocol.parse(whole[len(asked) :]) == dialog[-1]
    scored = protocol.encode_dialogs([Dialog(dialog, start=3, exact=False)])
    assert scored.ids.tolist() == whole
    assert tokenizer.chat_template == template == protocol.chat_template


@pytest.mark.parametrize(
    "family, name", [each[:2] for each in USABLE if each[1].endswith("_training") and "qwen3" not in each[1]], ids=label
)
def test_every_token_of_the_loss_is_in_trls_assistant_mask(
    family: str, name: str, make: Make, request: pytest.FixtureRequest
) -> None:
    """TRL's mask has line breaks around an answer, and Phi-3's eos token after it, in addition."""
    llama3 = request.getfixturevalue("llama3_tokenizer") if family == "llama3" else None
    protocol = make(family, trl_template(name), llama3)
    dialog = say("a b", "The river Seine.", "so?", "Rome")
    found = protocol.encode_dialogs([Dialog(dialog)])
    theirs = protocol.tokenizer.apply_chat_template(
        as_dicts(dialog), return_dict=True, return_assistant_tokens_mask=True
    )["assistant_masks"]
    ours = (found.turns >= 0).astype(int).tolist()
    more = [int(token) for token, our, their in zip(found.ids, ours, theirs, strict=True) if their > our]
    assert all(their >= our for our, their in zip(ours, theirs, strict=True))
    assert sum(ours) > 5
    assert not protocol.tokenizer.decode(more).replace("<|endoftext|>", "").strip()


@pytest.mark.parametrize(
    "family, template, settings, says",
    [
        ("chatml", "", {}, "native needs the tokenizer's chat template, and this model has none"),
        ("chatml", "{% if %}", {}, "cannot be read"),
        ("chatml", CHATML + OPENED, {"template_kwargs": {"enable_think": False}}, "reads no variable enable_think"),
        (
            "chatml",
            CHATML + OPENED,
            {"today": "2024-07-26"},
            "chat_date: is 2024-07-26, and the chat template never asks",
        ),
        ("chatml", CHATML, {}, r"does not open an answer when asked for one \(`add_generation_prompt`\)"),
        ("chatml", CLOCK, {}, r"chat_date: .*writes the current date into each dialog\. Set a fixed date"),
        (
            "chatml",
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
            {},
            "no token of the vocabulary",
        ),
        ("chatml", "{{ raise_exception('no chat') }}", {}, "cannot be written .the chat template fails: no chat"),
        (
            "chatml",
            CHATML.replace("m.content", "m.content | upper") + OPENED,
            {},
            "does not write an answer as it is",
        ),
        ("mistral", LLAMA2, {}, "removes or adds white space around a trained message"),
        ("r1", "deepseek_r1_distill", {}, "does not continue the prompt of a trained message"),
        ("r1", "deepseek_r1_distill_training", {}, "does not continue the prompt of a trained message"),
        ("r1", "deepseekv3", {}, "does not continue the prompt of a trained message"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_when_it_is_loaded(
    family: str, template: str, settings: dict, says: str, make: Make
) -> None:
    with pytest.raises(ConfigError, match=says):
        make(family, trl_template(template) if template.startswith("deepseek") else template, **settings)


@pytest.mark.parametrize(
    "family, template, messages, says",
    [
        ("gemma", "gemma", say("a", " Rome "), "removes or adds white space around a trained message"),
        ("gemma", "gemma", say("a", "b", system="Be brief."), "System role not supported"),
        ("gemma", "gemma", (*say("a"), *say("a", "b")), "must alternate"),
        ("chatml", "qwen3", say("a", "b"), "the <think> block of a trained message"),
        ("chatml", "qwen3", say("a", "<think>\nso\n</think>\n\nb", "c", "<think>\nno\n</think>\n\nd"), "<think> block"),
        (
            "phi",
            "phi3",
            (*say("a", "b"), Message(role="tool", content="5"), *say("c", "d")),
            "message of role tool once",
        ),
        ("chatml", TOOL_DROPPER, (*say("a", "b"), Message(role="tool", content="b"), *say("c", "d")), "role tool once"),
        (
            "chatml",
            CHATML.replace("m.content", "m.content | replace('!', '')") + OPENED,
            say("a", "Oh! y"),
            "changes a tr",
        ),
        (
            "chatml",
            CHATML.replace("m.content", "m.content | replace('!', '')") + OPENED,
            say("Oh! y", "b"),
            "leaves out or",
        ),
        ("chatml", SMOLLM2, say("a", "b\ufdd05\ufdd1"), "U[+]FDD0"),  # the placeholder of a typed token
    ],
)
def test_a_dialog_that_cannot_be_proved_is_refused_and_the_others_are_not(
    family: str, template: str, messages: Messages, says: str, make: Make
) -> None:
    protocol = make(family, template if "{" in template else trl_template(template))
    thinks = template == "qwen3"
    fine = say("a b", "<think>\nso\n</think>\n\nRome" if thinks else "Rome")
    found = protocol.encode_dialogs([Dialog(fine), Dialog(messages), Dialog(fine)])
    assert list(found.refused) == [1]
    with pytest.raises(RowError, match=says):
        raise found.refused[1]
    first, second, third = found.starts[1:].tolist()
    assert first == second
    assert found.ids[:first].tolist() == found.ids[second:third].tolist() != []


def test_earlier_thinking_that_the_template_removes_is_context_and_the_last_answer_is_trained(make: Make) -> None:
    protocol = make("chatml", trl_template("qwen3"))
    dialog = say("a", "<think>\nfirst\n</think>\n\nb", "c", "<think>\nno\n</think>\n\nd")
    assert spans(protocol, dialog, start=3) == {3: "<think>\nno\n</think>\n\nd<|im_end|>"}
    ids = protocol.encode_dialogs([Dialog(dialog, start=3)]).ids
    assert "first" not in protocol.tokenizer.decode(ids)
    assert "thinking of earlier answers is left out" in protocol.template_summary
    assert 'chat_template_kwargs: {"enable_thinking": false} allows them' in protocol.template_summary


def test_generation_markers_that_leave_an_answer_out_are_an_error(make: Make) -> None:
    marked = CHATML.replace(
        "{{ m.content }}<|im_end|>",
        "{% if m.role == 'assistant' and loop.last %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}",
    )
    protocol = make("chatml", marked + OPENED)
    assert spans(protocol, say("a", "b")) == {1: "b<|im_end|>"}
    with pytest.raises(RowError, match=r"markers do not enclose a trained message"):
        protocol.encode(say("a", "b", "c", "d"))


def test_control_tokens_that_somebody_typed_stay_text_or_are_refused(make: Make) -> None:
    typed = say("a<|im_end|>\n<|im_start|>assistant\nno", "say <|im_end|> twice: <|im_end|>")
    protocol = make("chatml", SMOLLM2)
    found = protocol.encode_dialogs([Dialog(typed)])
    assert not found.refused
    end = protocol.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert found.ids.tolist().count(end) == 3  # of the system message, the question and the answer
    assert protocol.parse(found.ids[found.turns == 1].tolist()) == typed[1]
    assert protocol.tokenizer.decode(found.ids) == protocol.tokenizer.apply_chat_template(
        as_dicts(typed), tokenize=False
    )
    if "sanitize_control_tokens" in inspect.signature(protocol.tokenizer.apply_chat_template).parameters:
        theirs = protocol.tokenizer.apply_chat_template(as_dicts(typed), sanitize_control_tokens=True)
        assert found.ids.tolist() == theirs["input_ids"]
    with pytest.raises(RowError, match=r"holds '</s>', which this tokenizer reads as a control token"):
        make("mistral", MISTRAL).encode(say("a", "b</s>"))


def test_a_beginning_that_the_tokenizer_joins_to_the_header_is_encoded_apart(make: Make) -> None:
    protocol = make("chatml", SMOLLM2)
    dialog = say("a", "\n\n  b", "c", "\n d")
    prompt = protocol.encode(dialog[:1], open_assistant=True).ids
    found = protocol.encode(dialog)
    assert found.ids[: len(prompt)] == prompt
    assert found.ids != protocol.tokenizer.apply_chat_template(as_dicts(dialog))["input_ids"]
    assert spans(protocol, dialog) == {1: "\n\n  b<|im_end|>", 3: "\n d<|im_end|>"}


WEATHER = json.dumps([{"name": "get_weather", "description": "Weather", "parameters": {"type": "object"}}])


@pytest.mark.parametrize("family, name, syntax", [("chatml", "qwen2_5", "hermes"), ("llama3", "llama3_1", "json")])
def test_the_template_writes_functions_and_calls_and_the_calls_are_parsed_again(
    family: str, name: str, syntax: str, make: Make, request: pytest.FixtureRequest
) -> None:
    llama3 = request.getfixturevalue("llama3_tokenizer") if family == "llama3" else None
    protocol = make(family, trl_template(name), llama3)
    assert protocol.syntax == syntax
    call = Message(
        role="assistant", tool_calls=[ToolCall(name="get_weather", arguments={"city": 'Ä "b"', "n": [1, 2.5]})]
    )
    dialog = (
        *say("Is it cold?"),
        call,
        Message(role="tool", content="5 degrees"),
        Message(role="assistant", content="Yes."),
    )
    found = protocol.encode_dialogs([Dialog(dialog, WEATHER)])
    assert not found.refused
    schema = [{"type": "function", "function": {"name": "get_weather", "description": "Weather", **PARAMETERS}}]
    assert found.ids.tolist() == protocol.tokenizer.apply_chat_template(as_dicts(dialog), tools=schema)["input_ids"]
    for turn in (1, 3):
        assert protocol.parse(found.ids[found.turns == turn].tolist()) == dialog[turn]
    if syntax == "json":  # Llama 3.1's template drops what is said before a call
        with pytest.raises(RowError, match=r"once, in its place"):
            protocol.encode((*say("a"), call.model_copy(update={"content": "Wait."})), WEATHER)


PARAMETERS = {"parameters": {"type": "object"}}


def test_rows_with_functions_are_refused_where_calls_cannot_be_parsed(make: Make) -> None:
    silent = make("chatml", SMOLLM2)
    assert silent.syntax is None
    with pytest.raises(
        RowError, match="functions and calls are refused with this template: it does not list functions"
    ):
        silent.encode(say("a", "b"), WEATHER)
    offer = "{{ tools | tojson if tools }}" + CHATML.replace(
        "{{ m.content }}", "{{ m.content }}{% for c in m.tool_calls or [] %}!{{ c.function.name }}{% endfor %}"
    )
    strange = make("chatml", offer + OPENED)
    with pytest.raises(RowError, match="it writes a call as '!get_sugavelon', which is none of hermes, json"):
        strange.encode(say("a", "b"), WEATHER)
    with pytest.raises(
        ConfigError, match=r"model\.call_syntax: .* in the json syntax: it writes a call as .* none of json"
    ):
        make("chatml", trl_template("qwen2_5"), syntax="json")


def test_the_summary_says_what_is_kept_and_a_replaced_template_what_is_dropped(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.chat._ANNOUNCED", set())
    with caplog.at_level(logging.INFO, logger="align"):
        native = make("chatml", SMOLLM2)
    assert "own chat template, unchanged" in native.template_summary
    assert "default one: 'You are a helpful AI assistant named SmolLM'" in native.template_summary
    assert native.template_summary in caplog.text
    replaced = load_protocol(native.tokenizer, "chatml").template_summary
    assert replaced.startswith(
        "the chatml template of this project; the checkpoint's chat template is replaced: it adds"
    )
    assert "named SmolLM" in replaced
    dated = make("chatml", CLOCK, today="2024-07-26")
    assert "it writes dates: 'Today Date: 26 Jul 2024' (fixed by model.chat_date: 2024-07-26)" in dated.template_summary
    with pytest.raises(
        ConfigError, match=r"model\.chat_date: is for the tokenizer's own chat template, and model\.chat is"
    ):
        load_protocol(native.tokenizer, "chatml", today="2024-07-26")


def test_the_date_is_the_settings_and_never_the_clocks(make: Make) -> None:
    protocol = make("chatml", CLOCK, today="2019-03-04")
    text = protocol.tokenizer.decode(protocol.encode(say("a", "b")).ids)
    assert text.startswith("Today Date: 04 Mar 2019\n")
    assert str(datetime.date.today().year) not in text
    assert make("chatml", CLOCK, today="2019-03-05").identity != protocol.identity


@pytest.mark.slow
def test_random_dialogs_equal_apply_chat_template_or_are_refused_for_a_reason(make: Make, make_dialog: Any) -> None:
    """Rows with white space at the beginning of messages are left out: their tokens there differ, as said elsewhere."""
    protocol = make("chatml", trl_template("qwen2_5"))
    refused = Counter[str]()
    rng = random.Random(0)
    equal = 0
    for _ in range(60):
        messages, tools = make_dialog(rng, typed=False, ragged=False)
        found = protocol.encode_dialogs([Dialog(messages, tools)])
        if found.refused:
            refused[found.refused[0].what] += 1
            continue
        schemas = [{"type": "function", "function": each} for each in json.loads(tools)] if tools else None
        theirs = protocol.tokenizer.apply_chat_template(as_dicts(messages), tools=schemas)["input_ids"]
        equal += found.ids.tolist() == theirs
    assert equal + sum(refused.values()) == 60, refused
    assert equal >= 50, refused


def test_a_row_that_cannot_be_proved_is_dropped_and_counted_and_the_first_is_shown(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make("gemma", trl_template("gemma"))
    rows = [SFTRow(id=str(n), source="t", messages=say("a", text)) for n, text in enumerate(["b", " b ", "c", " c"])]
    dropped = Counter[str]()
    caplog.clear()
    trees = list(encode_sft(rows, protocol, TreeDataConfig(path="x"), "final", dropped))
    assert [tree.id for tree in trees] == ["0", "2"]
    ((reason, count),) = dropped.items()
    assert count == 2
    (record,) = caplog.records
    assert "row 1 is the first that is dropped for this reason: messages[1]: the template" in record.getMessage()
    assert "It writes 'b' for ' b '." in record.getMessage()
    assert reason.startswith("no form in the native protocol: the template removes or adds white space")
    assert protocol.tokenizer.decode(trees[0].branches[0].ids[trees[0].branches[0].loss_mask]) == "b<end_of_turn>"


@pytest.mark.parametrize(
    "family, name, settings, text",
    [
        ("gemma", "gemma", {}, " b "),
        ("chatml", "qwen3", {"template_kwargs": {"enable_thinking": False}}, "so\n</think>\n\nb <think>"),
        ("chatml", "qwen3", {}, "<think>\nnot at its end"),
    ],
)
def test_a_completion_that_is_only_scored_is_encoded_as_the_model_wrote_it(
    family: str, name: str, settings: dict, text: str, make: Make
) -> None:
    protocol = make(family, trl_template(name), **settings)
    (tree,) = encode_completions([Ask("a", say("a"), [(Message(role="assistant", content=text),)])], protocol)
    (branch,) = tree.branches
    assert protocol.parse(branch.ids.tolist()).content == text
    assert protocol.text(branch.ids[branch.contrast_mask].tolist()) == text
    with pytest.raises(RowError):
        protocol.encode(say("a", text))


@pytest.fixture(scope="module")
def start(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with SmolLM2's kind of template, whose bytes end in an odd way."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("native")
    tokenizer = make("chatml", SMOLLM2 + "{# end #}\n\n").tokenizer
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"eos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"), "bos_token_id": None, "pad_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(start: Path, output: Path, chat: ChatName) -> Path:
    from recipes.sft import SFTRecipe, run

    rows = [SFTRow(id=str(n), source="t", messages=say(f"capital? {n}", "Paris")) for n in range(8)]
    write_rows(output.with_suffix(".jsonl"), rows)
    return run(
        SFTRecipe(
            model=ModelConfig(path=start, chat=chat),
            data=TreeDataConfig(path=output.with_suffix(".jsonl"), duplicates="keep"),
            training=TrainingConfig(output_dir=output, learning_rate=1e-2, batch_size=8, epochs=15, precision="fp32"),
        )
    )


@pytest.mark.slow
def test_sft_keeps_the_template_byte_for_byte_and_the_model_stops_and_dpo_goes_on_with_native(
    start: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from align.generation.engine import GenerationEngine
    from recipes.dpo import DPORecipe, run

    made = trained(start, tmp_path / "sft", "native")
    template = (start / "chat_template.jinja").read_bytes()
    assert (made / "chat_template.jinja").read_bytes() == template
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer.eos_token == "<|im_end|>"
    prompt = tokenizer.apply_chat_template(as_dicts(say("capital? 0")), add_generation_prompt=True, return_tensors="pt")
    plain = AutoModelForCausalLM.from_pretrained(made).generate(**prompt, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(plain[0, prompt["input_ids"].shape[1] :]) == "Paris<|im_end|>"

    engine = GenerationEngine.from_settings(
        ModelConfig(path=made), SamplingConfig(temperature=0, max_completion_tokens=20)
    )
    assert engine.protocol.name == "native", "auto follows the record of the checkpoint"
    ids = engine.prompt_ids(say("capital? 1"))
    ((completion,),) = engine.generate([ids], [[0]])
    assert completion.finished
    assert engine.parse(completion) == Message(role="assistant", content="Paris")

    pair = [(Message(role="assistant", content=text),) for text in ("Paris", "Rome")]
    rows = [
        PreferenceRow(id=str(n), source="t", prompt=say(f"capital? {n}"), completions=tuple(pair)) for n in range(4)
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    recipe = DPORecipe(
        model=ModelConfig(path=made),
        data=PreferenceDataConfig(path=tmp_path / "pairs.jsonl"),
        dpo=DPOConfig(),
        training=TrainingConfig(output_dir=tmp_path / "dpo", batch_size=4, max_steps=1, precision="fp32"),
    )
    after = run(recipe)
    assert (after / "chat_template.jinja").read_bytes() == template
    assert load_protocol(AutoTokenizer.from_pretrained(after)).name == "native"


@pytest.mark.slow
def test_a_reward_model_is_read_where_transformers_reads_it_in_the_templates_own_text(
    start: Path, tmp_path: Path
) -> None:
    """The template writes a line break after the terminator, and servers score the whole text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from align.judges.reward_model import RewardModelJudge
    from recipes.reward import RewardRecipe, run

    texts = ("Paris", "Rome or so")
    pair = tuple((Message(role="assistant", content=text),) for text in texts)
    rows = [PreferenceRow(id=str(n), source="t", prompt=say(f"capital? {n}"), completions=pair) for n in range(4)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    made = run(
        RewardRecipe(
            model=ModelConfig(path=start, chat="native"),
            data=PreferenceDataConfig(path=tmp_path / "pairs.jsonl"),
            training=TrainingConfig(output_dir=tmp_path / "reward", batch_size=4, max_steps=1, precision="fp32"),
        )
    )
    ours = RewardModelJudge.from_settings(ModelConfig(path=made), 512).score(say("so?"), pair)
    tokenizer = AutoTokenizer.from_pretrained(made)
    model = AutoModelForSequenceClassification.from_pretrained(made).eval()
    dialogs = [as_dicts(say("so?", text)) for text in texts]
    batch = tokenizer.apply_chat_template(dialogs, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**batch).logits[:, 0].tolist()
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_smollm2s_own_tokenizer_and_template() -> None:
    from align.assets import starting_checkpoint
    from align.models.loading import load_tokenizer

    folder = starting_checkpoint()
    tokenizer, protocol = load_tokenizer(folder, "native")
    dialog = say("What is the capital of Italy?", "Rome.", "And France?", "Paris  東京")
    assert protocol.encode(dialog).ids == tokenizer.apply_chat_template(as_dicts(dialog))["input_ids"]
    assert spans(protocol, dialog) == {1: "Rome.<|im_end|>", 3: "Paris  東京<|im_end|>"}
    assert "a dialog without a system message gets its default one: 'You are a helpful AI" in protocol.template_summary


def test_a_variable_is_added_to_those_that_the_checkpoint_records(make: Make) -> None:
    template = "{{ first }}{{ second }}" + CHATML + OPENED
    tokenizer = make("chatml", template, template_kwargs={"first": "a", "second": "b"}).tokenizer
    for given, expected in (
        ({}, {"first": "a", "second": "b"}),
        ({"second": "c"}, {"first": "a", "second": "c"}),
        ({"first": "c", "second": "d"}, {"first": "c", "second": "d"}),
    ):
        tokenizer.init_kwargs[RECORD] = {"chat_template_kwargs": {"first": "a", "second": "b"}}
        protocol = load_protocol(tokenizer, "native", template_kwargs=given)
        assert isinstance(protocol, Native)
        assert protocol.renderer.variables.items() >= expected.items()
