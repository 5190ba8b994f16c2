"""Solutions judged by their final answer, and differences from a baseline on the same problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.errors import RowError
from align.jsonl import write_rows
from align.judges.verifiers.maths import MathsEntry, MathsVerifier
from align.rows import Candidate, MathsProblemRow, Message, PromptRow
from eval import maths
from eval.intervals import clustered_share, share
from eval.maths import MathsEvalConfig, judge_solution


def candidate(text: str, name: str = "a", *, finished: bool = True) -> Candidate:
    asked = (Message(role="user", content="?"),)
    said = (Message(role="assistant", content=text),)
    return Candidate(
        id=name, source="t", prompt_id=name, prompt=asked, completion=said, index=0, seed=0, finished=finished
    )


class Answering:
    """A generator with its answers given."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.given = answers

    def answers(self, rows: list[PromptRow], folder: Path, label: str) -> list[Candidate]:
        return [candidate(self.given[row.id], row.id) for row in rows]


BEFORE = {"a1": "Answer: 7", "a2": "It is 9.", "b1": "Answer: 1", "b2": "Answer: 2", "c": "I cannot say."}
AFTER = {
    "a1": "3 + 4 = 7\nAnswer: 7",
    "a2": "Answer: 8",
    "b1": "Answer: 5",
    "b2": "Answer: 6",
    "c": "Answer: 10 apples",
}
RIGHT = {"a1": "7", "a2": "8", "b1": "5", "b2": "9", "c": "10 apples"}


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = [
        MathsProblemRow(
            id=name,
            source="asdiv" if name == "c" else "word-problems/new-template",
            prompt=(Message(role="user", content=f"Problem {name}?"),),
            verify={"maths": {"answer": answer}},
            template={"a": "sum", "b": "product", "c": ""}[name[0]],
        )
        for name, answer in RIGHT.items()
    ]
    write_rows(tmp_path / "problems.jsonl", rows)
    return tmp_path / "problems.jsonl"


@pytest.mark.parametrize(
    "text, finished, verdict",
    [
        ("3 + 4 = 7\nAnswer: 7", True, "right"),
        ("That makes 7 apples", True, "right"),
        ("Answer: 8", True, "wrong"),
        ("I do not know.", True, "no answer"),
        ("", True, "no answer"),
        ("\\boxed{" + "1 + " * 80 + "1}", True, "no answer"),  # too long to be read
        ("She has 3 apples, and then 7", False, "no answer"),  # cut off: 7 is not its answer
        ("Answer: 7\nLet me check: 3 +", False, "right"),
    ],
)
def test_a_solution_is_right_wrong_or_without_a_readable_answer(text: str, finished: bool, verdict: str) -> None:
    assert judge_solution(candidate(text, finished=finished), MathsEntry(answer="7"), MathsVerifier()) == verdict


def test_shares_by_source_and_over_templates(problems: Path) -> None:
    found = maths.evaluate(MathsEvalConfig(problems=problems), Answering(AFTER), problems.parent, None)  # type: ignore[arg-type]
    assert found.scores["exact"] == clustered_share([1, 1, 1, 0, 1], ["sum", "sum", "product", "product", "c"])
    assert found.scores["exact_asdiv"] == share(1, 1)
    assert found.scores["exact_word_problems_new_template"] == clustered_share([1, 1, 1, 0], ["s", "s", "p", "p"])
    assert found.scores["no_answer"] is not None
    assert found.scores["no_answer"].value == 0
    assert found.counts == {"rows": 5, "right": 4, "wrong": 1, "clusters": {"by": "template", "count": 3}}
    assert found.differences == {}


def test_differences_are_paired_with_the_baseline(problems: Path) -> None:
    before = maths.evaluate(MathsEvalConfig(problems=problems), Answering(BEFORE), problems.parent, None)  # type: ignore[arg-type]
    path = problems.parent / "before.json"
    path.write_text(json.dumps({"rows": before.rows}))
    config = MathsEvalConfig(problems=problems, baseline=path)
    found = maths.evaluate(config, Answering(AFTER), problems.parent, None)  # type: ignore[arg-type]
    values = {name: share.value for name, share in found.differences.items() if share is not None}
    # Right before: a1. Right after: a1, a2, b1, c. Without an answer before: c.
    assert values == pytest.approx(
        {"exact": 0.6, "exact_asdiv": 1.0, "exact_word_problems_new_template": 0.5, "no_answer": -0.2}
    )
    assert [row["before"] for row in found.rows] == ["right", "wrong", "wrong", "wrong", "no answer"]


def test_a_baseline_without_a_problem_is_refused(problems: Path) -> None:
    path = problems.parent / "before.json"
    path.write_text(json.dumps({"rows": [{"id": "a1", "verdict": "right"}]}))
    with pytest.raises(RowError, match=r"has no verdict for 4 of 5 problems, the first of them a2"):
        maths.evaluate(MathsEvalConfig(problems=problems, baseline=path), Answering(AFTER), problems.parent, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "verify, message",
    [("", "problem a: verify: has no entry for the verifier maths"), ('{"maths": {}}', "problem a: verify.maths: ")],
)
def test_a_problem_without_an_answer_is_refused_before_anything_is_asked(
    tmp_path: Path, verify: str, message: str
) -> None:
    row = MathsProblemRow(id="a", source="t", prompt=(Message(role="user", content="?"),), verify=verify)
    write_rows(tmp_path / "problems.jsonl", [row])
    with pytest.raises(RowError, match=message):
        maths.evaluate(MathsEvalConfig(problems=tmp_path / "problems.jsonl"), Answering({}), tmp_path, None)  # type: ignore[arg-type]
