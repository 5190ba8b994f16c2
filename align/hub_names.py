"""Whether a text is the name of a model or dataset on the Hub: one rule for records, checkpoints, rounds and cards.

Also which existing path a misspelled one may mean.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""owner/name."""

DATA_ENDINGS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".arrow", ".yaml", ".yml")
"""Endings of data files, which `folder/rows.jsonl` shares its form with; no Hub name is expected to have one."""


def is_hub_name(path: str | Path) -> bool:
    """Whether a path reads like owner/name on the Hub, and nothing on this disk has that path."""
    text = str(path)
    return bool(HUB_NAME.fullmatch(text)) and not text.lower().endswith(DATA_ENDINGS) and not os.path.lexists(text)


_ADDRESS = re.compile(
    r"(?:https?:/{1,2}(?:www\.)?(?:huggingface|hf)\.co/|hf:/{1,2})?(?:models/|datasets/)?"
    rf"({HUB_NAME.pattern})(?:@([\w.-]+)|/(?:tree|resolve|blob)/([\w.-]+)(?:/.*)?|/.*)?"
)


def hub_name_in(text: str) -> tuple[str, str | None] | None:
    """Name and revision in an address of the Hub, as they are copied from a browser; None if it is no address.

    "https://huggingface.co/me/model/tree/v1" gives me/model and v1, "me/model@v1" the same. pathlib leaves one of the
    two slashes after "https:".
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or not (re.match(r"https?:/|hf:/", text) or "@" in text):
        return None
    return found[1], found[2] or found[3]


def similar_path(path: Path) -> Path | None:
    """An existing path that differs from a missing one in the spelling of one part; None if there is none.

    For example runs/round-1/dpo for runs/round1/dpo: `runs` exists, `round1` does not, and its closest neighbour
    `round-1` has a `dpo`.
    """
    parts = path.parts
    for number, part in enumerate(parts):
        parent = Path(*parts[:number])
        if os.path.lexists(parent / part):
            continue
        try:
            names = os.listdir(parent)[:_MOST_NAMES]
        except OSError:
            return None
        for close in sorted(names, key=lambda name: (-_likeness(part, name), name))[:3]:
            if _likeness(part, close) < _ALIKE:
                return None
            found = parent / close / Path(*parts[number + 1 :])
            if os.path.lexists(found):
                return found
        return None
    return None


_ALIKE = 0.7
_MOST_NAMES = 2000  # of a folder, so that a suggestion takes milliseconds


def _likeness(first: str, second: str) -> float:
    """From 0 to 1; an ending that both have counts for nothing, so that nope.yaml is not like kp.yaml."""
    (stem, ending), (other, other_ending) = os.path.splitext(first), os.path.splitext(second)
    if ending == other_ending:
        first, second = stem, other
    return difflib.SequenceMatcher(None, first, second).ratio()
