"""Write a checkpoint that is made from others: whole or not at all, and never over its own inputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align.errors import CheckpointError, ConfigError
from align.files import FolderLock, sync_folder
from align.manifest import read_manifest


def refuse_overlap(output: Path, inputs: Sequence[str | Path], key: str = "output_dir") -> None:
    """Raise ConfigError if `output` is, contains, or lies in a folder that is read."""
    target = output.resolve()
    for source in inputs:
        place = Path(source).resolve()
        if not place.exists():
            continue  # a name on the Hub
        same = target == place or (target.exists() and target.samefile(place))
        if same or target in place.parents or place in target.parents:
            how = "is" if same else "lies in" if place in target.parents else "contains"
            what = f"{output} {how} {source}, which is read"
            raise ConfigError(key, what, "Name a folder of its own; nothing was written")


@contextmanager
def new_folder(output: Path, made: str) -> Iterator[Path]:
    """A temporary folder next to `output` that takes its place when the block ends without an error.

        .NAME.part/.lock   held by the run that makes `NAME`
        .NAME.part/new     what is being made
        .NAME.part/old     an earlier result, while the new one takes its place

    What a killed run has left is deleted by the next run, which first moves the earlier result back to its place.

    made: a key of the manifest by which an older result of the same kind is known, which is replaced. Raises
    ConfigError before anything is written where `output` holds anything else, or where another run makes it.
    """
    place = output.absolute()
    work = place.parent / f".{place.name}.part"
    refuse_foreign(output, made)
    lock = FolderLock.acquire(work, f"output_dir: {output}")
    lock.created = True  # to be deleted with the lock, also where a killed run has left it
    new, old = work / "new", work / "old"
    try:
        _clear(new, old, place)
        refuse_foreign(output, made)  # it may have been made since
        new.mkdir()
        yield new
        if place.exists():
            place.rename(old)  # a folder cannot be renamed onto one that is not empty
        new.rename(place)
        sync_folder(place.parent)
    finally:
        _clear(new, old, place)
        lock.release()


def refuse_foreign(output: Path, made: str) -> None:
    """Raise ConfigError if `output` is no folder, or holds anything but a result whose manifest has the key `made`."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConfigError("output_dir", f"{output} exists and is not a folder", "Name another")
    if output.is_dir() and any(output.iterdir()) and made not in _manifest_or_nothing(output):
        what = f"{output} holds files that this recipe did not write"
        raise ConfigError("output_dir", what, "Name a folder that is empty or does not exist; nothing was written")


def _clear(new: Path, old: Path, place: Path) -> None:
    """Delete what a run has left. An earlier result is moved back to its place, unless a new one is there."""
    if old.exists() and not place.exists():
        old.rename(place)
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)


def _manifest_or_nothing(folder: Path) -> dict[str, Any]:
    try:
        return read_manifest(folder)
    except CheckpointError:
        return {}
