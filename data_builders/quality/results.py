"""What the builder `quality` writes in the end: kept rows, dropped rows, decisions, and the data card.

All files are written in one pass over the shards, each whole or not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align.errors import RowError
from align.files import whole_file
from align.manifest import write_data_manifest
from align.reporting import logger
from data_builders.quality.card import CardCounts, card_text
from data_builders.quality.pipeline import Decision, Pipeline

DROPPED, DECISIONS = "dropped.jsonl", "decisions.parquet"
CARD, CARD_TEXT = "card.json", "card.md"

_GROUP_ROWS = 4096
"""Decisions that are in memory, and then one row group of the Parquet file."""
_COLUMNS = [name for name in Decision._fields if name not in ("row", "tags")]


def write_results(
    output: Path,
    pipeline: Pipeline[Any],
    *,
    settings: dict[str, Any],
    evaluation: Mapping[str, str],
    licences: Mapping[str, str],
) -> None:
    """Write the files into the folder `output`. The manifest of the decisions is the last one.

    settings: of the builder, for the manifests. evaluation: label of each evaluation set -> what tells its content
    apart. licences: source -> licence, from the user.
    Raises RowError if no row is kept.
    """
    funnels = {name: Funnel(pipeline.gates) for name in pipeline.names}
    whole, card = Funnel(pipeline.gates), CardCounts(licences)
    with ExitStack() as files:
        kept = {name: files.enter_context(whole_file(output / f"{name}.jsonl")) for name in funnels}
        dropped = files.enter_context(whole_file(output / DROPPED))
        decisions = files.enter_context(_DecisionsFile(output / DECISIONS, pipeline.tag_names))
        for decision in pipeline.decisions():
            for count in (whole.count, funnels[decision.file].count, card.count, decisions.add):
                count(decision)
            if decision.gate:
                dropped.write(json.dumps(_dropped(decision), ensure_ascii=False) + "\n")
            else:
                kept[decision.file].write(decision.row + "\n")
    notes = {"steps": pipeline.notes()}
    compared = notes["steps"].get("decontamination", {})
    sets = [*compared.get("sets", []), *(f"benchmark {name}" for name in compared.get("benchmarks", []))]
    gates = whole.counts["gates"]
    _write_card(output, card.record(gates, list(pipeline.inputs), sets, notes["steps"]))
    inputs = {**pipeline.inputs, **evaluation}
    counts = {f"{name}.jsonl": funnel.counts for name, funnel in funnels.items()}
    for file in (DROPPED, *counts, DECISIONS):
        write_data_manifest(output / file, config=settings, inputs=inputs, counts=counts.get(file, {}), notes=notes)
    _tell(gates)
    if not whole.kept:
        raise RowError(output, f"no row is left of {whole.read}", f"See {DROPPED} for the reasons")


class Funnel:
    """How many rows each gate was given, dropped and passed on; the numbers add up by construction of their check."""

    def __init__(self, gates: Sequence[str]) -> None:
        self.read, self.kept = 0, 0
        self.dropped: dict[str, Counter[str]] = {gate: Counter() for gate in gates}
        self.sources: Counter[str] = Counter()

    def count(self, decision: Decision) -> None:
        self.read += 1
        if decision.gate:
            self.dropped[decision.gate][decision.reason] += 1
        else:
            self.kept += 1
            self.sources[decision.source] += 1

    @property
    def counts(self) -> dict[str, Any]:
        """The counts for the manifest: as those of `RowSet`, and one entry for each gate.

        Example of a gate: `{"gate": "rules", "in": 90, "dropped": {"emoji": 5}, "out": 85}`.
        """
        gates, left = [], self.read
        for gate, reasons in self.dropped.items():
            out = left - reasons.total()
            gates.append({"gate": gate, "in": left, "dropped": dict(sorted(reasons.items())), "out": out})
            left = out
        assert left == self.kept, f"{left} rows should be left, and {self.kept} are"
        dropped: Counter[str] = sum(self.dropped.values(), Counter())
        return {
            "read": self.read,
            "rows": self.kept,
            "dropped": dict(sorted(dropped.items())),
            "sources": dict(sorted(self.sources.items())),
            "gates": gates,
        }


class _DecisionsFile:
    """A Parquet file with one line for each decision, without the rows themselves."""

    def __init__(self, path: Path, tags: Sequence[str]) -> None:
        """tags: the names of the tags that decisions may have, each with a column of its own."""
        self._path, self._tags = path, tags
        self._schema = pa.schema([(name, pa.string()) for name in (*_COLUMNS, *tags)])
        self._files = ExitStack()
        self._waiting: list[Decision] = []

    def __enter__(self) -> _DecisionsFile:
        handle = self._files.enter_context(whole_file(self._path, "wb"))
        self._writer = self._files.enter_context(pq.ParquetWriter(handle, self._schema))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._flush()
        return self._files.__exit__(*error)

    def add(self, decision: Decision) -> None:
        self._waiting.append(decision)
        if len(self._waiting) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = {name: [getattr(each, name) for each in self._waiting] for name in _COLUMNS}
        columns |= {name: [each.tags.get(name) for each in self._waiting] for name in self._tags}
        self._writer.write_table(pa.table(columns, schema=self._schema))
        self._waiting.clear()


def _write_card(output: Path, record: dict[str, Any]) -> None:
    with whole_file(output / CARD) as handle:
        json.dump(record, handle, indent=1, ensure_ascii=False)
    with whole_file(output / CARD_TEXT) as handle:
        handle.write(card_text(record))


def _dropped(decision: Decision) -> dict[str, Any]:
    """A dropped row as a record: what became of it, and the row itself."""
    found = {name: value for name, value in decision._asdict().items() if value and name != "row"}
    return {**found, **({"row": json.loads(decision.row)} if decision.row else {})}


def _tell(gates: Sequence[dict[str, Any]]) -> None:
    log = logger("data_builders")
    for gate in gates:
        reasons = ", ".join(f"{count} {reason}" for reason, count in gate["dropped"].items())
        shown = f" (dropped: {reasons})" if reasons else ""
        log.info("%-20s %d of %d rows%s", gate["gate"], gate["out"], gate["in"], shown)
