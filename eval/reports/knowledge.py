"""Compare models on the same held-out facts: what each answers, what it has lost, and its errors at each coverage.

The first model is the untrained one. The report also contains a baseline without any training: the same model abstains
when a score of its own answer is below a threshold that was chosen on the dev questions. Several training runs with
different seeds count as one model: their rows are pooled, and confidence intervals are over the entities of the
questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align.errors import RowError
from align.files import write_text
from align.publish.markdown import cell
from align.records import records_of
from align.rounds.results import words
from eval.confidence import SCORES
from eval.factuality import KNOWN_KEPT, cases_of, clustered_cases, differences_of, shares_of
from eval.intervals import Share, clustered_bootstrap, percent_range
from eval.reports.knowledge_map import (
    KNOWLEDGE,
    EvaluationColumn,
    ProbeColumn,
    evaluation_column,
    knowledge_map,
    map_plot,
    map_table,
    probe_column,
)
from eval.reports.plots import Spec, line_chart, svg_file
from eval.risk_coverage import at_known_kept, aurc, auroc, curve
from eval.runner import points, read_result
from eval.threshold_baseline import abstaining_below, choose_threshold

Evaluation = Mapping[str, Any]
"""The content of a `factuality.json`."""

RESAMPLES = 200
"""Number of bootstrap samples for the interval of an area under a curve. Each of them sorts all cases, which is
slow."""
SHARES = (
    *("right", "wrong", "abstained", "right_minus_wrong", "attempt_accuracy"),
    *("known_kept", "known_wrong", "false_refusals", "unknown_refused"),
)
NOTE = (
    "Right minus wrong: a right answer earns a point, a wrong one costs one. Attempt accuracy: right among answered. "
    "Known kept, known wrong and false refusals: of what the first model answered right; they add up to 100%. In "
    "parentheses: 95% confidence interval over entities."
)
CHANGES_NOTE = (
    "The same questions, model minus first model, in percentage points. In parentheses: 95% confidence interval."
)


class KnowledgeReport(NamedTuple):
    """The report: tables, and plots."""

    markdown: str
    plots: Mapping[str, str]
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
) -> KnowledgeReport:
    """Compare models on the same questions.

    evaluations: name -> `factuality.json` of each of its runs, the untrained model first.
    dev: the evaluation of the untrained model on the dev entities, with scores. It chooses the threshold on `score`
        that keeps `known_kept` of the known questions, which the baseline applies to the held-out questions. None: no
        baseline.
    probed: `map.json` of the probe.
    heldout_knowledge: question id -> known, unknown or unsure, from a probe of the held-out questions that was made
        only for this comparison. A single right answer can be luck; this shows what happens to what is known
        consistently.
    transfer_relations: kinds of facts that were not trained on. They have a table of their own and are in the knowledge
        map; all other tables leave them out.
    Raises RowError if an evaluation has other questions than the first one.
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
        parts = ["## Held-out entities, trained kinds of facts", _shares_table(rows)]
        parts += ["## Held-out entities, kinds of facts without training", _shares_table(of_transfer)]
    else:
        parts = ["## Held-out questions", _shares_table(rows)]
    parts.append(NOTE)
    if len(rows) > 1:
        parts += ["## Differences from the first model", CHANGES_NOTE, _changes_table(rows, start)]
    if dev is not None:
        kept = f"chosen to keep {known_kept:.0%} of the known dev questions"
        parts.append(f"Threshold: {words(score)} of at least {threshold:.4g}, {kept}.")
    if any(len(runs) > 1 for runs in evaluations.values()):
        parts += ["## Each run", _runs_table(evaluations, untouched, transfer_relations)]
    if heldout_knowledge is not None:
        parts += ["## By what the untrained model knows, according to a probe of the same questions"]
        parts.append(_by_knowledge_table(rows, heldout_knowledge))
    scored = {name: rows[name] for name, runs in evaluations.items() if all(map(_has_scores, runs))}
    plots = {}
    if scored:
        parts += ["## Errors and coverage", _curves_table(scored)]
        plots["risk_coverage.svg"] = svg_file(_risk_plot(scored))
    columns: list[ProbeColumn | EvaluationColumn] = [] if probed is None else [probe_column(start, probed)]
    columns += [evaluation_column(name, own) for name, own in everything.items()]
    found = knowledge_map(columns)
    parts += ["## Knowledge map", "In percent.", _table(*map_table(found))]
    plots["knowledge_map.svg"] = svg_file(map_plot(found))
    return KnowledgeReport("\n\n".join(parts) + "\n", {name: drawn for name, drawn in plots.items() if drawn})


def read_json(path: Path) -> dict[str, Any]:
    """Read the result of an evaluation or a probe. Raises RowError if it is not a JSON object."""
    found = read_result(path)
    if not found:
        raise RowError(path, "cannot be read as JSON", "Run the evaluation or the probe that writes this file first")
    return found


