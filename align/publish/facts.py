"""What a card says beyond the manifest, gathered from what a checkpoint was made from and evaluated with.

recipes/publish.py and `hub:` of a recipe gather the same facts: all of them are found on this disk, but for what only
the user can state (`HubConfig`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.errors import RowError
from align.manifest import SEAL, data_manifest_path
from align.publish.licences import UNKNOWN, card_licence, licence_of_base, licence_of_source, source_name
from align.publish.lineage import Lineage, Relation, lineage_of, relation_of
from align.publish.manifests import json_object
from align.publish.names import shown_path
from align.reporting import logger
from align.settings import HubConfig

log = logger(__name__)

MANIFEST_ENDING = ".manifest.json"
_MOST_BYTES = 2**28
"""Of a JSON file that is looked into because it is near a checkpoint; results of evaluations are far smaller."""


@dataclass(frozen=True)
class DataFile:
    """A file of rows, as its manifest has it."""

    name: str
    rows: int | None
    dropped: Mapping[str, int] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    """Source of rows -> licence of its text, or "unknown"."""


@dataclass(frozen=True)
class Evaluation:
    """A result of recipes/run_eval.py."""

    name: str
    scores: Mapping[str, Mapping[str, Any]]
    """Metric -> {"value", "low", "high", "n"}; shares from 0 to 1, or differences of shares."""
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Metric -> the same, of this model minus the baseline of the evaluation; empty without one."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond the checkpoint's manifest."""

    title: str = ""
    repo: str = ""
    """owner/name of the published model, for the usage example."""
    revision: str = ""
    """The branch that has the model; empty for main."""
    lineage: Lineage = field(default_factory=Lineage)
    base_is_stated: bool = False
    """Whether the user named the base model, in place of what the manifests say."""
    relation: Relation = "finetune"
    license: str = ""
    """A licence identifier of the Hub, such as apache-2.0 or llama3.1; "unknown" or "other" where that is the truth."""
    licences: tuple[tuple[str, str], ...] = ()
    """Name and licence of each base model, each model that wrote rows and each source of rows."""
    data: tuple[DataFile, ...] = ()
    languages: tuple[str, ...] = ()
    """ISO 639 codes."""
    model_type: str = ""
    """The architecture, as config.json has it, such as llama or qwen2."""
    has_chat_template: bool = False
    evaluations: tuple[Evaluation, ...] = ()
    command: str = ""


def card_facts(
    checkpoint: Path,
    manifest: Mapping[str, Any],
    hub: HubConfig,
    *,
    branch: str = "",
    data: Iterable[Path] = (),
    evaluations: Iterable[Path] = (),
    command: str = "",
) -> CardFacts:
    """The facts of a checkpoint's card.

    manifest: the checkpoint's. Its start, members and rows are followed on this disk.
    hub: the repository, and what the user states; the rest is worked out.
    branch: where the checkpoint is on the Hub, if main will not have it.
    data: further files of rows, or folders of them, that the manifests do not lead to.
    evaluations: further results of recipes/run_eval.py. Those in the folders next to the checkpoint are found without
        this; those of another model are left out with a warning.

    Raises PublishError for a licence that the data do not permit.
    """
    lineage = lineage_of(checkpoint, manifest)
    if hub.base_model:
        writers = [writer for writer in lineage.unknown_writers if writer not in lineage.unknown]
        lineage.bases, lineage.unknown, lineage.unknown_writers = [hub.base_model], [], writers
    paths = dict.fromkeys(path for given in (*lineage.data, *data) for path in row_files(given))
    files = [data_file(path, hub.licences) for path in paths]
    files += [DataFile(name, None, licences={name: UNKNOWN}) for name in (*lineage.missing_data, *lineage.datasets)]
    models = [(base, licence_of_base(base)) for base in dict.fromkeys((*lineage.bases, *lineage.writers))]
    models += [(name, UNKNOWN) for name in dict.fromkeys((*lineage.unknown, *lineage.unknown_writers))]
    sources = [use for file in files for use in file.licences.items()]
    config = json_object(checkpoint / "config.json")
    return CardFacts(
        title=hub.repo.rpartition("/")[2],
        repo=hub.repo,
        revision="" if hub.update_main else branch,
        lineage=lineage,
        base_is_stated=bool(hub.base_model),
        relation=relation_of(checkpoint, manifest),
        license=card_licence([licence for _, licence in models], [licence for _, licence in sources], hub.license),
        licences=(*models, *sources),
        data=tuple(files),
        languages=hub.languages,
        model_type=str(config.get("model_type") or ""),
        has_chat_template=(checkpoint / "chat_template.jinja").is_file()
        or "chat_template" in json_object(checkpoint / "tokenizer_config.json"),
        evaluations=_evaluations_of(checkpoint, evaluations),
        command=command,
    )


