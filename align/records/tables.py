"""Records through the `datasets` library: Parquet files, folders of `save_to_disk`, datasets on the Hub.

Everything is streamed: what is in memory is one batch of a shard. `datasets` is imported when the first such source is
read, since it takes over a second.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from align.errors import RowError
from align.files import fingerprint, fingerprint_of
from align.records.text import Record, check_nesting, check_strings
from align.settings import Source

_SAVED = ("state.json", "dataset_dict.json")
"""A folder of `save_to_disk` has one of them: a dataset, or a dictionary of its splits."""


def is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED)


def parquet_records(path: str) -> Iterator[tuple[int, Record | RowError]]:
    """Row number, from 1, and record."""
    # wildcards in a file's own name are escaped: `datasets` takes every name for a pattern
    data_files = path if "://" in path else glob.escape(path)
    stream = _tried(path, lambda d: d.load_dataset_builder("parquet", data_files=data_files).as_streaming_dataset())
    yield from _records(stream["train"], path)


def parquet_count(path: Path) -> int:
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from None


def saved_records(folder: Path, source: Source) -> Iterator[tuple[int, Record | RowError]]:
    yield from _records(_saved(folder, source).to_iterable_dataset(), str(folder))


def saved_count(folder: Path, source: Source) -> int:
    return len(_saved(folder, source))


def hub_records(source: Source) -> Iterator[tuple[int, Record | RowError]]:
    """The rows of a dataset on the Hub, or of a folder that is laid out like one."""
    splits = _tried(source.path, lambda d: _builder(source).as_streaming_dataset())
    yield from _records(_split_of(splits, source), source.path)


def hub_count(source: Source) -> int | None:
    """Rows as the dataset's card states them; None if it does not."""
    known = _builder(source).info.splits or {}
    split = source.split or (next(iter(known)) if len(known) == 1 else None)
    return known[split].num_examples if split in known else None


def hub_identity(source: Source) -> str:
    """Name and content of a dataset on the Hub: the commit that its revision means now."""
    return f"hub:{source.path}@{_builder(source).hash}"


def folder_identity(folder: Path) -> str:
    return fingerprint(folder)


def address_identity(address: str) -> str:
    """Name and content of a file at an address, by what its file system knows of it: sizes, hashes, times."""
    files, system = files_at(address)
    return f"{address}@{fingerprint_of(*(system.ukey(file) for file in files))}"


def files_at(address: str) -> tuple[list[str], Any]:
    """The files that an address names, with wildcards, and the file system that opens them."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
        if glob.has_magic(path):
            files = sorted(system.glob(path))
        else:
            files = [path] if system.info(path)["type"] == "file" else []
    except Exception as error:  # a file system raises what its network library raises
        raise _unreadable(address, error) from None
    if not files:
        raise RowError(address, "names no file that exists", "Check the address; wildcards are allowed")
    return files, system


@lru_cache(maxsize=64)
def _cached_builder(path: str, name: str | None, revision: str | None) -> Any:
    return _tried(path, lambda d: d.load_dataset_builder(path, name, revision=revision))


def _builder(source: Source) -> Any:
    return _cached_builder(source.path, source.name, source.revision)


def _saved(folder: Path, source: Source) -> Any:
    found = _tried(str(folder), lambda d: d.load_from_disk(str(folder)))
    if (folder / "dataset_dict.json").is_file():
        return _split_of(found, source)
    if source.split is not None:
        raise RowError(folder, f"has no splits, and split is {source.split!r}", "Remove split")
    return found


def _split_of(splits: Any, source: Source) -> Any:
    known = ", ".join(splits)
    if source.split is None:
        if len(splits) > 1:
            raise RowError(source.path, f"has several splits ({known})", "Choose one with {path: ..., split: ...}")
        return next(iter(splits.values()))
    if source.split not in splits:
        raise RowError(source.path, f"has no split {source.split!r}", f"Its splits: {known}")
    return splits[source.split]


def _records(stream: Any, path: str) -> Iterator[tuple[int, Record | RowError]]:
    number = 0
    rows = iter(stream.decode(False) if hasattr(stream, "decode") else stream)  # images stay files: never opened
    while True:
        record = _tried(path, lambda _: next(rows, None))
        if record is None:
            return
        number += 1
        try:
            check_strings(record, f"{path}:{number}")
            check_nesting(record, f"{path}:{number}")
            yield number, record
        except RowError as error:
            yield number, error


def _tried(path: str, work: Callable[[Any], Any]) -> Any:
    """`work(datasets)`, silent, with any error as a RowError."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        return work(datasets)
    except RowError:
        raise
    except Exception as error:  # whatever the network, a file system or a format's library raises
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: Exception) -> RowError:
    said = " ".join(str(error).split()) or type(error).__name__
    if Path(path).exists():
        return RowError(path, f"cannot be read by datasets ({said[:200]})", "Check the file; write it again")
    how = "Check the name, split and revision, the network (HF_HUB_OFFLINE), and that HF_TOKEN may read it"
    if "://" not in path:
        how = f"If it is a file, name one that exists. If it is a dataset on the Hub: {how[:1].lower()}{how[1:]}"
        return RowError(path, f"is no file here, and cannot be read from the Hub ({said[:200]})", how)
    return RowError(path, f"cannot be read ({said[:200]})", how)
