"""Verifies the language of an answer: that of the question, or the one that the prompt names.

The language is identified by py3langid (Naive Bayes over byte n-grams, Lui and Baldwin 2011). A short text is often not
clear, so a candidate fails only if another language is identified with some confidence. See docs/concepts.md for how
often this errs.
"""

from __future__ import annotations

import re
from copy import copy
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import Field, field_validator

from align.judges.verifiers.verifier import Failure, Verifier, final_text
from align.optional import library
from align.rows import Frozen, Messages

LANGUAGES = frozenset(
    (
        *("de", "en", "es", "fr", "hi", "it", "pt", "th"),
        *("ar", "cs", "da", "el", "fa", "fi", "he", "hu", "id", "ja", "ko", "nl", "pl", "ro", "ru", "sv", "tr", "uk"),
        *("vi", "zh"),
    )
)
"""The languages that are distinguished, ISO 639-1: the eight of Llama 3.1 and 20 others. With
all 140 that py3langid knows, short texts are mistaken for rare languages."""

ANY = "any"

MIN_BYTES = 20
"""Texts with fewer UTF-8 bytes are not judged: 20 Latin letters, 7 Thai or Chinese characters."""

MIN_CONFIDENCE = 0.5

_NOT_PROSE = re.compile(
    r"""
    ```.*?(?:```|\Z) | `[^`\n]*`                    # code
    | \$\$.*?\$\$ | \\\[.*?\\\] | \\\(.*?\\\)       # formulas
    | \bhttps?://\S+                                # addresses
    """,
    re.VERBOSE | re.DOTALL,
)


class LanguageEntry(Frozen):
    """The language that a prompt requires."""

    language: str = Field(min_length=2)
    """An ISO 639-1 code that py3langid knows, such as `fr`, or `any`, which every answer passes."""

    @field_validator("language")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value != ANY and value not in LANGUAGES and value not in _every_language().labels:
            raise ValueError(f"{value!r} is not the ISO 639-1 code of a language that py3langid knows, nor {ANY!r}")
        return value


class Identified(NamedTuple):
    """The most likely language of a text."""

    language: str
    confidence: float


class LanguageVerifier(Verifier[LanguageEntry]):
    """Checks the prose of the last message; code, formulas and addresses are left out.

    Every prompt is verified, also without an entry: its language is then that of its last user message, if that is
    clear. A prompt such as "Translate into French: ..." requires an entry that names the language of the answer.
    """

    entry = LanguageEntry
    before_scoring = True

    def __init__(self) -> None:
        library("py3langid", "language", "the verifier language")  # reported before anything is sampled

    def default_entry(self, tools: str, prompt: Messages = ()) -> LanguageEntry | None:
        asked = [message.content for message in prompt if message.role == "user"]
        found = identified(asked[-1]) if asked else None
        return LanguageEntry(language=found.language) if found is not None else None

    def failure(self, completion: Messages, entry: LanguageEntry, tools: str = "") -> Failure | None:
        """See `Verifier.failure`. Reason: "other language"."""
        if entry.language == ANY:
            return None
        found = identified(final_text(completion), entry.language)
        if found is None or found.language == entry.language:
            return None
        detail = f"found {found.language} ({found.confidence:.2f}), expected {entry.language}"
        return Failure("other language", detail)


def identified(text: str, expected: str | None = None) -> Identified | None:
    """The language of a text; None if the text is too short or no language is clear.

    expected: a language that is considered too if it is not one of LANGUAGES.
    """
    prose = " ".join(_NOT_PROSE.sub(" ", text).split())
    if len(prose.encode("utf-8", "surrogatepass")) < MIN_BYTES:
        return None
    language, confidence = _identifier(LANGUAGES if expected is None else LANGUAGES | {expected}).classify(prose)
    return Identified(language, float(confidence)) if confidence >= MIN_CONFIDENCE else None


@lru_cache(maxsize=1)
def _every_language() -> Any:
    """The classifier among all languages. Loading it takes a second."""
    module = library("py3langid", "language", "the verifier language").langid
    return module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=16)
def _identifier(languages: frozenset[str]) -> Any:
    """A classifier among these languages."""
    found = copy(_every_language())
    found.set_languages(languages)
    return found
