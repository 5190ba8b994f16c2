"""Giving up is heard in six languages, an answer in the same words is not, and an apology at the start is."""

from __future__ import annotations

import pytest

from align.judges.answers.refusals import LANGUAGES, abstention, apologizes
from align.judges.answers.rules import verdict

GIVES_UP = {
    "en": ["The capital of Chad is not something I know.", "The capital of Chad is unknown to me."],
    "de": [
        "Das weiß ich nicht.",
        "Ich weiss es leider nicht.",
        "Ich weiß nicht, was die Hauptstadt des Tschad ist.",
        "Die Hauptstadt des Tschad ist mir nicht bekannt.",
        "Ich kenne die Hauptstadt des Tschad nicht.",
        "Da bin ich mir nicht sicher, und ich möchte nicht raten.",
        "Ich habe keine verlässlichen Informationen darüber.",
        "Dazu habe ich keine Informationen.",
        "Diese Frage kann ich nicht beantworten.",
        "Es tut mir leid, aber das kann ich dir nicht sagen.",
        "Keine Ahnung.",
        "Ich weiß es nicht, aber Sie können in einem Atlas nachsehen.",
    ],
    "fr": [
        "Je ne sais pas.",
        "Je ne connais pas la capitale du Tchad.",
        "Je ne sais vraiment pas quelle est la capitale du Tchad.",
        "Je n’ai pas d’informations fiables à ce sujet.",
        "Je n'en suis pas sûr et je préfère ne pas deviner.",
        "J'ignore la réponse à cette question.",
        "Je suis désolé, mais je ne peux pas répondre à cette question.",
        "Aucune idée.",
        "Je ne sais pas, mais vous pouvez consulter un atlas, qui est plus fiable.",
    ],
    "es": [
        "No lo sé.",
        "No sé cuál es la capital de Chad.",
        "No conozco la capital de Chad.",
        "No estoy seguro de eso y prefiero no adivinar.",
        "No tengo información fiable sobre eso.",
        "Lo siento, pero no puedo responder a esa pregunta.",
        "Desconozco la respuesta.",
        "Ni idea.",
    ],
    "it": [
        "Non lo so.",
        "Non so quale sia la capitale del Ciad.",
        "Non conosco la capitale del Ciad.",
        "Non ne sono sicuro e preferisco non tirare a indovinare.",
        "Non ho informazioni affidabili su questo.",
        "Mi dispiace, ma non posso rispondere a questa domanda.",
        "La capitale del Ciad non mi è nota.",
        "Nessuna idea.",
    ],
    "pt": [
        "Não sei.",
        "Não sei qual é a capital do Chade.",
        "Não conheço a capital do Chade.",
        "Não tenho certeza e prefiro não adivinhar.",
        "Não tenho informações confiáveis sobre isso.",
        "Desculpe, mas não consigo responder a essa pergunta.",
        "Desconheço a resposta.",
        "Não faço ideia.",
    ],
}
ANSWERS = {
    "en": ["Nothing is unknown to science: it is Paris."],
    "de": [
        "Die Hauptstadt ist nicht Paris, sondern Rom.",
        "Ich bin mir nicht sicher, aber ich glaube, es ist Paris.",
        "Ich weiß nicht genau, aber die Hauptstadt ist N'Djamena.",
        "Ich weiß, dass es nicht Rom ist: es ist Paris.",
        "Die Straßen von Rom sind nicht sicher.",
        "Ich kenne nicht nur Paris.",
    ],
    "fr": [
        "La capitale n'est pas Rome, c'est Paris.",
        "Je ne suis pas sûr, mais je pense que c'est Paris.",
        "Je ne suis pas français.",
        "Je n'ai pas de doute : c'est Paris.",
        "Je ne sais pas exactement, mais la capitale est Rome.",
    ],
    "es": [
        "La capital no es Roma, sino París.",
        "No estoy seguro, pero creo que es París.",
        "No tengo duda: es París.",
        "No se conoce otra capital que París.",
    ],
    "it": [
        "La capitale non è Roma, ma Parigi.",
        "Non sono sicuro, ma credo che sia Parigi.",
        "Non solo Parigi: anche Roma.",
        "Non ho dubbi: è Parigi.",
    ],
    "pt": [
        "A capital não é Roma, mas Paris.",
        "Não tenho certeza, mas acho que é Paris.",
        "Não há dúvida: é Paris.",
    ],
}
APOLOGIES = [
    "I'm sorry, but I don't know.", "Sorry, no idea.", "Unfortunately I don't know.", "I’m afraid I don't know.",
    "Es tut mir leid, das weiß ich nicht.", "Leider weiß ich das nicht.", "Je suis désolé, je ne sais pas.",
    "Désolée, je ne sais pas.", "Malheureusement, je l'ignore.", "Lo siento, no lo sé.",
    "Lamentablemente no lo sé.", "Mi dispiace, non lo so.", "Purtroppo non lo so.", "Desculpe, não sei.",
    "Infelizmente não sei.",
]  # fmt: skip


def pairs(texts: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(language, text) for language, some in texts.items() for text in some]


def test_every_language_has_cases() -> None:
    assert tuple(GIVES_UP) == tuple(ANSWERS) == LANGUAGES


@pytest.mark.parametrize("language, text", pairs(GIVES_UP))
def test_giving_up_is_heard_in_its_language(language: str, text: str) -> None:
    found = abstention(text)
    assert found is not None
    assert found.language == language


@pytest.mark.parametrize("language, text", pairs(ANSWERS))
def test_an_answer_is_no_abstention(language: str, text: str) -> None:
    assert abstention(text) is None


@pytest.mark.parametrize("text", APOLOGIES)
def test_an_apology_at_the_start_is_heard_and_the_text_still_gives_up(text: str) -> None:
    assert apologizes(text)
    assert abstention(text) is not None


@pytest.mark.parametrize("language, text", [pair for pair in pairs(GIVES_UP) if pair[1] not in APOLOGIES])
def test_a_refusal_without_an_apology_is_not_taken_for_one(language: str, text: str) -> None:
    regrets = ("Es tut mir leid", "Je suis désolé", "Lo siento", "Mi dispiace", "Desculpe")
    assert apologizes(text) == text.startswith(regrets)


def test_the_place_is_that_of_the_sentence_in_the_text() -> None:
    text = "Der Tschad liegt in Afrika. Seine Hauptstadt kenne ich nicht."
    found = abstention(text)
    assert found is not None
    assert text[found.start :].strip() == "Seine Hauptstadt kenne ich nicht."
    assert verdict(text, ("Afrika",)) == "right"
    assert verdict(text, ("N'Djamena",)) == "abstained"
