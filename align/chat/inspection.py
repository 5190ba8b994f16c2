"""What a tokenizer's own chat template does, found out when `native` is loaded: by rendering dialogs of strange words.

Gives the terminators, the call syntax and what the log says of the template, and refuses one that cannot be used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from align.chat.calls import SYNTAXES, CallSyntax, parse_calls, same_calls
from align.chat.protocol import ChatProtocol
from align.chat.rendering import Renderer
from align.chat.vocabulary import OwnTokens
from align.errors import ConfigError, RowError
from align.rows import Message, ToolCall, ToolSpec, tools_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ids = Callable[[str], list[int]]
"""The ids of a rendered text."""

# Words that no template contains, trims or changes.
SYSTEM = Message(role="system", content="pirazotek")
QUESTION = Message(role="user", content="beyonatrip")
ANSWER = Message(role="assistant", content="dolimunef")
THOUGHT = Message(role="assistant", content="<think>\nkaxolirum\n</think>\n\ndolimunef")
TOOLS = tools_text([ToolSpec(name="get_sugavelon", description="d")])
CALLS = (
    ToolCall(name="get_sugavelon", arguments={"city": 'Zürich "x"\n', "n": [1, 2.5, True, None], "deep": {"k": "v"}}),
    ToolCall(name="get_sugavelon", arguments={}),
)
_NO_THINKING: tuple[dict[str, Any], ...] = ({"enable_thinking": False}, {"thinking": False})
"""Variables by which published templates write no thinking."""


def find_terminators(tokenizer: PreTrainedTokenizerFast, renderer: Renderer, ids: Ids) -> tuple[tuple[int, ...], int]:
    """The tokens after an answer and after a call, and the token that begins a message.

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
        for token in ids(tail):
            if token in tokenizer.added_tokens_decoder:
                found.append(token)
            elif not tokenizer.decode([token]).strip():
                continue
            break
    if not found:
        what = f"no token of the vocabulary ends an answer: {written[0][-60:]!r} follows the question"
        raise _unusable(name, what)
    control = set(tokenizer.added_tokens_decoder) - set(OwnTokens(tokenizer, found).ids.values())
    found += _call_terminators(renderer, ids, control)
    header, prompt = ids(opened.removeprefix(asked)), ids(opened)
    opening = [token for token in (*header, *prompt) if token in control and token not in found]
    return tuple(dict.fromkeys(found)), opening[0] if opening else prompt[0]


def _call_terminators(renderer: Renderer, ids: Ids, control: set[int]) -> list[int]:
    """The first control token of a call, where the template writes calls."""
    try:
        prompt, written = _with_call(renderer, CALLS[:1])
    except RowError:
        return []
    said = ids(written.removeprefix(prompt))
    # A control token before anything is said begins the message or the call.
    return [] if said[:1] and said[0] in control else [token for token in said if token in control][:1]


def _with_call(renderer: Renderer, calls: Sequence[ToolCall]) -> tuple[str, str]:
    """A question with a function, opened for an answer; and with the calls that answer it."""
    made = Message(role="assistant", tool_calls=tuple(calls))
    prompt = renderer.render([QUESTION], TOOLS, open_assistant=True).text
    return prompt, renderer.render([QUESTION, made], TOOLS).text


def find_call_syntax(
    protocol: ChatProtocol, renderer: Renderer, ids: Ids, named: CallSyntax | None
) -> tuple[CallSyntax | None, str]:
    """The syntax in which the template writes calls; or None, and why functions and calls are refused.

    A call is rendered, cut at the terminator, decoded and parsed: it must be the same again.
    named: the only syntax to try. Raises ConfigError if the template does not write it.
    """
    try:
        prompt, written = _with_call(renderer, CALLS[:1])
    except RowError as error:
        return None, f"a call cannot be written ({error.what})"
    if CALLS[0].name not in prompt:
        return None, "it does not list functions"
    if not written.startswith(prompt):
        return None, "a call does not follow the prompt of an answer"
    said: list[int] = []
    for token in ids(written)[len(ids(prompt)) :]:
        if token in protocol.terminators:
            break
        said.append(token)
    text = protocol.text(said)
    for syntax in SYNTAXES if named is None else (named,):
        parsed = parse_calls(text, syntax)
        if not parsed.malformed and same_calls(parsed.calls, CALLS[:1]):
            return syntax, ""
    if named is not None:
        what = f"the chat template writes a call as {text[:100]!r}, which is not the {named} syntax"
        raise ConfigError("model.call_syntax", what, "Remove this setting: native finds the syntax out")
    return None, f"it writes a call as {text[:100]!r}, which is none of {', '.join(SYNTAXES)}"


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
    raise _unusable(name, f"{errors[0].what} ({errors[0].how.partition('. Change or drop')[0]})")


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
