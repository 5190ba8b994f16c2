"""What a tokenizer's own chat template does, found out when `native` is loaded: by rendering dialogs of strange words.

Gives the terminators, the call syntax and what the log says of the template, and refuses one that cannot be used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.chat.calls import SYNTAXES, CallSyntax, parse_calls, same_calls
from align.chat.protocol import ChatProtocol
from align.chat.rendered_texts import control_ids, plain_ids
from align.chat.rendering import Renderer
from align.errors import ConfigError, RowError
from align.rows import Message, ToolCall, ToolSpec, tools_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Words that no template contains, trims or changes.
SYSTEM = Message(role="system", content="pirazotek")
QUESTION = Message(role="user", content="beyonatrip")
ANSWER = Message(role="assistant", content="dolimunef")
THOUGHT = Message(role="assistant", content="<think>\nkaxolirum\n</think>\n\ndolimunef")
TOOLS = tools_text([ToolSpec(name="get_sugavelon", description="d")])
CALLS = (
    ToolCall(name="get_sugavelon", arguments={"city": 'Zürich "x"\n', "n": [1, 2.5, True, None], "deep": {"k": "v"}}),
)
_NO_THINKING: tuple[dict[str, Any], ...] = ({"enable_thinking": False}, {"thinking": False})
"""Variables by which published templates write no thinking."""


def find_terminators(tokenizer: PreTrainedTokenizerFast, renderer: Renderer) -> tuple[tuple[int, ...], int]:
    """The tokens after an answer, plain or with thinking, and the token that begins a message.

    Raises ConfigError if no token of the vocabulary ends an answer.
    """
    name = tokenizer.name_or_path or "this model"
    try:
        asked, opened = (renderer.render([QUESTION], open_assistant=opening).text for opening in (False, True))
        written = [renderer.render([QUESTION, answer]).text for answer in (ANSWER, THOUGHT)]
    except RowError as error:
        raise _unusable(name, f"a question and an answer cannot be written ({error.what})") from None
    found: list[int] = []
    for text in written:
        tail = text.rpartition(ANSWER.content)[2]
        after = (
            token for token in plain_ids(tokenizer, tail) if tokenizer.decode([token]).strip()
        )  # white space may come before
        token = next(after, None)
        if token is not None and ANSWER.content in text and token in tokenizer.added_tokens_decoder:
            found.append(token)
    if not any(ANSWER.content in text for text in written):
        raise _unusable(name, f"it does not write an answer as it is, but {written[0][-60:]!r}")
    if not found:
        what = f"no token of the vocabulary ends an answer: {written[0][-60:]!r} follows the question"
        raise _unusable(name, what)
    control = control_ids(tokenizer, found)
    header, prompt = plain_ids(tokenizer, opened.removeprefix(asked)), plain_ids(tokenizer, opened)
    opening = [token for token in (*header, *prompt) if token in control and token not in found]
    return tuple(dict.fromkeys(found)), opening[0] if opening else prompt[0]


@dataclass(frozen=True, slots=True)
class Calls:
    """How a template writes calls."""

    syntax: CallSyntax | None
    """None if what it writes cannot be parsed."""
    terminator: int | None = None
    """The token after a call."""
    why_not: str = ""
    """Why rows with functions and calls are refused."""


def find_calls(protocol: ChatProtocol, renderer: Renderer, named: CallSyntax | None) -> Calls:
    """The syntax in which the template writes calls.

    A call is rendered, cut at the first control token, decoded and parsed: it must be the same again.
    named: the only syntax to try. Raises ConfigError if the template does not write it.
    """
    found = _tried_calls(protocol, renderer, SYNTAXES if named is None else (named,))
    if named is not None and found.syntax is None:
        what = f"native cannot parse the calls of this chat template in the {named} syntax: {found.why_not}"
        raise ConfigError("model.call_syntax", what, "Remove this setting: native finds the syntax out")
    return found


def _tried_calls(protocol: ChatProtocol, renderer: Renderer, syntaxes: Iterable[CallSyntax]) -> Calls:
    made = Message(role="assistant", tool_calls=CALLS)
    try:
        prompt = renderer.render([QUESTION], TOOLS, open_assistant=True).text
        written = renderer.render([QUESTION, made], TOOLS).text
    except RowError as error:
        return Calls(None, why_not=f"a call cannot be written ({error.what})")
    if CALLS[0].name not in prompt:
        return Calls(None, why_not="it does not list functions")
    if not written.startswith(prompt):
        return Calls(None, why_not="a call does not follow the prompt of an answer")
    control = control_ids(protocol.tokenizer, protocol.stop_ids)
    said = plain_ids(protocol.tokenizer, written)[len(plain_ids(protocol.tokenizer, prompt)) :]
    end = next((place for place, token in enumerate(said) if token in control), None)
    if not end:
        what = "begins with a control token" if end == 0 else "is not ended by a control token"
        return Calls(None, why_not=f"a call {what}: {written.removeprefix(prompt)[:100]!r}")
    text = protocol.text(said[:end])
    for syntax in syntaxes:
        parsed = parse_calls(text, syntax)
        if not parsed.malformed and same_calls(parsed.calls, CALLS):
            return Calls(syntax, said[end])
    return Calls(None, why_not=f"it writes a call as {text[:100]!r}, which is none of {', '.join(syntaxes)}")


def require_usable(protocol: ChatProtocol, renderer: Renderer) -> tuple[Message, list[str]]:
    """An answer that can be encoded, plain or with thinking, and what to say about it.

    Raises ConfigError if both are refused.
    """
    name = protocol.tokenizer.name_or_path or "this model"
    errors = []
    for answer in (ANSWER, THOUGHT):
        try:
            protocol.encode([QUESTION, answer])
        except RowError as error:
            errors.append(error)
        else:
            if answer is ANSWER:
                return answer, []
            note = "answers without a <think> block are refused"
            variables = _without_thinking(renderer)
            return answer, [f"{note} (model.chat_template_kwargs: {variables} allows them)" if variables else note]
    variables = _without_thinking(renderer)
    if variables:
        raise _unusable(name, errors[0].what, f"Set model.chat_template_kwargs: {variables}")
    asked, opened = (renderer.render([QUESTION], open_assistant=opening).text for opening in (False, True))
    if asked == opened and "control token" in errors[0].what:  # that of the header, which the prompt leaves out
        raise _unusable(name, "it does not open an answer when asked for one (`add_generation_prompt`)")
    detail, _, _ = errors[0].how.partition("Change or drop")
    raise _unusable(name, f"{errors[0].what} ({detail.strip(' .')})" if detail else errors[0].what)


def _without_thinking(renderer: Renderer) -> str:
    """The variables with which a plain answer follows its prompt; empty if none of those known does it."""
    for variables in ({}, *_NO_THINKING):
        try:
            prompt = renderer.render([QUESTION], open_assistant=True, variables=variables).text
            whole = renderer.render([QUESTION, ANSWER], variables=variables).text
        except RowError:
            continue
        if whole.removeprefix(prompt).startswith(ANSWER.content):
            return json.dumps(variables) if variables else ""  # thinking is not the reason
    return ""


def what_it_adds(renderer: Renderer, today: str | None) -> list[str]:
    """What the template writes in addition to the messages: a default system message, dates."""
    notes = []
    plain = renderer.render([QUESTION], open_assistant=True).text.partition(QUESTION.content)[0]
    try:
        named = renderer.render([SYSTEM, QUESTION], open_assistant=True).text
    except RowError as error:
        notes.append(f"dialogs with a system message are refused ({error.what})")
    else:
        before, _, rest = named.partition(SYSTEM.content)
        between = rest.partition(QUESTION.content)[0]
        # before '<|im_start|>system\n', between '<|im_end|>\n<|im_start|>user\n', and plain has a text between the two
        if plain.startswith(before) and plain.endswith(between) and len(plain) > len(before) + len(between):
            added = " ".join(plain[len(before) : len(plain) - len(between)].split())
            notes.append(f"a dialog without a system message gets its default one: {added[:100]!r}")
        plain = before + plain
    dates = dict.fromkeys(line.strip() for line in plain.splitlines() if re.search(r"\bdate\b", line, re.IGNORECASE))
    if dates:
        fixed = f" (fixed by model.chat_date: {today})" if renderer.asked_for_today and today else ""
        notes.append(f"it writes dates: {', '.join(map(repr, dates))}{fixed}")
    elif renderer.asked_for_today:
        notes.append(f"it writes the date {today}, fixed by model.chat_date")
    return notes


def what_it_changes(protocol: ChatProtocol, renderer: Renderer, answer: Message) -> list[str]:
    """What the template does to dialogs that some rows may have, and which rows are refused for it.

    answer: one that `require_usable` has found to be usable.
    """
    notes = []
    try:
        later = renderer.render([QUESTION, THOUGHT, QUESTION], open_assistant=True).text
        if "kaxolirum" not in later:
            notes.append("thinking of earlier answers is left out")
    except RowError:
        later = ""
    try:
        protocol.encode([QUESTION, answer, QUESTION.model_copy(update={"content": "pirazotek"}), answer])
    except RowError as error:
        notes.append(f"several answers of one dialog cannot be trained together ({error.what})")
    spaced = " dolimunef "
    text = renderer.render([QUESTION, ANSWER.model_copy(update={"content": spaced})]).text
    if spaced not in text:
        notes.append("white space around messages is removed, and answers that have some are refused")
    return notes


def _unusable(
    name: str, reason: str, how: str = "Use a protocol of this project: model.chat: chatml or llama3"
) -> ConfigError:
    return ConfigError("model.chat", f"native cannot be used with the chat template of {name}: {reason}", how)
