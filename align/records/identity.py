"""What tells the content of sources apart, and all that a config reads, for manifests and keys of stages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from align.config import Section
from align.errors import RowError
from align.files import fingerprint, fingerprint_of
from align.manifest import input_fingerprint
from align.records.reading import SourceLike, entries_of, is_on_hub, label_of, require_readable, sources_of
from align.records.tables import address_identity, hub_identity, hub_split
from align.settings import INPUT, Source, paths_of


def identities_of(given: SourceLike | Iterable[SourceLike]) -> dict[str, str]:
    """Label of each source -> what tells its content apart: a BLAKE3, or name and commit on the Hub."""
    return {label_of(source): _identity(source) for source in sources_of(given)}


def key_of(given: SourceLike | Iterable[SourceLike], identities: Mapping[str, str] | None = None) -> str:
    """A fingerprint of sources: their content and every setting of theirs, but not where they are.

    identities: of `identities_of`, where they are known already.
    """
    sources = sources_of(given)
    known = identities_of(sources) if identities is None else identities
    return fingerprint_of(*[f"{known[label_of(one)]} {one.model_dump_json(exclude={'path'})}" for one in sources])


def inputs_of(config: Section) -> dict[str, str]:
    """Everything that a config names as input, for a manifest: path, name or address -> what identifies its content.

    Raises CheckpointError for a model's name that is neither here nor in the cache of the Hub.
    """
    found: dict[str, str] = {}
    for name, value, reads_records in _settings_of(config):
        if reads_records:
            found.update(identities_of(value))
        elif isinstance(value, Section):
            found.update(inputs_of(value))
        else:
            named = (path for key, path in paths_of(config, INPUT).items() if key.partition(".")[0] == name)
            found.update({str(path): input_fingerprint(path) for path in named})
    return found


def require_sources(config: Section) -> None:
    """Raise RowError, or AlignError without network, for the first source of records that cannot be opened.

    Of a file only its existence is checked, of a dataset on the Hub its configuration and split.
    """
    for _, value, reads_records in _settings_of(config):
        if reads_records:
            for source in sources_of(value):
                if "://" in source.path:
                    continue  # each file system has its own costs: its files are opened when they are read
                if is_on_hub(source):
                    hub_split(source)
                else:
                    require_readable(Path(source.path))
        elif isinstance(value, Section):
            require_sources(value)


def remote_inputs_of(config: Section) -> dict[str, str]:
    """Of `inputs_of` the sources of records that are not on this machine."""
    found: dict[str, str] = {}
    for _, value, reads_records in _settings_of(config):
        if reads_records:
            remote = [source for source in sources_of(value) if "://" in source.path or is_on_hub(source)]
            found.update(identities_of(remote))
        elif isinstance(value, Section):
            found.update(remote_inputs_of(value))
    return found


def has_selected(source: Source) -> bool:
    """Whether a source on this machine has a record that is selected; a bad one counts."""
    return next(iter(entries_of(source)), None) is not None


def selected_fingerprint(source: Source) -> str:
    """BLAKE3 of the records that a source on this machine selects, in their order; they are read as a stream.

    Where they are does not count: after rows of another round were appended, or put into a file of their own next to
    it, the fingerprint is the same. A record that cannot be read counts by its error, without the number of its line.
    """
    digest = blake3()
    for each in sources_of(source):
        for _, entry in entries_of(each):
            value = str(entry.what) if isinstance(entry, RowError) else entry
            digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _settings_of(config: Section) -> Iterator[tuple[str, Any, bool]]:
    """Name and value of each setting, one by one out of lists and mappings, and whether records are read from it."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        reads_records = f"{Source.__module__}.{Source.__qualname__}" in str(field.annotation)
        several = isinstance(value, dict) or (isinstance(value, tuple) and not reads_records)
        for each in (value.values() if isinstance(value, dict) else value) if several else [value]:
            if each is not None:
                yield name, each, reads_records


def _identity(source: Source) -> str:
    if "://" in source.path:
        return address_identity(source.path)
    if is_on_hub(source):
        return hub_identity(source)
    require_readable(Path(source.path))
    return selected_fingerprint(source) if source.is_selective else fingerprint(source.path)
