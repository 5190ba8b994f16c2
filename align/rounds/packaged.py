"""The content of the pinned packages that a stage reads, for its key: their data are no InputPath of a config."""

from __future__ import annotations

from collections.abc import Mapping

from align.assets import ASSETS, assets_folder, is_ready
from align.files import fingerprint
from align.source_code import ROOT

PREFIX = "assets/"
PINS = "align/assets.py"


def packaged_data(code: Mapping[str, str]) -> dict[str, str]:
    """`assets/<package>-<version>` -> hash of its unpacked files, for each package here that the source files name.

    code: what `align.source_code.code_of` found. The pins are in it, as the text of align/assets.py; this adds a file
        that was changed in the cache after it was unpacked. A package that is not in the cache is left out.
    """
    if PINS not in code:
        return {}
    files = [ROOT / name for name in code if name.endswith(".py") and name != PINS]
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    found = {}
    for name, asset in ASSETS.items():
        if any(f'"{spelled}"' in text for spelled in (name, name.replace("-", "_"))) and is_ready(asset):
            found[f"{PREFIX}{asset.folder}"] = fingerprint(assets_folder() / asset.folder)
    return found
