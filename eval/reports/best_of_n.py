"""The best-of-n curve as a table, as sentences and as plots, for `recipes/best_of_n.py` and for the report of a run."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.errors import RowError
from align.files import write_text
from align.jsonl import stream_rows
from align.publish.markdown import cell
from align.reporting import logger
from align.rounds.ledger import StageRecord
from align.rows import Candidate
from eval.best_of_n import FALLS, MIN_KEPT_GAIN, Alarm, BestOfN, Estimate, Gain, Point, best_of_n, powers_of_two
from eval.reports.columns import column_of, made_by, place_of
from eval.reports.plots import line_chart, svg_file

NAME = "best_of_n"
CANDIDATES = "candidates.jsonl"
_SAMPLES = "rejection_sample"
"""The recipe that writes them."""
HELDOUT_JUDGE = "held-out judge"
SCORE_TITLE = "gain over a random candidate, in standard deviations"
LENGTH_TITLE = "characters of the chosen completion"
NOTE = (
    "Chosen by score from n candidates of each prompt; n = 1 is a random candidate. Scores are in the units of the "
    "judge, lengths in characters, with 95% confidence intervals over prompts. Gain: over the row above, on the same "
    "prompts."
)

log = logger(__name__)

Lines = Mapping[str, Sequence[tuple[float, float]]]


def best_of_n_table(found: BestOfN) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table: n = 1, 2, 4, ... and k."""
    judged = found.heldout_deviation is not None
    head = ["n", "kept", "score", "gain", *([HELDOUT_JUDGE, "gain"] if judged else []), "length"]
    shown = [found.points[n - 1] for n in powers_of_two(found.k)]
    rows = []
    for before, point in zip([None, *shown], shown, strict=False):
        row = [str(point.n), f"{point.kept:.0%}", _with_interval(point.score), _gain(found, before, point, "score")]
        if judged:
            row += [_with_interval(point.heldout), _gain(found, before, point, "heldout")]
        rows.append([*row, f"{point.length.value:.0f}"])
    return head, rows


def sentences(found: BestOfN) -> list[str]:
    """Return the suggestion, the alarm if there is one, and the bias for length, a sentence or two each."""
    parts = []
    if found.alarm is not None:
        what = "falls" if found.alarm.verdict == FALLS else "does not rise"
        parts.append(
            f"ALARM: with more than {found.alarm.n} {_candidates(found.alarm.n)} the reward model's score rises, and "
            f"the held-out judge's score {what}. The reward model may be rewarding something other than quality."
        )
    if found.k == 1:
        parts.append("With k=1 there is nothing to choose from, so nothing can be said of k.")
    elif found.suggested_k is None:
        parts.append(
            f"No k is suggested: the last measured doubling of k={found.k} still gains {found.min_gain:g} or more, "
            f"or keeps {MIN_KEPT_GAIN:.0%} more of the prompts. Sample more candidates to see where the gain ends."
        )
    elif found.suggested_k == found.enough:
        parts.append(
            f"Suggested k: {found.enough}. From there on every measured doubling gains less than {found.min_gain:g}."
        )
    else:
        parts.append(f"Suggested k: {found.suggested_k}, because of the alarm.")
    if found.length_correlation is not None:
        first, last = found.points[0].length.value, found.points[-1].length.value
        parts.append(
            f"Correlation of score and length within prompts: {_with_interval(found.length_correlation)}. The chosen "
            f"completion has {first:.0f} characters on average at n=1 and {last:.0f} at n={found.k}."
        )
    if found.prompts_without_choice:
        parts.append(
            f"{found.prompts_without_choice} of {found.prompts} prompts have no candidate that may be chosen: all are "
            "truncated, empty or failed by a verifier. They count in the column kept only."
        )
    return parts


def score_lines(found: BestOfN) -> Lines:
    """Return the gain over a random candidate as points (n, gain), in standard deviations within a prompt.

    In these units the reward model and the held-out judge can be compared: lines of two judges that agree coincide.
    """
    lines = {"reward model": _scaled([point.score for point in found.points], found.score_deviation)}
    if found.heldout_deviation is not None:
        heldout = [point.heldout for point in found.points if point.heldout is not None]
        lines[HELDOUT_JUDGE] = _scaled(heldout, found.heldout_deviation)
    return lines


def length_points(found: BestOfN) -> list[tuple[float, float]]:
    """Return the mean length of the chosen completion as points (n, characters)."""
    return [(point.n, point.length.value) for point in found.points]


def markdown(found: BestOfN) -> str:
    """Return the table and the sentences as Markdown."""
    head, rows = best_of_n_table(found)
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)
    return "\n\n".join(["# Best of n", NOTE, table, *sentences(found)]) + "\n"


def terminal_table(found: BestOfN) -> str:
    """Return the table and the sentences for a terminal."""
    head, rows = best_of_n_table(found)
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    table = ["  ".join(map(str.rjust, row, widths)) for row in (head, *rows)]
    return "\n".join([*table, "", *sentences(found)])


def record(found: BestOfN) -> dict[str, Any]:
    """Return all numbers as a JSON object."""
    return {**_plain(found), "suggested_k": found.suggested_k}


