"""Answers in the language of the question, and in other ones."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from align.judges.verifiers.language import MIN_BYTES, LanguageVerifier, identified
from align.rows import Message

pytestmark = pytest.mark.slow  # the first test loads the model, for a second

pytest.importorskip("py3langid", reason="the extra language is not installed")

ANSWERS = {
    "en": "The capital of France is Paris, which lies on the river Seine.",
    "de": "Die Hauptstadt von Frankreich ist Paris, das an der Seine liegt.",
    "fr": "La capitale de la France est Paris, qui se trouve sur la Seine.",
    "it": "La capitale della Francia è Parigi, che si trova sulla Senna.",
    "pt": "A capital da França é Paris, que fica às margens do rio Sena.",
    "es": "La capital de Francia es París, que está a orillas del río Sena.",
    "hi": "फ़्रांस की राजधानी पेरिस है, जो सीन नदी के किनारे स्थित है।",
    "th": "เมืองหลวงของฝรั่งเศสคือปารีส ซึ่งตั้งอยู่ริมแม่น้ำแซน",
    "zh": "法国的首都是巴黎，位于塞纳河畔。",
    "ru": "Столица Франции - Париж, который стоит на реке Сене.",
}


@pytest.fixture(scope="module")
def verifier() -> LanguageVerifier:
    return LanguageVerifier()


def said(text: str) -> tuple[Message, ...]:
    return (Message(role="assistant", content=text),)


def reason(verifier: LanguageVerifier, text: str, language: str) -> str | None:
    found = verifier.failure(said(text), verifier.read({"language": language}))
    return None if found is None else found.reason


def test_an_answer_passes_in_its_own_language_and_in_no_other(verifier: LanguageVerifier) -> None:
    for language, text in ANSWERS.items():
        for expected in ANSWERS:
            assert reason(verifier, text, expected) == (None if expected == language else "other language"), text
        assert reason(verifier, text, "any") is None


@pytest.mark.parametrize(
    "text, passes",
    [
        ("Paris.", True),  # too short to be judged
        ("```python\nfor number in the_list_of_numbers:\n    print(number)\n```", True),
        ("Das ist die Antwort:\n```\nThis output is in English, and it is not judged at all.\n```", True),
        ("\\[ x^2 + y^2 = z^2 \\text{ for all of these right triangles} \\]", True),
        ("https://example.com/this/is/a/very/long/address/of/a/page", True),
        ("Sure! Here is what you asked for: the answer to your question is 42.", False),
        ("Here is the code that you asked for, it prints a number:\n```python\nprint(1)\n```", False),
    ],
)
def test_prose_alone_is_judged(verifier: LanguageVerifier, text: str, passes: bool) -> None:
    assert reason(verifier, text, "de") == (None if passes else "other language")


@pytest.mark.parametrize(
    "asked, expected",
    [
        ("Was ist die Hauptstadt von Frankreich, und an welchem Fluss liegt sie?", "de"),
        ("¿Cuál es la capital de Francia y en qué río se encuentra?", "es"),
        ("6 * 7?", None),
    ],
)
def test_the_language_of_the_prompt_is_expected(verifier: LanguageVerifier, asked: str, expected: str | None) -> None:
    system = Message(role="system", content="You are a helpful assistant that answers questions.")
    entry = verifier.default_entry("", (system, Message(role="user", content=asked)))
    assert (entry.language if entry else None) == expected


def test_short_texts_are_not_judged() -> None:
    assert identified("x" * (MIN_BYTES - 1)) is None
    assert identified("") is None


@pytest.mark.parametrize("given", [{"language": "xx"}, {"language": ""}, {}, {"language": "German"}])
def test_a_language_that_is_not_known_is_refused(verifier: LanguageVerifier, given: Any) -> None:
    with pytest.raises(ValidationError):
        verifier.read(given)
    assert verifier.read({"language": "eo"}).language == "eo", "known, though not among those distinguished by default"


def test_a_rare_language_that_is_expected_is_recognized(verifier: LanguageVerifier) -> None:
    text = "La ĉefurbo de Francio estas Parizo, kiu kuŝas ĉe la rivero Sejno."
    assert reason(verifier, text, "eo") is None
    assert reason(verifier, ANSWERS["en"], "eo") == "other language"
