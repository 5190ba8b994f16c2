"""Giving up is heard in six languages, an answer in the same words is not, and an apology at the start is."""

from __future__ import annotations

import time

import pytest

from align.judges.answers.refusals import LANGUAGES, abstention, apologizes
from align.judges.answers.rules import verdict
from align.judges.answers.sentences import clauses, sentences

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
ABSTAINS_AND_ANSWERS = {
    "en": [
        "I'm not sure. The capital of Chad is Lagos.",
        "I don't know exactly, Lagos is the capital of Chad.",
        "I don't know the capital of France. The capital of France is Paris.",
        "I don't know. Lagos.",
        "I don't know.It is Lagos.",
        "Not sure, Lagos.",
        "I'm not certain - it is Lagos.",
        "I don't know: Lagos.",
        "I'm not sure. That is Lagos.",
        "I don't know. So it is Lagos.",
        "I'm not sure. Sorry. The answer is Lagos.",
        "I don't know. 26.",
        "I'm not sure, but it may be a city in Africa.",
        "The capital of Chad is Lagos, but I'm not sure.",
        "The capital of Chad is Lagos. I'm not sure.",
        "I don't know. Please consult an atlas. The capital is Lagos.",
        "I'm not sure. The capital is Lagos. But I can't say for certain.",
        "I don't know the capital of Chad. Chad's capital is Lagos.",
        "I don't know the capital of Chad. Lagos is the capital of Chad.",
        "I'm not sure. My answer is Lagos.",
        "I don't know. Paris?",
        "I'm not sure (Lagos).",
        "I'm not sure, the capital might be Lagos.",
        "I don't know. However, Lagos is the capital.",
        "I do not know the capital of Chad; it is Lagos.",
    ],
    "de": [
        "Ich bin mir nicht sicher. Die Hauptstadt des Tschad ist Lagos.",
        "Ich weiß es nicht genau, Lagos ist die Hauptstadt.",
        "Ich weiß es nicht. Es ist Lagos.",
        "Keine Ahnung. Lagos.",
        "Ich kenne die Hauptstadt des Tschad nicht. Die Hauptstadt des Tschad ist Lagos.",
        "Die Hauptstadt ist Lagos, aber ich bin mir nicht sicher.",
        "Das weiß ich nicht: Lagos.",
    ],
    "fr": [
        "Je ne sais pas. C'est Lagos.",
        "Je ne suis pas sûr. La capitale du Tchad est Lagos.",
        "Je ne sais pas exactement, c'est Lagos.",
        "Aucune idée. Lagos.",
        "Je ne connais pas la capitale du Tchad. La capitale du Tchad est Lagos.",
        "C'est Lagos, mais je ne suis pas sûr.",
    ],
    "es": [
        "No lo sé. Es Lagos.",
        "No estoy seguro. La capital de Chad es Lagos.",
        "No lo sé con certeza, la capital es Lagos.",
        "Ni idea. Lagos.",
        "No conozco la capital de Chad. La capital de Chad es Lagos.",
        "La capital es Lagos, pero no estoy seguro.",
    ],
    "it": [
        "Non lo so. È Lagos.",
        "Non sono sicuro. La capitale del Ciad è Lagos.",
        "Non lo so con certezza, la capitale è Lagos.",
        "Nessuna idea. Lagos.",
        "Non conosco la capitale del Ciad. La capitale del Ciad è Lagos.",
        "È Lagos, ma non sono sicuro.",
    ],
    "pt": [
        "Não sei. É Lagos.",
        "Não tenho certeza. A capital do Chade é Lagos.",
        "Não sei ao certo, a capital é Lagos.",
        "Não faço ideia. Lagos.",
        "Não conheço a capital do Chade. A capital do Chade é Lagos.",
        "É Lagos, mas não tenho certeza.",
    ],
}
"""Language -> texts that abstain and also claim Lagos, or something as wrong, of Chad: answers."""
ABSTAINS_AND_REMARKS = {
    "en": [
        "I don't know the capital of Chad.",
        "I don't know. It is a difficult question.",
        "I don't know the capital of Chad. Chad is a country in Africa.",
        "I don't know the capital of Chad, which is a country in Africa.",
        "I'm not sure. It is not Lagos.",
        "I don't know. Sorry!",
        "I don't know. Good question.",
        "I don't know, sorry.",
        "I'm not sure. I am an AI model, and my training data is limited.",
        "I don't know. Would you like me to help with something else?",
        "I don't know the capital of Chad. I do know the continent of Chad: Africa.",
        "I don't know. This information is not something I was given.",
        "Kiribati is a country. I'm not sure what its capital is.",
        "What is the capital of Chad? I'm not sure.",
        "I don't know the capital of St. Lucia.",
        "I don't know the mayor of Washington, D.C.",
        "I'm not sure, because the question is hard.",
        "Hmm. I'm not sure.",
        "Well... I don't know.",
        "I don't know. You are asking about a country.",
        "I'm not sure, and I would rather not guess.",
        "I don't know. Google it.",
        "I don't know. An atlas might be helpful.",
        "I don't know. Is there anything else I can help with?",
        "I don't know. That is a question for an expert.",
        "The answer is not known.",
        "That's beyond me.",
        "I would have to look that up.",
    ],
    "de": [
        "Ich weiß es nicht. Das ist eine schwierige Frage.",
        "Ich kenne die Hauptstadt des Tschad nicht. Der Tschad ist ein Land in Afrika.",
        "Ich kenne die Hauptstadt des Tschad nicht, das ein Land in Afrika ist.",
        "Ich weiß es nicht. Tut mir leid.",
        "Ich kenne die Hauptstadt nicht. Ich kenne hingegen den Kontinent des Tschad: Afrika.",
        "Ich weiß es nicht. Es ist nicht Lagos.",
    ],
    "fr": [
        "Je ne sais pas. C'est une question difficile.",
        "Je ne connais pas la capitale du Tchad. Le Tchad est un pays d'Afrique.",
        "Je ne sais pas. Désolé.",
        "Je ne connais pas la capitale. Je connais en revanche le continent du Tchad : l'Afrique.",
        "Je ne sais pas. Ce n'est pas Lagos.",
    ],
    "es": [
        "No lo sé. Es una pregunta difícil.",
        "No conozco la capital de Chad. Chad es un país de África.",
        "No lo sé. Lo siento.",
        "No conozco la capital de Chad. Sí conozco el continente de Chad: África.",
        "No lo sé. No es Lagos.",
    ],
    "it": [
        "Non lo so. È una domanda difficile.",
        "Non conosco la capitale del Ciad. Il Ciad è un paese dell'Africa.",
        "Non lo so. Mi dispiace.",
        "Non conosco la capitale. Conosco invece il continente del Ciad: Africa.",
        "Non lo so. Non è Lagos.",
        "Non lo so. Sono un assistente.",
    ],
    "pt": [
        "Não sei. É uma pergunta difícil.",
        "Não conheço a capital do Chade. O Chade é um país da África.",
        "Não sei. Desculpe.",
        "Não conheço a capital. Conheço, por outro lado, o continente do Chade: África.",
        "Não sei. Não é Lagos.",
    ],
}
"""Language -> texts that abstain and say more, none of which is an answer."""
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
    assert tuple(GIVES_UP) == tuple(ANSWERS) == tuple(ABSTAINS_AND_ANSWERS) == tuple(ABSTAINS_AND_REMARKS) == LANGUAGES


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


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_that_abstains_and_makes_a_claim_has_answered_wrong_or_right(language: str) -> None:
    for text in ABSTAINS_AND_ANSWERS[language]:
        assert verdict(text, ("N'Djamena",)) == "wrong", text
        right = text.replace("Lagos", "N'Djamena")
        assert right == text or verdict(right, ("N'Djamena",)) == "right", right


