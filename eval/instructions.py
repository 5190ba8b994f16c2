"""Instructions: how often a model follows instructions that a rule can check, in the manner of IFEval.

Source: Zhou et al. 2023, arXiv:2311.07911. The four rates are the same: of prompts whose instructions are all followed,
and of single instructions, each in the strict and in the loose reading (`align/judges/verifiers/instructions.py`). The
prompts and kinds of instruction are those that `data_builders/instructions/` holds out. An answer that was cut off at
the length limit is checked as it is.

Rows of one base prompt are not independent, so all intervals are over base prompts. A row's id names its base prompt:
`a1b2#0.words` and `a1b2#1.json` are rows of `a1b2`. Rows with ids of another form, such as `doc#7`, are each on their
own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from align.errors import RowError
from align.jsonl import Drops, read_rows
from align.judges.verifiers.instructions import Instruction, InstructionsEntry, follows
from align.judges.verifiers.verifier import final_text
from align.rows import VerifiedPromptRow
from align.sampling.verification import Verification
from align.settings import InputPath, InputSources, Reading
from eval.baseline import rows_of_baseline
from eval.intervals import Share, paired_difference, share_of
from eval.runner import Generator, Result, limited, prompt_text

_OF_A_BASE_PROMPT = re.compile(r"#\d+\.[a-z_+]+\Z")
READINGS: tuple[Literal["strict", "loose"], ...] = ("strict", "loose")
VERIFIER: Literal["instructions"] = "instructions"


class InstructionsEvalConfig(Reading):
    """Prompts whose instructions a rule can check."""

    rows: InputSources
    """Prompts with an entry for the verifier `instructions` in the column verify. No stage trains on these prompts, nor
    on these kinds of instruction: instructions.heldout.jsonl of the builder `instructions`."""
    seen_rows: InputSources | None = None
    """More such prompts, with the kinds of instruction that are trained on: instructions.seen.jsonl. They do not count
    in the scores above, and have their own, as `seen_...`."""
    baseline: InputPath | None = None
    """instructions.json of the starting model on the same rows. The differences from it are computed row by row."""


def evaluate(config: InstructionsEvalConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """prompt_strict, prompt_loose: prompts whose instructions are all followed.

    instruction_strict, instruction_loose: single instructions that are followed.

    With a baseline also their differences from it, row by row. The counts have the rates of each kind of instruction,
    `by_kind`, and of each place where an instruction can be, `by_place`: in the only message, in a system message, or
    in the first of several turns.
    """
    drops = Drops()
    parts = {"": limited(read_rows(config.rows, VerifiedPromptRow, config, drops=drops), limit)}
    if config.seen_rows is not None:
        parts["seen_"] = limited(read_rows(config.seen_rows, VerifiedPromptRow, config, drops=drops), limit)
    before: Mapping[str, Mapping[str, Any]] = {}
    if config.baseline is not None:
        asked = {row.id: {"prompt": prompt_text(row.prompt)} for part in parts.values() for row in part}
        before = rows_of_baseline(config.baseline, asked, "rows")
    judged = {prefix: _judged(part, generator, units / f"{prefix}rows", before) for prefix, part in parts.items()}
    scores: dict[str, Share | None] = {}
    differences: dict[str, Share | None] = {}
    for prefix, part in judged.items():
        scores |= {f"{prefix}{name}": value for name, value in _shares_of(part).items()}
        if before:
            differences |= {f"{prefix}{name}": value for name, value in _differences_of(part).items()}
    rows = [row for part in judged.values() for row in part]
    counts: dict[str, Any] = {"rows": len(rows), **Counter(row["verdict"] for row in rows)}
    counts["unfinished"] = sum(not row["finished"] for row in rows)
    counts["clusters"] = {"by": "base prompt", "count": len(set(map(_cluster_of, rows)))}
    counts["by_kind"] = _by(rows, lambda row, check: str(check["kind"]))
    counts["by_place"] = _by(rows, lambda row, check: str(row["place"]))
    return Result(scores, counts | drops.dropped, rows, differences)


def kind_of(check: Instruction) -> str:
    """The kind of an instruction, by which rates are reported: `words at_most`, `case lower`, `keywords absent`."""
    given = check.model_dump(exclude_defaults=True)
    details: list[str] = [name for name in ("at_least", "at_most", "present", "absent") if name in given]
    details += [str(given["case"])] if "case" in given else []
    return " ".join([check.kind, *details])


def _judged(
    rows: Sequence[VerifiedPromptRow], generator: Generator, units: Path, before: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The answer to each row, and for each of its instructions whether the answer follows it."""
    for row in rows:
        if VERIFIER not in row.required():
            how = "Use rows of the builder instructions, or add the column verify (docs/instructions.md)"
            raise RowError(f"prompt {row.id}: verify", f"has no entry for {VERIFIER!r}", how)
    prompts = Verification(rows, [VERIFIER]).prompts  # refuses entries that cannot be read
    found = []
    for row, answer in zip(rows, generator.answers(prompts, units, "instructions"), strict=True):
        text = final_text(answer.completion)
        checks = InstructionsEntry.model_validate(row.required()[VERIFIER]).checks
        results = [
            {"kind": kind_of(check), **{reading: follows(text, check, reading) for reading in READINGS}}
            for check in checks
        ]
        expected = [{"kind": check.kind, **check.model_dump(mode="json", exclude_defaults=True)} for check in checks]
        found.append(
            {
                "id": row.id,
                "prompt": prompt_text(row.prompt),
                "answer": text,
                "verdict": _verdict(results),
                "before": _verdict_before(row.id, expected, before),
                "expected": [json.dumps(check, ensure_ascii=False) for check in expected],
                "checks": results,
                "checks_before": before[row.id]["checks"] if before else None,
                "place": _place_of(row),
                "finished": answer.finished,
            }
        )
    return found