def read_knowledge(path: Path) -> dict[str, str]:
    """Read the `answers.jsonl` of a probe. Returns question id -> known, unknown, unsure or uninformative."""
    try:
        found = {}
        for _, record in records_of(path):
            if isinstance(record, RowError):
                raise record
            found[record["id"]] = record["knowledge"]
        return found
    except (ValueError, LookupError, TypeError) as error:
        raise RowError(
            path, f"is not the answers.jsonl of a probe ({error})", "Probe the held-out questions first"
        ) from None


def write(comparison: KnowledgeReport, output: Path) -> Path:
    """Write `knowledge.md` and the plots into the folder `output`."""
    write_text(output / "knowledge.md", comparison.markdown)
    for name, drawn in comparison.plots.items():
        write_text(output / name, drawn)
    return output


def _same_questions(name: str, found: Evaluation, start: Evaluation) -> list[dict[str, Any]]:
    """Return the rows in the order of the first evaluation, whose verdict each row gets as `before`."""
    own = {row["id"]: row for row in found["rows"]}
    missing = [row["id"] for row in start["rows"] if row["id"] not in own]
    if missing or len(own) != len(start["rows"]):
        what = (
            f"has {len(own)} questions, but {len(missing)} of the {len(start['rows'])} of the first model are missing"
        )
        raise RowError(name, what, "Evaluate every model on the same questions with the same limit")
    return [{**own[row["id"]], "before": row["verdict"]} for row in start["rows"]]


def _shares_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = []
    for name, own in rows.items():
        shares = shares_of(own, has_baseline=True)
        lines.append([name, *(_share_text(shares[share]) for share in SHARES), str(len(own))])
    return _table(["", *map(words, SHARES), "n"], lines)


def _changes_table(rows: Mapping[str, Sequence[Mapping[str, Any]]], start: str) -> str:
    """Make a table of what each model changes against the first one, question by question."""
    found = {name: differences_of(own) for name, own in rows.items() if name != start}
    metrics = list(dict.fromkeys(metric for own in found.values() for metric in own))
    lines = []
    for name, own in found.items():
        values = [own[metric] for metric in metrics]
        lines.append([name, *("-" if value is None else points(value._asdict()) for value in values)])
    return _table(["", *map(words, metrics)], lines)


def _runs_table(evaluations: Mapping[str, Sequence[Evaluation]], untouched: Evaluation, left_out: Sequence[str]) -> str:
    """Make a table of each run of the models that have several, without the relations that are left out."""
    lines = []
    for name, runs in evaluations.items():
        for place, found in enumerate(runs if len(runs) > 1 else ()):
            own = [row for row in _same_questions(name, found, untouched) if row["relation"] not in left_out]
            shares = shares_of(own, has_baseline=True)
            values = ["-" if one is None else f"{one.value:.0%}" for one in (shares[share] for share in SHARES)]
            lines.append([f"{name}, {place + 1}", *values])
    return _table(["", *map(words, SHARES)], lines)


def _by_knowledge_table(rows: Mapping[str, Sequence[Mapping[str, Any]]], knowledge: Mapping[str, str]) -> str:
    """Make a table of how often each model is right and abstains on known, unknown and unsure questions."""
    lines = []
    for name, own in rows.items():
        cells = []
        for kind in KNOWLEDGE:
            shares = shares_of([row for row in own if knowledge.get(row["id"]) == kind], has_baseline=False)
            cells += [_share_text(shares["right"]), _share_text(shares["abstained"])]
        lines.append([name, *cells])
    asked = {row["id"] for own in rows.values() for row in own}
    if missing := asked - knowledge.keys():
        what = f"does not contain {len(missing)} of the {len(asked)} questions that were evaluated"
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
            cases, clusters = clustered_cases(rows, score, has_baseline=True)
            if cases:
                areas = [_share_text(clustered_bootstrap(area, cases, clusters, RESAMPLES)) for area in (auroc, aurc)]
                kept = [at_known_kept(curve(cases), ratio) for ratio in KNOWN_KEPT]
                wrong = [f"{point.wrong:.0%} / {point.coverage:.0%}" if point else "-" for point in kept]
                lines.append([name, words(score), *areas, *wrong])
    first, *others = (f"{ratio:.0%} of the known kept" for ratio in KNOWN_KEPT)
    return _table(["", "score", "AUROC", "AURC", f"wrong / answered, {first}", *others], lines)


def _risk_plot(scored: Mapping[str, Sequence[Mapping[str, Any]]]) -> Spec:
    """Plot the risk-coverage curve of each model, by the score with the highest AUROC.

    The best score differs between models: for a model that learned to refuse, it is its tendency to answer at all.
    """
    lines = {}
    for name, rows in scored.items():
        by_score = {score: cases_of(rows, score, has_baseline=True) for score in SCORES}
        areas = {score: area for score, cases in by_score.items() if (area := auroc(cases)) is not None}
        if areas:
            best = max(areas, key=areas.__getitem__)
            lines[f"{name}, by {words(best)}"] = [(point.coverage, point.risk) for point in curve(by_score[best])]
    return line_chart("wrong among answered", lines, "answered")


def _share_text(found: Share | None) -> str:
    return "-" if found is None else f"{found.value:.0%} ({percent_range(found.low, found.high)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)
