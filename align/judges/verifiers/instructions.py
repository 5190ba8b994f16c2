"""Verifies checkable instructions: counts of words, sentences and bullets, JSON, case, keywords, beginning and end.

Each kind of instruction is a class with its settings and a function `holds` of the text. Two readings, as in IFEval
(Zhou et al. 2023, arXiv:2311.07911, section 2.2):

    strict    the text as it is
    loose     also if a simple change makes it hold: without its first or last line (an introduction, a closing remark),
              without asterisks (bold), without a code fence around it
"""

from __future__ import annotations

import json
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from align.judges.verifiers.language import LANGUAGES, identified
from align.judges.verifiers.verifier import Failure, Verifier, final_text
from align.optional import library
from align.rows import Frozen, Messages

_Visible = Annotated[str, Field(min_length=1, pattern=r"\S")]
"""A text that is not blank: every text has, begins with and ends with nothing."""


class _Count(Frozen):
    """A count that has to be within limits."""

    at_least: int = Field(0, ge=0)
    at_most: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _limits_say_something(self) -> Self:
        if self.at_least == 0 and self.at_most is None:
            raise ValueError("expected at_least, at_most or both, found neither")
        if self.at_most is not None and self.at_most < self.at_least:
            raise ValueError(f"at_most is {self.at_most}, below at_least, which is {self.at_least}")
        return self

    def within(self, count: int) -> bool:
        return self.at_least <= count and (self.at_most is None or count <= self.at_most)


class Words(_Count):
    """A number of words: what spaces separate, if it has a letter or digit. "A well-known fact - 3.5 km" has 5."""

    kind: Literal["words"]

    def holds(self, text: str) -> bool:
        return self.within(sum(any(map(str.isalnum, word)) for word in text.split()))


class Sentences(_Count):
    """A number of sentences, which end at . ! ? before a space, at 。！？, or at a line break.

    "It is 3.5 km. Go!" has 2, and so has "Hallo。你好。".
    """

    kind: Literal["sentences"]

    def holds(self, text: str) -> bool:
        parts = re.split(r"(?<![.!?])[.!?]++[\"'”’)]*(?=\s|$)|[。｡！？]|\n", text)
        return self.within(sum(any(map(str.isalnum, part)) for part in parts))


class Paragraphs(_Count):
    """A number of paragraphs, which empty lines separate."""

    kind: Literal["paragraphs"]

    def holds(self, text: str) -> bool:
        return self.within(sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text)))


class Bullets(_Count):
    """A number of bullets: lines that begin with -, *, + or • and a space, and have text."""

    kind: Literal["bullets"]

    def holds(self, text: str) -> bool:
        return self.within(len(re.findall(r"^[ \t]*[-*+•][ \t]+\S", text, re.MULTILINE)))


class Numbered(_Count):
    """A number of numbered items: lines that begin with a number, a full stop or ), and a space, and have text."""

    kind: Literal["numbered"]

    def holds(self, text: str) -> bool:
        return self.within(len(re.findall(r"^[ \t]*\d+[.)][ \t]+\S", text, re.MULTILINE)))


class Occurrences(_Count):
    """How often a word or phrase occurs, as whole words. Case is ignored."""

    kind: Literal["occurrences"]
    word: _Visible

    def holds(self, text: str) -> bool:
        return self.within(len(re.findall(_whole_words(self.word), text.casefold())))


class JSONOnly(Frozen):
    """The whole text is one JSON object or array."""

    kind: Literal["json"]

    def holds(self, text: str) -> bool:
        try:
            return isinstance(json.loads(text, parse_constant=_refuse), dict | list)
        except (ValueError, RecursionError):
            return False


class LetterCase(Frozen):
    """All letters are lower case, or all are upper case. A text without such letters does not hold."""

    kind: Literal["case"]
    case: Literal["lower", "upper"]

    def holds(self, text: str) -> bool:
        return text.islower() if self.case == "lower" else text.isupper()


class Keywords(Frozen):
    """Words or phrases that the text contains, or does not contain, as whole words. Case is ignored.

    Chinese, Japanese and Korean do not separate all words: there a keyword may be anywhere in the text.
    """

    kind: Literal["keywords"]
    present: tuple[_Visible, ...] = ()
    absent: tuple[_Visible, ...] = ()

    @model_validator(mode="after")
    def _names_a_word(self) -> Self:
        if not self.present and not self.absent:
            raise ValueError("expected present, absent or both, found neither")
        return self

    def holds(self, text: str) -> bool:
        return all(_contains(text, word) for word in self.present) and not any(
            _contains(text, word) for word in self.absent
        )


