"""Factuality: what a model answers right, wrong, or not at all, and what became of what it knew before.

Llama 3 (section 4.3.6) wants a model to know what it knows: answer that, and refuse the rest. So abstaining is counted
apart from being wrong, and, against a baseline, apart again where the answer was known before. Answers are judged by
the string rules of `align/judges/rules.py`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from align.config import Section
from align.errors import RowError
from align.jsonl import read_rows
from align.judges.rules import verdict
from align.rows import QuestionRow
from align.settings import InputPath
from eval.intervals import share
from eval.runner import Generator, Result, completion_text, limited, prompt_text, read_result


class FactualityConfig(Section):
    """Questions with known answers."""

    questions: InputPath
    """JSONL of questions that no stage trained on."""
    baseline: InputPath | None = None
    """factuality.json of the starting model on the same questions; with it, what was known before is followed."""


def evaluate(config: FactualityConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """Shares of all questions: right, wrong, abstained. Against the baseline also:

    known_kept: of the questions that were right before, those right now.
    false_refusals: of the same, those abstained from now.
    unknown_refused: of the questions that were wrong before, those abstained from now.
    """
    questions = limited(read_rows(config.questions, QuestionRow), limit)
    before = _verdicts_before(config.baseline, questions) if config.baseline is not None else {}
    answers = generator.answers(questions, units, "factuality")
    rows: list[dict[str, Any]] = []
    for question, answer in zip(questions, answers, strict=True):
        text = completion_text(answer.completion)
        rows.append(
            {
                "id": question.id,
                "prompt": prompt_text(question.prompt),
                "answer": text,
                "verdict": verdict(text, question.answers),
                "before": before.get(question.id),
                "expected": list(question.answers),
                "entity": question.entity,
                "relation": question.relation,
                "finished": answer.finished,
            }
        )
    counts = Counter(row["verdict"] for row in rows)
    scores = {name: share(counts[name], len(rows)) for name in ("right", "wrong", "abstained")}
    if before:
        known = [row["verdict"] for row in rows if row["before"] == "right"]
        unknown = [row["verdict"] for row in rows if row["before"] == "wrong"]
        scores |= {
            "known_kept": share(known.count("right"), len(known)),
            "false_refusals": share(known.count("abstained"), len(known)),
            "unknown_refused": share(unknown.count("abstained"), len(unknown)),
        }
    return Result(scores, {"rows": len(rows), **counts, "by_relation": _by_relation(rows)}, rows)


def _verdicts_before(baseline: Path, questions: list[QuestionRow]) -> dict[str, str]:
    """Question id -> the baseline's verdict. Raises RowError where it lacks a question."""
    found = {row["id"]: row["verdict"] for row in read_result(baseline).get("rows", ())}
    missing = [question.id for question in questions if question.id not in found]
    if missing:
        what = f"holds no verdict on {len(missing)} of {len(questions)} questions, {missing[0]} the first"
        raise RowError(baseline, what, "Evaluate the starting model on the same questions and the same limit")
    return found


def _by_relation(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        of_relation = counts.setdefault(row["relation"], {"right": 0, "wrong": 0, "abstained": 0})
        of_relation[row["verdict"]] += 1
    return counts
