"""Whether a checkpoint's own chat template writes dialogs as a protocol does.

Tokens alone do not tell: Tulu 3 and R1-Distill-Llama have Llama 3's vocabulary and other dialogs, and Phi-4 puts
`<|im_sep|>` between ChatML's tokens. So the same dialogs are rendered by both templates, and the text between their
contents is compared. With C for a content:

    ours (ChatML)   <|im_start|>user\\n C <|im_end|>\\n<|im_start|>assistant\\n C <|im_end|>
    Phi-4           <|im_start|>user<|im_sep|> C <|im_end|><|im_start|>assistant<|im_sep|> C <|im_end|>

A difference in control tokens or role names is a conflict. These are harmless, and are reported: a token that begins
every text, a system message where none was given (SmolLM2, Qwen2.5), more text in the system message (Llama 3.1's
dates), an empty or opened <think> block before an answer (Qwen3), white space between messages, no way to open
an answer, and another way to write functions and calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.chat.pieces import PieceProtocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Words that no template contains, trims or changes.
_SYSTEM, _QUESTION, _ANSWER, _NEXT_QUESTION, _NEXT_ANSWER = (
    "kaxolirum",
    "beyonatrip",
    "dolimunef",
    "pirazotek",
    "sugavelon",
)
_THINKING = r"<think>(?:\s*</think>)?\s*"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What sets a template apart from a protocol."""

    conflict: str | None
    """Where control tokens or role names differ; None where the model's dialogs are the protocol's."""
    harmless: tuple[str, ...] = ()


class _Conflict(Exception):
    """The first place where the two differ in what a model was trained on."""


def compare(tokenizer: PreTrainedTokenizerFast, protocol: PieceProtocol) -> Comparison:
    """The tokenizer's chat template against the protocol's."""
    return _Comparing(tokenizer, protocol).result()


