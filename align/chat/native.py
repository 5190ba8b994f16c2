"""The tokenizer's own chat template as a protocol: `model.chat: native`.

A dialog is rendered by the template and encoded by the tokenizer as a whole, so its ids are those of
`apply_chat_template`. What is trained on is found by prefix. With P the dialog up to message k, opened for an answer,
and W the whole dialog:

    P    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n
    W    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nYo<|im_end|>\\n
    message k                                                    ^^          content
                                                                   ^^^^^^^^^^ terminator; the rest is in no loss

For every message in a loss this must hold, or the dialog is refused with a RowError:

- The text of W begins with that of P, and so do the ids. A template that removes earlier thinking, or moves the system
  message into the last question, breaks this.
- The ids between P and the terminator hold no control token, and are parsed as exactly the message: its content, and
  its calls. So a template that strips white space or adds a `<think>` block to an answer is refused for such messages.
- Where the template has `{% generation %}` markers, they enclose the message.

And for every dialog: a dialog of the same form (roles, calls, functions), whose texts are words that no template
contains, is written with each of them once and in order. So a template that drops tool outputs, or system messages, is
refused for dialogs that have them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from align.chat.calls import CallSyntax, ParsedCalls, parse_calls, same_calls
from align.chat.inspection import (
    ANSWER,
    QUESTION,
    find_calls,
    find_terminators,
    require_usable,
    what_it_adds,
    what_it_changes,
)
from align.chat.protocol import ChatProtocol, Dialog, EncodedDialogs, TokenKind
from align.chat.rendered_texts import RenderedTexts, plain_ids
from align.chat.rendering import ELSE, Rendered, Renderer
from align.chat.vocabulary import OwnTokens, padding_id
from align.errors import ConfigError, RowError
from align.files import fingerprint_of
from align.rows import Message, ToolCall, ToolSpec, tools_of, tools_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids, kinds and turns of a dialog."""

_NOTHING: Columns = (np.empty(0, np.int32), np.empty(0, np.int8), np.empty(0, np.int32))
_MARKERS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True, slots=True)
class _Written:
    """A dialog as text."""

    messages: list[Message]
    """With placeholders for control tokens that were typed."""
    whole: Rendered
    prompts: dict[int, str]
    """For each message in a loss, and for the first of the completion: what is before it, opened for an answer."""
    trained: list[int]
    """Places of the messages in a loss."""


