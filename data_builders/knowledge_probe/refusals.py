"""What a refusal says: wordings in six languages, or a sentence that a model wrote, held to what a refusal must be.

A refusal gives up in the language of its question, as the rules of `align/judges/answers/refusals.py` hear it; it does
not open with an apology; and it does not state the answer. It names what is not known where the question's row says it,
and may offer another fact about the same entity that is known.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from string import Formatter
from typing import Literal, Self

from pydantic import Field, model_validator

from align.config import Section
from align.judges.answers.refusals import LANGUAGES, apologizes, surrender
from align.judges.answers.rules import are_yes_or_no, states
from align.rows import Message, PromptRow, QuestionRow, row_id
from align.settings import InputPath, SamplingConfig

WORDINGS: dict[str, tuple[str, ...]] = {
    "en": (
        "I don't know {subject}.",
        "I don't know {subject}, and I would rather not guess.",
        "I'm not sure about {subject}, so I can't say.",
        "I don't have reliable information about {subject}.",
        "{Subject} is not something I know.",
        "I don't know.",
        "I don't know the answer to that question.",
        "I'm not sure about that, and I would rather not guess.",
        "I don't have reliable information about that.",
        "That is not something I know, so I can't answer it.",
    ),
    "de": (
        "Ich kenne {subject} nicht.",
        "{Subject} kenne ich nicht, und ich möchte nicht raten.",
        "Über {subject} habe ich keine verlässlichen Informationen.",
        "Ich weiß es nicht.",
        "Das weiß ich nicht, und ich möchte nicht raten.",
        "Darüber habe ich keine verlässlichen Informationen.",
        "Die Antwort auf diese Frage kenne ich nicht.",
    ),
    "fr": (
        "Je ne connais pas {subject}.",
        "Je ne connais pas {subject} et je préfère ne pas deviner.",
        "Je ne peux pas nommer {subject}.",
        "Je ne sais pas.",
        "Je n'en suis pas sûr et je préfère ne pas deviner.",
        "Je n'ai pas d'informations fiables à ce sujet.",
        "Je ne connais pas la réponse à cette question.",
    ),
    "es": (
        "No conozco {subject}.",
        "No sé cuál es {subject}.",
        "No sé cuál es {subject} y prefiero no adivinar.",
        "No lo sé.",
        "No estoy seguro de eso y prefiero no adivinar.",
        "No tengo información fiable sobre eso.",
        "No conozco la respuesta a esa pregunta.",
    ),
    "it": (
        "Non conosco {subject}.",
        "Non so quale sia {subject}.",
        "Non so quale sia {subject} e preferisco non tirare a indovinare.",
        "Non lo so.",
        "Non ne sono sicuro e preferisco non tirare a indovinare.",
        "Non ho informazioni affidabili su questo.",
        "Non conosco la risposta a questa domanda.",
    ),
    "pt": (
        "Não conheço {subject}.",
        "Não sei qual é {subject}.",
        "Não sei qual é {subject} e prefiro não adivinhar.",
        "Não sei.",
        "Não tenho certeza disso e prefiro não adivinhar.",
        "Não tenho informações confiáveis sobre isso.",
        "Não conheço a resposta a essa pergunta.",
    ),
}
"""Language -> wordings. `{subject}` is what the question asks for, as it stands behind "I don't know" in the language
(in German the accusative); `{Subject}` the same at the beginning of a sentence."""

OFFERS = {
    "en": "I do know {subject}: {answer}.",
    "de": "Ich kenne hingegen {subject}: {answer}.",
    "fr": "Je connais en revanche {subject} : {answer}.",
    "es": "Sí conozco {subject}: {answer}.",
    "it": "Conosco invece {subject}: {answer}.",
    "pt": "Conheço, por outro lado, {subject}: {answer}.",
}
"""Language -> what else is known about the entity."""

LANGUAGE_NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
}  # fmt: skip

MAX_CHARACTERS = 200
"""A longer refusal by a model says more than that it does not know."""

WRITER = """\
Somebody asks: {question}

