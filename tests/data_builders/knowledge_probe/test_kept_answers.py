"""Which right answers are kept for training: cases by hand, most of them said by a 135M model in a probe."""

from __future__ import annotations

import pytest

from align.rows import Message, QuestionRow
from data_builders.knowledge_probe.kept_answers import kept_answers
from data_builders.knowledge_probe.verdicts import FinalVerdict, ProbedQuestion, completion_text
from tests.fakes import candidates

OTHER = "names another answer"
COUNTRIES = {
    "capital": {
        **{"Chile": "Santiago", "Canada": "Ottawa", "Bolivia": "La Paz"},
        **{"Mexico": "Mexico City", "Singapore": "Singapore"},
    },
    "country_of_capital": {"Santiago": "Chile", "Ottawa": "Canada"},
    "continent": {
        **{"Cameroon": "Africa", "South Africa": "Africa", "Sudan": "Africa", "Senegal": "Africa"},
        **{"Brunei": "Asia", "Luxembourg": "Europe", "Germany": "Europe"},
    },
    "coast": {"Chile": "yes"},
}
ELEMENTS = {
    "symbol": {"silicon": "Si", "thorium": "Th", "tantalum": "Ta"},
    "element_of_symbol": {"Zn": "Zinc"},
    "atomic_number": {"silicon": "14"},
}
ASKED = {
    "capital": "What is the capital of {}?",
    "country_of_capital": "{} is the capital of which country?",
    "continent": "On which continent is {}?",
    "coast": "Does {} have a coast?",
    "symbol": "What is the chemical symbol of {}?",
    "element_of_symbol": "Which chemical element has the symbol {}?",
    "atomic_number": "What is the atomic number of {}?",
}


def question(relation: str, name: str) -> QuestionRow:
    topic = "countries" if relation in COUNTRIES else "elements"
    answers = (COUNTRIES | ELEMENTS)[relation]
    is_inverse = relation in ("country_of_capital", "element_of_symbol")
    return QuestionRow(
        id=f"{relation} {name}",
        source="made",
        prompt=(Message(role="user", content=ASKED[relation].format(name)),),
        entity=answers[name] if is_inverse else name.capitalize() if name.islower() else name,
        relation=relation,
        answers=(answers[name],),
        topic=topic,
    )


def probed(row: QuestionRow, texts: list[str], verdicts: str = "") -> ProbedQuestion:
    words: dict[str, FinalVerdict] = {"r": "right", "w": "wrong", "a": "abstained", "c": "unfinished"}
    judged = tuple(words[letter] for letter in verdicts or "r" * len(texts))
    answers = candidates(*((text, None, judged[n] != "unfinished") for n, text in enumerate(texts)), prompt=row.id)
    return ProbedQuestion(row, tuple(answers), (), (), judged, "known")


OTHERS = [probed(question(relation, name), ["x"]) for relation, own in (COUNTRIES | ELEMENTS).items() for name in own]


def problem_of(each: ProbedQuestion, max_sentences: int = 1) -> str | None:
    rest = [other for other in OTHERS if other.question.id != each.question.id]
    found = kept_answers([each, *rest], check=True, max_sentences=max_sentences)
    return found.problems.get(each.question.id)


@pytest.mark.parametrize(
    "relation, name, text",
    [
        ("capital", "Chile", "Santiago"),
        ("capital", "Chile", "It is Santiago"),
        ("capital", "Chile", "The capital of Chile is Santiago."),
        ("capital", "Chile", "Santiago is the capital."),
        ("capital", "Chile", "Santiago is a capital city in the west of Chile."),
        ("capital", "Mexico", "Mexico City is the capital of Mexico."),
        ("capital", "Singapore", "The capital of Singapore is Singapore."),
        ("country_of_capital", "Santiago", "Santiago is the capital of Chile."),
        ("country_of_capital", "Santiago", "The answer is: Chile"),
        ("continent", "Brunei", "Brunei is located in Southeast Asia."),
        ("continent", "South Africa", "South Africa is in Africa."),
        ("symbol", "silicon", "The chemical symbol of silicon is Si."),
        ("element_of_symbol", "Zn", "The chemical element with the symbol Zn is Zinc."),
        ("atomic_number", "silicon", "The atomic number of silicon is 14."),
        ("coast", "Chile", "Yes, Chile has a long coast on the Pacific, as Canada does."),
    ],
)
def test_a_plain_answer_is_kept(relation: str, name: str, text: str) -> None:
    assert problem_of(probed(question(relation, name), [text])) is None


