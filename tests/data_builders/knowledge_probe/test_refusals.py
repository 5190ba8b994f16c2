"""Refusals: every wording reads as one in its language, names what is not known, and never gives the answer away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from align.config import load_config
from align.errors import ConfigError
from align.judges.answers.refusals import LANGUAGES, abstention, apologizes
from align.judges.answers.rules import verdict
from align.rows import Message, QuestionRow
from data_builders.knowledge_probe.refusals import (
    OFFERS,
    WORDINGS,
    RefusalsConfig,
    refusal_for,
    refusal_problem,
    writer_prompt,
)

SUBJECTS = {
    "en": "the capital of Chad",
    "de": "die Hauptstadt des Tschad",
    "fr": "la capitale du Tchad",
    "es": "la capital de Chad",
    "it": "la capitale del Ciad",
    "pt": "a capital do Chade",
}
HARD = {
    "en": "the country whose capital is Washington, D.C.",
    "de": "das Land mit der Hauptstadt Washington, D.C.",
    "fr": "le pays dont la capitale est Washington, D.C.",
    "es": "el país cuya capital es Washington, D.C.",
    "it": "il paese la cui capitale è Washington, D.C.",
    "pt": "o país cuja capital é Washington, D.C.",
}


def question(language: str = "en", name: str = "q", **more: Any) -> QuestionRow:
    values = {"answers": ("N'Djamena",), "subject": SUBJECTS[language], "language": language} | more
    prompt = (Message(role="user", content="What is it?"),)
    return QuestionRow(id=name, source="s", prompt=prompt, entity="Chad", relation="capital", **values)


def test_every_language_of_the_judge_has_wordings_with_and_without_a_subject_and_an_offer() -> None:
    assert tuple(WORDINGS) == tuple(OFFERS) == LANGUAGES
    for wordings in WORDINGS.values():
        named = sum("ubject}" in wording for wording in wordings)
        assert named >= 3
        assert len(wordings) - named >= 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_default_wording_abstains_in_its_language_and_opens_with_no_apology(language: str) -> None:
    for wording in WORDINGS[language]:
        text = wording.format(subject=SUBJECTS[language], Subject=SUBJECTS[language].capitalize())
        found = abstention(text)
        assert found is not None, text
        assert found.language == language, text
        assert not apologizes(text)
        assert verdict(text, ("N'Djamena",)) == "abstained"
        assert refusal_problem(text, question(language), allow_apology=False) is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_refusal_names_what_is_not_known_and_varies(language: str) -> None:
    drawn = Counter(refusal_for(question(language, f"q{n}"), RefusalsConfig(), seed=0) for n in range(60))
    assert len(drawn) == sum("ubject}" in wording for wording in WORDINGS[language])
    assert all(SUBJECTS[language].casefold() in text.casefold() for text in drawn if text)


def test_a_question_without_a_subject_gets_a_wording_without_one() -> None:
    for n in range(30):
        text = refusal_for(question(name=f"q{n}", subject=""), RefusalsConfig(), seed=0)
        assert text in WORDINGS["en"]


def test_the_share_that_names_its_subject_is_kept() -> None:
    config = RefusalsConfig(named_ratio=0.5)
    texts = [refusal_for(question(name=f"q{n}"), config, seed=1) or "" for n in range(400)]
    assert sum("Chad" in text for text in texts) == pytest.approx(200, abs=40)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_subject_that_breaks_a_sentence_still_gives_a_refusal(language: str) -> None:
    for n in range(20):
        text = refusal_for(
            question(language, f"q{n}", subject=HARD[language], answers=("America",)), RefusalsConfig(), 0
        )
        assert text is not None
        assert abstention(text) is not None


def test_a_subject_that_holds_the_answer_is_not_named() -> None:
    given_away = question(subject="the capital, N'Djamena, of Chad")
    for seed in range(20):
        assert "Djamena" not in (refusal_for(given_away, RefusalsConfig(), seed) or "")


def test_a_yes_or_no_question_can_be_refused_with_words_that_hold_no() -> None:
    assert refusal_problem("No lo sé.", question("es", answers=("no",)), allow_apology=False) is None
    assert refusal_for(question(answers=("no",), subject=""), RefusalsConfig(), 0) is not None


def test_a_language_without_wordings_has_no_refusal() -> None:
    swedish = question(subject="").model_copy(update={"language": "sv"})
    assert refusal_for(swedish, RefusalsConfig(), 0) is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_offer_names_another_known_fact_and_the_whole_still_abstains(language: str) -> None:
    other = question(language, "other", subject=SUBJECTS[language] + " x", answers=("CFA franc", "franc"))
    unnamed = question(language, "unnamed", subject="", answers=("secret",))
    config = RefusalsConfig(offer_ratio=1.0)
    for n in range(20):
        own = question(language, f"q{n}")
        text = refusal_for(own, config, 0, [own, unnamed, other])
        assert text is not None
        assert text.endswith(": CFA franc.")
        assert refusal_problem(text, own, allow_apology=False) is None
        assert refusal_for(own, config, 0, [own, unnamed]) == refusal_for(own, RefusalsConfig(), 0)


def test_offers_are_a_share() -> None:
    other = question(name="other", subject="the currency of Chad", answers=("CFA franc",))
    config = RefusalsConfig(offer_ratio=0.25)
    texts = [refusal_for(question(name=f"q{n}"), config, 3, [other]) or "" for n in range(400)]
    assert sum("CFA franc" in text for text in texts) == pytest.approx(100, abs=35)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("I don't know the capital of Chad.", None),
        ("", "does not abstain"),
        ("It is Moundou.", "does not abstain"),
        ("I'm not sure, but I think it is Moundou.", "does not abstain"),
        ("Das weiß ich nicht.", "abstains in another language"),
        ("I'm sorry, but I don't know.", "apologizes"),
        ("I don't know that N'Djamena is the capital.", "contains the answer"),
        ("I don't know. " + "It lies somewhere in Africa, as I have read. " * 5, "too long"),
    ],
)
def test_what_a_model_writes_is_held_to_what_a_refusal_is(text: str, fault: str | None) -> None:
    assert refusal_problem(text, question(), allow_apology=False) == fault


def test_the_prompt_of_the_writer_has_question_subject_and_language() -> None:
    asked = writer_prompt(question("de")).prompt[0].content
    assert "What is it?" in asked
    assert "You do not know die Hauptstadt des Tschad." in asked
    assert "in German" in asked
    assert "the answer" in writer_prompt(question(subject="")).prompt[0].content


@pytest.mark.parametrize(
    "wordings, expected",
    [
        ("{en: [I don't know., It is Paris.]}", "wordings.en.1: 'It is Paris.' is not recognized as a refusal"),
        (
            "{en: [\"I'm sorry, but I don't know.\"]}",
            "begins with an apology. Remove it, or set allow_apology to true",
        ),
        ("{de: [I don't know.]}", "is a refusal in 'en', not in 'de'"),
        ("{sv: [Jag vet inte.]}", "wordings.sv: unknown language. Refusals are supported in en, de, fr, es, it, pt"),
        ("{en: ['I don''t know {topic}.']}", "contains 'topic' in braces. Use {subject} or {Subject}"),
        ("{en: ['I don''t know {subject}.']}", "every wording contains a subject, but some questions have none"),
    ],
)
def test_a_wording_that_is_no_refusal_is_refused_where_it_is_declared(
    tmp_path: Path, wordings: str, expected: str
) -> None:
    path = tmp_path / "refusals.yaml"
    path.write_text(f"by: templates\nwordings: {wordings}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(RefusalsConfig, path)
    assert expected in str(caught.value)


def test_an_apology_is_allowed_where_asked_for_and_own_wordings_replace_ours() -> None:
    config = RefusalsConfig(wordings={"en": ("I'm sorry, but I don't know.",)}, allow_apology=True)
    assert refusal_for(question(), config, 0) == "I'm sorry, but I don't know."
    assert refusal_for(question("de"), config, 0) != refusal_for(question(), config, 0)


def test_a_model_that_is_not_used_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model is set, but refusals come from templates\. Set refusals\.by to model"):
        RefusalsConfig(model=Path("m"))