class StartsWith(Frozen):
    """The text begins with these words. Case counts; spaces around the text do not."""

    kind: Literal["starts_with"]
    text: _Visible

    def holds(self, text: str) -> bool:
        return text.strip().startswith(self.text.strip())


class EndsWith(Frozen):
    """The text ends with these words. Case counts; spaces around the text do not."""

    kind: Literal["ends_with"]
    text: _Visible

    def holds(self, text: str) -> bool:
        return text.strip().endswith(self.text.strip())


class Excludes(Frozen):
    """Characters or texts that occur nowhere, not even inside a word, such as commas."""

    kind: Literal["excludes"]
    texts: tuple[_Visible, ...] = Field(min_length=1)

    def holds(self, text: str) -> bool:
        return not any(each in text for each in self.texts)


class Quoted(Frozen):
    """The whole text is inside double quotation marks."""

    kind: Literal["quoted"]

    def holds(self, text: str) -> bool:
        inside = re.fullmatch(r'["“](.*)["”]', text.strip(), re.DOTALL)
        return inside is not None and re.search(r"\w", inside[1]) is not None


class Language(Frozen):
    """The text is in this language, as the verifier `language` identifies it. A text whose language is not clear does
    not hold."""

    kind: Literal["language"]
    language: str
    """An ISO 639-1 code, such as `fr`."""

    @field_validator("language")
    @classmethod
    def _can_be_identified(cls, value: str) -> str:
        if value not in LANGUAGES:
            raise ValueError(f"expected one of {', '.join(sorted(LANGUAGES))}, found {value!r}")
        library("py3langid", "language", "instructions of the kind language")  # reported before anything is sampled
        return value

    def holds(self, text: str) -> bool:
        found = identified(text)
        return found is not None and found.language == self.language


Instruction = Annotated[
    Words
    | Sentences
    | Paragraphs
    | Bullets
    | Numbered
    | Occurrences
    | JSONOnly
    | LetterCase
    | Keywords
    | StartsWith
    | EndsWith
    | Excludes
    | Quoted
    | Language,
    Field(discriminator="kind"),
]
"""One instruction. To add a kind, write a class with `kind` and `holds`, and list it here."""


class InstructionsEntry(Frozen):
    """What a prompt requires of the text."""

    checks: tuple[Instruction, ...] = Field(min_length=1)
    """All of them must hold."""
    reading: Literal["strict", "loose"] = "strict"
    """See the top of this file."""


class InstructionsVerifier(Verifier[InstructionsEntry]):
    """Checks the last message of a completion."""

    entry: ClassVar[type[Frozen]] = InstructionsEntry

    def failure(self, completion: Messages, entry: InstructionsEntry, tools: str = "") -> Failure | None:
        """See `Verifier.failure`. The reason is the kind of the first instruction that does not hold."""
        text = final_text(completion)
        for check in entry.checks:
            if not follows(text, check, entry.reading):
                return Failure(check.kind, f"{check!r} does not hold")
        return None


def follows(text: str, instruction: Instruction, reading: Literal["strict", "loose"] = "strict") -> bool:
    """Whether a text follows an instruction. Empty text follows none."""
    readings = [text] if reading == "strict" else _loose_readings(text)
    return any(each.strip() and instruction.holds(each) for each in readings)


def _loose_readings(text: str) -> list[str]:
    """The text, and what is left of it after each of the changes that the loose reading allows.

    The lines "Sure:" and "**yes**" give both lines, the second, the first, none, and the same without asterisks. The
    asterisk of a bullet stays: "* **yes**" gives "* yes".
    """
    lines = text.strip().split("\n")
    found = [text, *("\n".join(part) for part in (lines[1:], lines[:-1], lines[1:-1]))]
    fenced = re.fullmatch(r"```\w*\n(.*?)\n?```", text.strip(), re.DOTALL)
    if fenced is not None:
        found.append(fenced[1])
    return [*found, *(re.sub(r"\*(?![ \t])|(?<=\S)\*", "", part) for part in found)]


_CJK = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Chinese characters, kana and Korean syllables."""


def _contains(text: str, words: str) -> bool:
    return re.search(_whole_words(words), text.casefold()) is not None


def _whole_words(words: str) -> str:
    words = words.strip().casefold()
    begins = "" if _CJK.match(words[0]) else r"(?<!\w)"
    ends = "" if _CJK.match(words[-1]) else r"(?!\w)"
    return f"{begins}{re.escape(words)}{ends}"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