@pytest.mark.parametrize(
    "problem, relation, name, text",
    [
        ("does not end a sentence", "capital", "Chile", "The capital of Chile is the city of Santiago"),
        ("too many sentences", "symbol", "silicon", "The chemical symbol of silicon is Si.\n\nThe symbol is silicon."),
        (OTHER, "country_of_capital", "Santiago", "Santiago is the capital of Chile, also known as La Paz."),
        (OTHER, "continent", "Brunei", "Brunei is in Asia, close to South Africa."),
        (OTHER, "continent", "Luxembourg", "Luxembourg is located in Europe, next to Germany."),
        (OTHER, "continent", "Senegal", "Sudre (Sudan) is a country in Africa."),
        (OTHER, "symbol", "thorium", "The chemical symbol of thorium is Th or Ta."),
        ("states another number", "atomic_number", "silicon", "Silicon has the number 14, and its weight is 46.3."),
        ("repeats itself", "capital", "Canada", "The capital city of Canada is Ottawa, Canada."),
        ("repeats itself", "country_of_capital", "Ottawa", "Ottawa is the capital of Canada, Canada."),
        (
            *("takes what is asked about for the answer", "continent", "Cameroon"),
            "Cameroon is a continent located in Africa.",
        ),
        ("takes what is asked about for the answer", "continent", "Senegal", "Senegalia, a continent in Africa."),
        ("negates something", "capital", "Chile", "Santiago is the capital of Chile, not Lima."),
        ("does not name what is asked about", "element_of_symbol", "Zn", "Zinc is a metal."),
    ],
)
def test_an_answer_that_says_too_much_or_something_else_is_not_kept(
    problem: str, relation: str, name: str, text: str
) -> None:
    assert problem_of(probed(question(relation, name), [text])) == problem


def test_the_shortest_answer_that_passes_is_kept_and_the_others_are_counted() -> None:
    texts = [
        "Santiago, Chile, Chile.",
        "The capital of Chile is Santiago.",
        "It is Santiago, in the heart of it.",
        "Santiago is",
    ]
    each = probed(question("capital", "Chile"), texts, "rrrc")
    found = kept_answers([each], check=True, max_sentences=1)
    assert completion_text(found.answers["capital Chile"]) == "The capital of Chile is Santiago."
    assert found.counts == {"checked": 3, "passed": 2, "repeats itself": 1}
    assert not found.problems
    unchecked = kept_answers([each], check=False, max_sentences=1)
    assert completion_text(unchecked.answers["capital Chile"]) == "Santiago, Chile, Chile."


def test_half_of_the_answers_must_agree_and_only_finished_ones_that_answer_count() -> None:
    row = question("capital", "Chile")
    assert problem_of(probed(row, ["It is Santiago."] * 4, "rwww")) == "fewer than half of the answers agree"
    assert problem_of(probed(row, ["It is Santiago."] * 4, "rwcc")) is None
    assert problem_of(probed(row, ["It is Santiago."] * 4, "raaa")) is None
    assert problem_of(probed(row, ["It is Santiago."] * 2, "cc")) == "no right answer was finished"
    two = "The capital of Chile is Santiago. It is a large city."
    assert problem_of(probed(row, [two]), max_sentences=2) is None
