"""Cleaning rules: what is wrong with a row can be seen in the row itself, without a model.

Llama 3 (section 4.2.3) begins with rules for patterns that were seen in earlier rounds, such as too many emojis or
exclamation marks. Each rule here has a name, under which it is counted and can be switched off, and is as narrow as it
can be: a rule that is often wrong costs good rows, and what it misses is left to the graded gates.

Rules look at the assistant's messages that are trained on, except `control_tokens`, which looks at all. Code is left
out where it would confuse a rule. Phrases that are fine alone and tiresome together are `balance.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from align.rows import Row
from data_builders.quality.settings import RuleName, RulesConfig
from data_builders.quality.steps import Drop, Examined, Step
from data_builders.quality.texts import answers_of, dialogs_of, prompt_of


class _Answer(NamedTuple):
    """One message of the assistant, and what the rules look at."""

    text: str
    prose: str
    """The text without code."""
    prompt: str
    """All that comes before the target, as one text."""
    is_final: bool

    @property
    def words(self) -> int:
        return len(self.prose.split())


_CODE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)
# Pictographs, dingbats and flags. Skin tones and joiners belong to the emoji before them; digits and © are no emojis.
_EMOJI = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}|[\U0001f300-\U0001f3fa\U0001f400-\U0001f64f\U0001f680-\U0001f6ff\U0001f900-\U0001faff"
    "\u2600-\u26ff\u2705\u270a-\u270d\u2728\u274c\u2753-\u2757\u2763\u2764\u2b50]"
)
_CONTROL = re.compile(
    r"<\|[A-Za-z][\w.-]{1,40}\|>|<\uff5c[^\uff5c\n]{1,40}\uff5c>|\[/?INST\]|<</?SYS>>|</?s>(?=\s|$|\[)"
    r"|<(?:start|end)_of_turn>|<(?:pad|unk|eos|bos)>"
)
_ROLE = re.compile(
    r"^[ \t]*(?:#{2,4} ?(?:Instruction|Response|Input|Human|User|Assistant|System)\b:?"
    r"|\*{0,2}(?:Human|User|Assistant|System)\*{0,2} ?:)",
    re.MULTILINE,
)
_BOILERPLATE = re.compile(
    r"\b(?:regenerate response|chatgpt can make mistakes|copy code\b(?=\s*$)|sent from my iphone|lorem ipsum dolor"
    r"|click here to (?:subscribe|read|continue)|subscribe to our newsletter|accept all cookies|all rights reserved\."
    r"|share this:|skip to (?:main )?content|this website uses cookies|javascript is disabled|leave a comment below)",
    re.IGNORECASE | re.MULTILINE,
)
_OF_BOILERPLATE = (
    *("regenerate response", "chatgpt can", "copy code", "sent from my", "lorem ipsum", "click here", "newsletter"),
    *("accept all", "all rights", "share this", "skip to", "this website", "javascript is", "leave a comment"),
)
"""One of these is in every match of _BOILERPLATE."""
_PLACEHOLDER = re.compile(
    r"\W*(?:n/?a|null|none|nan|todo|tbd|undefined|noinput|no (?:in|out)put|insert (?:answer|text) here)?\W*",
    re.IGNORECASE,
)
_PLACEHOLDERS_THAT_ANSWER = re.compile(r"\W*(?:none|null|undefined|nan)\W*", re.IGNORECASE)
_ENDS_OPEN = re.compile(r"(?:[,;(\[{]|\s[-\u2013])\s*$")
_OPEN_WORD = re.compile(
    r"\b(?:and|or|but|the|a|an|of|to|with|for|because|which|that|from|by|as|is|are|was|were|und|oder|der|die|das|et|ou"
    r"|le|la|les|de|y|el|los|que|e|il|di|che)$"
)
_LONGEST_END = 16
"""More characters than _ENDS_OPEN and _OPEN_WORD look at: they are slow in a long line."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_BOLD = re.compile(r"(?<!\*)\*\*(?!\*)")
_LINK = re.compile(r"\[[^\]\n]{1,200}\]\([^)\s]*(?=\s|$)(?![^\n]*\))")


def _empty(answer: _Answer, config: RulesConfig) -> Drop | None:
    """`none` or `null` may be the answer to a question that names it, so they count where nothing asks for them."""
    text = answer.text.strip()
    if text and not _PLACEHOLDER.fullmatch(text):
        return None
    if any(character.isalnum() for character in text):
        if _PLACEHOLDERS_THAT_ANSWER.fullmatch(text) and text.strip(" .").lower() in answer.prompt.lower():
            return None
        return Drop("empty answer", text[:40])
    is_symbol = any(not character.isspace() and not re.match(r"[\W_]", character) for character in text)
    has_sign = any(character in "+-*/=<>%$€£^~|&" or ord(character) > 0x2000 for character in text)
    return None if is_symbol or (has_sign and len(text) <= 3) else Drop("empty answer", text[:40])


