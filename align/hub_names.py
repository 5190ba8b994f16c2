"""Whether a text is the name of a model or dataset on the Hub: one rule for records, checkpoints, rounds and cards."""

from __future__ import annotations

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
