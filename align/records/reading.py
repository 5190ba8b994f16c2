"""From a source to its records: which reader a path needs, the mapping of columns, and counting.

A record is a dictionary, with the place that it has in its file. What cannot be read is an error in its place; whoever
reads decides whether that stops the run.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
import json
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from align.errors import RowError, UnusableRow
from align.files import matching
from align.hub_names import DATA_ENDINGS, is_hub_name, similar_path
from align.manifest import read_data_manifest
from align.records.bombs import Inflated
from align.records.selection import selected_entry, selection_of
from align.records.tables import (
    files_at,
    hub_count,
    hub_records,
    is_saved,
    parquet_count,
    parquet_records,
    saved_count,
    saved_records,
    unreadable,
)
from align.records.text import Record, array_elements, csv_records, decoded, json_lines, object_in
from align.settings import Source

SourceLike = str | Path | Source

Entry = bytes | Record | RowError
"""A line of JSON lines that is not parsed yet, a record, or why there is none."""

_MAGIC = {
    b"\x1f\x8b": ("is compressed by gzip", "Give the file a name that ends with .gz"),
    b"PAR1": ("is a Parquet file", "Give the file a name that ends with .parquet"),
    b"ARROW1": ("is an Arrow file", "Name the folder that `save_to_disk` wrote, or write Parquet or JSONL"),
    b"PK\x03\x04": ("is a ZIP archive", "Unpack it"),
    b"BZh": ("is compressed by bzip2", "Decompress it, or use gzip"),
    b"\xfd7zXZ": ("is compressed by xz", "Decompress it, or use gzip"),
    b"\x28\xb5\x2f\xfd": ("is compressed by zstd", "Decompress it, or use gzip"),
    b"%PDF": ("is a PDF", "Write its text as JSONL"),
    b"version https://git-lfs": ("is a pointer of Git LFS, and not the file itself", "Fetch it with `git lfs pull`"),
    b"<!DOCTYPE": ("is a web page", "Download the file itself"),
    b"<html": ("is a web page", "Download the file itself"),
}
_HUB_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/?")
_LOOK_FOR_COLUMNS = 1000
"""Records after which a mapped column that none has had is an error."""


def _source(path: str) -> Source:
    try:
        return Source(path=path)
    except ValidationError as error:
        what = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise RowError(path[:200], what, "Name a file that exists") from None


def sources_of(given: SourceLike | Iterable[SourceLike]) -> list[Source]:
    """What a config names, as sections: one for every file that a pattern matches.

    Raises RowError for a pattern that matches nothing.
    """
    found: list[Source] = []
    for entry in [given] if isinstance(given, str | Path | Source) else given:
        source = entry if isinstance(entry, Source) else _source(str(entry))
        whole = _HUB_ADDRESS.fullmatch(source.path)
        if whole:  # hf://datasets/owner/name names the dataset, and no file in it
            source = source.model_copy(update={"path": whole[1], "revision": source.revision or whole[2]})
            found.append(source)
        elif "://" in source.path:
            found.append(source)
        else:
            found += [source.model_copy(update={"path": str(path)}) for path in _named(source.path)]
    return found


def label_of(source: Source) -> str:
    """What counts and manifests call a source: path, configuration, split, and which rounds and batches are read."""
    return ":".join(part for part in (source.path, source.name, source.split, selection_of(source)) if part)


def is_on_hub(source: Source) -> bool:
    """Whether the source is a dataset's name on the Hub: owner/name, and nothing here has that path."""
    return is_hub_name(source.path)


def is_known_to_be_empty(source: Source) -> bool:
    """Whether one of our stages wrote the file with no rows, and said so in its manifest."""
    with contextlib.suppress(OSError, ValueError):
        counts = read_data_manifest(Path(source.path)).get("counts")
        return isinstance(counts, Mapping) and counts.get("rows") == 0
    return False


def entries_of(source: Source, left_out: Counter[str] | None = None) -> Iterator[tuple[str, Entry]]:
    """`path:line` and what is there, for every record of one source that its `rounds` and `batches` select.

    Lines of JSON lines come as bytes, unless columns are mapped or records selected: a row in our own form is read from
    them directly.
    left_out: counts the records that are not selected, by their reason.
    Raises RowError where the source cannot be opened or holds no record.
    """
    for where, entry in _every_entry(source):
        if not isinstance(entry, UnusableRow):
            yield where, entry
        elif left_out is not None:
            left_out[entry.reason] += 1


def _every_entry(source: Source) -> Iterator[tuple[str, Entry]]:
    """As `entries_of`; a record that is not selected is an UnusableRow in its place."""
    mapped = bool(source.columns or source.ignore_columns)
    found = _mapped(source, _raw(source)) if mapped else _raw(source)
    empty = True
    for number, entry in found:
        empty = False
        where = f"{source.path}:{number}"
        if source.is_selective:
            entry = selected_entry(entry, source, where)
        yield where, _without_nulls(entry) if isinstance(entry, dict) else entry
    if empty and not is_known_to_be_empty(source):
        raise RowError(source.path, "holds no rows", "Check the stage that wrote it, and its manifest")


