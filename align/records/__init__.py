"""One way to turn files and datasets into records, for every stage that reads data.

`source` in, `(path:line, record)` out: JSON lines, JSON arrays, CSV, TSV and Parquet, compressed or not, patterns,
folders that `datasets` saved, datasets on the Hub. docs/formats.md has the table. A record is not yet a row:
`align/jsonl.py` makes rows of records, and `align/formats/rows.py` knows other toolkits' forms.
"""

from __future__ import annotations

from align.records.identity import (
    has_selected,
    identities_of,
    inputs_of,
    key_of,
    remote_inputs_of,
    require_sources,
    selected_fingerprint,
)
from align.records.reading import (
    Entry,
    SourceLike,
    count_of,
    entries_of,
    is_known_to_be_empty,
    is_on_hub,
    label_of,
    parsed,
    records_of,
    sources_of,
    text_lines,
)
from align.records.text import Record

__all__ = [
    "Entry",
    "Record",
    "SourceLike",
    "count_of",
    "entries_of",
    "has_selected",
    "identities_of",
    "inputs_of",
    "is_known_to_be_empty",
    "is_on_hub",
    "key_of",
    "label_of",
    "parsed",
    "records_of",
    "remote_inputs_of",
    "require_sources",
    "selected_fingerprint",
    "sources_of",
    "text_lines",
]
