"""The report of a run: everything that its ledger and the outputs of its stages say, read into one `Report`.

`tables.py` makes tables of it, `text.py` the terminal's table and Markdown, and `page.py` the HTML page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from align.effective_time import EffectiveTime, effective_time_of
from align.errors import StageError
from align.manifest import SEAL
from align.publish.searches import WeightSearch, weight_search_of
from align.rounds.ledger import ChoiceRecord, Ledger, RunRecord, StageRecord
from align.rounds.results import evaluations_of
from align.rounds.status import StageState, is_running, stage_states
from eval.best_of_n import BestOfN
from eval.reports.best_of_n import best_of_n_by_column
from eval.reports.columns import column_of, json_of, made_by, place_of
from eval.reports.curves import Curve, curves_of
from eval.reports.flows import Flow, flows_of
from eval.reports.knowledge_map import (
    NOTHING_ASKED,
    EvaluationColumn,
    KnowledgeMap,
    ProbeColumn,
    evaluation_column,
    knowledge_map,
    probe_column,
)
from eval.reports.lineage import StageLineage, lineage_of
from eval.reports.preferences import preference_facts
from eval.reports.quality import QualityCard, quality_cards
from eval.reports.samples import Evaluations, Sample, samples_of

LEDGER = "ledger.sqlite"
MAP = "map.json"

Score = Mapping[str, Any]


class StageTime(NamedTuple):
    """How long a stage took."""

    label: str
    seconds: float
    effective: EffectiveTime | None
    """How the training of a stage spent its time, over all of its starts; None for stages that do not train."""
    command: str
    started: float
    """Seconds since 1970."""
    column: str


@dataclass(frozen=True)
class Report:
    """The content of a report."""

    run_dir: str
    columns: tuple[str, ...]
    """The columns of the scores: `before`, `round 1`, ..."""
    scores: Mapping[tuple[str, str], Mapping[str, Score]]
    """(evaluation, metric) -> column -> score."""
    changes: Mapping[tuple[str, str], Mapping[str, Score]]
    """(evaluation, metric) -> column -> difference from the baseline of the evaluation."""
    samples: tuple[Sample, ...]
    curves: tuple[Curve, ...]
    flows: tuple[Flow, ...]
    times: tuple[StageTime, ...]
    runs: tuple[RunRecord, ...]
    unfinished: tuple[str, ...] = field(default=())
    knowledge: KnowledgeMap = NOTHING_ASKED
    best_of_n: Mapping[str, BestOfN] = field(default_factory=dict)
    """Column -> the best-of-n curve of the candidates that were sampled in that round, see `best_of_n_by_column`."""
    preferences: dict[str, dict[str, str]] = field(default_factory=dict)
    """Stage -> what its report says of its preference rows and of the agreement of raters."""
    quality: tuple[QualityCard, ...] = ()
    """The data cards of the stages whose rows passed the quality gates."""
    searches: Mapping[str, WeightSearch] = field(default_factory=dict)
    """Label of a stage -> how it chose the weights of its average."""
    lineage: tuple[StageLineage, ...] = ()
    choices: tuple[ChoiceRecord, ...] = ()
    """The model that each round left as the best one, and why."""
    states: tuple[StageState, ...] = ()
    """Every stage that has started, except for the one that makes reports."""
    is_running: bool = False

    @property
    def seconds(self) -> float:
        return sum(time.seconds for time in self.times)

    @property
    def effective_training_ratio(self) -> float | None:
        """The effective training time: the ratio of the training stages' time since their first starts that was spent
        in optimizer steps that count. Starts that were killed are in it."""
        training = [time.effective for time in self.times if time.effective is not None]
        whole = sum(each.elapsed for each in training)
        return sum(each.useful for each in training) / whole if whole else None


def read_report(run_dir: Path, samples: int) -> Report:
    """Read the outputs of a run's stages, each as it was finished last, and the metrics of a stage that runs.

    samples: the number of questions of each evaluation whose answers are shown side by side.
    Raises StageError if the folder does not contain a run.
    """
    path = run_dir / LEDGER
    if not path.is_file():
        raise StageError(
            run_dir,
            f"contains no {LEDGER}, so it is not the folder of a run",
            "Run recipes/rounds.py first, or set run_dir",
        )
    ledger = Ledger(path, in_memory=True)
    latest = {record.label: record for record in ledger.stages()}
    runs = tuple(ledger.runs())
    choices = {(choice.name, choice.after_round): choice for choice in ledger.choices()}  # the last one of each
    ledger.close()
    records = [record for record in latest.values() if record.status == "finished"]
    reports = {record.label for record in latest.values() if record.recipe == "report"}
    with_running = [record for record in latest.values() if record.status in ("finished", "running")]
    evaluations: dict[str, dict[str, dict[str, Any]]] = {}  # column -> evaluation -> its JSON
    for record in sorted(records, key=lambda record: record.round or 0):
        if record.config.get("development"):  # on rows by which a model was chosen (recipes/run_eval.py)
            continue
        found = {e["name"]: e for made in made_by(record) for e in evaluations_of(made)}
        if found:
            evaluations.setdefault(column_of(record), {}).update(found)
    scores, changes = (_by_metric(evaluations, key) for key in ("scores", "differences"))
    best_of_n = best_of_n_by_column(records)
    return Report(
        run_dir=str(run_dir),
        columns=tuple(evaluations),
        scores=scores,
        changes=changes,
        samples=samples_of(evaluations, samples),
        curves=curves_of(with_running, evaluations, best_of_n),
        flows=flows_of(records),
        times=tuple(_time(record) for record in records),
        runs=runs,
        unfinished=tuple(label for label, record in latest.items() if record.status in ("failed", "stopped")),
        knowledge=_knowledge(records, evaluations),
        best_of_n=best_of_n,
        preferences=preference_facts(records),
        quality=quality_cards(records),
        searches=_searches(records),
        lineage=lineage_of(records),
        choices=tuple(choices.values()),
        states=tuple(state for state in stage_states(run_dir) if state.label not in reports),
        is_running=is_running(run_dir),
    )


def _by_metric(
    evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str
) -> dict[tuple[str, str], dict[str, Score]]:
    """(evaluation, metric) -> column -> what the evaluations have below `key`, by the name of the evaluation."""
    found: dict[tuple[str, str], dict[str, Score]] = {}
    for column, by_name in evaluations.items():
        for name, evaluation in by_name.items():
            for metric, score in evaluation.get(key, {}).items():
                found.setdefault((name, metric), {})[column] = score
    return dict(sorted(found.items(), key=lambda item: item[0][0]))


def _knowledge(records: Sequence[StageRecord], evaluations: Evaluations) -> KnowledgeMap:
    """Make the knowledge map in the order of the run: the first answers, then probe and answers of each round."""
    probed: dict[str, ProbeColumn] = {}
    for record in records:
        for made in made_by(record):
            found = json_of(made / MAP) if made.is_dir() else {}
            if "relations" in found:
                probed[column_of(record)] = probe_column(column_of(record), found)
    columns: list[ProbeColumn | EvaluationColumn] = []
    for column in sorted({*probed, *evaluations}, key=place_of):
        rows = evaluations.get(column, {}).get("factuality", {}).get("rows", [])
        columns += [probed[column]] if column in probed else []
        columns += [evaluation_column(column, rows)] if rows else []
    return knowledge_map(columns)


def _searches(records: Sequence[StageRecord]) -> dict[str, WeightSearch]:
    found = {record.label: weight_search_of(json_of(made / SEAL)) for record in records for made in made_by(record)}
    return {label: search for label, search in found.items() if search is not None}


def _time(record: StageRecord) -> StageTime:
    effective = next((found for made in made_by(record) if (found := effective_time_of(made))), None)
    return StageTime(record.label, record.seconds or 0.0, effective, record.command, record.started, column_of(record))
