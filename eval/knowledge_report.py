"""Models side by side on the same held-out facts: what each answers, what it lost, how wrong it is at what coverage.

The first one is the untouched model. It is compared with once more as it would be with a threshold on a score of its
own, chosen with the dev entities: what abstaining costs without any training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align.errors import RowError
from align.files import write_text
from align.publish.model_card import cell
from align.rounds.results import words
from eval.abstention import abstaining_below, choose_threshold
from eval.answer_scores import SCORES
from eval.factuality import shares_of
from eval.intervals import Share
from eval.knowledge_map import Evaluated, Probed, evaluated_of, knowledge_map, map_picture, map_table, probed_of
from eval.pictures import line_chart, standalone
from eval.runner import read_result

Evaluation = Mapping[str, Any]
"""A factuality.json."""

SHARES = ("right", "wrong", "abstained", "known_kept", "false_refusals", "unknown_refused")


class Comparison(NamedTuple):
    """What is told of the models."""

    markdown: str
    pictures: Mapping[str, str]
    """File name -> SVG."""


def compare(
    evaluations: Mapping[str, Evaluation],
    *,
    dev: Evaluation | None = None,
    probed: Mapping[str, Any] | None = None,
    score: str = "answer_mean",
    known_kept: float = 0.85,
    transfer_relations: Sequence[str] = (),
) -> Comparison:
    """Tables as Markdown, and pictures.

    evaluations: name -> factuality.json, the untouched model first. All answered the same questions.
    dev: the untouched model's on the dev entities, with scores: the threshold on `score` that keeps `known_kept` of
        what it knew there is applied to the held-out questions. None leaves this comparison out.
    probed: map.json of the probe.
    Raises RowError where an evaluation lacks questions of the first one.
    """
    start = next(iter(evaluations))
    rows = {name: _same_questions(name, found, evaluations[start]) for name, found in evaluations.items()}
    if dev is not None:
        threshold = choose_threshold(dev["rows"], score, known_kept)
        rows[f"{start}, threshold on {words(score)}"] = abstaining_below(rows[start], score, threshold)
    parts = ["## All held-out questions", _shares_table(rows)]
    if transfer_relations:
        of_transfer = {n: [r for r in own if r["relation"] in transfer_relations] for n, own in rows.items()}
        parts += ["## Kinds of fact that nothing was trained on", _shares_table(of_transfer)]
    if dev is not None:
        kept = f"chosen to keep {known_kept:.0%} of the known on dev entities"
        parts.append(f"Threshold: {words(score)} of at least {threshold:.4g}, {kept}.")
    scored = {name: found for name, found in evaluations.items() if "risk_coverage" in found["counts"]}
    pictures = {}
    if scored:
        parts += ["## How wrong at how much answered", _curves_table(scored)]
        pictures["risk_coverage.svg"] = standalone(_risk_picture(scored, start, score))
    columns: list[Probed | Evaluated] = [] if probed is None else [probed_of(start, probed)]
    columns += [evaluated_of(name, own) for name, own in rows.items()]
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


def _curves_table(scored: Mapping[str, Evaluation]) -> str:
    lines = []
    for name, found in scored.items():
        for score in SCORES:
            told = found["counts"]["risk_coverage"].get(score)
            if told is not None:
                scores = [found["scores"].get(f"{kind}_{score}") for kind in ("auroc", "aurc")]
                kept = [told["at_known_kept"].get(wanted) for wanted in ("85%", "90%")]
                areas = [_told(Share(**entry)) if entry else "-" for entry in scores]
                wrong = [f"{point['wrong']:.0%} / {point['coverage']:.0%}" if point else "-" for point in kept]
                lines.append([name, words(score), *areas, *wrong])
    head = ["", "score", "AUROC", "AURC", "wrong / answered, 85% of the known kept", "90% of the known kept"]
    return _table(head, lines)


def _risk_picture(scored: Mapping[str, Evaluation], start: str, score: str) -> str:
    """The untouched model by the score of the threshold, the others by their propensity to answer."""
    lines = {}
    for name, found in scored.items():
        curves = found["counts"]["risk_coverage"]
        by = score if name == start else "propensity"
        if by in curves:
            lines[f"{name}, by {words(by)}"] = [(point[0], point[1]) for point in curves[by]["points"]]
    return line_chart("wrong among answered", lines, "answered", legend=True)


def _told(found: Share | None) -> str:
    return "-" if found is None else f"{found.value:.0%} ({100 * found.low:.0f}-{100 * found.high:.0f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)