def data_file(path: Path, licences: Mapping[str, str] | None = None) -> DataFile:
    """A file of rows as a card lists it: how many, what was dropped, and the licence of each source in its rows."""
    counts = json_object(data_manifest_path(path)).get("counts")
    counts = counts if isinstance(counts, dict) else {}
    sources = counts.get("sources")
    rows = counts.get("rows")
    if not isinstance(sources, dict):
        sources = sources_in(path)
        rows = rows if isinstance(rows, int) else sum(sources.values())
    named = {source_name(str(source), licences): licence_of_source(str(source), licences) for source in sources}
    rows = rows if isinstance(rows, int) else None
    return DataFile(shown_path(path), rows, dropped_of(counts), dict(sorted(named.items())))


def sources_in(path: Path) -> Counter[str]:
    """The `source` of each row of a JSONL file, counted. A row without one counts under the file's name."""
    found: Counter[str] = Counter()
    try:
        with path.open("rb") as handle:
            for line in handle:
                if line.strip():
                    record = json.loads(line)
                    source = record.get("source") if isinstance(record, dict) else None
                    found[source if isinstance(source, str) and source else path.stem] += 1
    except (OSError, ValueError, RecursionError):  # another form than JSONL: its rows name no source
        return found or Counter({path.stem: 1})
    return found


def dropped_of(counts: Mapping[str, Any]) -> dict[str, int]:
    """Reason -> rows dropped, of a manifest's counts."""
    dropped = counts.get("dropped")
    return {str(reason): number for reason, number in dropped.items() if number} if isinstance(dropped, dict) else {}


def row_files(path: Path) -> list[Path]:
    """`path` itself, or the files of a folder that have a data manifest."""
    if not path.is_dir():
        return [path]
    manifests = sorted(path.rglob(f"*{MANIFEST_ENDING}"))
    return [manifest.with_name(manifest.name.removesuffix(MANIFEST_ENDING)) for manifest in manifests]


def _evaluations_of(checkpoint: Path, paths: Iterable[Path]) -> tuple[Evaluation, ...]:
    """The results that are of this checkpoint: of its folder, or of one with the very same manifest.

    Results of one name, such as that of a development split, have their folders in their names.
    """
    records: dict[Path, dict[str, Any]] = {}
    for path in paths:
        record = json_object(path)
        if not _is_evaluation(record):
            raise RowError(
                path, "is not the result of an evaluation", "Name a JSON file that recipes/run_eval.py wrote"
            )
        if _is_of(record, checkpoint):
            records[path.resolve()] = record
        else:
            log.warning("%s is of the model %s, not of %s: left out of the card", path, record.get("model"), checkpoint)
    for path in _results_next_to(checkpoint):
        record = json_object(path)
        if _is_evaluation(record) and _is_of(record, checkpoint):
            records.setdefault(path.resolve(), record)
    names = Counter(str(record["name"]) for record in records.values())
    return tuple(
        Evaluation(
            f"{record['name']} ({path.parent.name})" if names[str(record["name"])] > 1 else str(record["name"]),
            record["scores"],
            record["differences"] if isinstance(record.get("differences"), dict) else {},
        )
        for path, record in records.items()
    )


def _results_next_to(checkpoint: Path) -> Iterator[Path]:
    """JSON files in the folders next to a checkpoint, as in runs/a/eval for runs/a/dpo. Other checkpoints have none."""
    for folder in sorted(checkpoint.resolve().parent.glob("[!.]*/")):
        if not (folder / SEAL).is_file():
            yield from (path for path in sorted(folder.glob("[!.]*.json")) if path.stat().st_size <= _MOST_BYTES)


def _is_of(record: Mapping[str, Any], checkpoint: Path) -> bool:
    model = Path(str(record.get("model", "")))
    if model.resolve() == checkpoint.resolve():
        return True
    seals = [folder / SEAL for folder in (model, checkpoint)]
    return all(map(Path.is_file, seals)) and seals[0].read_bytes() == seals[1].read_bytes()


def _is_evaluation(record: Mapping[str, Any]) -> bool:
    scores = record.get("scores")
    return "name" in record and isinstance(scores, dict) and all(isinstance(each, dict) for each in scores.values())