def _roles(answer: _Answer, config: RulesConfig) -> Drop | None:
    """A marker of a speaker, unless the prompt has one too: a user may ask for a dialog."""
    found = _ROLE.search(answer.prose)
    if found is None or _ROLE.search(answer.prompt):
        return None
    return Drop("another role in the answer", found.group().strip())


def _truncated(answer: _Answer, config: RulesConfig) -> Drop | None:
    """Only final answers in prose, of more than a few words; the end of code or of a formula says nothing."""
    text = answer.text.rstrip()
    if not answer.is_final or answer.words < 8 or text.endswith(("```", "$", "\\]")):
        return None
    last = text.rpartition("\n")[2]
    end = last[-_LONGEST_END:]
    if _ENDS_OPEN.search(end) or (_OPEN_WORD.search(end) and len(last.split()) > 3):
        return Drop("truncated answer", last[-40:])
    return None


def _boilerplate(answer: _Answer, config: RulesConfig) -> Drop | None:
    lowered = answer.prose.lower()
    if not any(words in lowered for words in _OF_BOILERPLATE):  # ten times faster than the expression
        return None
    found = _BOILERPLATE.search(answer.prose)
    if found is None or found.group().lower() in answer.prompt.lower():
        return None
    return Drop("boilerplate", found.group())


def _emoji(answer: _Answer, config: RulesConfig) -> Drop | None:
    count = 0 if answer.prose.isascii() else len(_EMOJI.findall(answer.prose))
    return Drop("too many emojis", str(count)) if count > max(config.emojis, answer.words / 50) else None


def _exclamation(answer: _Answer, config: RulesConfig) -> Drop | None:
    count = answer.prose.count("!") + answer.prose.count("\uff01")
    if count <= 2:
        return None
    in_a_row = re.search(r"[!\uff01]{3}", answer.prose) is not None
    if in_a_row or count > max(config.exclamation_marks, answer.words / 20):
        return Drop("too many exclamation marks", str(count))
    return None


def _markdown(answer: _Answer, config: RulesConfig) -> Drop | None:
    if "```" in answer.text and len(re.findall(r"^[ \t]*```", answer.text, re.MULTILINE)) % 2:
        return Drop("broken Markdown", "a code block is not closed")
    if (
        "**" in answer.prose
        and "$" not in answer.prose
        and any(
            len(_BOLD.findall(part)) % 2 and not re.search(r"\w\*\*\w", part) for part in answer.prose.split("\n\n")
        )
    ):
        return Drop("broken Markdown", "bold text is not closed")
    found = _LINK.search(answer.prose) if "](" in answer.prose else None
    return Drop("broken Markdown", f"a link is not closed: {found.group()[:40]}") if found else None


def _repetition(answer: _Answer, config: RulesConfig) -> Drop | None:
    for parts in (answer.prose.split("\n"), _SENTENCE_END.split(answer.prose)):
        if len(parts) < config.repeated_lines:
            continue
        counts = Counter(text for part in parts if len(text := part.strip()) >= 20)
        for text, count in counts.most_common(1):
            if count >= config.repeated_lines:
                return Drop("repeated lines or sentences", f"{count} times {text[:40]}")
    return None


_RULES: Mapping[RuleName, Callable[[_Answer, RulesConfig], Drop | None]] = {
    "empty": _empty,
    "roles": _roles,
    "truncated": _truncated,
    "boilerplate": _boilerplate,
    "emoji": _emoji,
    "exclamation": _exclamation,
    "markdown": _markdown,
    "repetition": _repetition,
}
"""All but `control_tokens`, which looks at the whole row."""


class Rules(Step):
    """Drops rows that a cleaning rule finds fault with, for the first such rule."""

    name = "rules"

    def __init__(self, config: RulesConfig) -> None:
        self._config = config

    def settings(self) -> dict[str, Any]:
        return self._config.model_dump(mode="json")

    def examine(self, rows: Sequence[Row]) -> Examined:
        found = {place: drop for place, row in enumerate(rows) if (drop := fault(row, self._config)) is not None}
        return Examined(found)


def fault(row: Row, config: RulesConfig) -> Drop | None:
    """The first fault that the rules find in a row; None if there is none."""
    if "control_tokens" in config.rules:
        for message in {message for dialog in dialogs_of(row) for message in dialog}:
            has_bracket = "<" in message.content or "[" in message.content
            token = _CONTROL.search(message.content) if has_bracket else None
            if token is not None:
                return Drop("control tokens in a text", token.group())
    asked = prompt_of(row)[-1]
    if "empty" in config.rules and asked.role == "user" and not asked.content.strip():
        return Drop("empty prompt")
    messages = answers_of(row)
    prompt = "\n".join(message.content for message in prompt_of(row) if message.role != "assistant")
    for number, message in enumerate(messages):
        if message.tool_calls and not message.content.strip():
            continue
        has_code = "`" in message.content or "~~~" in message.content
        prose = _CODE.sub(" ", message.content) if has_code else message.content
        answer = _Answer(message.content, prose, prompt, number == len(messages) - 1)
        for name in config.rules:
            if name != "control_tokens" and (drop := _RULES[name](answer, config)) is not None:
                return drop
    return None
