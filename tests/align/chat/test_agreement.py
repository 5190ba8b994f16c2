"""Which checkpoints are taken for a protocol by themselves: those whose own chat template writes the same dialogs."""

from __future__ import annotations

import copy
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from align.chat import PROTOCOLS, ChatML, Llama3, load_protocol
from align.chat.agreement import compare
from align.errors import ConfigError
from align.rows import Message

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LLAMA3 = (
    "{% for m in messages %}{{ bos_token if loop.first }}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TULU = (
    "<|begin_of_text|>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' %}<|end_of_text|>{% endif %}\n{% endfor %}"
)
R1 = (
    "<|begin_of_text|>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}"
    "<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
)
PHI4 = "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen, a helpful assistant.<|im_end|>\n{% endif %}"
)
DATES = "{{ bos_token }}" + LLAMA3.replace("{{ bos_token if loop.first }}", "").replace(
    "<|end_header_id|>\n\n{{", "<|end_header_id|>\n\n{{ 'Today Date: 26 Jul 2024\n\n' if m.role == 'system' }}{{"
)


def with_template(tokenizer: Any, template: str, *, special: tuple[str, ...] = (), added: tuple[str, ...] = ()) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.add_special_tokens({"additional_special_tokens": list(special)})
    changed.add_tokens(list(added))
    changed.chat_template = template
    return changed


