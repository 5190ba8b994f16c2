"""Write rows as a file that other toolkits train on: JSON lines of a form of `align/formats/export.py`, or Parquet.

The file appears whole or not at all. Its manifest has the fingerprint of what was read, and counts what was dropped,
which fields are not in the file, and what would be trained on differently. Parquet holds the rows as they are, every
field and every kind of row.
"""

from __future__ import annotations

import json
import typing
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ValidationError

from align.config_values import holder_of, kinds_of
from align.errors import ConfigError, RowError, UnusableRow
from align.files import whole_file
from align.formats.export import Form, TrainOn, exported
from align.formats.rows import is_ours
from align.jsonl import Drops, Sources, row_of, stream_rows
from align.manifest import data_manifest_path, read_data_manifest, write_data_manifest
from align.records import entries_of, is_on_hub, label_of, parsed, sources_of
from align.reporting import logger
from align.rows import Candidate, PreferenceRow, PromptRow, QuestionRow, Row, SFTRow, ToolQuestionRow
from align.settings import Reading

Json = dict[str, Any]
Target = Literal["trl", "openai", "sharegpt", "parquet"]

EXPORTED = "exported"
"""The key of the manifest by which a file that this module wrote is known."""

_KINDS: tuple[type[Row], ...] = (SFTRow, PreferenceRow, Candidate, QuestionRow, PromptRow, ToolQuestionRow)
_NAMED: dict[str, type[Row]] = {"sft": SFTRow, "preferences": PreferenceRow}
_CHUNK_ROWS = 1000

log = logger(__name__)


def export_rows(
    sources: Sources,
    to: Target,
    output: Path | None = None,
    *,
    kind: Literal["auto", "sft", "preferences"] = "auto",
    train_on: TrainOn = "final",
    inexact: Literal["keep", "drop"] = "keep",
    reading: Reading | None = None,
    config: Json | None = None,
    inputs: dict[str, str] | None = None,
) -> Path:
    """Write the rows of `sources` in the form `to`, and return the file.

    output: None for a file next to the rows.
    kind: of the rows; auto for that of the first one.
    train_on: which messages of a dialog are the target. inexact: what becomes of rows that the other toolkit would
        train on differently; they are counted in either case.
    config, inputs: for the manifest.

    Raises ConfigError for an output that holds something else; RowError for rows that cannot be read, or where none is
    left. Nothing is written then.
    """
    listed = sources_of(sources)
    target = _output(listed, to, output)
    drops = Drops()
    counts = _Counts()
    reading = Reading() if reading is None else reading
    found = _kind_of(listed, reading) if kind == "auto" else _NAMED[kind]
    rows = stream_rows(listed, found, reading=reading, drops=drops)
    parquet = to == "parquet"
    with whole_file(target, "wb" if parquet else "w") as handle:
        if parquet:
            _write_parquet(handle, counts.counted(rows), found)
        else:
            _write_records(handle, counts.counted(rows), to, train_on, inexact, counts)  # type: ignore[arg-type]
        dropped = drops.reasons + counts.dropped
        if not counts.written:
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
            how = "Name another form; to: parquet holds every row"
            raise RowError(", ".join(map(label_of, listed)), f"no row is left to export ({reasons})", how)
    summary = {"to": to, "rows": found.__name__, "not_in_the_file": dict(counts.lost), "changed": dict(counts.changed)}
    write_data_manifest(
        target,
        config=config or {},
        inputs=inputs or {},
        counts={"rows": counts.written, "dropped": dict(dropped), "sources": dict(sorted(counts.sources.items()))},
        notes={EXPORTED: summary},
    )
    drops.tell()
    counts.tell(target, found)
    return target


