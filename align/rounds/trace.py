"""From a checkpoint or a row of a run back to what it was made from: rows, raters, scores, prompts, seeds, models.

A checkpoint is followed through the ledger, and outside the run through its manifest (`align/publish/lineage.py`). A
row is followed by its id and by the ids that it names: the candidate that it was, the prompt of that candidate, the
rows or records in `made_from`. All files of rows are searched for these ids, which takes a while in a large run.
"""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from align.errors import ConfigError
from align.files import matching
from align.hub_names import is_hub_name
from align.manifest import SEAL, read_data_manifest
from align.publish.lineage import lineage_of
from align.publish.manifests import json_object
from align.publish.names import shown_path
from align.rounds.ledger import Ledger, StageRecord
from align.rounds.packaged import PREFIX as PACKAGE
from align.rounds.stage import within

_PARENTS = ("candidate", "candidates", "prompt_id", "made_from")
"""Columns that name what a row was made from."""
_SHOWN = (
    *("source", "index", "seed", "seeds", "temperature", "finished", "score", "scores", "passed", "failed", "level"),
    *("raters", "model", "models", "round", "batch", "knowledge", "gate", "reason", "detail", "cause"),
)
_ROWS = (".jsonl", ".json", ".csv", ".tsv")
_TEXT_SHOWN = 100
_CHUNK = 8 * 2**20


@dataclass(frozen=True)
class Place:
    """A line of a file of rows."""

    file: Path
    line: int
    record: dict[str, Any]
    """Empty for a line that is no JSON object, such as one of a CSV file."""


