"""A checkpoint that is made of others: it appears whole or not at all, and never over what it is made of."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align.errors import CheckpointError, ConfigError
from align.files import sync_folder
from align.manifest import read_manifest


def short_name(path: str | Path) -> str:
    """A checkpoint's name for a manifest: without where on this machine its folder is.

    `runs/sft` and `owner/name` stay as they are, as does an absolute path inside of the working folder, made relative;
    of any other path its last two parts are kept: `/home/me/runs/round-1/sft` becomes `round-1/sft`.
    """
    place = Path(path)
    if not place.is_absolute() and ".." not in place.parts:
        return place.as_posix()
    place = place.resolve()
    here = Path.cwd().resolve()
    return (place.relative_to(here) if place.is_relative_to(here) else Path(*place.parts[-2:])).as_posix()


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

    made: a key of the manifest by which an older result of the same kind is known, which is replaced. Raises
    ConfigError before anything is written where `output` holds anything else.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConfigError("output_dir", f"{output} exists and is not a folder", "Name another")
    if output.is_dir() and any(output.iterdir()) and made not in _manifest_or_nothing(output):
        what = f"{output} holds files that this recipe did not write"
        raise ConfigError("output_dir", what, "Name a folder that is empty or does not exist; nothing was written")
    output.parent.mkdir(parents=True, exist_ok=True)
    rough = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield rough
        rough.chmod(0o755)  # mkdtemp keeps a folder to its owner
        if output.exists():
            old = rough.with_name(rough.name + ".old")
            output.rename(old)  # a folder cannot be renamed onto one that is not empty
            rough.rename(output)
            shutil.rmtree(old)
        else:
            rough.rename(output)
        sync_folder(output.parent)
    finally:
        shutil.rmtree(rough, ignore_errors=True)


def _manifest_or_nothing(folder: Path) -> dict[str, Any]:
    try:
        return read_manifest(folder)
    except CheckpointError:
        return {}