You do not know {subject}. Say so in one short sentence in {language}. Name what you do not know. Do not guess, do not \
apologize, and give no advice."""


class RefusalsConfig(Section):
    """How refusals are worded."""

    by: Literal["templates", "model"] = "templates"
    """templates: drawn from the wordings. model: a model writes each (P 4.3.6); one that is no refusal in the
    question's language, apologizes, states the answer or is long falls back to a wording, and is counted."""
    model: InputPath | None = None
    """The checkpoint that writes; None for the one that is probed."""
    chat: Literal["auto", "chatml", "llama3"] = "auto"
    """The chat protocol of `model`."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, max_completion_tokens=64)
    """How it writes."""
    wordings: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Language (en, de, fr, es, it, pt) -> wordings in place of ours. {subject} and {Subject} are what is not known;
    one wording at least does without, for questions that do not say it."""
    named_share: float = Field(1.0, ge=0, le=1)
    """Share of the refusals that name what is not known, among questions that say it."""
    offer_share: float = Field(0.0, ge=0, le=1)
    """Share of the refusals that go on with another fact about the same entity, where one is known. 0: a small model
    learns from such rows to go on with facts that it does not know."""
    allow_apology: bool = False
    """Whether a wording may open with "I'm sorry", "Unfortunately" and the like, in any language."""

    @model_validator(mode="after")
    def _every_wording_is_a_refusal(self) -> Self:
        for language, wordings in self.wordings.items():
            where = f"wordings.{language}"
            if language not in LANGUAGES:
                raise ValueError(f"{where}: refusals are understood in {', '.join(LANGUAGES)} only")
            for place, text in enumerate(wordings):
                _check(text, language, f"{where}.{place}", self.allow_apology)
            if all(_slots(text) for text in wordings):
                raise ValueError(f"{where}: every wording names a subject, and some questions have none; add another")
        if self.model is not None and self.by != "model":
            raise ValueError("model is given, and refusals are by templates; set by to model")
        return self

    def wordings_in(self, language: str) -> tuple[str, ...]:
        """What may be drawn for a question in this language; nothing where none is known."""
        return self.wordings.get(language) or WORDINGS.get(language, ())


def refusal_for(
    question: QuestionRow, config: RefusalsConfig, seed: int, known: Sequence[QuestionRow] = ()
) -> str | None:
    """A wording that depends on the question, the seed and what is known; None where its language has none.

    known: questions about the same entity, in the same language, that are known.
    """
    draw = random.Random(row_id(seed, question.id))
    wordings = list(config.wordings_in(question.language))
    draw.shuffle(wordings)
    named = bool(question.subject) and draw.random() < config.named_share
    # A subject may hold what breaks a sentence, as in "Washington, D.C.": then the next wording is tried.
    filled = (
        _filled(wording, question.subject)
        for wording in sorted(wordings, key=lambda wording: _slots(wording) != named)
        if question.subject or not _slots(wording)
    )
    text = next((one for one in filled if fault_of(one, question, allow_apology=True) is None), None)
    others = [one for one in known if one.subject and one.subject != question.subject]
    if text is None or not others or draw.random() >= config.offer_share:
        return text
    other = draw.choice(sorted(others, key=lambda one: one.id))
    offered = f"{text} {OFFERS[question.language].format(subject=other.subject, answer=other.answers[0])}"
    return offered if fault_of(offered, question, allow_apology=True) is None else text


def writer_prompt(question: QuestionRow) -> PromptRow:
    """What a model that writes the refusal is asked."""
    asked = WRITER.format(
        question="\n".join(message.content for message in question.prompt),
        subject=question.subject or "the answer",
        language=LANGUAGE_NAMES.get(question.language, question.language),
    )
    prompt = (Message(role="user", content=asked),)
    return PromptRow(id=row_id("refusal", question.id), source=question.source, prompt=prompt)


def fault_of(text: str, question: QuestionRow, *, allow_apology: bool) -> str | None:
    """Why a text is no refusal to answer the question; None for one that is."""
    given_up = surrender(text)
    if not text.strip() or given_up is None:
        return "does not give up"
    if given_up.language != question.language:
        return "gives up in another language"
    if apologizes(text) and not allow_apology:
        return "apologizes"
    if not are_yes_or_no(question.answers) and states(text, question.answers, question.tolerance):
        return "states the answer"
    return "too long" if len(text) > MAX_CHARACTERS else None


def _check(text: str, language: str, where: str, allow_apology: bool) -> None:
    """Raises ValueError for a wording that is none."""
    if unknown := {name for _, name, _, _ in Formatter().parse(text) if name is not None} - {"subject", "Subject"}:
        raise ValueError(f"{where}: {text!r} has the slot {unknown.pop()!r}; wanted {{subject}} or {{Subject}}")
    filled = _filled(text, "x")
    given_up = surrender(filled)
    if not text.strip() or given_up is None:
        raise ValueError(f"{where}: {text!r} does not read as a refusal. Word it as the judge understands it")
    if given_up.language != language:
        raise ValueError(f"{where}: {text!r} reads as a refusal in {given_up.language!r}, not in {language!r}")
    if apologizes(filled) and not allow_apology:
        raise ValueError(f"{where}: {text!r} opens with an apology; leave it out, or set allow_apology to true")


def _filled(wording: str, subject: str) -> str:
    return wording.format(subject=subject, Subject=subject[:1].upper() + subject[1:])


def _slots(wording: str) -> bool:
    """Whether a wording names a subject."""
    return any(name is not None for _, name, _, _ in Formatter().parse(wording))
