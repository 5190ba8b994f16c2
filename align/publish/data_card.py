"""Rows on the Hub: the files of a data set with their manifests, and its card.

Names of raters are replaced by numbers, and paths in manifests are shortened. All else in the rows stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import PublishError
from align.files import fingerprint
from align.manifest import data_manifest_path
from align.publish import sections
from align.publish.facts import MANIFEST_ENDING, CardFacts, DataFile, data_file
from align.publish.licences import UNKNOWN, card_licence, licence_of_base
from align.publish.lineage import lineage_of_rows
from align.publish.manifests import json_object
from align.publish.markdown import cell, fenced, table, visible
from align.publish.names import without_paths
from align.publish.staging import CARD
from align.settings import HubConfig

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MOST_SETTINGS = 20_000
"""Characters of a builder's settings that a card shows; the manifest has them all."""


@dataclass(frozen=True)
class Rows:
    """A file of rows that is published."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def config_name(self) -> str:
        """The name under which `datasets.load_dataset` finds the file: preferences.heldout of a file of this name."""
        return re.sub(r"[^\w.-]+", "-", self.path.name.partition(".jsonl")[0]) or "rows"


def rows_to_publish(path: Path) -> list[Rows]:
    """A JSONL file of rows, or those files directly in a folder that have a manifest.

    Raises PublishError if there is none, or if a file is not the one that its manifest describes.
    """
    if path.is_dir():
        manifests = sorted(path.glob(f"*.jsonl{MANIFEST_ENDING}"))
        files = [manifest.with_name(manifest.name.removesuffix(MANIFEST_ENDING)) for manifest in manifests]
    else:
        files = [path]
    files = [file for file in files if file.is_file() and file.name.endswith(".jsonl")]
    if not files:
        raise PublishError(path, "holds no JSONL file of rows with a manifest", "Name rows that a builder wrote")
    found = [Rows(file, json_object(data_manifest_path(file))) for file in files]
    for rows in found:
        if rows.manifest.get("blake3", "") not in ("", fingerprint(rows.path)):
            what = "is not the file that its manifest describes: it has changed since it was written"
            raise PublishError(rows.path, what, "Build it again, or delete the manifest if the rows are your own")
    return found


def stage_rows(files: Sequence[Rows], hub: HubConfig, folder: Path, *, branch: str, command: str = "") -> None:
    """Lay the rows out in `folder` as they are published, with their manifests and the card."""
    raters: dict[str, str] = {}
    for rows in files:
        copy = folder / rows.path.name
        if not _with_numbered_raters(rows.path, copy, raters):
            copy.unlink(missing_ok=True)
            copy.symlink_to(rows.path.resolve())
    files = [Rows(rows.path, _renamed(without_paths(dict(rows.manifest)), raters)) for rows in files]
    for rows in files:
        copy = folder / rows.path.name
        if rows.manifest:
            text = json.dumps({**rows.manifest, "blake3": fingerprint(copy)}, indent=1, ensure_ascii=False)
            data_manifest_path(copy).write_text(text, encoding="utf-8")
    card = data_card(files, hub, branch=branch, command=command, raters=len(raters))
    (folder / CARD).write_text(card, encoding="utf-8")


def data_card(files: Sequence[Rows], hub: HubConfig, *, branch: str = "", command: str = "", raters: int = 0) -> str:
    """The README.md of a data set, with the Hub's YAML front matter. Raises PublishError for a licence that the sources
    of the rows do not permit."""
    from huggingface_hub import DatasetCard

    listed = [data_file(rows.path, hub.licences) for rows in files]
    lineage = lineage_of_rows([rows.path for rows in files])
    uses = [(name, licence_of_base(name)) for name in lineage.writers]
    uses += [(name, UNKNOWN) for name in lineage.unknown_writers]
    uses += [use for file in listed for use in file.licences.items()]
    licence = card_licence([licence for _, licence in uses], (), hub.license)
    revision = "" if hub.update_main else branch
    facts = CardFacts(
        title=hub.repo.rpartition("/")[2],
        repo=hub.repo,
        revision=revision,
        lineage=lineage,
        license=licence,
        licences=tuple(uses),
        data=tuple(listed),
        languages=hub.languages,
        command=command,
    )
    parts = [
        f"# {cell(facts.title)}",
        sections.notices(facts),
        _usage(files, facts),
        sections.data(facts),
        _columns(files),
        sections.licences(facts),
        _how(files, facts, raters),
    ]
    body = "\n\n".join(part for part in parts if part)
    return str(DatasetCard(f"---\n{_front_matter(files, facts)}\n---\n\n{body}\n"))


def _front_matter(files: Sequence[Rows], facts: CardFacts) -> str:
    from huggingface_hub import DatasetCardData

    more: dict[str, Any] = {}
    if facts.license == "other":
        more = {"license_name": "see-card", "license_link": f"{_page(facts.repo)}#licence"}
    data = DatasetCardData(
        license=facts.license or None,
        language=list(facts.languages) or None,
        pretty_name=visible(facts.title),
        size_categories=_size_of(facts.data),
        tags=["align", "post-training"],
        configs=[{"config_name": rows.config_name, "data_files": rows.path.name} for rows in files],
        **more,
    )
    return data.to_yaml()


def _page(repo: str) -> str:
    return f"https://huggingface.co/datasets/{repo}"


def _size_of(files: Sequence[DataFile]) -> str | None:
    counted = [file.rows for file in files if file.rows is not None]
    if len(counted) < len(files):
        return None
    return next((name for below, name in _SIZES if sum(counted) < below), "n>10M")


def _usage(files: Sequence[Rows], facts: CardFacts) -> str:
    where = f'"{facts.repo}", "{files[0].config_name}"' + (f', revision="{facts.revision}"' if facts.revision else "")
    code = ["from datasets import load_dataset", "", f"rows = load_dataset({where}, split='train')", "print(rows[0])"]
    return "\n".join(["## Usage", "", *fenced("\n".join(code), "python")])


def _columns(files: Sequence[Rows]) -> str:
    """The columns of each file, by its first row."""
    lines = []
    for rows in files:
        with rows.path.open(encoding="utf-8", errors="replace") as handle:
            first = handle.readline()
        try:
            record = json.loads(first)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            lines.append((rows.path.name, ", ".join(record)))
    return "\n".join(["## Columns", "", *table(("file", "columns of the first row"), lines)]) if lines else ""


def _how(files: Sequence[Rows], facts: CardFacts, raters: int) -> str:
    lines = ["## How it was made", ""]
    writers = [*facts.lineage.writers, *facts.lineage.unknown_writers]
    if writers:
        lines.append(f"- Rows were written by models that began from: {cell(', '.join(writers))}")
    if raters:
        lines.append(f"- The names of {raters} raters are replaced by numbers.")
    made_by = next((rows.manifest["made_by"] for rows in files if "made_by" in rows.manifest), None)
    if isinstance(made_by, dict):
        lines.append("- Made by: " + cell(", ".join(f"{name} {version}" for name, version in made_by.items())))
    if facts.command:
        lines += ["- Command:", "", *fenced(without_paths(facts.command), "sh")]
    shown: set[str] = set()
    for rows in files:
        text = json.dumps(rows.manifest.get("config") or {}, indent=1, ensure_ascii=False)
        if text not in shown and text != "{}":
            shown.add(text)
            cut = text if len(text) <= _MOST_SETTINGS else text[:_MOST_SETTINGS] + "\n..."
            lines += ["", f"Settings of {cell(rows.path.name)}:", "", *fenced(cut, "json")]
    return "\n".join(lines) if len(lines) > 2 else "## How it was made\n\nNot documented."


def _with_numbered_raters(path: Path, copy: Path, raters: dict[str, str]) -> bool:
    """Write the rows to `copy` with rater-1 for the first name that is met, and so on. False if no row has a name.

    raters: name -> what replaces it, over all files of a data set.
    """
    found = False
    with path.open(encoding="utf-8", newline="") as source, copy.open("w", encoding="utf-8", newline="") as target:
        for line in source:
            if '"raters"' in line:
                record = json.loads(line)
                names = record.get("raters") if isinstance(record, dict) else None
                if isinstance(names, list) and names:
                    found = True
                    record["raters"] = [raters.setdefault(str(name), f"rater-{len(raters) + 1}") for name in names]
                    line = json.dumps(record, ensure_ascii=False) + "\n"
            target.write(line)
    return found


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Plain data with names replaced where they are a whole text or key, as in counts by rater."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {_renamed(key, names): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return value