def write_best_of_n(found: BestOfN, folder: Path) -> Path:
    """Write `best_of_n.json`, `best_of_n.md`, `best_of_n.svg` and `best_of_n_length.svg`, and return the JSON file."""
    write_text(folder / f"{NAME}.svg", svg_file(line_chart(SCORE_TITLE, score_lines(found), "n")))
    length = line_chart(LENGTH_TITLE, {"chosen completion": length_points(found)}, "n")
    write_text(folder / f"{NAME}_length.svg", svg_file(length))
    write_text(folder / f"{NAME}.md", markdown(found))
    path = folder / f"{NAME}.json"
    write_text(path, json.dumps(record(found), indent=1) + "\n")
    return path


def read_best_of_n(path: Path) -> BestOfN | None:
    """Read a `best_of_n.json`. Return None if the file does not exist or is not one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return _from_record(record)
    except (OSError, ValueError, TypeError, LookupError):
        return None


def best_of_n_by_column(records: Iterable[StageRecord]) -> dict[str, BestOfN]:
    """Return the curve of each column of a run's report, from the finished stages of the run.

    A `best_of_n.json` is used if there is one, since it may have a held-out judge. Otherwise the curve is measured on
    the candidates of the stages that run `recipes/rejection_sample.py`; files of that name which another stage has
    made, such as the quality gates, are rows for training. Candidates that give no curve are named in the log and left
    out. If several stages of a round sample, as they do for experts, each has a column:

        round 1/candidates         -> "round 1, candidates"
        round 1/candidates-tools   -> "round 1, candidates-tools"
        round 2/candidates         -> "round 2"
    """
    read: dict[str, dict[str, BestOfN]] = {}  # column -> stage -> its curve
    measured: dict[str, dict[str, BestOfN]] = {}
    for record in records:
        column = column_of(record)
        for folder in made_by(record):
            found = read_best_of_n(folder / f"{NAME}.json")
            if found is not None:
                read.setdefault(column, {})[record.name] = found
            elif record.recipe == _SAMPLES and (folder / CANDIDATES).is_file():
                status = (folder / CANDIDATES).stat()
                try:
                    curve = _measured(folder / CANDIDATES, status.st_size, status.st_mtime_ns)
                except RowError as error:
                    log.warning("%s has no best-of-n curve: %s", column, error)
                else:
                    measured.setdefault(column, {})[record.name] = curve
    shown: dict[str, BestOfN] = {}
    for column in sorted({*measured, *read}, key=place_of):
        ours, judged = measured.get(column, {}), read.get(column, {})
        curves = judged if judged and len(ours) < 2 else ours | judged
        shown |= {column if len(curves) == 1 else f"{column}, {stage}": curve for stage, curve in curves.items()}
    return shown


@functools.lru_cache(maxsize=32)
def _measured(path: Path, size: int, changed: int) -> BestOfN:
    """The curve of a file of candidates, measured once for each of its states: a live report reads it often."""
    return best_of_n(stream_rows(path, Candidate))


def lines_by_column(found: Mapping[str, BestOfN]) -> list[tuple[str, Lines, list[str]]]:
    """Return the plots of several columns: (title, lines, names of the dashed lines)."""
    scores: dict[str, Sequence[tuple[float, float]]] = {}
    lengths: dict[str, Sequence[tuple[float, float]]] = {}
    for column, curve in found.items():
        scores |= {_line_name(column, judge): points for judge, points in score_lines(curve).items()}
        lengths[column] = length_points(curve)
    dashed = [name for name in scores if name.endswith(HELDOUT_JUDGE)]
    return [(SCORE_TITLE, scores, dashed), (LENGTH_TITLE, lengths, [])] if found else []


def _scaled(estimates: Sequence[Estimate], deviation: float) -> list[tuple[float, float]]:
    first = estimates[0].value
    return [
        (float(place), (one.value - first) / deviation if deviation else 0.0)
        for place, one in enumerate(estimates, start=1)
    ]


def _with_interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _gain(found: BestOfN, before: Point | None, point: Point, name: str) -> str:
    """The gain over the row above: a doubling, or the last step to a k that is no power of two."""
    if before is None:
        return ""
    gains = {(gain.lower, gain.upper): gain for gain in (*found.doublings, *found.to_k)}
    estimate = getattr(gains[before.n, point.n], name)
    return f"{estimate.value:+.2f} ({estimate.low:+.2f} to {estimate.high:+.2f})"


def _candidates(n: int) -> str:
    return "candidate" if n == 1 else "candidates"


def _plain(value: Any) -> Any:
    """Nested named tuples as dicts."""
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _line_name(column: str, judge: str) -> str:
    return f"{column}, {judge}" if judge == HELDOUT_JUDGE else column


def _from_record(record: Mapping[str, Any]) -> BestOfN:
    """The inverse of `record`."""

    def estimate(name: str, values: Mapping[str, Any]) -> Estimate | None:
        return None if values[name] is None else Estimate(**values[name])

    def estimates(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
        return {**values, **{name: estimate(name, values) for name in names}}

    fields = {name: record[name] for name in BestOfN._fields}
    fields["points"] = tuple(Point(**estimates(point, "score", "length", "heldout")) for point in record["points"])
    for name in ("doublings", "to_k"):
        fields[name] = tuple(Gain(**estimates(gain, "score", "heldout")) for gain in record[name])
    fields["alarm"] = None if record["alarm"] is None else Alarm(**record["alarm"])
    return BestOfN(**estimates(fields, "length_correlation"))