@dataclass
class Trace:
    """Follows checkpoints and rows of one run."""

    run_dir: Path
    ledger: Ledger
    records: list[StageRecord] = field(init=False)
    """The last start of each stage that ended well, in the order in which they ended."""
    _listed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        latest = {record.label: record for record in self.ledger.stages()}
        finished = [record for record in latest.values() if record.status == "finished"]
        self.records = sorted(map(self._as_it_is_here, finished), key=lambda record: record.ended or 0.0)

    def checkpoint(self, path: Path, indent: str = "") -> Iterator[str]:
        """What a checkpoint, or a file of rows, was made from, one line for each step back."""
        record = self._maker(path)
        if record is None:
            yield from (f"{indent}{line}" for line in self._outside(path))
            return
        if record.label in self._listed:
            yield f"{indent}made by {record.label}, as above"
            return
        yield f"{indent}made by {_stage_line(record)}"
        self._listed.add(record.label)
        for key, entry in record.inputs.items():
            yield f"{indent}  {key}{_weight(record, key)}: {entry['path']}{_rows_text(Path(entry['path']))}"
            if not within(self.run_dir, Path(entry["path"])):  # the whole run, which a report reads
                yield from self.checkpoint(Path(entry["path"]), f"{indent}    ")
        packages = [name.removeprefix(PACKAGE) for name in record.code if name.startswith(PACKAGE)]
        if packages:
            yield f"{indent}  packaged data: {', '.join(packages)}"

    def row(self, identity: str) -> Iterator[str]:
        """Where a row is, what it was made from, and which stages read it. Raises ConfigError for an unknown id."""
        waiting, seen = [identity], {identity}
        while waiting:
            name = waiting.pop(0)
            places = self._places(name)
            if not places and name == identity:
                how = "Give the id of a row, as its column id has it, or the path of a checkpoint"
                raise ConfigError(name, f"is no file, and no row of {self.run_dir} has this id", how)
            yield name if places else f"{name}: {self._record_text(name)}"
            parents: dict[str, None] = {}
            for place in places:
                yield from self._place_lines(place)
                parents |= {parent: None for column in _PARENTS for parent in _texts(place.record.get(column))}
            if places and not parents:
                yield from self._raw_lines(places[-1])
            waiting += [parent for parent in parents if parent not in seen]
            seen.update(parents)

    def _as_it_is_here(self, record: StageRecord) -> StageRecord:
        """A record with the paths that its files have now: the run's folder may have been moved or copied.

        A stage wrote `/old/run/round-1/sft`, and here is `/new/run/round-1/sft`: what it read of `/old/run` is looked
        for in `/new/run`.
        """
        roots = (self._former_run_dir(Path(entry["path"])) for entry in record.outputs.values())
        former = next((root for root in roots if root is not None), None)
        if former is None:
            return record

        def here(entry: dict[str, Any]) -> dict[str, Any]:
            path = Path(entry["path"])
            return entry | {"path": str(self.run_dir / path.relative_to(former))} if within(path, former) else entry

        inputs = {key: here(entry) for key, entry in record.inputs.items()}
        outputs = {key: here(entry) for key, entry in record.outputs.items()}
        return replace(record, inputs=inputs, outputs=outputs)

    def _former_run_dir(self, output: Path) -> Path | None:
        """The run's folder when a stage wrote `output`; None if it is the present one."""
        if within(output, self.run_dir):
            return None
        parts = output.parts
        lengths = (length for length in range(1, len(parts)) if self.run_dir.joinpath(*parts[length:]).exists())
        return next((Path(*parts[:length]) for length in lengths), None)

    def _place_lines(self, place: Place) -> Iterator[str]:
        yield f"  {place.file}:{place.line}"
        known = {name: place.record[name] for name in _SHOWN if place.record.get(name) not in (None, "", [])}
        if known:
            yield "    " + ", ".join(f"{name} {_value_text(value)}" for name, value in known.items())
        maker = self._maker(place.file)
        if maker is not None:
            yield f"    made by {_stage_line(maker)}"
            if maker.label not in self._listed:
                self._listed.add(maker.label)
                yield from (f"      {key}: {entry['path']}" for key, entry in maker.inputs.items() if "model" in key)
        readers = [
            f"{record.label} ({key})"
            for record in self.records
            for key, entry in record.inputs.items()
            if place.file in matching(entry["path"])
        ]
        if readers:
            yield f"    read by {', '.join(readers)}"

    def _raw_lines(self, last: Place) -> Iterator[str]:
        """The records outside the run with the prompt of a row that names nothing that it was made from."""
        maker = self._maker(last.file)
        prompt = _prompt_of(last.record)
        if maker is None:
            return
        for file in self._files_outside(maker):
            for place in _lines_with(file, [form.encode() for form in _forms(prompt) if form]):
                yield f"the same prompt in a file from outside the run\n  {file}:{place.line}"
        packages = [name.removeprefix(PACKAGE) for name in maker.code if name.startswith(PACKAGE)]
        if packages:
            yield f"packaged data that {maker.label} reads: {', '.join(packages)}"

    def _places(self, identity: str) -> list[Place]:
        """The rows with this id, those of the newest stage first, and at last those of files from outside."""
        quoted = _forms(identity)
        needles = [f'"id":{space}"{text}"'.encode() for text in quoted for space in ("", " ")]
        files = [file for record in reversed(self.records) for file in _row_files(record)]
        outside = [file for record in self.records for file in self._files_outside(record)]
        found = []
        for file in dict.fromkeys((*files, *outside)):
            found += [place for place in _lines_with(file, needles) if place.record.get("id") == identity]
        return found

    def _record_text(self, name: str) -> str:
        """The line of a raw record that `made_from` names as `file:line`; or that nothing is known of it."""
        path, _, line = name.rpartition(":")
        if line.isdecimal():
            for record in self.records:
                for file in self._files_outside(record):
                    if path in (str(file), shown_path(file)) and (text := _line_of(file, int(line))):
                        return f"record of {file}\n  {text[:_TEXT_SHOWN]}{'...' if len(text) > _TEXT_SHOWN else ''}"
        return "not found in the files of this run"

    def _files_outside(self, record: StageRecord) -> list[Path]:
        paths = [Path(entry["path"]) for entry in record.inputs.values()]
        files = [file for path in paths if not within(path, self.run_dir) for file in matching(path)]
        return [file for file in files if file.is_file() and file.suffix in _ROWS]

    def _maker(self, path: Path) -> StageRecord | None:
        for record in reversed(self.records):
            if any(within(path, Path(entry["path"])) for entry in record.outputs.values()):
                return record
        return None

    def _outside(self, path: Path) -> Iterator[str]:
        """What is known of a checkpoint that this run has not made: its bases and data, by its manifests."""
        if not (path / SEAL).is_file():
            there = "on the Hub" if is_hub_name(path) else "" if matching(path) else "not on this disk"
            yield "from outside the run" + (f", {there}" if there else "")
            return
        found = lineage_of(path, json_object(path / SEAL))
        yield "from outside the run"
        for what, names in (
            ("model on the Hub", found.bases),
            ("start of unknown origin", found.unknown),
            ("rows", found.data),
            ("rows that are gone", found.missing_data),
            ("dataset on the Hub", found.datasets),
        ):
            yield from (f"  {what}: {name}" for name in names)