@pytest.mark.parametrize("language", LANGUAGES)
def test_remarks_next_to_an_abstention_are_no_answer(language: str) -> None:
    for text in ABSTAINS_AND_REMARKS[language]:
        found = abstention(text)
        assert found is not None, text
        assert found.language == language, text
        assert verdict(text, ("N'Djamena",)) == "abstained", text


@pytest.mark.parametrize(
    "text",
    [
        "The capital of Chad is Lagos. I don't know more.",
        "The capital of Chad is Lagos. I'm sorry, but I can't help with anything else.",
        "Lagos. I'm not sure about the rest.",
        "Die Hauptstadt des Tschad ist Lagos. Mehr weiß ich nicht.",
        "La capitale du Tchad est Lagos. Je ne sais rien de plus.",
        "La capital de Chad es Lagos. No sé nada más.",
        "La capitale del Ciad è Lagos. Non so altro.",
        "A capital do Chade é Lagos. Não sei mais nada.",
    ],
)
def test_abstaining_from_more_than_an_answer_does_not_take_it_back(text: str) -> None:
    assert verdict(text, ("N'Djamena",)) == "wrong"
    assert verdict(text, ("Lagos",)) == "right"


@pytest.mark.parametrize(
    "text",
    ["Der Tschad liegt in Afrika. Ich weiß es nicht mehr.", "Chad is in Africa. I don't know its capital any more."],
)
def test_what_is_no_longer_known_is_not_more_than_an_answer(text: str) -> None:
    assert verdict(text, ("N'Djamena",)) == "abstained"


def test_a_vague_guess_is_judged_like_any_other_answer() -> None:
    text = "I'm not sure, but it may be a city in Africa."
    assert verdict(text, ("N'Djamena",)) == "wrong", "of the question for the capital"
    assert verdict(text, ("Africa",)) == "right", "of the question for the continent"


@pytest.mark.parametrize("text", [". " * 10_000, "!" * 10_000 + "x"])
def test_marks_that_a_model_repeats_are_read_in_no_time(text: str) -> None:
    began = time.process_time()
    assert len(sentences(text)) == text.count("x")
    assert time.process_time() - began < 2, "seconds of the processor; with backtracking it would take ten or more"


def test_sentences_end_at_marks_and_not_at_dots_in_names_and_numbers() -> None:
    text = "Well... it is 1.5 m.No! St. Lucia and D.C. are\nfine: 1,234, N'Djamena"
    parts = [sentence.text.strip() for sentence in sentences(text)]
    assert parts == ["Well...", "it is 1.5 m.", "No!", "St. Lucia and D.C.", "are", "fine: 1,234, N'Djamena"]
    assert "".join(sentence.text for sentence in sentences(text)) == text
    assert [clause.plain for clause in clauses(sentences(text)[-1])] == ["fine", "1,234", "n'djamena"]
