"""The texts of refusals: wordings in six languages, or a sentence that a model writes, and the check of both.

A refusal must abstain in the language of its question (as `align/judges/answers/refusals.py` detects it), must not
begin with an apology, and must not contain the answer. It names what the model does not know if the question's row has
a subject ("I don't know the capital of Chad."), and can add a fact about the same entity that the model does know.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from string import Formatter
from typing import Literal, Self

from pydantic import Field, model_validator

from align.config import Section
from align.judges.answers.refusals import LANGUAGES, abstention, apologizes
from align.judges.answers.rules import are_yes_or_no, states
from align.rows import Message, PromptRow, QuestionRow, row_id
from align.settings import ChatName, InputPath, SamplingConfig

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
"""Language -> wordings. `{subject}` is what the question asks for, in the form that follows "I don't know" in that
language (in German the accusative). `{Subject}` is the same at the beginning of a sentence."""

OFFERS = {
    "en": "I do know {subject}: {answer}.",
    "de": "Ich kenne hingegen {subject}: {answer}.",
    "fr": "Je connais en revanche {subject} : {answer}.",
    "es": "Sí conozco {subject}: {answer}.",
    "it": "Conosco invece {subject}: {answer}.",
    "pt": "Conheço, por outro lado, {subject}: {answer}.",
}
"""Language -> the sentence that adds another fact about the same entity."""

LANGUAGE_NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
}  # fmt: skip

MAX_CHARACTERS = 200
"""A refusal written by a model that is longer says more than that the answer is not known, and is not used."""

WRITER = """\
Somebody asks: {question}

You do not know {subject}. Say so in one short sentence in {language}. Name what you do not know. Do not guess, do not \
apologize, and give no advice."""


class RefusalsConfig(Section):
    """How refusals are worded: from a list of wordings, or by a model."""

    by: Literal["templates", "model"] = "templates"
    """templates: choose one of the wordings. model: a model writes each refusal, as in Llama 3 (section 4.3.6). A text
    that does not abstain in the question's language, apologizes, contains the answer or is too long is counted and
    replaced with one of the wordings."""
    model: InputPath | None = None
    """The checkpoint that writes refusals. null: the probed model."""
    chat: ChatName = "auto"
    """The chat protocol of `model`."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, max_completion_tokens=64)
    """How refusals are sampled."""
    wordings: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Language (en, de, fr, es, it, pt) -> wordings that replace the built-in ones. {subject} and {Subject} are
    replaced with what the question asks for. At least one wording must work without them, for questions without a
    subject."""
    named_ratio: float = Field(1.0, ge=0, le=1)
    """Ratio of refusals that name what is not known, among questions with a subject."""
    offer_ratio: float = Field(0.0, ge=0, le=1)
    """Ratio of refusals that add a fact about the same entity, if the model knows one. Start from 0: a small model
    learns from such rows to add facts that it does not know."""
    allow_apology: bool = False
    """Whether a refusal may begin with an apology, such as "I'm sorry" or "Unfortunately", in any language."""

    @model_validator(mode="after")
    def _every_wording_is_a_refusal(self) -> Self:
        for language, wordings in self.wordings.items():
            where = f"wordings.{language}"
            if language not in LANGUAGES:
                raise ValueError(f"{where}: unknown language. Refusals are supported in {', '.join(LANGUAGES)}")
            for place, text in enumerate(wordings):
                _check(text, language, f"{where}.{place}", self.allow_apology)
            if all(_has_subject(text) for text in wordings):
                raise ValueError(
                    f"{where}: every wording contains a subject, but some questions have none. Add a wording without it"
                )
        if self.model is not None and self.by != "model":
            raise ValueError("model is set, but refusals come from templates. Set refusals.by to model")
        return self

    def wordings_in(self, language: str) -> tuple[str, ...]:
        """Return the wordings for questions in this language; an empty tuple if there are none."""
        return self.wordings.get(language) or WORDINGS.get(language, ())


def refusal_for(
    question: QuestionRow, config: RefusalsConfig, seed: int, known: Sequence[QuestionRow] = ()
) -> str | None:
    """Choose a wording for a question, depending on the seed. Returns None if its language has no usable wording.

    known: the known questions about the same entity in the same language, one of which the refusal may mention.
    """
    draw = random.Random(row_id(seed, question.id))
    wordings = list(config.wordings_in(question.language))
    draw.shuffle(wordings)
    named = bool(question.subject) and draw.random() < config.named_ratio
    # Some subjects break a wording, such as "Washington, D.C.", whose full stops end the sentence. Try the next
    # wording.
    filled = (
        _filled(wording, question.subject)
        for wording in sorted(wordings, key=lambda wording: _has_subject(wording) != named)
        if question.subject or not _has_subject(wording)
    )
    text = next((one for one in filled if refusal_problem(one, question, allow_apology=True) is None), None)
    others = [one for one in known if one.subject and one.subject != question.subject]
    if text is None or not others or draw.random() >= config.offer_ratio:
        return text
    other = draw.choice(sorted(others, key=lambda one: one.id))
    offered = f"{text} {OFFERS[question.language].format(subject=other.subject, answer=other.answers[0])}"
    return offered if refusal_problem(offered, question, allow_apology=True) is None else text


def writer_prompt(question: QuestionRow) -> PromptRow:
    """Return the prompt that asks a model to write the refusal of a question."""
    asked = WRITER.format(
        question="\n".join(message.content for message in question.prompt),
        subject=question.subject or "the answer",
        language=LANGUAGE_NAMES.get(question.language, question.language),
    )
    prompt = (Message(role="user", content=asked),)
    return PromptRow(id=row_id("refusal", question.id), source=question.source, prompt=prompt)


def refusal_problem(text: str, question: QuestionRow, *, allow_apology: bool) -> str | None:
    """Check whether a text is a usable refusal of the question. Returns the reason if it is not, else None."""
    abstained = abstention(text)
    if not text.strip() or abstained is None:
        return "does not abstain"
    if abstained.language != question.language:
        return "abstains in another language"
    if apologizes(text) and not allow_apology:
        return "apologizes"
    if not are_yes_or_no(question.answers) and states(text, question.answers, question.tolerance):
        return "contains the answer"
    return "too long" if len(text) > MAX_CHARACTERS else None


def _check(text: str, language: str, where: str, allow_apology: bool) -> None:
    """Raise ValueError if a wording from the config is not a usable refusal."""
    if unknown := {name for _, name, _, _ in Formatter().parse(text) if name is not None} - {"subject", "Subject"}:
        raise ValueError(f"{where}: {text!r} contains {unknown.pop()!r} in braces. Use {{subject}} or {{Subject}}")
    filled = _filled(text, "x")
    abstained = abstention(filled)
    if not text.strip() or abstained is None:
        raise ValueError(
            f"{where}: {text!r} is not recognized as a refusal. Write it like one of the built-in wordings"
        )
    if abstained.language != language:
        raise ValueError(
            f"{where}: {text!r} is a refusal in {abstained.language!r}, not in {language!r}. Move it there"
        )
    if apologizes(filled) and not allow_apology:
        raise ValueError(f"{where}: {text!r} begins with an apology. Remove it, or set allow_apology to true")


def _filled(wording: str, subject: str) -> str:
    return wording.format(subject=subject, Subject=subject[:1].upper() + subject[1:])


def _has_subject(wording: str) -> bool:
    """Return whether a wording contains a subject."""
    return any(name is not None for _, name, _, _ in Formatter().parse(wording))
