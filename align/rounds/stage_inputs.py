"""Everything that decides the result of a stage: its settings, the content of its inputs, its launch file, its code.

From these follows the stage's key. A finished stage is up to date as long as its key stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from align.config import dump
from align.files import fingerprint_of
from align.manifest import content_fingerprint
from align.rounds.changes import Change, changes_since
from align.rounds.hub_inputs import hub_content, with_commits_of
from align.rounds.ledger import StageRecord
from align.rounds.libraries import PREFIX as LIBRARY
from align.rounds.packaged import PREFIX as PACKAGE
from align.rounds.packaged import packaged_data
from align.rounds.stage import Stage

NOT_MADE = "not made yet"
"""Content of an input that an earlier stage is going to make; only a preview of a start has such inputs."""


@dataclass(frozen=True)
class StageInputs:
    """Everything that decides the result of a stage, as it is now."""

    stage: Stage
    inputs: dict[str, dict[str, str]]
    """Dotted key -> {"path", "blake3"}."""
    on_hub: tuple[str, ...]
    """The keys of `inputs` that are names on the Hub."""
    launch: str
    code: dict[str, str]
    """Source file -> hash; also packaged data, and versions of libraries."""

    @cached_property
    def key(self) -> str:
        return self.key_with(self.code)

    def key_with(self, code: dict[str, str], recorded: dict[str, Any] | None = None) -> str:
        """The key that the stage would have if its code were `code`, of a version with the settings `recorded`."""
        contents = {name: entry["blake3"] for name, entry in self.inputs.items()}
        return self.stage.key(contents, self.launch, code, recorded)

    def with_fetched(self) -> StageInputs:
        """A copy that includes the packages and models that the stage downloaded. The next start finds them in the
        cache, so the key that is recorded must contain them."""
        fetched = {name: {**self.inputs[name], "blake3": content_on_hub(self.stage, name)} for name in self.on_hub}
        return replace(self, code=self.code | packaged_data(self.code), inputs=self.inputs | fetched)

    def compared_with(self, record: StageRecord) -> StageInputs:
        """A copy that can be compared with a record: it has exactly the packages and libraries that the record lists,
        the record's commit of a Hub name where only one of the two has a commit, and the record's content of an input
        that is NOT_MADE."""
        inputs = with_commits_of(self.inputs, record.inputs)
        for name, entry in inputs.items():
            if entry["blake3"] == NOT_MADE:
                inputs[name] = record.inputs.get(name, entry)
        return replace(self, code=as_recorded(self.code, record.code), inputs=inputs)

    def changes(self, record: StageRecord) -> list[Change]:
        """Why the key differs from the record's. Call it on a copy that was made by `compared_with`."""
        return changes_since(record, dump(self.stage.config), self.inputs, self.code)


def as_recorded(code: Mapping[str, str], record: Mapping[str, str]) -> dict[str, str]:
    """`code`, with exactly those packages and libraries that a stage's record has, for comparing the two.

    A package that another stage fetched since is left out, as is a library that an earlier version of this project did
    not record. One that was deleted from the cache or uninstalled since counts as unchanged: a package would be fetched
    again from the same pin, and a stage that requires a library says itself that it is missing.
    """
    extras = {name: code.get(name, value) for name, value in record.items() if name.startswith((PACKAGE, LIBRARY))}
    return {name: value for name, value in code.items() if not name.startswith((PACKAGE, LIBRARY))} | extras


def content_on_hub(stage: Stage, name: str) -> str:
    """A fingerprint of an input that is a name on the Hub, at the `revision` that its section of the config names."""
    section: Any = dump(stage.config)
    for part in name.split(".")[:-1]:
        section = section[int(part)] if isinstance(section, list) else section[part]
    revision = section.get("revision") if isinstance(section, dict) else None
    return hub_content(stage.inputs[name], revision)


def launch_content(launch: Path) -> str:
    """A fingerprint of an accelerate config and of the DeepSpeed JSON files that it names.

    Their paths are relative to the working folder or to the folder of the accelerate config.
    """
    names = re.findall(r"[\w./-]+\.json", launch.read_text(encoding="utf-8"))
    named = [path for name in names for path in (Path(name), launch.parent / name) if path.is_file()]
    return fingerprint_of(content_fingerprint(launch), *(content_fingerprint(path) for path in named))