def _verdict(checks: Sequence[Mapping[str, Any]]) -> str:
    if all(check["strict"] for check in checks):
        return "followed"
    return "followed loosely" if all(check["loose"] for check in checks) else "not followed"


def _verdict_before(row_id: str, expected: Sequence[Any], before: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The baseline's verdict on a row. Raises RowError if the row had other instructions then."""
    if not before:
        return None
    then = [json.loads(text) for text in before[row_id]["expected"]]
    if then != list(expected):
        what = f"has other instructions than the baseline's row: {list(expected)}, and then {then}"
        raise RowError(f"prompt {row_id}", what, "Evaluate the starting model on the same rows")
    verdict: str = before[row_id]["verdict"]
    return verdict


def _place_of(row: VerifiedPromptRow) -> str:
    """Where the row's instruction is, as the builder writes its dialogs."""
    if any(message.role == "assistant" for message in row.prompt):
        return "earlier turn"
    return "system message" if row.prompt[0].role == "system" else "message"


def _cluster_of(row: Mapping[str, Any]) -> str:
    return _OF_A_BASE_PROMPT.sub("", str(row["id"]))


def _points(rows: Sequence[Mapping[str, Any]], when: str, metric: str) -> list[float]:
    """1 for each prompt, or for each instruction, that is followed; 0 for the others.

    when: "checks" for the answers of this model, "checks_before" for those of the baseline.
    """
    level, _, reading = metric.partition("_")
    if level == "prompt":
        return [float(all(check[reading] for check in row[when])) for row in rows]
    return [float(check[reading]) for row in rows for check in row[when]]


def _clusters(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The base prompt of each of `_points`."""
    if metric.startswith("prompt"):
        return [_cluster_of(row) for row in rows]
    return [_cluster_of(row) for row in rows for _ in row["checks"]]


_METRICS = tuple(f"{level}_{reading}" for level in ("prompt", "instruction") for reading in READINGS)


def _shares_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Share | None]:
    return {metric: share_of(_points(rows, "checks", metric), _clusters(rows, metric)) for metric in _METRICS}


def _differences_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Share | None]:
    found = {}
    for metric in _METRICS:
        before, after = _points(rows, "checks_before", metric), _points(rows, "checks", metric)
        found[metric] = paired_difference(before, after, _clusters(rows, metric))
    return found


def _by(
    rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any], Mapping[str, Any]], str]
) -> dict[str, dict[str, Any]]:
    """Rates of single instructions by kind or place, with their intervals: strict, loose, and the strict difference
    from the baseline if there is one.

    key: (row, check) -> kind or place.
    """
    grouped: dict[str, list[tuple[str, Mapping[str, Any], Mapping[str, Any] | None]]] = {}
    for row in rows:
        for check, then in zip(row["checks"], row["checks_before"] or [None] * len(row["checks"]), strict=True):
            grouped.setdefault(key(row, check), []).append((_cluster_of(row), check, then))
    found: dict[str, dict[str, Any]] = {}
    for name, cases in sorted(grouped.items()):
        clusters = [cluster for cluster, _, _ in cases]
        rates: dict[str, Share | None] = {
            reading: share_of([float(now[reading]) for _, now, _ in cases], clusters) for reading in READINGS
        }
        then = [float(old["strict"]) for _, _, old in cases if old is not None]
        if then:
            rates["strict_difference"] = paired_difference(
                then, [float(now["strict"]) for _, now, _ in cases], clusters
            )
        found[name] = {rate: value._asdict() for rate, value in rates.items() if value is not None}
    return found
