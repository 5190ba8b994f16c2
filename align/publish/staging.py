"""The files of a checkpoint as they are published: listed names only, and no path of this machine inside of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.errors import PublishError
from align.files import fingerprint
from align.hub_names import is_hub_name
from align.manifest import SEAL, write_manifest
from align.publish.facts import CardFacts
from align.publish.manifests import json_object
from align.publish.names import shown_path, without_paths

CARD = "README.md"
ALLOWED_NAMES = frozenset(
    {
        "adapter_config.json",
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        CARD,
        SEAL,
    }
)
_WEIGHTS = re.compile(r"(?:model|adapter_model)[\w.-]*\.safetensors")
_NAMES_A_PATH = re.compile(r"(^|_)name_or_path$")


def is_of_a_checkpoint(name: str) -> bool:
    """Whether a file of this name may be published, and may be deleted on the Hub if a later push does not have it."""
    return name in ALLOWED_NAMES or _WEIGHTS.fullmatch(name) is not None


def published_files(checkpoint: Path) -> list[Path]:
    """The files that may be published, from the folder itself and none below it. No links."""
    return sorted(
        file
        for file in checkpoint.iterdir()
        if file.is_file() and not file.is_symlink() and is_of_a_checkpoint(file.name)
    )


def stage_checkpoint(checkpoint: Path, manifest: Mapping[str, Any], card: str, facts: CardFacts, folder: Path) -> None:
    """Lay the files out in `folder` as they are published: links to the checkpoint's, and new files where a path of
    this machine is in one. MANIFEST.json lists the hashes of the published files, so that a download can be verified.
    """
    manifest = {**manifest, "files": {**manifest["files"]}}
    for file in published_files(checkpoint):
        copy = folder / file.name
        text = _without_places(file, facts)
        if text is None:
            copy.symlink_to(file.resolve())
        else:
            copy.write_text(text, encoding="utf-8")
            if file.name in manifest["files"]:
                manifest["files"][file.name] = {"bytes": copy.stat().st_size, "blake3": fingerprint(copy)}
    (folder / SEAL).unlink()  # a link to the checkpoint's own
    (folder / CARD).unlink(missing_ok=True)
    (folder / CARD).write_text(card, encoding="utf-8")
    if isinstance(manifest.get("base"), dict):  # of an adapter; where this machine has it is of no use elsewhere
        manifest["base"] = {key: value for key, value in manifest["base"].items() if key != "path"}
    write_manifest(folder, without_paths(manifest))


def _without_places(file: Path, facts: CardFacts) -> str | None:
    """A config's text with the places of models in it as the Hub names them; None where the file stays as it is."""
    if not file.name.endswith("config.json"):
        return None
    values = json_object(file)
    places = [key for key, value in values.items() if _NAMES_A_PATH.search(key) and value and isinstance(value, str)]
    if not places:
        return None
    for key in places:
        if key == "base_model_name_or_path":
            name = _published_base(file, values[key], facts)
            if name != values[key] and "revision" in values:
                values["revision"] = None  # a revision of the other
            values[key] = name
        else:
            values[key] = shown_path(values[key])
    return json.dumps(values, indent=2, ensure_ascii=False)


def _published_base(file: Path, name: str, facts: CardFacts) -> str:
    """The Hub name of an adapter's base. Raises PublishError where it has none.

    Training a model whole and then an adapter over it gives an adapter whose lineage leads to a model on the Hub that
    is not its base: over that one it would compute something else.
    """
    base = facts.lineage.bases[0] if len(facts.lineage.bases) == 1 else ""
    if base and facts.base_is_stated:
        return base
    if is_hub_name(Path(name)):
        return name
    made_here = any(key in json_object(Path(name) / SEAL) for key in ("config", "averaged", "merged"))
    if base and not made_here:
        return base
    what = f"names its base model as {shown_path(name)}, a place that others cannot load it from"
    raise PublishError(file.name, what, "Publish the base first, and name it: hub.base_model=owner/name")
