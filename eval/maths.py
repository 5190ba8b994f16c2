"""Mathematics: how many held-out problems does a model solve, and how many more than a baseline?

Only the final answer is checked, by the verifier `maths` (`align/judges/verifiers/maths.py`). Problems of one template
are not independent: a model that has understood a template solves most of its problems. So intervals are over
templates, and over problems where a problem has its own wording.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from align.errors import RowError
from align.jsonl import Drops, read_rows
from align.rows import Candidate, MathsProblemRow
from align.settings import InputPath, InputSources, Reading
from eval.baseline import rows_of_baseline
from eval.intervals import Share, paired_difference, share_of
from eval.runner import Generator, Result, completion_text, limited, prompt_text

Verdict = Literal["right", "wrong", "no answer"]
MATHS = "maths"
"""The verifier whose entries are read from the column `verify`."""


class MathsEvalConfig(Reading):
    """Problems with known answers."""

    problems: InputSources
    """Problems that no stage trains on: `maths.heldout.jsonl` of the builder maths, or other prompts with an entry for
    the verifier maths in the column `verify`."""
    baseline: InputPath | None = None
    """maths.json of the starting model on the same problems. The differences are computed problem by problem."""


def evaluate(config: MathsEvalConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """Shares of all problems, and with a baseline their differences from it:

    exact: the final answer is right. Again for each source, as `exact_...`.
    no_answer: the text states no answer that can be read. A text that was cut off at the length limit states one only
        if it marks it: the last number of an unfinished solution is not its answer.
    """
    from align.judges.verifiers.maths import MathsVerifier

    drops = Drops()
    problems = limited(read_rows(config.problems, MathsProblemRow, config, drops=drops), limit)
    verifier = MathsVerifier()
    entries = [_entry_of(problem, verifier) for problem in problems]
    asked = {
        problem.id: {"prompt": prompt_text(problem.prompt), "expected": entry.answer}
        for problem, entry in zip(problems, entries, strict=True)
    }
    before = rows_of_baseline(config.baseline, asked, "problems") if config.baseline is not None else {}
    rows: list[dict[str, Any]] = []
    for problem, entry, answer in zip(problems, entries, generator.answers(problems, units, MATHS), strict=True):
        rows.append(
            {
                "id": problem.id,
                "prompt": prompt_text(problem.prompt),
                "answer": completion_text(answer.completion),
                "verdict": judge_solution(answer, entry, verifier),
                "before": before[problem.id]["verdict"] if before else None,
                "expected": entry.answer,
                "source": problem.source,
                "template": problem.template,
                "finished": answer.finished,
            }
        )
    counts: dict[str, Any] = {"rows": len(rows), **Counter(row["verdict"] for row in rows)}
    counts["clusters"] = {"by": "template", "count": len(set(map(_cluster_of, rows)))}
    scores = {name: _share_of(own, verdict) for name, own, verdict in _metrics(rows)}
    differences = {name: _difference_of(own, verdict) for name, own, verdict in _metrics(rows)} if before else {}
    return Result(scores, counts | drops.dropped, rows, differences)


def judge_solution(answer: Candidate, entry: Any, verifier: Any) -> Verdict:
    """Whether the final answer of a solution is right, wrong, or cannot be read.

    entry, verifier: a `MathsEntry` and a `MathsVerifier`.
    """
    from align.judges.verifiers.maths import final_answer

    if not answer.finished:
        found = final_answer(completion_text(answer.completion))
        if found is None or found.kind == "number":
            return "no answer"
    failure = verifier.failure(answer.completion, entry)
    if failure is None:
        return "right"
    return "no answer" if failure.reason in ("no answer", "answer too long") else "wrong"


def _entry_of(problem: MathsProblemRow, verifier: Any) -> Any:
    """The problem's `MathsEntry`. Raises RowError if it has none, or one that the verifier refuses."""
    from pydantic import ValidationError

    given = problem.required().get(MATHS)
    how = 'Write {"maths": {"answer": "42"}} into the column verify'
    if given is None:
        raise RowError(f"problem {problem.id}: verify", "has no entry for the verifier maths", how)
    try:
        return verifier.read(given)
    except ValidationError as error:
        raise RowError(f"problem {problem.id}: verify.maths", error.errors()[0]["msg"], how) from None


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Sequence[Mapping[str, Any]], Verdict]]:
    """(name of the metric, its rows, the verdict that counts for it)."""
    found: list[tuple[str, Sequence[Mapping[str, Any]], Verdict]] = [("exact", rows, "right")]
    sources = sorted({row["source"] for row in rows})
    for source in sources if len(sources) > 1 else ():
        name = re.sub(r"\W+", "_", source)
        found.append((f"exact_{name}", [row for row in rows if row["source"] == source], "right"))
    return [*found, ("no_answer", rows, "no answer")]


def _share_of(rows: Sequence[Mapping[str, Any]], verdict: Verdict) -> Share | None:
    return share_of([float(row["verdict"] == verdict) for row in rows], [_cluster_of(row) for row in rows])


def _difference_of(rows: Sequence[Mapping[str, Any]], verdict: Verdict) -> Share | None:
    """The share with this verdict now minus that with it in the baseline, problem by problem."""
    before, after = ([float(row[when] == verdict) for row in rows] for when in ("before", "verdict"))
    return paired_difference(before, after, [_cluster_of(row) for row in rows])


def _cluster_of(row: Mapping[str, Any]) -> str:
    """What a row's interval is computed over: its template, or the problem if it has none."""
    return f"template {row['template']}" if row["template"] else f"problem {row['id']}"
