"""Instructions on answers that are given: the four rates, their differences from a baseline, and rates by kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError
from align.jsonl import write_rows
from align.rows import Candidate, Message, PromptRow, VerifiedPromptRow
from eval import instructions
from eval.instructions import InstructionsEvalConfig
from eval.intervals import share
from eval.runner import Result

WORDS = {"kind": "words", "at_most": 3}
UPPER = {"kind": "case", "case": "upper"}
ABSENT = {"kind": "keywords", "absent": ["no"]}
CHECKS = {
    "a#0.words": [WORDS],
    "a#1.upper_case": [UPPER],
    "b#0.words+upper_case": [WORDS, UPPER],
    "c": [ABSENT],
}
BEFORE = {
    "a#0.words": "one two three four",
    "a#1.upper_case": "yes",
    "b#0.words+upper_case": "one two",
    "c": "no",
}
AFTER = {
    "a#0.words": "one two three",  # followed
    "a#1.upper_case": "Sure:\nYES",  # in the loose reading
    "b#0.words+upper_case": "one two",  # one of two
    "c": "yes",  # followed
}


class Answering:
    """A generator with its answers given."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.given = answers
        self.asked: list[PromptRow] = []

    def answers(self, rows: list[PromptRow], folder: Path, label: str) -> list[Candidate]:
        self.asked += rows
        shared: dict[str, Any] = {"source": "test", "index": 0, "seed": 0}
        return [
            Candidate(
                id=row.id,
                prompt_id=row.id,
                prompt=row.prompt,
                completion=(Message(role="assistant", content=self.given[row.id]),),
                finished=row.id != "c",
                **shared,
            )
            for row in rows
        ]


def written(path: Path, checks: dict[str, list[dict[str, Any]]]) -> Path:
    prompts = {
        "a#0.words": [("system", "Be brief."), ("user", "Go.")],
        "c": [("user", "Hi. Never say no."), ("assistant", "Hi."), ("user", "Go.")],
    }
    rows = [
        VerifiedPromptRow(
            id=name,
            source="test",
            prompt=tuple(
                Message.model_validate({"role": role, "content": text})
                for role, text in prompts.get(name, [("user", f"Go on with {name}.")])
            ),
            verify=json.dumps({"instructions": {"checks": own}} if own else {}),
        )
        for name, own in checks.items()
    ]
    write_rows(path, rows)
    return path


def evaluated(path: Path, answers: dict[str, str], limit: int | None = None, **settings: Any) -> Result:
    config = InstructionsEvalConfig(rows=path, **settings)
    return instructions.evaluate(config, Answering(answers), path.parent, limit)  # type: ignore[arg-type]


def baseline(path: Path, answers: dict[str, str]) -> Path:
    before = path.parent / "before.json"
    before.write_text(json.dumps({"rows": evaluated(path, answers).rows}))
    return before


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.jsonl", CHECKS)


def test_rates_are_of_prompts_and_of_instructions_in_two_readings(rows: Path) -> None:
    found = evaluated(rows, AFTER)
    values = {name: (value.value, value.n) for name, value in found.scores.items() if value is not None}
    assert values == {
        "prompt_strict": (0.5, 4),
        "prompt_loose": (0.75, 4),
        "instruction_strict": (0.6, 5),
        "instruction_loose": (0.8, 5),
    }
    assert [row["verdict"] for row in found.rows] == ["followed", "followed loosely", "not followed", "followed"]
    assert found.rows[2]["expected"] == [json.dumps(WORDS), json.dumps(UPPER)]
    assert found.rows[2]["checks"] == [
        {"kind": "words at_most", "strict": True, "loose": True},
        {"kind": "case upper", "strict": False, "loose": False},
    ]
    assert found.counts["clusters"] == {"by": "base prompt", "count": 3}
    assert found.counts["unfinished"] == 1
    assert not found.differences


def test_only_ids_of_the_builder_name_a_base_prompt(tmp_path: Path) -> None:
    checks = {name: [UPPER] for name in ("doc#1", "doc#2", "doc#3#0.words", "doc#3#1.no_commas+quoted")}
    found = evaluated(written(tmp_path / "own.jsonl", checks), dict.fromkeys(checks, "NO"))
    assert found.counts["clusters"]["count"] == 3