@pytest.mark.parametrize(
    "family, template, special, added, says",
    [
        ("llama3", TULU, (), (), r"not as llama3 does: .*<\|user\|>"),
        (
            "llama3",
            R1,
            (),
            ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
            "not as llama3 does: .*<｜User｜>",
        ),
        ("chatml", PHI4, ("<|im_sep|>",), (), r"not as chatml does: .*user<\|im_sep\|>"),
        ("chatml", PHI4, (), ("<|im_sep|>",), r"<\|im_sep\|>"),
        ("chatml", PHI4, (), (), r"<\|im_sep\|>"),  # as text
        ("chatml", CHATML.replace("m.role }}", "'human' if m.role == 'user' else m.role }}"), (), (), "human"),
        ("chatml", CHATML.replace("{{ m.role }}\n", "{{ m.role }}: "), (), (), "user: "),
        ("chatml", CHATML.replace("<|im_end|>", "<|endoftext|>"), (), (), r"<\|endoftext\|>"),
        ("chatml", CHATML + OPENED + "<|endoftext|>", (), (), r"<\|endoftext\|>"),
        ("chatml", CHATML.replace("<|im_start|>", "<|im_start|><|im_start|>"), (), (), "before the first message"),
        ("chatml", "<|im_start|>notes\nread<|im_end|>\n" + CHATML + OPENED, (), (), "notes"),
        ("chatml", CHATML + OPENED.replace("assistant", "bot"), (), (), "<|im_start|>bot"),
        ("chatml", CHATML.replace("m.content", "m.content | upper") + OPENED, (), (), "each message once"),
        ("chatml", "{{ raise_exception('no chat') }}", (), (), "its template fails: no chat"),
        ("llama3", LLAMA3.replace("<|eot_id|>", "<|end_of_text|>"), (), (), r"<\|end_of_text\|>"),
        ("llama3", LLAMA3.replace("<|end_header_id|>\n\n", "\n"), (), (), "before the first message"),
    ],
)
def test_a_template_with_other_control_tokens_or_roles_is_refused(
    family: str, template: str, special: tuple, added: tuple, says: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(f"{family}_tokenizer")
    tokenizer = with_template(tokenizer, template, special=special, added=added)
    with pytest.raises(
        ConfigError, match=rf"^model\.chat: the chat template of this model writes dialogs (.|\n)*{says}"
    ):
        load_protocol(tokenizer)


@pytest.mark.parametrize(
    "family, template, differences",
    [
        ("chatml", CHATML + OPENED, []),
        ("chatml", CHATML, ["it does not open an answer"]),
        ("chatml", CHATML.replace("\n{% endfor", "{% endfor") + OPENED, ["other white space between messages"]),
        ("chatml", DEFAULT_SYSTEM + CHATML + OPENED, ["adds the system message 'You are Qwen, a helpful assistant.'"]),
        ("chatml", "<s>" + CHATML + OPENED, ["it begins with <s>, not with no token"]),
        ("chatml", CHATML + OPENED.replace("\n{%", "\n<think>\n{%"), ["it writes '<think>' before an answer"]),
        ("llama3", LLAMA3, []),
        ("llama3", LLAMA3.replace("{{ bos_token if loop.first }}", ""), ["it begins with no token, not with"]),
        ("llama3", DATES, ["it adds 'Today Date: 26 Jul 2024' before the system prompt"]),
        (
            "llama3",
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + LLAMA3,
            ["it takes no system message (its template fails: no system role)"],
        ),
    ],
)
def test_a_template_with_harmless_differences_is_replaced_and_they_are_reported(
    family: str,
    template: str,
    differences: list[str],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("align.chat._ANNOUNCED", set())
    tokenizer = with_template(request.getfixturevalue(f"{family}_tokenizer"), template)
    if template.startswith("<s>"):
        tokenizer.add_special_tokens({"bos_token": "<s>"})
    with caplog.at_level(logging.INFO, logger="align"):
        assert load_protocol(tokenizer).name == load_protocol(tokenizer).name == family
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("this model: the checkpoint's chat template is replaced: it ")
    for difference in differences:
        assert difference in line
    assert line.count("; ") == len(differences)  # the last is always the way in which calls are written


def test_a_template_of_ours_is_no_difference_in_any_call_syntax(chatml_tokenizer: Any, llama3_tokenizer: Any) -> None:
    for tokenizer in (chatml_tokenizer, llama3_tokenizer):
        for protocol in (type(load_protocol(tokenizer)),):
            for syntax in protocol.syntaxes:
                own = with_template(tokenizer, protocol(tokenizer, syntax).chat_template)
                assert compare(own, protocol(own, syntax)).harmless == ()
                assert load_protocol(own).name == protocol.name


def test_of_two_protocols_whose_tokens_are_there_the_templates_own_is_taken(llama3_tokenizer: Any) -> None:
    """Hermes 3 writes ChatML over Llama 3.1's vocabulary."""
    hermes = with_template(llama3_tokenizer, CHATML + OPENED, special=("<|im_start|>", "<|im_end|>"))
    protocol = load_protocol(hermes)
    assert isinstance(protocol, ChatML)
    dialog = [Message(role="user", content="Hi"), Message(role="assistant", content="Yo")]
    own = hermes.apply_chat_template([{"role": m.role, "content": m.content} for m in dialog], return_dict=False)
    assert [*protocol.encode(dialog).ids, *hermes.encode("\n", add_special_tokens=False)] == own
    assert isinstance(load_protocol(with_template(hermes, LLAMA3)), Llama3)


def test_a_protocol_that_is_named_replaces_any_template_with_a_warning(
    llama3_tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.chat._ANNOUNCED", set())
    protocol = load_protocol(with_template(llama3_tokenizer, TULU), "llama3")
    assert protocol.name == "llama3"
    (record,) = [record for record in caplog.records if "replaced" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "before the first message it writes '<|user|>" in record.getMessage()


@pytest.mark.slow
@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_smollm2_is_chatml_and_its_default_system_message_is_reported() -> None:
    from transformers import AutoTokenizer

    from align.assets import starting_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(starting_checkpoint())
    protocol = load_protocol(tokenizer)
    found = compare(tokenizer, protocol)
    assert (protocol.name, found.conflict) == ("chatml", None)
    assert any("You are a helpful AI assistant named SmolLM" in line for line in found.harmless)


PUBLISHED = {
    "chatml": ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl"],
    "llama3": ["llama3", "llama3_1", "llama3_2"],
    "": ["phi3", "gemma", "deepseek_r1_distill", "glm4moe", "gptoss", "cohere"],
}


@pytest.mark.parametrize("name", [name for names in PUBLISHED.values() for name in names])
def test_published_templates_are_taken_for_what_they_are(name: str, request: pytest.FixtureRequest) -> None:
    """TRL carries the templates of well-known models as they are published."""
    trl = find_spec("trl")
    if trl is None or trl.origin is None:
        pytest.skip("trl is not installed")
    text = (Path(trl.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    for family, protocol in PROTOCOLS.items():
        tokenizer = with_template(request.getfixturevalue(f"{family}_tokenizer"), text)
        found = compare(tokenizer, protocol(tokenizer))
        assert (found.conflict is None) == (name in PUBLISHED[family]), (family, found)
