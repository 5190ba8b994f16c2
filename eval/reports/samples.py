"""Held-out questions with the answers of several models side by side."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.catalog import EVALUATIONS

GOOD = ("right", "win", "followed")
BAD = ("wrong", "loss", "not followed", "malformed", "needless", "no call", "no answer")
"""Beginnings of verdicts, for their colors."""

Evaluations = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Column -> name of the evaluation -> its JSON."""


@dataclass(frozen=True)
class Sample:
    """One held-out question with the answer of the model in each column."""

    evaluation: str
    prompt: str
    expected: str
    answers: Mapping[str, str]
    """Column -> answer."""
    verdicts: Mapping[str, str]

    @property
    def has_changed(self) -> bool:
        """Whether the first and the last answer have different verdicts."""
        first, *_, last = self.verdicts.values() if len(self.verdicts) > 1 else ("", "")
        return first != last

    @property
    def last_verdict(self) -> str:
        return list(self.verdicts.values())[-1] if self.verdicts else ""


def tone_of(verdict: str) -> str:
    """`good`, `bad` or `neutral`: how a page colors a verdict. `abstained`, `tie` and unknown words are neutral."""
    return "good" if verdict.startswith(GOOD) else "bad" if verdict.startswith(BAD) else "neutral"


def samples_of(evaluations: Evaluations, count: int) -> tuple[Sample, ...]:
    """Choose questions of each evaluation that the first and the last model with it both answered.

    count: questions of each evaluation. Up to half of them have verdicts that differ.
    """
    order = list(EVALUATIONS)
    found_names = dict.fromkeys(name for found in evaluations.values() for name in found)
    names = sorted(found_names, key=lambda name: order.index(name) if name in EVALUATIONS else len(order))
    return tuple(sample for name in names for sample in _of_one(name, evaluations, count))


def _of_one(name: str, evaluations: Evaluations, count: int) -> list[Sample]:
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for column, found in evaluations.items():
        if name in found:
            rows[column] = {row["id"]: row for row in found[name].get("rows", [])}
    first, last = next(iter(rows)), list(rows)[-1]
    shared = [row_id for row_id in rows[first] if row_id in rows[last]]
    random.Random(name).shuffle(shared)
    changed = [one for one in shared if rows[first][one].get("verdict") != rows[last][one].get("verdict")]
    same = [one for one in shared if one not in set(changed)]
    kept = changed[: (count + 1) // 2]
    kept += same[: count - len(kept)]
    kept += changed[(count + 1) // 2 :][: count - len(kept)]
    return [_sample(name, {column: own[one] for column, own in rows.items() if one in own}) for one in kept]


def _sample(name: str, answers: Mapping[str, Mapping[str, Any]]) -> Sample:
    asked = next(iter(answers.values()))
    expected = asked.get("expected", "")
    return Sample(
        evaluation=name,
        prompt=str(asked.get("prompt", "")),
        expected=", ".join(map(str, expected)) if isinstance(expected, list) else str(expected),
        answers={column: str(row.get("answer", "")) for column, row in answers.items()},
        verdicts={column: str(row.get("verdict", "")) for column, row in answers.items()},
    )