def records_of(given: SourceLike | Iterable[SourceLike]) -> Iterator[tuple[str, Record | RowError]]:
    """`path:line` and record of every record of one or more sources, or the error in its place: an UnusableRow for one
    that the source's `rounds` and `batches` do not select.

    Raises RowError where a source cannot be opened, holds no record, or is an array that breaks off.
    """
    for source in sources_of(given):
        if source.weight != 1:
            what = f"is {source.weight:g}, which this stage does not read: it reads records, and not rows"
            raise RowError(f"{source.path}: weight", what, "Remove weight, and weigh the rows that come out")
        for where, entry in _every_entry(source):
            if isinstance(entry, bytes):
                try:
                    yield where, parsed(entry, where)
                except RowError as error:
                    yield where, error
            else:
                yield where, entry


def text_lines(path: Path) -> Iterator[tuple[str, Record | RowError]]:
    """`path:line` and `{"text": line}` of every line of a text file that is not blank, or the error in its place.

    Raises RowError where the file cannot be opened or holds no text.
    """
    require_readable(path)
    empty = True
    with _open(path) as handle:
        for number, line in json_lines(handle, path):
            empty, where = False, f"{path}:{number}"
            try:
                yield where, line if isinstance(line, RowError) else {"text": decoded(line, where).rstrip("\r\n")}
            except RowError as error:
                yield where, error
    if empty:
        raise RowError(path, "holds no text", "Check what wrote it")


def parsed(line: bytes, where: str) -> Record:
    """A line of JSON lines as a record, without keys whose value is null. Raises RowError naming `where`."""
    return _without_nulls(object_in(line, where))


def count_of(source: Source) -> int:
    """Records of a source that are selected, bad ones included. Lines are not parsed if all are."""
    if source.is_selective:
        return sum(1 for _ in entries_of(source))
    path, is_folder = Path(source.path), os.path.isdir(source.path)
    if is_on_hub(source) or (is_folder and not is_saved(path)):
        known = hub_count(source)
        if known is not None:
            return known
    elif is_folder:
        return saved_count(path, source)
    elif source.path.lower().endswith(".parquet") and os.path.isfile(path):
        return parquet_count(path)
    return sum(1 for _ in _raw(source))


def _named(path: str) -> list[Path]:
    found = matching(path)
    if not found and glob.has_magic(path):
        raise RowError(path, "matches no file", "Check the pattern, and where the run was started")
    return found or [Path(path)]


def _raw(source: Source) -> Iterator[tuple[int, Entry]]:
    """Number and content of every record, as the file has it."""
    path = Path(source.path)
    if "://" in source.path:
        yield from _at_address(source)
    elif is_on_hub(source):
        yield from hub_records(source)
    else:
        require_readable(path)
        if path.is_dir():
            yield from _in_folder(path, source)
        else:
            _refuse_settings(source, ("split", "name", "revision"), "a file")
            with _open(path) as handle:
                if not path.name.lower().endswith(".parquet"):
                    yield from _in_text(handle, source.path)
                    return
                start = _peeked(handle)
            if not start.startswith(b"PAR1") and (other := _other_content(start, source.path)):
                yield 1, other
            else:
                yield from parquet_records(source.path)


def _in_folder(folder: Path, source: Source) -> Iterator[tuple[int, Entry]]:
    if is_saved(folder):
        _refuse_settings(source, ("name", "revision"), "a folder of save_to_disk")
        yield from saved_records(folder, source)
        return
    if source.split is None and source.name is None:
        names = sorted(file.name for file in folder.iterdir() if file.name.lower().endswith(DATA_ENDINGS))
        held = f"; it holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ""
        how = "Name a file in it or a pattern such as *.jsonl, or give split for a folder laid out as on the Hub"
        raise RowError(folder, f"is a folder that `save_to_disk` did not write{held}", how)
    yield from hub_records(source)


def _at_address(source: Source) -> Iterator[tuple[int, Entry]]:
    _refuse_settings(
        source, ("split", "name", "revision"), "a file's address (write hf://datasets/owner/name@revision/)"
    )
    files, system = files_at(source.path)
    for file in files:
        name = system.unstrip_protocol(file)
        if file.lower().endswith(".parquet"):
            yield from parquet_records(name)
            continue
        try:
            with system.open(file, "rb") as raw:
                yield from _in_text(_unzipped(raw, file, name), name)
        except OSError as error:
            raise unreadable(name, error) from None


