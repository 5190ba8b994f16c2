"""Models side by side on the same held-out facts: what each answers, what it lost, how wrong it is at what coverage.

The first one is the untouched model. It is compared with once more as it would be with a threshold on a score of its
own, chosen with the dev entities: what abstaining costs without any training. Several runs of one training, with a seed
each, are one model here: their rows are pooled, with intervals over questions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from align.errors import RowError
from align.files import write_text
from align.publish.model_card import cell
from align.records import records_of
from align.rounds.results import words
from eval.confidence import SCORES
from eval.factuality import KNOWN_KEPT, cases_of, shares_of
from eval.intervals import Share, bootstrapped
from eval.reports.knowledge_map import (
    KNOWLEDGE,
    Evaluated,
    Probed,
    evaluated_of,
    knowledge_map,
    map_picture,
    map_table,
    probed_of,
)
from eval.reports.plots import line_chart, standalone
from eval.risk_coverage import Answered, at_known_kept, aurc, auroc, curve
from eval.runner import read_result
from eval.threshold_baseline import abstaining_below, choose_threshold

Evaluation = Mapping[str, Any]
"""A factuality.json."""

RESAMPLES = 200
"""Draws for the interval of an area, of which each sorts every case anew."""
SHARES = ("right", "wrong", "abstained", "known_kept", "false_refusals", "unknown_refused")


class Comparison(NamedTuple):
    """What is told of the models."""

    markdown: str
    pictures: Mapping[str, str]
    """File name -> SVG."""


def compare(
    evaluations: Mapping[str, Sequence[Evaluation]],
    *,
    dev: Evaluation | None = None,
    probed: Mapping[str, Any] | None = None,
    heldout_knowledge: Mapping[str, str] | None = None,
    score: str = "answer_mean",
    known_kept: float = 0.85,
    transfer_relations: Sequence[str] = (),
) -> Comparison:
    """Tables as Markdown, and pictures.

    evaluations: name -> factuality.json of each of its runs, the untouched model first. All answered the same
        questions.
    dev: the untouched model's on the dev entities, with scores: the threshold on `score` that keeps `known_kept` of
        what it knew there is applied to the held-out questions. None leaves this comparison out.
    probed: map.json of the probe.
    heldout_knowledge: question id -> what a probe of these same questions, made to compare and not to train on, calls
        them: known, unknown, unsure. Right once may be luck; this asks what became of what is known consistently.
    transfer_relations: kinds of fact that nothing was trained on. They have a table of their own, and stand in the
        knowledge map; everything else is told of the other kinds.
    Raises RowError where an evaluation lacks questions of the first one.
    """
    start, (untouched, *_) = next(iter(evaluations.items()))
    rows = {
        name: [row for found in runs for row in _same_questions(name, found, untouched)]
        for name, runs in evaluations.items()
    }
    if dev is not None:
        threshold = choose_threshold(dev["rows"], score, known_kept)
        rows[f"{start}, threshold on {words(score)}"] = abstaining_below(rows[start], score, threshold)
    everything = rows
    if transfer_relations:
        of_transfer = {n: [r for r in own if r["relation"] in transfer_relations] for n, own in everything.items()}
        rows = {n: [r for r in own if r["relation"] not in transfer_relations] for n, own in everything.items()}
        parts = ["## Held-out entities, kinds of fact that were trained on", _shares_table(rows)]
        parts += ["## Held-out entities, kinds of fact that nothing was trained on", _shares_table(of_transfer)]
    else:
        parts = ["## Held-out questions", _shares_table(rows)]
    if dev is not None:
        kept = f"chosen to keep {known_kept:.0%} of the known on dev entities"
        parts.append(f"Threshold: {words(score)} of at least {threshold:.4g}, {kept}.")
    if any(len(runs) > 1 for runs in evaluations.values()):
        parts += ["## Each run", _runs_table(evaluations, untouched, transfer_relations)]
    if heldout_knowledge is not None:
        parts += ["## By what a probe of the same questions says", _by_knowledge_table(rows, heldout_knowledge)]
    scored = {name: rows[name] for name, runs in evaluations.items() if all(map(_has_scores, runs))}
    pictures = {}
    if scored:
        parts += ["## How wrong at how much answered", _curves_table(scored)]
        pictures["risk_coverage.svg"] = standalone(_risk_picture(scored))
    columns: list[Probed | Evaluated] = [] if probed is None else [probed_of(start, probed)]
    columns += [evaluated_of(name, own) for name, own in everything.items()]
    found = knowledge_map(columns)
    parts += ["## Knowledge map", "In percent.", _table(*map_table(found))]
    pictures["knowledge_map.svg"] = standalone(map_picture(found))
    return Comparison("\n\n".join(parts) + "\n", {name: drawn for name, drawn in pictures.items() if drawn})


def read_json(path: Path) -> dict[str, Any]:
    """What an evaluation or the probe left. Raises RowError where it is no JSON object."""
    found = read_result(path)
    if not found:
        raise RowError(path, "is no JSON that can be read", "Run the evaluation or the probe that makes it first")
    return found


def read_knowledge(path: Path) -> dict[str, str]:
    """Question id -> known, unknown, unsure or uninformative, from the answers.jsonl of a probe."""
    try:
        found = {}
        for _, record in records_of(path):
            if isinstance(record, RowError):
                raise record
            found[record["id"]] = record["knowledge"]
        return found
    except (ValueError, LookupError, TypeError) as error:
        raise RowError(
            path, f"is no answers.jsonl of a probe ({error})", "Probe the held-out questions first"
        ) from None


def write(comparison: Comparison, output: Path) -> Path:
    """knowledge.md and the pictures, into the folder `output`."""
    write_text(output / "knowledge.md", comparison.markdown)
    for name, drawn in comparison.pictures.items():
        write_text(output / name, drawn)
    return output


def _same_questions(name: str, found: Evaluation, start: Evaluation) -> list[dict[str, Any]]:
    """The rows in the order of the first evaluation, with what that one answered as `before`."""
    own = {row["id"]: row for row in found["rows"]}
    missing = [row["id"] for row in start["rows"] if row["id"] not in own]
    if missing or len(own) != len(start["rows"]):
        what = f"answers {len(own)} questions, of {len(start['rows'])} lacks {len(missing)}"
        raise RowError(name, what, "Evaluate every model on the same questions and the same limit")
    return [{**own[row["id"]], "before": row["verdict"]} for row in start["rows"]]


def _shares_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = []
    for name, own in rows.items():
        shares = shares_of(own, has_baseline=True)
        lines.append([name, *(_told(shares[share]) for share in SHARES), str(len(own))])
    return _table(["", *map(words, SHARES), "n"], lines)


def _runs_table(evaluations: Mapping[str, Sequence[Evaluation]], untouched: Evaluation, left_out: Sequence[str]) -> str:
    """The shares of every run by itself, for models that have several, without the relations that are left out."""
    lines = []
    for name, runs in evaluations.items():
        for place, found in enumerate(runs if len(runs) > 1 else ()):
            own = [row for row in _same_questions(name, found, untouched) if row["relation"] not in left_out]
            shares = shares_of(own, has_baseline=True)
            values = ["-" if one is None else f"{one.value:.0%}" for one in (shares[share] for share in SHARES)]
            lines.append([f"{name}, {place + 1}", *values])
    return _table(["", *map(words, SHARES)], lines)


def _by_knowledge_table(rows: Mapping[str, Sequence[Mapping[str, Any]]], knowledge: Mapping[str, str]) -> str:
    """Of the questions of each kind, the shares that a model answers right and that it abstains from."""
    lines = []
    for name, own in rows.items():
        cells = []
        for kind in KNOWLEDGE:
            shares = shares_of([row for row in own if knowledge.get(row["id"]) == kind], has_baseline=False)
            cells += [_told(shares["right"]), _told(shares["abstained"])]
        lines.append([name, *cells])
    asked = {row["id"] for own in rows.values() for row in own}
    if missing := asked - knowledge.keys():
        what = f"lacks {len(missing)} of the {len(asked)} questions that were evaluated"
        raise RowError("the held-out probe", what, "Probe the questions that the models were evaluated on")
    counts = Counter(knowledge[one] for one in asked)
    head = [f"{kind} (n {counts[kind]}): {verdict}" for kind in KNOWLEDGE for verdict in ("right", "abstained")]
    return _table(["", *head], lines)


def _has_scores(found: Evaluation) -> bool:
    return "risk_coverage" in found["counts"]


def _curves_table(scored: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = []
    for name, rows in scored.items():
        for score in SCORES:
            cases = cases_of(rows, score, has_baseline=True)
            if cases:
                areas = [_told(_over_questions(area, rows, score)) for area in (auroc, aurc)]
                kept = [at_known_kept(curve(cases), wanted) for wanted in KNOWN_KEPT]
                wrong = [f"{point.wrong:.0%} / {point.coverage:.0%}" if point else "-" for point in kept]
                lines.append([name, words(score), *areas, *wrong])
    first, *others = (f"{wanted:.0%} of the known kept" for wanted in KNOWN_KEPT)
    return _table(["", "score", "AUROC", "AURC", f"wrong / answered, {first}", *others], lines)


def _over_questions(
    area: Callable[[Sequence[Answered]], float | None], rows: Sequence[Mapping[str, Any]], score: str
) -> Share | None:
    """An area over all rows, its interval over questions: those of several runs are drawn together."""
    of_question: dict[str, list[Answered]] = defaultdict(list)
    for row in rows:
        of_question[row["id"]] += cases_of([row], score, has_baseline=True)
    groups = [group for group in of_question.values() if group]
    return bootstrapped(lambda drawn: area(list(chain.from_iterable(drawn))), groups, resamples=RESAMPLES)


def _risk_picture(scored: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Every model by the score that tells best what it knows: one that refuses shows it by its propensity to answer."""
    lines = {}
    for name, rows in scored.items():
        by_score = {score: cases_of(rows, score, has_baseline=True) for score in SCORES}
        told = {score: area for score, cases in by_score.items() if (area := auroc(cases)) is not None}
        if told:
            best = max(told, key=told.__getitem__)
            points = curve(by_score[best])
            lines[f"{name}, by {words(best)}"] = [(point.coverage, point.risk) for point in points]
    return line_chart("wrong among answered", lines, "answered", alone=True)


def _told(found: Share | None) -> str:
    return "-" if found is None else f"{found.value:.0%} ({100 * found.low:.0f}-{100 * found.high:.0f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)
