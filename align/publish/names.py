"""Paths as others may read them: Hub names stay, paths of this machine are shortened."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(r"(?:(?<![\w.:/~])|(?<=file://))(?:~\w*/|/)(?:[^\s'\"/,;:=()\[\]{}]+/)+[^\s'\"/,;:=()\[\]{}]*")
_HOME = re.compile(r"/(?:home|Users)/[^/]+(?=/|$)|/root(?=/|$)")
_KEPT_PARTS = 2


def shown_path(path: str | Path) -> str:
    """A path without what it says of this machine.

    In a checkout at `/home/ann/align`, `/home/ann/align/runs/a` is shown as `runs/a`; `/data/ann/secret/base/model` as
    `base/model`; `/home/ann/model` as `model`, since the name of a home folder is a person's; relative paths and Hub
    names stay as they are.
    """
    text = str(path)
    if ".." in Path(text).parts:
        text = os.path.abspath(text)
    if not os.path.isabs(os.path.expanduser(text)):
        return text
    whole = os.path.normpath(os.path.expanduser(text))
    here = os.getcwd()
    if whole.startswith(here.rstrip("/") + "/"):
        return os.path.relpath(whole, here)
    home = os.path.expanduser("~").rstrip("/")
    if home and (whole == home or whole.startswith(home + "/")):
        whole = whole[len(home) :]
    whole = _HOME.sub("", whole, count=1) if _HOME.match(whole) else whole
    return "/".join(Path(whole.lstrip("/")).parts[-_KEPT_PARTS:]) or "~"


def without_paths(value: Any) -> Any:
    """Plain data (dicts, lists, texts) with the absolute paths in its texts and keys as `shown_path` has them."""
    if isinstance(value, str):
        if os.path.isabs(value) and value.count("/") > 1 and "\n" not in value:  # a whole value may hold spaces
            return shown_path(value)
        return _ABSOLUTE.sub(lambda found: shown_path(found.group()), value)
    if isinstance(value, dict):
        return {without_paths(key): without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    return value