class _Counts:
    """What became of the rows."""

    def __init__(self) -> None:
        self.written = 0
        self.sources: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()

    def counted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, each counted as written; `drop` takes one back."""
        for row in rows:
            self.written += 1
            self.sources[row.source] += 1
            yield row

    def drop(self, row: Row, reasons: Iterable[str]) -> None:
        self.written -= 1
        self.sources -= Counter([row.source])
        self.dropped.update(reasons)

    def tell(self, target: Path, kind: type[Row]) -> None:
        log.info("%s: %d rows (%s)", target, self.written, kind.__name__)
        for reason, count in self.dropped.most_common():
            log.warning("dropped: %d rows with %s", count, reason)
        for reason, count in self.changed.most_common():
            log.warning("trained on differently: %d rows with %s", count, reason)
        if self.lost:
            names = ", ".join(f"{name} of {count} rows" for name, count in self.lost.most_common())
            log.info("not in the file, and not used in training: %s", names)


def _write_records(
    handle: IO[str], rows: Iterable[Row], form: Form, train_on: TrainOn, inexact: str, counts: _Counts
) -> None:
    for row in rows:
        try:
            found = exported(row, form, train_on)
        except UnusableRow as error:
            counts.drop(row, [error.reason])
            continue
        if found.changed and inexact == "drop":
            counts.drop(row, found.changed)
            continue
        counts.changed.update(found.changed)
        counts.lost.update(found.lost)
        handle.write(json.dumps(found.record, ensure_ascii=False, allow_nan=False) + "\n")


def _write_parquet(handle: IO[bytes], rows: Iterator[Row], kind: type[Row]) -> None:
    """All fields of the rows as columns, with the types that `datasets` reads them back with."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    schema = Features(_feature(kind)).arrow_schema
    with pq.ParquetWriter(handle, schema) as writer:
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            writer.write_table(pa.Table.from_pylist([row.model_dump() for row in chunk], schema=schema))


def _feature(annotation: Any) -> Any:
    """The type of a column, from the annotation of a row's field: a list for a tuple, a mapping for a model."""
    from datasets import Value

    kinds = [kind for kind in kinds_of(annotation) if kind is not type(None)]
    if holder_of(kinds) is not None:
        return [_feature(typing.get_args(kinds[0])[0])]
    if isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
        return {name: _feature(field.annotation) for name, field in kinds[0].model_fields.items()}
    return Value({bool: "bool", int: "int64", float: "float64"}.get(kinds[0], "string"))


def _kind_of(sources: list[Any], reading: Reading) -> type[Row]:
    """The kind of the first row that can be read: one of ours by its columns, a pair, or else a dialog."""
    error: RowError | None = None
    for where, entry in chain.from_iterable(map(entries_of, sources)):
        try:
            if isinstance(entry, RowError):
                raise entry
            record = parsed(entry, where) if isinstance(entry, bytes) else entry
            return _kind_of_record(record, where, reading)
        except UnusableRow:
            return PreferenceRow  # a pair that prefers nothing
        except RowError as found:
            error = error or found
            if reading.bad_rows == "stop":
                break
    assert error is not None, "an empty source raises its own error"
    raise error


def _kind_of_record(record: Json, where: str, reading: Reading) -> type[Row]:
    for kind in _KINDS:
        if is_ours(record, kind):
            try:
                kind.model_validate(record)
            except (ValidationError, RecursionError):
                continue
            return kind
    try:
        row_of(record, PreferenceRow, where, reading.ignore_columns)
        return PreferenceRow
    except UnusableRow:
        raise
    except RowError:
        row_of(record, SFTRow, where, reading.ignore_columns)
        return SFTRow


def _output(sources: list[Any], to: Target, output: Path | None) -> Path:
    """The file that is written. Raises ConfigError for one that cannot be, before anything is read."""
    ending = ".parquet" if to == "parquet" else ".jsonl"
    if output is None:
        source = sources[0]
        if len(sources) > 1 or "://" in source.path or is_on_hub(source) or Path(source.path).is_dir():
            how = f"Write for example output=rows.{to}{ending}"
            raise ConfigError("output", "required where the rows are not one file, but missing", how)
        path = Path(source.path)
        name = path.name.removesuffix(".gz")
        stem = name.removesuffix(Path(name).suffix)
        output = path.with_name(f"{stem}{ending}" if to == "parquet" else f"{stem}.{to}{ending}")
    if output.suffix != ending:
        raise ConfigError("output", f"is {output}, and the form {to} is written as {ending}", f"Name a file {ending}")
    if any(Path(source.path).exists() and output.exists() and output.samefile(source.path) for source in sources):
        raise ConfigError("output", f"{output} is one of the files that are read", "Name another file")
    if output.exists() and (output.is_dir() or EXPORTED not in read_data_manifest(output)):
        what = f"{output} exists, and this recipe did not write it (its manifest is {data_manifest_path(output).name})"
        raise ConfigError("output", what, "Name another file, or delete it")
    return output