class Native(ChatProtocol):
    """The tokenizer's own chat template.

    syntax: how the template writes calls; None to find it out.
    variables: for the template, such as {"enable_thinking": False}.
    today: the date for templates that write the current one, as `2024-07-26`.
    stop_ids: further tokens at which generation ends: those of generation_config.json.

    Raises ConfigError if the tokenizer has no template or several, if the template writes the current date and `today`
    is None, if it does not open answers, if not even a dialog of one question and one answer can be proved, or if a
    setting has no effect.
    """

    name = "native"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        syntax: CallSyntax | None = None,
        *,
        variables: Mapping[str, Any] | None = None,
        today: str | None = None,
        stop_ids: Iterable[int] = (),
    ) -> None:
        super().__init__(tokenizer)
        self.renderer = Renderer(tokenizer, variables or {}, today)
        self.chat_template = tokenizer.chat_template
        self._settings = {"chat_template_kwargs": dict(variables or {}), "chat_date": today}
        self._eos_token: str | None = tokenizer.eos_token
        self._forms: dict[Any, RowError | None] = {}
        self._has_markers = bool(_MARKERS.search(tokenizer.chat_template))
        self.terminators, self.opening_id = find_terminators(tokenizer, self.renderer)
        ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        self.stop_ids = tuple(dict.fromkeys([*self.terminators, *ends, *stop_ids]))
        self._texts = RenderedTexts(tokenizer, self.stop_ids)
        calls = find_calls(self, self.renderer, syntax)
        self.syntax, self.why_no_calls = calls.syntax, calls.why_not
        if calls.terminator is not None and calls.terminator not in self.terminators:
            self.terminators = (*self.terminators, calls.terminator)
            self.stop_ids = tuple(dict.fromkeys([*self.terminators, *self.stop_ids]))
        answer, notes = require_usable(self, self.renderer)
        notes += [*what_it_adds(self.renderer, today), *what_it_changes(self, self.renderer, answer)]
        prompt = self.renderer.render([QUESTION], open_assistant=True).text
        whole = self.renderer.render([QUESTION, answer]).text
        self._last_token = plain_ids(tokenizer, whole)[-1]
        before, _, after = whole.removeprefix(prompt).partition(answer.content)
        # Mistral writes a space before an answer; ChatML writes <|im_end|> and a line break after it.
        self._around = before, after
        if today and not self.renderer.asked_for_today:
            what = f"is {today}, and the chat template never asks for the current date"
            how = "Remove it. A template with a date of its own may take a variable: see model.chat_template_kwargs"
            raise ConfigError("model.chat_date", what, how)
        notes.append(f"calls in the {self.syntax} syntax" if self.syntax else f"functions are refused: {calls.why_not}")
        self.template_summary = "; ".join(["the tokenizer's own chat template, unchanged", *notes])

    @property
    def identity(self) -> tuple[Any, ...]:
        settings = json.dumps(self._settings, sort_keys=True)
        return self.name, self.syntax, fingerprint_of(self.chat_template, settings, self.renderer.variables)

    @property
    def saved_settings(self) -> dict[str, Any]:
        return {"chat": self.name, **self._settings}

    @cached_property
    def eos_token(self) -> str:
        """The terminator, unless the template would then write other dialogs (Phi-3 ends each with its eos token)."""
        end = super().eos_token
        dialogs = ([QUESTION], [QUESTION, ANSWER])
        written = [
            [self.renderer.render(dialog, variables=variables).text for dialog in dialogs]
            for variables in ({}, {"eos_token": end})
        ]
        return end if self._eos_token is None or written[0] == written[1] else self._eos_token

    def padding(self, rows: int | None = None) -> int:
        ends = (*self.terminators, self._last_token)  # Phi-3 ends a dialog with its eos token, after the terminator
        return padding_id(self.tokenizer, ends, self.stop_ids, self.opening_id, rows=rows)

    def encode_dialogs(self, dialogs: Sequence[Dialog]) -> EncodedDialogs:
        refused: dict[int, RowError] = {}
        written: dict[int, _Written] = {}
        for place, dialog in enumerate(dialogs):
            try:
                written[place] = self._written(dialog)
            except RowError as error:
                refused[place] = error
        texts = [text for each in written.values() for text in (each.whole.text, *each.prompts.values())]
        ids = self._texts.ids(texts)
        parts = [_NOTHING] * len(dialogs)
        for place, each in written.items():
            try:
                parts[place] = self._proved(dialogs[place], each, ids)
            except RowError as error:
                refused[place] = error
        lengths = np.array([0, *(len(part[0]) for part in parts)], np.int64)
        whole, kinds, turns = (
            np.concatenate([_NOTHING[column], *(part[column] for part in parts)]) for column in range(3)
        )
        return EncodedDialogs(whole, kinds, turns, np.cumsum(lengths), refused)

    def parse_calls(self, ids: Sequence[int]) -> ParsedCalls:
        text = self.text(self._until_stop(ids))
        return ParsedCalls((), text) if self.syntax is None else parse_calls(text, self.syntax)

    def _written(self, dialog: Dialog) -> _Written:
        messages, tools = (
            [self._texts.with_placeholders(message) for message in dialog.messages],
            self._texts.with_placeholders_in(dialog.tools),
        )
        self._require_calls(messages, tools)
        if not dialog.exact and dialog.start == len(messages) - 1 and not messages[-1].tool_calls:
            return self._as_it_was_said(messages, tools)
        if dialog.exact:
            self._require_form(dialog)
        whole = self.renderer.render(messages, tools, open_assistant=dialog.open_assistant)
        places = range(len(messages)) if not dialog.open_assistant else range(0)
        trained = [k for k in places if k >= dialog.start and messages[k].role == "assistant" and messages[k].trained]
        opened = [k for k in places if k in trained or (k == dialog.start and k > 0)]
        prompts = {k: self.renderer.render(messages[:k], tools, open_assistant=True).text for k in opened}
        for k, prompt in prompts.items():
            if not whole.text.startswith(prompt):
                what = "the template does not continue the prompt of a trained message: it writes it in another way"
                how = f"Once message {k} is there, the text differs from {_first_difference(prompt, whole.text)}"
                raise RowError(f"messages[{k}]", what, f"{how}. {ELSE}")
        if dialog.exact:
            self._require_context(messages, tools, whole.text, trained)
        return _Written(messages, whole, prompts, trained)

    def _as_it_was_said(self, messages: list[Message], tools: str) -> _Written:
        """A prompt and an answer that is only scored: as a model wrote it, whatever the template would make of it."""
        last = len(messages) - 1
        prompt = self.renderer.render(messages[:last], tools, open_assistant=True).text
        before, after = self._around
        whole = Rendered(f"{prompt}{before}{messages[last].content}{after}")
        return _Written(messages, whole, {last: prompt}, [last])

    def _proved(self, dialog: Dialog, written: _Written, ids: Mapping[str, np.ndarray]) -> Columns:
        """Ids, kinds and turns of a dialog; raises RowError where a span of the loss is not what its message says."""
        whole, begins = self._cut(written, ids)
        kinds = np.full(len(whole), TokenKind.HEADER, np.int8)
        turns = np.full(len(whole), -1, np.int32)
        for k in written.trained:
            begin, where = begins[k], f"messages[{k}]"
            ends = np.flatnonzero(np.isin(whole[begin:], self.terminators))
            if not len(ends):
                raise RowError(where, "the template does not end a trained message with its terminator", ELSE)
            end = begin + int(ends[0])
            if dialog.exact:
                self._require_said(dialog.messages[k], whole[begin:end].tolist(), where)
                if self._has_markers:
                    self._require_marked(written.whole, len(written.prompts[k]), int(whole[end]), where)
            kinds[begin:end], kinds[end] = TokenKind.CONTENT, TokenKind.TERMINATOR
            turns[begin : end + 1] = k
        if dialog.open_assistant and len(dialog.messages):
            # A prompt is in no loss, so its kinds do not matter. The last token is part of the opened header.
            turns[-1] = len(dialog.messages)
        return whole, kinds, turns

    def _cut(self, written: _Written, ids: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[int, int]]:
        """The ids of a dialog, and where the messages after its prompts begin.

        A tokenizer may join the beginning of a message to the header before it: of "assistant\\n" and "\\nYo" it makes
        "assistant", "\\n\\n", "Yo". A model that is asked reads the header alone, so the two are then encoded apart.
        """
        whole = ids[written.whole.text]
        begins = {k: len(ids[prompt]) for k, prompt in written.prompts.items()}
        if all(np.array_equal(whole[: begins[k]], ids[prompt]) for k, prompt in written.prompts.items()):
            return whole, begins
        if not self._texts.joins_pieces:
            (k, *_) = begins
            what = "the tokenizer joins the beginning of a trained message to the header before it"
            how = f"Remove white space from its beginning, which is {written.messages[k].content[:20]!r}"
            raise RowError(f"messages[{k}]", what, f"{how}. {ELSE}")
        places = [0, *(len(prompt) for prompt in written.prompts.values()), len(written.whole.text)]
        texts = [written.whole.text[start:end] for start, end in pairwise(places)]
        apart = self._texts.ids(texts)
        parts = [apart[text] for text in texts]
        return np.concatenate(parts), dict(zip(begins, accumulate(map(len, parts)), strict=False))

    def _require_said(self, message: Message, ids: list[int], where: str) -> None:
        """Raise RowError unless the ids are exactly the message."""
        said = self.text(ids)
        if not self._texts.control_ids.isdisjoint(ids):
            raise RowError(
                where, "the template writes a control token into a trained message", f"It is {said!r}. {ELSE}"
            )
        found = ParsedCalls((), said)
        if message.tool_calls:
            assert self.syntax is not None
            found = parse_calls(said, self.syntax)
            if found.malformed or not same_calls(found.calls, message.tool_calls):
                what = "the calls of a trained message are not parsed as the same calls again"
                raise RowError(where, what, f"The template writes {said[:200]!r}. {ELSE}")
        if self._texts.normalized(found.text) == self._texts.normalized(message.content):
            return
        if found.text.strip() == message.content.strip():
            what = "the template removes or adds white space around a trained message"
        elif "</think>" in said + message.content:
            what = "the template writes the <think> block of a trained message in another way"
        else:
            what = "the template changes a trained message"
        raise RowError(where, what, f"It writes {found.text[:100]!r} for {message.content[:100]!r}. {ELSE}")

    def _require_marked(self, whole: Rendered, begin: int, terminator: int, where: str) -> None:
        """Raise RowError unless one stretch between generation markers encloses the message."""
        end = whole.text.find(self.tokenizer.convert_ids_to_tokens(terminator), begin)
        for first, last in whole.marked:
            if last >= end and not whole.text[begin : max(first, begin)].strip():
                return
        what = "the template's {% generation %} markers do not enclose a trained message"
        raise RowError(where, what, ELSE)

    def _require_calls(self, messages: Sequence[Message], tools: str) -> None:
        if self.syntax is None and (tools or any(message.tool_calls for message in messages)):
            what = f"functions and calls are refused with this template: {self.why_no_calls}"
            how = "Use a protocol of this project for rows with functions: model.chat: chatml or llama3"
            raise RowError("tools", what, how)

    def _require_form(self, dialog: Dialog) -> None:
        """Raise RowError unless the template writes every message of such a dialog once, in order.

        Dialogs of one form (roles, which contents are empty, numbers of calls) are tried once.
        """
        form = (
            *((each.role, bool(each.content), len(each.tool_calls), each.name) for each in dialog.messages),
            bool(dialog.tools),
            dialog.open_assistant,
        )
        if form not in self._forms:
            try:
                self._try_form(dialog)
                self._forms[form] = None
            except RowError as error:
                self._forms[form] = error
        refused = self._forms[form]
        if refused is not None:
            raise refused

    def _try_form(self, dialog: Dialog) -> None:
        words: list[tuple[int, str]] = []

        def word(k: int) -> str:
            words.append((k, f"qv{len(words)}zx"))
            return words[-1][1]

        tried = []
        for k, message in enumerate(dialog.messages):
            content = word(k) if message.content else ""
            calls = tuple(ToolCall(name=word(k), arguments={"a": 1}) for _ in message.tool_calls)
            tried.append(message.model_copy(update={"content": content, "tool_calls": calls}))
        tools = tools_text([ToolSpec(name="sugavelon", description="d")]) if dialog.tools else ""
        text = self.renderer.render(tried, tools, open_assistant=dialog.open_assistant).text
        if tools and "sugavelon" not in text:
            raise RowError("tools", "the template does not list functions", ELSE)
        place = 0
        for k, each in words:
            found = text.find(each, place)
            if found < 0 or text.count(each) > 1:
                role = dialog.messages[k].role
                kind = "call" if each not in tried[k].content else "message"
                what = f"the template does not write each {kind} of role {role} once, in its place"
                raise RowError(f"messages[{k}]", what, ELSE)
            place = found + len(each)

    def _require_context(self, messages: Sequence[Message], tools: str, text: str, trained: Sequence[int]) -> None:
        """Raise RowError unless what a prompt says is in the text, in order.

        White space at the ends may be missing, JSON may be escaped (Llama 3.1 writes tool outputs so), and an earlier
        answer may be without its thinking: the same text is written when the model is used.
        """
        place = 0
        for k, message in enumerate(messages):
            said = message.content.strip()
            if k in trained or not said:
                continue
            forms = [said, json.dumps(message.content, ensure_ascii=False)[1:-1]]
            if message.role == "assistant":
                forms.append(said.rpartition("</think>")[2].strip())
            found = [(text.find(form, place), form) for form in forms]
            at, form = min(((at, form) for at, form in found if at >= 0), default=(-1, ""))
            if at < 0:
                what = f"the template leaves out or changes what a message of role {message.role} says"
                raise RowError(f"messages[{k}]", what, f"It says {said[:100]!r}. {ELSE}")
            place = at + len(form)
        for tool in tools_of(tools):
            if tool.name not in text and json.dumps(tool.name)[1:-1] not in text:
                raise RowError(
                    "tools", "the template does not list every function", f"It leaves out {tool.name}. {ELSE}"
                )

    @cached_property
    def _own_tokens(self) -> OwnTokens:
        return OwnTokens(self.tokenizer, self.stop_ids)


def _first_difference(before: str, after: str) -> str:
    """Where two texts part, with a few characters before it."""
    same = next(
        (place for place, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), len(after)
    )
    start = max(0, same - 20)
    return f"{before[start : same + 30]!r} to {after[start : same + 30]!r}"
