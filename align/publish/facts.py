"""What a card says of a checkpoint beyond its manifest, gathered from what it was made from and evaluated with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from align.errors import RowError
from align.manifest import SEAL, data_manifest_path
from align.publish.licences import UNKNOWN, card_licence, licence_of_base, licence_of_source, source_name
from align.publish.lineage import json_object, lineage_of, relation_of
from align.publish.model_card import CardFacts, DataFile
from align.publish.names import shown_path
from align.reporting import logger
from align.settings import HubConfig

log = logger(__name__)

_MANIFEST_ENDING = ".manifest.json"


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

    manifest: the checkpoint's. Its start, members and data files are followed on this disk.
    hub: the repository, and what the user states; the rest is worked out.
    branch: where the checkpoint is on the Hub, if main will not have it.
    data: further files of rows, or folders of them, such as those that sampled and mixed the rows.
    evaluations: results of recipes/run_eval.py. Those of another model are left out with a warning.

    Raises PublishError for a licence that the data do not permit.
    """
    lineage = lineage_of(checkpoint, manifest)
    bases = [hub.base_model] if hub.base_model else lineage.bases
    unknown = [] if hub.base_model else lineage.unknown
    paths = dict.fromkeys(path for given in (*lineage.data, *data) for path in _row_files(given))
    files = [data_file(path, hub.licences) for path in paths]
    files += [DataFile(name, None, licences={name: UNKNOWN}) for name in (*lineage.missing_data, *lineage.datasets)]
    base_licences = [licence_of_base(base) for base in bases] + [UNKNOWN for _ in unknown]
    data_licences = [licence for file in files for licence in file.licences.values()]
    scores = {record["name"]: record["scores"] for record in _evaluations_of(checkpoint, evaluations)}
    config = json_object(checkpoint / "config.json")
    return CardFacts(
        title=hub.repo.rpartition("/")[2],
        repo=hub.repo,
        revision="" if hub.update_main else branch,
        base_models=tuple(bases),
        base_is_stated=bool(hub.base_model),
        unknown_starts=tuple(unknown),
        relation=relation_of(checkpoint, manifest),
        license=card_licence(base_licences, data_licences, hub.license),
        base_licences=dict(zip(bases, base_licences, strict=False)),
        data=tuple(files),
        datasets=tuple(lineage.datasets),
        languages=hub.languages,
        model_type=str(config.get("model_type") or ""),
        has_chat_template=(checkpoint / "chat_template.jinja").is_file()
        or "chat_template" in json_object(checkpoint / "tokenizer_config.json"),
        evaluations=scores,
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


def _row_files(path: Path) -> list[Path]:
    """`path` itself, or the files of a folder that have a data manifest."""
    if not path.is_dir():
        return [path]
    manifests = sorted(path.rglob(f"*{_MANIFEST_ENDING}"))
    return [manifest.with_name(manifest.name.removesuffix(_MANIFEST_ENDING)) for manifest in manifests]


def _evaluations_of(checkpoint: Path, paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The results that are of this checkpoint: of its folder, or of one with the very same manifest."""
    found = []
    for path in paths:
        record = _evaluation(path)
        model = Path(str(record.get("model", "")))
        same = [(folder / SEAL).read_bytes() if (folder / SEAL).is_file() else b"" for folder in (model, checkpoint)]
        if model.resolve() == checkpoint.resolve() or (same[0] and same[0] == same[1]):
            found.append(record)
        else:
            log.warning("%s is of the model %s, not of %s: left out of the card", path, model, checkpoint)
    return found


def _evaluation(path: Path) -> dict[str, Any]:
    record = json_object(path)
    if isinstance(record.get("scores"), dict) and "name" in record:
        return record
    raise RowError(path, "is not the result of an evaluation", "Name a JSON file that recipes/run_eval.py wrote")
