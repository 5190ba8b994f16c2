"""One stage of one round: its command, its config, what it reads and makes, and the key of its result."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.config import Section, dump, section_of
from align.files import fingerprint_of
from align.harmless import changes_no_result
from align.rounds.launchers import Allocation, LocalNeeds
from align.rounds.libraries import library_versions
from align.rounds.packaged import PINS, packaged_data
from align.settings import HubConfig, Source, unused_backends
from align.source_code import code_of, libraries_of


@dataclass(frozen=True)
class Stage:
    """One stage of one round, with its config loaded."""

    name: str
    round: int | None
    """1, 2, ...; None before and after the rounds."""
    recipe: str
    command: tuple[str, ...]
    config: Section = field(repr=False)
    launch: Path | None = None
    allocation: Allocation | None = None
    """What its SLURM job asks for; None for a process on the machine of the driver."""
    local: LocalNeeds = field(default_factory=LocalNeeds)
    """What it needs of the machine of the driver, if it runs there."""
    show: bool = False
    inputs: dict[str, Path] = field(default_factory=dict)
    """Dotted key -> what it reads."""
    outputs: dict[str, Path] = field(default_factory=dict)
    """Dotted key -> what it makes."""
    code_starts: tuple[str | Path, ...] = ()
    """The recipe's script, or the modules that the recipe names for this config: where its code begins."""

    @property
    def label(self) -> str:
        return self.name if self.round is None else f"round-{self.round}/{self.name}"

    @property
    def shell(self) -> str:
        """The command as a person would type it."""
        return shlex.join(["python" if part == sys.executable else part for part in self.command])

    def makes(self, path: Path) -> bool:
        """Whether it writes `path`, the folder around it or a part of it."""
        return any(within(path, out) or within(out, path) for out in self.outputs.values())

    def source_of(self, name: str) -> Source | None:
        """The source of records whose path is the input `name`; None for a path that is no `Source`."""
        value: Any = self.config
        for part in name.split(".")[:-1]:
            value = _child(value, part)
        return value if isinstance(value, Source) else None

    def code(self) -> dict[str, str]:
        """What the stage's result is computed with: file -> hash of its source files and of the packaged data that they
        read, and what `libraries` gives."""
        if not self.code_starts:
            return {}
        found = code_of(*self.code_starts, without=unused_backends(self.config))
        return found | packaged_data(found) | self.libraries()

    def libraries(self) -> dict[str, str]:
        """`library/<name>` -> version of the libraries that the stage's code imports and that compute its result.

        Libraries that only align/assets.py imports do not count: it makes packaged data, which count by content.
        """
        if not self.code_starts:
            return {}
        imported = libraries_of(*self.code_starts, without=unused_backends(self.config))
        modules = {module for file, names in imported.items() if file != PINS for module in names}
        return library_versions(modules, dump(self.config), self.launch)

    def key(
        self,
        input_fingerprints: dict[str, str],
        launch_fingerprint: str,
        code: dict[str, str],
        recorded: dict[str, Any] | None = None,
    ) -> str:
        """BLAKE3 of all that decides what the stage makes.

        recorded: settings of an earlier version of the code. Settings that it does not have, and that have their
            default value, are left out, so that the key is the one that this version gave. None: no setting is.

        Paths are not part of it: what is read counts by content, and where a result is put does not change it. Neither
        are settings of training that change no result, such as `report_to`: a stage that was stopped is resumed with
        other ones, and a finished stage is not made again.
        """
        values = dump(self.config)
        if self.outputs:  # where a result is pushed as well does not change it
            for name, setting in type(self.config).model_fields.items():
                if section_of(setting.annotation) is HubConfig:
                    del values[name]
        for dotted in (*self.inputs, *self.outputs):
            _blank(values, dotted.split("."))
        if recorded is not None:
            values = _without_new_defaults(self.config, values, recorded)
        values = _deciding(values)
        read = {name: content for name, content in input_fingerprints.items() if not changes_no_result(name)}
        return fingerprint_of(
            self.label,
            self.recipe,
            json.dumps(code, sort_keys=True),
            json.dumps(values, sort_keys=True),
            json.dumps(read, sort_keys=True),
            launch_fingerprint,
        )


def within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies inside it, as names; links are not followed."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _without_new_defaults(section: Section, values: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that `recorded` does not have and that have their default value, in sections too.

    {"seed": 0, "search": null} with the record {"seed": 0} gives {"seed": 0} if the default of `search` is null.
    """
    found = {}
    for name, value in values.items():
        inner = getattr(section, name)
        default = type(section).model_fields[name].get_default(call_default_factory=True)
        if name not in recorded and inner == default:
            continue
        known = recorded.get(name)
        if isinstance(inner, Section) and isinstance(value, dict) and isinstance(known, dict):
            value = _without_new_defaults(inner, value, known)
        found[name] = value
    return found


def _deciding(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config without the settings that change no result."""
    return {
        name: _deciding(value, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in values.items()
        if not changes_no_result(f"{prefix}{name}")
    }


def _blank(values: Any, key: Sequence[str]) -> None:
    for part in key[:-1]:
        values = values[int(part)] if isinstance(values, list) else values[part]
    if isinstance(values, list):
        values[int(key[-1])] = None
    else:
        values[key[-1]] = None


def _child(value: Any, part: str) -> Any:
    """The value under one part of a dotted key: of a section, a mapping or a list."""
    if isinstance(value, Section):
        return getattr(value, part)
    return value[int(part)] if isinstance(value, list | tuple) else value[part]
