"""The content of a model or dataset on the Hub, for the key of a stage: the commit of its snapshot in the local cache.

Only the cache is read, never the network: a stage that finds a newer commit fetches it itself, and the key that is kept
is the one after the stage ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from align.files import fingerprint_of

_KINDS = ("model", "dataset")


def hub_content(name: Path, revision: str | None = None) -> str:
    """A fingerprint of owner/name at a branch or tag; of the name alone where the cache knows no commit of it.

    revision: None for the main branch. A commit has no entry in the cache, and requires none: it never moves.
    """
    commits = [commit for kind in _KINDS if (commit := _commit(str(name), revision or "main", kind))]
    return fingerprint_of("hub", name, *commits)


def with_commits_of(
    inputs: Mapping[str, Mapping[str, str]], record: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """`inputs`, comparable with those of a stage's record.

    Where one of the two has no commit of a Hub name, it counts as unchanged: a start that was interrupted before
    anything was fetched is continued, and a cache that was deleted since makes no stage again.
    """
    found = {}
    for key, entry in inputs.items():
        before = record.get(key, {})
        no_commit = fingerprint_of("hub", entry["path"])
        same_name = before.get("path") == entry["path"]
        unknown = same_name and no_commit in (entry["blake3"], before.get("blake3"))
        found[key] = dict(before) if unknown else dict(entry)
    return found


def _commit(name: str, revision: str, kind: str) -> str:
    """What a branch or tag meant when it was last fetched; empty where it never was."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    try:
        return (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # ValueError: a NUL in the name, or no text
        return ""
