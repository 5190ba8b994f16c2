"""Records through the `datasets` library: Parquet files, folders of `save_to_disk`, datasets on the Hub.

Everything is streamed: what is in memory is one batch of a shard. `datasets` is imported when the first such source is
read, since it takes over a second.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from align.errors import AlignError, RowError
from align.files import fingerprint, fingerprint_of
from align.hub_errors import HubProblem, hub_problem, page_of, similar_on_hub, with_suggestion
from align.hub_names import hub_name_in, is_hub_name, similar_path
from align.records.bombs import parquet_batch_rows, refuse_compressed_arrow
from align.records.text import Record, check_nesting, check_strings
from align.settings import Source

_HUB_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?")
_SAVED = ("state.json", "dataset_dict.json")
"""A folder of `save_to_disk` has one of them: a dataset, or a dictionary of its splits."""


def is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED)


def parquet_records(path: str) -> Iterator[tuple[int, Record | RowError]]:
    """Row number, from 1, and record."""
    # wildcards in a file's own name are escaped: `datasets` takes every name for a pattern
    options: dict[str, Any] = {"data_files": path}
    if "://" not in path:
        rows = _tried(path, lambda _: parquet_batch_rows(Path(path)))
        options = {"data_files": glob.escape(path), "batch_size": rows}
    stream = _tried(path, lambda d: d.load_dataset_builder("parquet", **options).as_streaming_dataset())
    yield from _records(stream["train"], path)


def parquet_count(path: Path) -> int:
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (OSError, ValueError) as error:
        raise unreadable(str(path), error) from None


def saved_records(folder: Path, source: Source) -> Iterator[tuple[int, Record | RowError]]:
    yield from _records(_saved(folder, source).to_iterable_dataset(), str(folder))


def saved_count(folder: Path, source: Source) -> int:
    return len(_saved(folder, source))


def hub_records(source: Source) -> Iterator[tuple[int, Record | RowError]]:
    """The rows of a dataset on the Hub, or of a folder that is laid out like one."""
    yield from _records(hub_split(source), source.path)


def hub_split(source: Source) -> Any:
    """The stream of a split. Raises RowError if the dataset, the configuration or the split does not exist."""
    splits = _tried(source.path, lambda d: _builder(source).as_streaming_dataset())
    return _split_of(splits, source)


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
        raise unreadable(address, error) from None
    if not files:
        raise RowError(address, "names no file that exists", "Check the address; wildcards are allowed")
    return files, system


@lru_cache(maxsize=64)
def _cached_builder(path: str, name: str | None, revision: str | None) -> Any:
    problem = _asked_why(path, revision) if is_hub_name(path) else None
    try:
        with _offline() if problem is not None else nullcontext():  # what is cached can be read in any case
            return _tried(path, lambda d: _named_builder(d, path, name, revision))
    except AlignError:
        if problem is None:
            raise
        raise _of_the_hub(problem, path, path) from None


def _named_builder(datasets: Any, path: str, name: str | None, revision: str | None) -> Any:
    try:
        return datasets.load_dataset_builder(path, name, revision=revision)
    except ValueError:
        known = datasets.get_dataset_config_names(path, revision=revision)
        if name in known or (name is None and len(known) == 1):
            raise
        what = f"has no configuration {name!r}" if name else f"has several configurations ({', '.join(known)})"
        how = (
            f"Its configurations: {', '.join(known)}" if name else f"Choose one with {{path: {path}, name: {known[0]}}}"
        )
        raise RowError(f"{path}: name", what, how) from None
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        what = "is a dataset that its own script builds, and no script is run"
        branch = f"{{path: {path}, revision: refs/convert/parquet}}"
        how = f"Use its Parquet branch: {branch}, or convert it and name its files"
        raise RowError(path, what, how) from None


def _builder(source: Source) -> Any:
    return _cached_builder(source.path, source.name, source.revision)


def _saved(folder: Path, source: Source) -> Any:
    _tried(str(folder), lambda _: refuse_compressed_arrow(folder))
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
    """`work(datasets)`, silent, with any error as `unreadable` describes it."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        return work(datasets)
    except AlignError:
        raise
    except Exception as error:  # whatever the network, a file system or a format's library raises
        raise unreadable(path, error) from None


def unreadable(path: str, error: Exception) -> AlignError:
    """An error of a library as a RowError, or as an AlignError where the network alone is at fault."""
    said = " ".join(str(error).split()) or type(error).__name__
    if Path(path).exists():
        return RowError(path, f"cannot be read by datasets ({said[:200]})", "Check the file; write it again")
    address = _HUB_ADDRESS.match(path)
    if not address and (on_hub := hub_name_in(path)):
        what = f"cannot be read as an address ({said[:200]})"
        return RowError(path, what, f"Did you mean {on_hub[0]}, or hf://datasets/{on_hub[0]}/FILE?")
    if isinstance(error, ImportError):
        what = f"needs a library that is not installed ({said[:200]})"
        return RowError(path, what, "Install the library that it names with pip, or download the file first")
    if not address and not is_hub_name(path):
        return RowError(
            path, f"cannot be read ({said[:200]})", "Check the address, the network, and that the file may be read"
        )
    name, revision = (address[1], address[2]) if address else (path, None)
    problem = _asked_why(name, revision) or hub_problem(error, name, revision=revision, kind="dataset")
    if problem is not None:
        return _of_the_hub(problem, path, name)
    page = page_of(name, "dataset")
    if address and isinstance(error, FileNotFoundError):
        return RowError(path, f"the dataset {name} has no such file on the Hub", f"See its files on {page}")
    what = f"is a dataset on the Hub that cannot be read ({said[:300]})"
    return RowError(path, what, f"Look at its files on {page}, and name one: hf://datasets/{name}/FILE")


def _asked_why(name: str, revision: str | None) -> HubProblem | None:
    """Why the Hub does not give a dataset, in one try each; None if it does.

    `datasets` would try for half a minute where there is no network, and keeps only a part of the reason.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().auth_check(name, repo_type="dataset")
        HfApi().dataset_info(name, revision=revision)
    except Exception as error:  # of the Hub, the HTTP library or a proxy
        return hub_problem(error, name, revision=revision, kind="dataset")
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """In the block, `datasets` reads its cache only."""
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _of_the_hub(problem: HubProblem, path: str, name: str) -> AlignError:
    if problem.about == "network":
        return AlignError(path, problem.what, problem.how)
    if problem.about == "revision" and "://" not in path:
        return RowError(f"{path}: revision", problem.what, problem.how)
    if problem.about == "name":
        local = similar_path(Path(path))
        problem = with_suggestion(problem, [str(local)] if local else similar_on_hub(name, "dataset"))
        here = "" if "://" in path else "there is no such file here, and "
        return RowError(path, f"{here}{problem.what}", problem.how)
    return RowError(path, problem.what, problem.how)