def _in_text(handle: IO[bytes], path: str) -> Iterator[tuple[int, Entry]]:
    name = path.lower().removesuffix(".gz")
    try:
        start = _peeked(handle)
        other = _other_content(start, path)
        if other is not None:
            yield 1, other
            return
        if name.endswith((".csv", ".tsv")):
            if start.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise RowError(path, "is UTF-16, not UTF-8", "Save the file as UTF-8: `iconv -f UTF-16 -t UTF-8`")
            yield from csv_records(handle, path, "\t" if name.endswith(".tsv") else ",")
            return
        text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        if text.startswith(b"["):
            yield from array_elements(handle, path)
            return
        if name.endswith(".json") and text.startswith(b"{") and not _is_object(text.split(b"\n")[0]):
            how = "Write one JSON object a line or one array, such as with `jq -c '.data[]'`"
            raise RowError(path, "holds one JSON object over several lines", how)
        yield from json_lines(handle, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RowError(
            path, f"breaks off: its gzip data is damaged ({error})", "Copy or write the file again"
        ) from None


def _other_content(start: bytes, path: str) -> RowError | None:
    """The error of a file that is not what its name says, by how it begins."""
    for magic, (what, how) in _MAGIC.items():
        if start.startswith(magic):
            return RowError(f"{path}:1", what, how)
    return None


def _is_object(line: bytes) -> bool:
    """Whether a line that may be cut is a whole object, or long enough to be a line of JSON lines."""
    if len(line) > 1000:
        return True
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(line)
        return True
    return line.rstrip().endswith(b"}")  # a faulty line of JSON lines: its error names the line


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        handle = path.open("rb", buffering=2**20)
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from None
    with handle:
        yield _unzipped(handle, path.name, str(path))


def _unzipped(handle: IO[bytes], name: str, path: str) -> IO[bytes]:
    if not name.lower().endswith(".gz"):
        return handle
    if _peeked(handle)[:2] not in (b"\x1f\x8b", b""):
        raise RowError(path, "ends with .gz, but is not compressed by gzip", "Rename the file, or compress it")
    return io.BufferedReader(Inflated(handle, path), 2**20)


def _peeked(handle: IO[bytes]) -> bytes:
    """The first bytes; the handle stays at the start."""
    if hasattr(handle, "peek"):
        return bytes(handle.peek(4096)[:4096])
    start = handle.read(4096)
    handle.seek(0)
    return start


def require_readable(path: Path) -> None:
    """Raise RowError unless the path is a file or folder. A FIFO would hang, and a device has no end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise RowError(path, f"is {kind}, and no file: rows are read more than once", "Write the rows to a file first")


def _cannot_open(path: Path, error: OSError | ValueError) -> RowError:
    what = f"cannot be read ({error.strerror if isinstance(error, OSError) else error})"
    similar = similar_path(path) if isinstance(error, FileNotFoundError) else None
    how = "Name a file that exists: JSONL, JSON, CSV, TSV, Parquet, or a Hub dataset owner/name"
    return RowError(path, what, f"Did you mean {similar}?" if similar else how)


def _refuse_settings(source: Source, names: tuple[str, ...], kind: str) -> None:
    for name in names:
        if getattr(source, name) is not None:
            raise RowError(f"{source.path}: {name}", f"is not read for {kind}", f"Remove {name}")


def _without_nulls(record: Record) -> Record:
    """Null means absent. Arrow fills every column that a record does not have with it."""
    if None not in record.values():
        return record
    return {key: value for key, value in record.items() if value is not None}


def _mapped(source: Source, entries: Iterator[tuple[int, Entry]]) -> Iterator[tuple[int, Record | RowError]]:
    """Records under our names of columns. Raises RowError for a column that no record has."""
    missing = {*source.columns.values(), *source.ignore_columns}
    seen: set[str] = set()
    read = 0
    for number, entry in entries:
        where = f"{source.path}:{number}"
        if isinstance(entry, bytes):
            try:
                entry = object_in(entry, where)
            except RowError as error:
                entry = error
        if isinstance(entry, RowError):
            yield number, entry
            continue
        read += 1
        if missing:
            missing -= entry.keys()
            seen |= entry.keys()
        if missing and read == _LOOK_FOR_COLUMNS:
            break
        yield number, _renamed(entry, source)
    if missing and read:
        known = ", ".join(sorted(seen))
        name = min(missing)
        where = next((f"columns.{ours}" for ours, theirs in source.columns.items() if theirs == name), "ignore_columns")
        what = f"names the column {name!r}, which no record has ({read} read)"
        raise RowError(f"{source.path}: {where}", what, f"Their columns: {known}")


def _renamed(record: Record, source: Source) -> Record:
    """A record under our names. A column that a mapping names takes the place of one that has our name already."""
    found = {key: value for key, value in record.items() if key not in source.ignore_columns}
    values = {ours: found.pop(theirs) for ours, theirs in source.columns.items() if theirs in found}
    return found | values