def trace_text(run_dir: Path, target: str, ledger: Ledger) -> str:
    """The trace of a checkpoint or a file, by its path (also one within the run's folder), or of a row, by its id."""
    trace = Trace(run_dir, ledger)
    for path in (Path(target), run_dir / target):
        if path.exists():
            return "\n".join([str(path), *trace.checkpoint(path, "  ")])
    return "\n".join(trace.row(target))


def _stage_line(record: StageRecord) -> str:
    """`round-1/sft at 2026-11-28 10:21 (training.seed 0)`."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.ended))
    seeds = [f"{key} {value}" for key, value in _seeds(record.config)]
    return f"{record.label} at {when}" + (f" ({', '.join(seeds)})" if seeds else "")


def _seeds(config: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, value in config.items() if isinstance(config, Mapping) else ():
        if name == "seed" and isinstance(value, int):
            yield f"{prefix}{name}", value
        yield from _seeds(value, f"{prefix}{name}.")


def _weight(record: StageRecord, key: str) -> str:
    """The weight of a member of an average: `checkpoints.0.path` has `checkpoints.0.weight` next to it."""
    section: Any = record.config
    for part in key.split(".")[:-1]:
        section = section[int(part)] if isinstance(section, list) else section.get(part, {})
    weight = section.get("weight") if isinstance(section, Mapping) else None
    return f" (weight {weight:g})" if isinstance(weight, int | float) else ""


def _rows_text(path: Path) -> str:
    counts = read_data_manifest(path).get("counts") if path.is_file() else None
    rows = counts.get("rows") if isinstance(counts, dict) else None
    return f" ({rows:,} rows)" if isinstance(rows, int) else ""


def _row_files(record: StageRecord) -> list[Path]:
    """The files of rows that a stage made, without its units of work."""
    files: list[Path] = []
    for entry in record.outputs.values():
        path = Path(entry["path"])
        files += [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    return [file for file in files if file.suffix in _ROWS]


def _lines_with(file: Path, needles: Sequence[bytes]) -> Iterator[Place]:
    """The lines of a file that hold one of the texts. The file is mapped into memory and not parsed.

    Newlines are counted from hit to hit: with hits in the lines 3 and 7, those before the first hit give 3, and those
    between the two give 4 more.
    """
    if not needles or not file.is_file() or not file.stat().st_size:
        return
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        line, counted, place = 1, 0, 0
        while True:
            hits = [hit for needle in needles if (hit := content.find(needle, place)) >= 0]
            if not hits:
                return
            begin = content.rfind(b"\n", 0, min(hits)) + 1
            end = content.find(b"\n", begin)
            end = len(content) if end < 0 else end
            line += sum(content[at : min(at + _CHUNK, begin)].count(b"\n") for at in range(counted, begin, _CHUNK))
            counted = begin
            yield Place(file, line, _object(content[begin:end]))
            place = end


def _line_of(file: Path, number: int) -> str:
    with file.open("rb") as handle:
        for count, line in enumerate(handle, 1):
            if count == number:
                return line.decode("utf-8", "replace").strip()
    return ""


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _forms(text: str) -> list[str]:
    """A text as it is inside the quotes of JSON, with and without escapes for what is not ASCII."""
    return list(dict.fromkeys(json.dumps(text, ensure_ascii=escaped)[1:-1] for escaped in (False, True)))


def _prompt_of(record: Mapping[str, Any]) -> str:
    """The last message of the user in a row."""
    messages = record.get("prompt") or record.get("messages") or []
    users = [one.get("content", "") for one in messages if isinstance(one, dict) and one.get("role") == "user"]
    return users[-1] if users else ""


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else list(value) if isinstance(value, list) else []


def _value_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