class _Comparing:
    def __init__(self, tokenizer: PreTrainedTokenizerFast, protocol: PieceProtocol) -> None:
        self.tokenizer, self.protocol = tokenizer, protocol
        self.harmless: dict[str, None] = {}
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.control = (*special, *protocol.marks)

    def result(self) -> Comparison:
        asked = _dialog(_QUESTION, _ANSWER, _NEXT_QUESTION, _NEXT_ANSWER)
        try:
            self._compare(asked)
            self._compare(asked[:3])
            try:
                self._compare([{"role": "system", "content": _SYSTEM}, *asked])
                self._compare([{"role": "system", "content": _SYSTEM}, *asked[:3]])
            except _Refused as refused:
                self._note(f"it takes no system message ({refused})")
        except (_Conflict, _Refused) as conflict:
            return Comparison(str(conflict), tuple(self.harmless))
        self._compare_tools()
        return Comparison(None, tuple(self.harmless))

    def _compare(self, dialog: list[dict[str, Any]]) -> None:
        """One dialog, by its gaps: the text before, between and after its contents.

        With a system message the gaps are `<|im_start|>system\\n`, `<|im_end|>\\n<|im_start|>user\\n`, and so on.
        """
        contents = [message["content"] for message in dialog]
        ours = _gaps(self._render(dialog, self.protocol.chat_template), contents)
        assert ours is not None, "a template of ours writes each content once"
        theirs = _gaps(self._render(dialog), contents)
        if theirs is None:
            raise _Conflict("it does not write each message once, in order")
        begin, first = self._without_beginning(ours[0], ours[0])
        their_begin, their_first = self._without_beginning(theirs[0], first)
        if begin != their_begin:
            self._note(f"it begins with {their_begin or 'no token'}, not with {begin or 'no token'}")
        if dialog[0]["role"] == "system":
            self._same_system(their_first, first, theirs.pop(1), ours.pop(1))
            dialog = dialog[1:]
        else:
            self._same_opening(their_first, first)
        roles = [*(message["role"] for message in dialog[1:]), None if len(dialog) % 2 == 0 else "assistant"]
        if dialog[-1]["role"] == "user" and theirs[-1].strip() == self._closed(dialog):
            self._note("it does not open an answer when asked for one")
            theirs, ours, roles = theirs[:-1], ours[:-1], roles[:-1]
        for their_gap, gap, role in zip(theirs[1:], ours[1:], roles, strict=True):
            self._same_gap(their_gap, gap, thinks=role == "assistant", last=role is None)

    def _closed(self, dialog: list[dict[str, Any]]) -> str:
        """What ends a dialog of ours that is not opened for an answer."""
        text = self._render(dialog, self.protocol.chat_template, add_generation_prompt=False)
        return text.rpartition(dialog[-1]["content"])[2]

    def _without_beginning(self, gap: str, rest: str) -> tuple[str, str]:
        """A token that begins every text, and what follows it.

        SmolLM2 names <|im_start|> for this token, but it begins messages, as `rest` shows.
        """
        tokens = {self.tokenizer.bos_token, self.protocol.begin} - {None, ""}
        for token in sorted(tokens):
            if gap.startswith(token) and (token == self.protocol.begin or not rest.startswith(token)):
                return token, gap.removeprefix(token).lstrip()
        return "", gap

    def _same_opening(self, theirs: str, ours: str) -> None:
        """The first header, which a system message may precede."""
        found = re.fullmatch(f"(.*?){self._pattern(ours)}", theirs, re.DOTALL)
        if found is None:
            raise _Conflict(_difference(theirs, ours, "before the first message"))
        if found[1].strip():
            opened, closed = map(self._pattern, self._system_parts())
            system = re.fullmatch(f"{opened}(.*){closed}", found[1], re.DOTALL)
            if system is None or self._controls(system[1]):
                raise _Conflict(_difference(theirs, ours, "before the first message"))
            self._note(f"it adds the system message {_short(system[1])}")
        elif theirs != ours:
            self._note_space()

    def _system_parts(self) -> tuple[str, str]:
        """What opens and what closes a system message of ours."""
        dialog = [{"role": "system", "content": _SYSTEM}, *_dialog(_QUESTION)]
        ours = _gaps(self._render(dialog, self.protocol.chat_template), [_SYSTEM, _QUESTION])
        plain = _gaps(self._render(dialog[1:], self.protocol.chat_template), [_QUESTION])
        assert ours is not None
        assert plain is not None
        header = self._without_beginning(plain[0], plain[0])[1]
        return self._without_beginning(ours[0], ours[0])[1], ours[1].removesuffix(header)

    def _same_system(self, their_first: str, first: str, their_second: str, second: str) -> None:
        """Around the system prompt, where a template may put more text of its own."""
        for theirs, ours, pattern, where in (
            (their_first, first, f"{self._pattern(first)}(.*)", "before the system prompt"),
            (their_second, second, f"(.*?){self._pattern(second)}", "after the system prompt"),
        ):
            found = re.fullmatch(pattern, theirs, re.DOTALL)
            if found is None or self._controls(found[1]):
                raise _Conflict(_difference(theirs, ours, where))
            if found[1].strip():
                self._note(f"it adds {_short(found[1])} {where}")
            elif theirs != ours:
                self._note_space()

    def _same_gap(self, theirs: str, ours: str, *, thinks: bool, last: bool) -> None:
        if last:
            theirs = theirs.rstrip()  # ChatML's usual templates end with a line break, which begins our next header
        found = re.fullmatch(f"{self._pattern(ours)}({_THINKING})?", theirs)
        if found is None or (found[1] and not thinks):
            raise _Conflict(_difference(theirs, ours, "after a message"))
        if found[1]:
            self._note(f"it writes {found[1].strip()!r} before an answer")
        elif theirs != ours:
            self._note_space()

    def _pattern(self, text: str) -> str:
        """A regular expression for a text, whatever white space is between its words and control tokens."""
        control = "|".join(map(re.escape, sorted(self.control, key=len, reverse=True)))
        parts = re.findall(rf"{control}|(?:(?!{control})\S)+", text)
        return r"\s*" + r"\s*".join(map(re.escape, parts)) + r"\s*"

    def _compare_tools(self) -> None:
        """Functions, calls and results: a difference is reported, since a row of either form is readable text."""
        function = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
        call = {"type": "function", "function": {"name": "f", "arguments": {}}}
        dialog = [
            *_dialog(_QUESTION),
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": _ANSWER},
        ]
        tools = [{"type": "function", "function": function}]
        try:
            theirs = self._render(dialog, tools=tools)
        except _Refused:
            theirs = ""
        if _tight(theirs) != _tight(self._render(dialog, self.protocol.chat_template, tools=tools)):
            self._note("it writes functions, calls and tool results in another way, or not at all")

    def _render(self, dialog: list[dict[str, Any]], template: str | None = None, **more: Any) -> str:
        """The text of a dialog; one that ends with a question is opened for an answer."""
        settings = {"add_generation_prompt": dialog[-1]["role"] == "user"} | more
        try:
            value: str = self.tokenizer.apply_chat_template(dialog, chat_template=template, tokenize=False, **settings)
            return value
        except Exception as error:  # a template is a program of others, and may fail in any way
            raise _Refused(f"its template fails: {error}") from None

    def _controls(self, text: str) -> bool:
        return any(token in text for token in self.control)

    def _note(self, difference: str) -> None:
        self.harmless[difference] = None

    def _note_space(self) -> None:
        self._note("it has other white space between messages")


class _Refused(Exception):
    """A template raises an error for a dialog."""


def _dialog(*contents: str) -> list[dict[str, Any]]:
    """Questions and answers in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]


def _gaps(text: str, contents: Sequence[str]) -> list[str] | None:
    """The text before, between and after the contents; None unless each is there once, in order."""
    found = []
    for content in contents:
        before, there, text = text.partition(content)
        if not there or content in text:
            return None
        found.append(before)
    return [*found, text]


def _tight(text: str) -> str:
    return "".join(text.split())


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _difference(theirs: str, ours: str, where: str) -> str:
    return f"{where} it writes {theirs[-120:]!r} where the protocol writes {ours!r}"