def test_rates_by_kind_and_place_have_intervals(rows: Path) -> None:
    counts = evaluated(rows, AFTER).counts
    kinds = {name: (rates["strict"]["value"], rates["loose"]["value"]) for name, rates in counts["by_kind"].items()}
    assert kinds == {"words at_most": (1, 1), "case upper": (0, 0.5), "keywords absent": (1, 1)}
    places = {name: (rates["strict"]["value"], rates["strict"]["n"]) for name, rates in counts["by_place"].items()}
    assert places == {"system message": (1, 1), "message": (1 / 3, 3), "earlier turn": (1, 1)}
    one = share(1, 1)
    assert one is not None
    assert counts["by_kind"]["keywords absent"]["strict"] == one._asdict()


@pytest.mark.slow
def test_differences_are_of_the_same_rows_and_over_base_prompts(tmp_path: Path) -> None:
    """60 rows of 20 base prompts, of which 30 more are followed. If whole base prompts change, the interval is wider
    than if one row or two of each do."""
    checks = {f"{base}#{row}.words": [WORDS] for base in range(20) for row in range(3)}
    path = written(tmp_path / "rows.jsonl", checks)
    long, short = "one two three four", "one"
    before = baseline(path, dict.fromkeys(checks, long))
    whole = {name: short if int(name.partition("#")[0]) < 10 else long for name in checks}
    spread = {name: short if place % 2 else long for place, name in enumerate(checks)}
    widths = []
    for answers in (whole, spread):
        found = evaluated(path, answers, baseline=before)
        change = found.differences["prompt_strict"]
        assert change is not None
        assert (change.value, change.n) == (0.5, 60)
        assert change.low > 0
        widths.append(change.high - change.low)
        by_kind = found.counts["by_kind"]["words at_most"]["strict_difference"]
        assert by_kind == change._asdict()
        assert found.differences["instruction_strict"] == change
        assert found.rows[0]["before"] == "not followed"
    assert widths[0] > 1.5 * widths[1]


@pytest.mark.slow
def test_a_worse_model_has_a_difference_below_0(rows: Path) -> None:
    found = evaluated(rows, BEFORE, baseline=baseline(rows, AFTER))
    values = {name: value.value for name, value in found.differences.items() if value is not None}
    assert values == pytest.approx(
        {"prompt_strict": -0.5, "prompt_loose": -0.75, "instruction_strict": -0.4, "instruction_loose": -0.6}
    )


def test_seen_kinds_are_scored_apart(rows: Path, tmp_path: Path) -> None:
    seen = written(tmp_path / "seen.jsonl", {"s#0.words": [WORDS]})
    answers = {**AFTER, "s#0.words": "a b c d"}
    found = evaluated(rows, answers, seen_rows=seen)
    plain = evaluated(rows, AFTER)
    assert {name: found.scores[name] for name in plain.scores} == plain.scores
    assert found.scores["seen_prompt_strict"] == share(0, 1)
    assert len(found.rows) == 5


def test_the_model_is_not_asked_what_is_verified(rows: Path) -> None:
    generator = Answering(AFTER)
    instructions.evaluate(InstructionsEvalConfig(rows=rows), generator, rows.parent, 2)  # type: ignore[arg-type]
    assert len(generator.asked) == 2
    assert all(type(row) is PromptRow for row in generator.asked)


@pytest.mark.parametrize(
    "checks, message",
    [
        ([], r"prompt x: verify: has no entry for 'instructions'"),
        ([{"kind": "words"}], r"prompt x: verify\.instructions.*: expected at_least, at_most or both"),
    ],
)
def test_rows_that_cannot_be_checked_are_refused(tmp_path: Path, checks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RowError, match=message):
        evaluated(written(tmp_path / "rows.jsonl", {"x": checks}), {"x": "yes"})


def test_a_baseline_with_other_instructions_is_refused(rows: Path, tmp_path: Path) -> None:
    before = baseline(rows, BEFORE)
    other = written(tmp_path / "other.jsonl", {**CHECKS, "c": [WORDS]})
    with pytest.raises(RowError, match=r"prompt c: has other instructions than the baseline's row"):
        evaluated(other, AFTER, baseline=before)
    more = written(tmp_path / "more.jsonl", {**CHECKS, "d": [WORDS]})
    with pytest.raises(RowError, match=r"before\.json: has no verdict for 1 of 5 rows"):
        evaluated(more, {**AFTER, "d": ""}, baseline=before)
