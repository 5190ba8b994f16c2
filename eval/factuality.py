"""Factuality: which questions a model answers right, wrong, or not at all, and what it kept of its knowledge.

Llama 3 (section 4.3.6) trains a model to answer what it knows and to refuse the rest. So abstaining is counted
separately from wrong answers, and a baseline tells whether the model knew the answer before. Answers are judged by the
string rules of `align/judges/answers/rules.py`. `eval/confidence.py` scores how confident each answer is, and
`eval/risk_coverage.py` draws curves of these scores. Questions about one entity are not independent (a model that knows
a country's capital often knows the country of that capital), so all intervals are over entities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.jsonl import Drops, read_rows
from align.judges.answers.rules import verdict
from align.rows import QuestionRow
from align.settings import InputPath, InputSources, Reading
from eval.baseline import rows_of_baseline
from eval.confidence import SCORES, ConfidenceConfig, confidences
from eval.intervals import (
    Share,
    clustered_bootstrap,
    clustered_mean,
    paired_difference,
    paired_ratio_difference,
    share_of,
)
from eval.risk_coverage import Answered, at_known_kept, aurc, auroc, curve
from eval.runner import Generator, Result, completion_text, limited, prompt_text

VERDICTS = ("right", "wrong", "abstained")
NET = {"right": 1.0, "wrong": -1.0, "abstained": 0.0}
"""What an answer counts for in `right_minus_wrong`."""
KNOWN_KEPT = (0.85, 0.9)
"""Points of a curve that are reported: where these shares of the known questions are still answered right."""


class FactualityConfig(Reading):
    """Questions with known answers."""

    questions: InputSources
    """Questions that no stage trains on."""
    baseline: InputPath | None = None
    """factuality.json of the starting model on the same questions. It says which questions that model knew, and the
    differences from it are computed question by question."""
    transfer_relations: tuple[str, ...] = ()
    """Kinds of fact that no stage trains on. They count in all scores, and again by themselves, as `transfer_...`."""
    confidence: ConfidenceConfig | None = None
    """Score how confident each answer is, and draw risk-coverage curves; `confidence: {}` takes all defaults."""


def evaluate(config: FactualityConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """Shares of all questions: right, wrong, abstained. Two scores say whether abstaining has paid:

    right_minus_wrong: the share of right answers minus that of wrong ones. A right answer earns a point, a wrong one
        costs a point, and abstaining is free. So abstaining pays if it replaces more wrong answers than right ones.
        From -1 to 1.
    attempt_accuracy: of the questions that the model does not abstain from, those right.

    With a baseline also:

    known_kept: of the questions that were right before, those right now.
    known_wrong: of the same questions, those wrong now.
    false_refusals: of the same questions, those that the model abstains from now. The three add up to 1.
    unknown_refused: of the questions that were wrong before, those that the model abstains from now.

    and the differences of the scores over all questions from the baseline, question by question.

    All of them are repeated over the transfer relations. With `confidence`, each of its three scores adds auroc_...,
    the probability that a known question has a higher score than an unknown one, and aurc_..., the mean risk over all
    coverages (lower is better). The curves are in the counts, as `risk_coverage`. Where the model abstains, the curve
    uses the answer of the baseline: what the model would have said. Questions that neither answers are in no curve, and
    counted as `no_answer`.
    """
    drops = Drops()
    questions = limited(read_rows(config.questions, QuestionRow, config, drops=drops), limit)
    asked = {one.id: {"prompt": prompt_text(one.prompt), "expected": list(one.answers)} for one in questions}
    before = rows_of_baseline(config.baseline, asked, "questions") if config.baseline is not None else {}
    answers = generator.answers(questions, units, "factuality")
    rows: list[dict[str, Any]] = []
    for question, answer in zip(questions, answers, strict=True):
        text = completion_text(answer.completion)
        rows.append(
            {
                "id": question.id,
                "prompt": prompt_text(question.prompt),
                "answer": text,
                "verdict": verdict(text, question.answers, question.tolerance),
                "before": before[question.id]["verdict"] if before else None,
                "expected": list(question.answers),
                "entity": question.entity,
                "relation": question.relation,
                "topic": question.topic,
                "language": question.language,
                "finished": answer.finished,
            }
        )
    scores = shares_of(rows, has_baseline=bool(before))
    differences = differences_of(rows) if before else {}
    transfer = [row for row in rows if row["relation"] in config.transfer_relations]
    if transfer:
        scores |= {f"transfer_{name}": value for name, value in shares_of(transfer, has_baseline=bool(before)).items()}
        of_transfer = differences_of(transfer) if before else {}
        differences |= {f"transfer_{name}": value for name, value in of_transfer.items()}
    counts: dict[str, Any] = {"rows": len(rows), **Counter(row["verdict"] for row in rows)}
    counts["clusters"] = {"by": "entity", "count": len(set(map(cluster_of, rows)))}
    counts |= {f"by_{key}": _by(key, rows) for key in ("relation", "topic", "language")}
    if config.confidence is not None:
        _add_confidences(rows, questions, before, generator, config.confidence.openings)
        more, counts["risk_coverage"] = _risk_coverage(rows, bool(before))
        scores |= more
    return Result(scores, counts | drops.dropped, rows, differences)


def shares_of(rows: Sequence[Mapping[str, Any]], *, has_baseline: bool) -> dict[str, Share | None]:
    """The shares of `evaluate` over some rows.

    rows: of one model, or of several models one after the other. Intervals are over entities, so that several rows of a
        question count as one.
    has_baseline: whether each row's `before` is the baseline's verdict.
    """
    scores = {name: _share_of(rows, name) for name in VERDICTS}
    net = [NET[row["verdict"]] for row in rows]
    scores["right_minus_wrong"] = clustered_mean(net, [cluster_of(row) for row in rows], reach=1.0)
    scores["attempt_accuracy"] = _share_of([row for row in rows if row["verdict"] != "abstained"], "right")
    if has_baseline:
        known = [row for row in rows if row["before"] == "right"]
        unknown = [row for row in rows if row["before"] == "wrong"]
        scores |= {
            "known_kept": _share_of(known, "right"),
            "known_wrong": _share_of(known, "wrong"),
            "false_refusals": _share_of(known, "abstained"),
            "unknown_refused": _share_of(unknown, "abstained"),
        }
    return scores


def differences_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Share | None]:
    """Metric -> `verdict` minus `before` (the baseline's verdict), question by question."""
    clusters = [cluster_of(row) for row in rows]
    found: dict[str, Share | None] = {}
    for name in VERDICTS:
        before, after = ([float(row[when] == name) for row in rows] for when in ("before", "verdict"))
        found[name] = paired_difference(before, after, clusters)
    before, after = ([NET[row[when]] for row in rows] for when in ("before", "verdict"))
    found["right_minus_wrong"] = paired_difference(before, after, clusters, reach=2.0)
    tried_before, tried_after = ([_attempt(row[when]) for row in rows] for when in ("before", "verdict"))
    found["attempt_accuracy"] = paired_ratio_difference(tried_before, tried_after, clusters)
    return found


def cluster_of(row: Mapping[str, Any]) -> str:
    """What a row's interval is computed over: the entity of its question, or the question if it has none."""
    return f"entity {row['entity']}" if row.get("entity") else f"question {row['id']}"


def _attempt(verdict: str) -> tuple[float, float]:
    """(1 if the answer is right, 1 if there is an answer)."""
    return float(verdict == "right"), float(verdict != "abstained")


def _share_of(rows: Sequence[Mapping[str, Any]], verdict: str) -> Share | None:
    return share_of([float(row["verdict"] == verdict) for row in rows], [cluster_of(row) for row in rows])


def _by(key: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Verdicts by relation, topic or language; rows without it are left out."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if row[key]:
            counts.setdefault(row[key], dict.fromkeys(VERDICTS, 0))[row["verdict"]] += 1
    return counts


def _add_confidences(
    rows: Sequence[dict[str, Any]],
    questions: Sequence[QuestionRow],
    before: Mapping[str, Mapping[str, Any]],
    generator: Generator,
    openings: Mapping[str, Sequence[str]],
) -> None:
    """Add to each row its `scores` and its `forced_verdict`: the verdict if the model had to answer."""
    texts = []
    for row in rows:
        instead = before.get(row["id"]) if row["verdict"] == "abstained" else None
        given = instead or row
        row["forced_verdict"] = None if given["verdict"] == "abstained" else given["verdict"]
        texts.append("" if row["forced_verdict"] is None else given["answer"])
    for row, found in zip(rows, confidences(questions, texts, generator, openings), strict=True):
        row["scores"] = found


def _risk_coverage(
    rows: Sequence[Mapping[str, Any]], has_baseline: bool
) -> tuple[dict[str, Share | None], dict[str, Any]]:
    """(aurc and auroc of each score, the curves as data)."""
    scores: dict[str, Share | None] = {}
    curves: dict[str, Any] = {}
    for name in SCORES:
        cases, clusters = clustered_cases(rows, name, has_baseline)
        if not cases:
            continue
        points = curve(cases)
        scores[f"auroc_{name}"] = clustered_bootstrap(auroc, cases, clusters)
        scores[f"aurc_{name}"] = clustered_bootstrap(aurc, cases, clusters)
        kept = {f"{least:.0%}": at_known_kept(points, least) for least in KNOWN_KEPT}
        curves[name] = {
            "points": [[round(point.coverage, 6), round(point.risk, 6), point.threshold] for point in points],
            "at_known_kept": {least: None if point is None else point._asdict() for least, point in kept.items()},
        }
    curves["no_answer"] = sum(row["forced_verdict"] is None for row in rows)
    return scores, curves


def cases_of(rows: Sequence[Mapping[str, Any]], score: str, has_baseline: bool = False) -> list[Answered]:
    """The rows of a factuality.json with scores, ready for a curve; rows without an answer are left out.

    has_baseline: a question is known if the baseline answered it right; otherwise, if the model itself does.
    """
    return [
        Answered(
            score=row["scores"][score],
            is_wrong=row["forced_verdict"] == "wrong",
            is_known=(row["before"] if has_baseline else row["verdict"]) == "right",
        )
        for row in rows
        if row["forced_verdict"] is not None and row["scores"][score] is not None
    ]


def clustered_cases(
    rows: Sequence[Mapping[str, Any]], score: str, has_baseline: bool = False
) -> tuple[list[Answered], list[str]]:
    """(the cases of `cases_of`, the cluster of each)."""
    found = [(case, cluster_of(row)) for row in rows for case in cases_of([row], score, has_baseline)]
    return [case for case, _ in found], [cluster for _, cluster in found]
