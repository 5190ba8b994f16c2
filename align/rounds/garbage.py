"""What of a run's folder can be deleted: files that no finished stage is checked by, and that no stage reads.

Kinds, in the order in which they are listed:

    removed       outputs of stages that the config no longer has
    checkpoints   checkpoint-N of a finished training: the weights and optimizer states of its intermediate steps. With
                  training.keep_optimizer the newest stays, from which the training can be extended
    units         units of work of a finished stage: candidates, scores, evaluations
    reference     the log-probabilities of the reference of a finished DPO stage, in shards
    encoded       the encoded rows of a finished training
    leftovers     temporary files of processes that were killed
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from align.errors import ConfigError
from align.files import UNITS, matching
from align.manifest import SEAL, data_manifest_path
from align.rounds.finished import stage_record_path
from align.rounds.ledger import Ledger, StageRecord
from align.rounds.processes import sole_driver
from align.rounds.stage import Stage, within

Kind = Literal["removed", "checkpoints", "units", "reference", "encoded", "leftovers"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_REFERENCE = "reference"
_REFERENCE_KEY = "KEY.json"
_ENCODED = ("trees.arrow", "eval_trees.arrow")


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can be deleted."""

    kind: Kind
    path: Path
    size: int
    """Bytes, of all files in it."""
    stage: str
    """Label of the stage that made it; empty if unknown."""


def garbage_of(run_dir: Path, stages: Sequence[Stage], ledger: Ledger) -> list[Garbage]:
    """Everything that can go, by kind.

    stages: all stages of the config. A stage counts as finished if its last start ended well.
    """
    latest = {record.label: record for record in ledger.stages()}
    finished = [stage for stage in stages if stage.label in latest and latest[stage.label].status == "finished"]
    unfinished = [stage for stage in stages if stage not in finished]
    needed = [found for stage in stages for path in stage.inputs.values() for found in (path, *matching(path))]
    needed = [path for path in needed if within(path, run_dir) and not within(run_dir, path)]
    found = list(_removed(run_dir, stages, latest))
    for stage in finished:
        for out in stage.outputs.values():
            found += [(kind, path, stage.label) for kind, path in _inside(out, _keeps_optimizer(stage))]
    owned = [path for _, path, _ in found]
    for path in _leftovers(run_dir):
        if not any(_belongs(path, out) for stage in unfinished for out in stage.outputs.values()):
            found += [("leftovers", path, "")] * (not any(within(path, other) for other in owned))
    kept = [each for each in found if not any(within(path, each[1]) for path in needed)]
    sized = [Garbage(kind, path, _size(path), label) for kind, path, label in kept]
    return sorted(sized, key=lambda each: KINDS.index(each.kind))


def delete(run_dir: Path, found: Sequence[Garbage]) -> int:
    """Delete what was found, while no start of the rounds uses the folder. Returns how many bytes that were.

    Raises StageError if the rounds are running.
    """
    with sole_driver(run_dir):
        for each in found:
            assert within(each.path, run_dir)
            if each.path.is_dir() and not each.path.is_symlink():
                # First a name that counts as a leftover: a folder that is deleted by half is taken for no result.
                going = each.path.with_name(f".{each.path.name.lstrip('.')}.deleted.part")
                shutil.rmtree(going, ignore_errors=True)
                each.path.rename(going)
                shutil.rmtree(going)
            else:
                each.path.unlink(missing_ok=True)
                data_manifest_path(each.path).unlink(missing_ok=True)
    return sum(each.size for each in found)


def garbage_text(found: Sequence[Garbage], *, deleted: bool = False) -> str:
    """What can go, or went, as a table with sizes."""
    if not found:
        return "nothing can be deleted"
    width = max(len(str(each.path)) for each in found)
    lines = [
        f"{each.kind:11}  {size_text(each.size):>9}  {each.path!s:{width}}  {each.stage}".rstrip() for each in found
    ]
    total = f"{len(found)} files and folders, {size_text(sum(each.size for each in found))}"
    said = f"deleted {total}" if deleted else f"{total}; nothing was deleted. Add --delete, or --delete=KIND,KIND"
    return "\n".join([*lines, said])


def chosen_kinds(text: str) -> tuple[Kind, ...]:
    """`units,leftovers` as kinds; all for an empty text. Raises ConfigError for an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in KINDS:
            raise ConfigError("--delete", f"{name!r} is no kind of file", f"Known: {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in names) if names else KINDS


def size_text(size: float) -> str:
    """Bytes for a person: `812 B`, `4.1 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _removed(
    run_dir: Path, stages: Sequence[Stage], latest: dict[str, StageRecord]
) -> Iterator[tuple[Kind, Path, str]]:
    """Outputs of stages that are only in the ledger, as far as no stage of the config writes there."""
    labels = {stage.label for stage in stages}
    outputs = [path for stage in stages for path in stage.outputs.values()]
    for label, record in latest.items():
        if label in labels:
            continue
        paths = {name: Path(entry["path"]) for name, entry in record.outputs.items()}
        own = stage_record_path(paths)
        listed = [*paths.values(), *([own] if own is not None and own.parent not in paths.values() else [])]
        for path in dict.fromkeys(listed):
            inside = within(path, run_dir) and not within(run_dir, path)
            if inside and path.exists() and not any(within(path, out) or within(out, path) for out in outputs):
                yield "removed", path, label


def _keeps_optimizer(stage: Stage) -> bool:
    return bool(getattr(getattr(stage.config, "training", None), "keep_optimizer", False))


def _inside(out: Path, keeps_newest: bool) -> Iterator[tuple[Kind, Path]]:
    """What can go of a finished stage's output: names that its manifest does not list, and units of work.

    keeps_newest: whether the checkpoint with the largest step stays.
    """
    if not out.is_dir():
        return
    if (out / SEAL).is_file():
        steps = {path: int(found[1]) for path in out.iterdir() if (found := _CHECKPOINT.fullmatch(path.name))}
        ordered = sorted((path for path in steps if path.is_dir()), key=lambda path: steps[path])
        yield from (("checkpoints", path) for path in (ordered[:-1] if keeps_newest else ordered))
        if (out / _REFERENCE / _REFERENCE_KEY).is_file():
            yield "reference", out / _REFERENCE
        yield from (("encoded", out / name) for name in _ENCODED if (out / name).is_file())
    yield from (("units", file.parent) for file in sorted(out.rglob(UNITS)) if file.parent != out)


def _leftovers(run_dir: Path) -> list[Path]:
    """Temporary files and folders, named `.NAME.*.part` or `.NAME.claim`. Of nested ones, the outermost."""
    found: list[Path] = []
    for path in sorted(run_dir.rglob(".*")):
        if path.suffix in (".part", ".claim") and not any(within(path, other) for other in found):
            found.append(path)
    return found


def _belongs(path: Path, out: Path) -> bool:
    """Whether a temporary file is in an output, or next to it and of its name."""
    return within(path, out) or (path.parent == out.parent and path.name.startswith(f".{out.name}."))


def _size(path: Path) -> int:
    files: Collection[Path] = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
