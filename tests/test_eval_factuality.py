"""Factuality on answers that are given: shares, and what became of what was known before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.errors import RowError
from align.jsonl import write_rows
from align.rows import Candidate, Message, PromptRow, QuestionRow
from eval import factuality
from eval.factuality import FactualityConfig
from eval.intervals import share

BEFORE = {"a": "Paris", "b": "Rome.", "c": "It is Oslo", "d": "Lyon", "e": "Nice", "f": "I don't know."}
AFTER = {"a": "Paris!", "b": "I don't know.", "c": "Bergen", "d": "I'm not sure.", "e": "Nancy", "f": "Kyiv"}
RIGHT = {"a": "Paris", "b": "Rome", "c": "Oslo", "d": "Paris", "e": "Paris", "f": "Kyiv"}


class Answering:
    """A generator with its answers given."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.given = answers

    def answers(self, rows: list[PromptRow], folder: Path, label: str) -> list[Candidate]:
        return [
            Candidate(
                id=row.id,
                source=row.source,
                prompt_id=row.id,
                prompt=row.prompt,
                completion=(Message(role="assistant", content=self.given[row.id]),),
                index=0,
                seed=0,
                finished=True,
            )
            for row in rows
        ]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [
        QuestionRow(
            id=name,
            source="test",
            prompt=(Message(role="user", content=f"Capital of {name}?"),),
            entity=name,
            relation="capital" if name < "d" else "seat",
            answers=(answer,),
        )
        for name, answer in RIGHT.items()
    ]
    write_rows(tmp_path / "questions.jsonl", rows)
    return tmp_path / "questions.jsonl"


def baseline(questions: Path, limit: int | None = None) -> Path:
    before = factuality.evaluate(FactualityConfig(questions=questions), Answering(BEFORE), questions.parent, limit)  # type: ignore[arg-type]
    path = questions.parent / "before.json"
    path.write_text(json.dumps({"rows": before.rows}))
    return path


def test_right_wrong_and_abstained_are_shares_of_all_questions(questions: Path) -> None:
    found = factuality.evaluate(FactualityConfig(questions=questions), Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]
    assert found.scores == {"right": share(2, 6), "wrong": share(2, 6), "abstained": share(2, 6)}
    assert found.counts["by_relation"] == {
        "capital": {"right": 1, "wrong": 1, "abstained": 1},
        "seat": {"right": 1, "wrong": 1, "abstained": 1},
    }
    assert found.rows[0] == {
        "id": "a",
        "prompt": "Capital of a?",
        "answer": "Paris!",
        "verdict": "right",
        "before": None,
        "expected": ["Paris"],
        "entity": "a",
        "relation": "capital",
        "finished": True,
    }


def test_against_a_baseline_what_was_known_and_what_was_wrong_are_followed(questions: Path) -> None:
    config = FactualityConfig(questions=questions, baseline=baseline(questions))
    found = factuality.evaluate(config, Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]
    assert found.scores["known_kept"] == share(1, 3)
    assert found.scores["false_refusals"] == share(1, 3)
    assert found.scores["unknown_refused"] == share(1, 2)
    assert {row["id"]: row["before"] for row in found.rows} == {
        **dict.fromkeys("abc", "right"),
        **dict.fromkeys("de", "wrong"),
        "f": "abstained",
    }


def test_a_baseline_of_other_questions_is_refused(questions: Path) -> None:
    config = FactualityConfig(questions=questions, baseline=baseline(questions, limit=4))
    with pytest.raises(RowError, match=r"before\.json: holds no verdict on 2 of 6 questions, .* the same limit\."):
        factuality.evaluate(config, Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]


def test_a_limit_takes_the_same_questions_every_time(questions: Path) -> None:
    config = FactualityConfig(questions=questions, baseline=baseline(questions, limit=4))
    found = factuality.evaluate(config, Answering(AFTER), questions.parent, 4)  # type: ignore[arg-type]
    assert len(found.rows) == 4
