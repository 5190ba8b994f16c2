"""What the stages of a plan read: paths that no stage makes, and data that is not there yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from align.errors import ConfigError, RowError
from align.files import matching
from align.hub_names import is_hub_name, similar_path
from align.records import has_selected, sources_of
from align.records.selection import selection_of
from align.rounds.stage import Stage, within


@dataclass(frozen=True)
class MissingInput:
    """An input from outside the run that is not there."""

    stage: Stage
    key: str
    """The dotted setting that names it."""
    path: Path
    rows: str = ""
    """The rows that the file does not have, such as `rounds 3`; empty if there is no file."""

    @property
    def what(self) -> str:
        return f"{self.path}: no rows of {self.rows}" if self.rows else str(self.path)


def missing_inputs(stages: Sequence[Stage], run_dir: Path) -> list[MissingInput]:
    """The inputs of these stages that come from outside the run and are not there, each path once for each key."""
    found = []
    for stage in stages:
        for key, path in stage.inputs.items():
            if within(path, run_dir) or is_hub_name(path):
                continue
            if not matching(path):
                found.append(MissingInput(stage, key, path))
            elif rows := _rows_that_lack(stage, key):
                found.append(MissingInput(stage, key, path, rows))
    return found


def how_to_make(missing: MissingInput, patterns: Mapping[str, str]) -> str:
    """What the user's config says about how a missing input is made: the text of the first pattern that fits."""
    found = next((how for pattern, how in patterns.items() if fnmatchcase(str(missing.path), pattern)), "")
    return found.replace("{round}", str(missing.stage.round))


def _rows_that_lack(stage: Stage, key: str) -> str:
    source = stage.source_of(key)
    if source is None or not source.is_selective:
        return ""
    try:
        return "" if any(map(has_selected, sources_of(source))) else selection_of(source)
    except RowError:  # an empty file has no rows, either; what else is wrong with it, its stage will say
        return selection_of(source)


def path_mistakes(stages: Sequence[Stage], run_dir: Path, patterns: Mapping[str, str]) -> Iterator[ConfigError]:
    """Inputs that no stage before makes, missing data of the first round, and outputs in places that do not fit.

    patterns: see `how_to_make`.
    """
    made: list[tuple[Stage, Path]] = []
    reported = set()
    needed = [stage for stage in stages if stage.round in (None, 1)]
    missing = {(each.stage.label, each.key): each for each in missing_inputs(needed, run_dir)}
    for stage in stages:
        where = f"stage {stage.label}"
        for key, path in stage.inputs.items():
            if path in reported:
                continue
            if within(path, run_dir):
                known = within(run_dir, path) or any(within(path, out) or within(out, path) for _, out in made)
                if not known:
                    reported.add(path)
                    how = "Name a file of an earlier stage, or move the stage after the one that makes it"
                    yield ConfigError(f"{where}: {key}", f"reads {path}, which no stage before it makes", how)
            elif (stage.label, key) in missing:
                reported.add(path)
                yield _mistake(missing[stage.label, key], patterns)
        for key, path in stage.outputs.items():
            if not within(path, run_dir) or within(run_dir, path):
                how = f"Set it to a path under {run_dir}, such as {{run}} or {{round_dir}} with a name behind"
                yield ConfigError(f"{where}: {key}", f"writes {path}, which is not inside the run's folder", how)
            for other, out in made:
                if other is not stage and (within(path, out) or within(out, path)):
                    how = "Give each stage a folder of its own"
                    yield ConfigError(f"{where}: {key}", f"writes {path}, where stage {other.label} writes {out}", how)
        made.extend((stage, path) for path in stage.outputs.values())


def _mistake(missing: MissingInput, patterns: Mapping[str, str]) -> ConfigError:
    where, path = f"stage {missing.stage.label}: {missing.key}", missing.path
    if missing.rows:
        what, how = f"there are no rows of {missing.rows} in {path}", "Collect them, or name another file"
    else:
        what = f"there is no {path}"
        how = "Run `make assets` first" if ".assets" in path.parts else "Name a file or folder that exists"
        how = f"Did you mean {similar}?" if (similar := similar_path(path)) else how
    return ConfigError(where, what, how_to_make(missing, patterns) or how)
