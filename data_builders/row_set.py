"""The rows that a builder is about to write, together with the number of rows it dropped for each reason.

Every builder collects its rows in a `RowSet`, so that all of them remove duplicates, remove rows that appear in an
evaluation set, apply limits and report counts in the same way. The counts always add up:

    rows read = rows kept - copies + rows dropped

For example, 100 rows are read, 10 of them are duplicates, and the rest is repeated twice: 180 rows are kept, 90 of them
are copies, 10 are dropped, and 180 - 90 + 10 = 100.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from align.errors import RowError
from align.jsonl import Drops, Sources, read_rows, row_of, usable, write_rows
from align.manifest import write_data_manifest
from align.records import SourceLike, records_of
from align.rows import Message, Messages, PreferenceRow, PromptRow, Row, SFTRow
from align.settings import Reading
from align.text import exact_key, normalize

R = TypeVar("R", bound=Row)

_PROMPT_COLUMNS = {
    "prompt": "prompt",
    "messages": "messages",
    "conversations": "conversations",
    "instruction": "instruction",
    "input": "input",
    "system": "system",
    "question": "prompt",
    "query": "prompt",
}
"""Column that holds a prompt -> the name under which `align/formats/rows.py` reads it."""

MIN_DISTINCTIVE_WORDS = 4
"""A user message with fewer words, such as "Yes, please.", is too common to count as a match by itself."""


class RowSet(Generic[R]):
    """The rows kept so far, and how many rows were dropped for each reason."""

    def __init__(self, rows: Iterable[R] = ()) -> None:
        self.rows: list[R] = list(rows)
        self.dropped: Counter[str] = Counter()
        self.copies = 0
        """Rows that `apply_weight` added as repetitions of other rows; they were not read from any source."""

    def keep(self, row: R) -> None:
        self.rows.append(row)

    def drop(self, reason: str, count: int = 1) -> None:
        if count:
            self.dropped[reason] += count

    def add(self, other: RowSet[R]) -> None:
        self.rows.extend(other.rows)
        self.dropped.update(other.dropped)
        self.copies += other.copies

    def drop_where(self, test: Callable[[R], bool], reason: str) -> None:
        kept = [row for row in self.rows if not test(row)]
        self.drop(reason, len(self.rows) - len(kept))
        self.rows = kept

    def drop_duplicates(self) -> None:
        """Keep the first of several rows with the same content (messages, roles, calls and tools)."""
        first: dict[str, R] = {}
        for row in self.rows:
            first.setdefault(content_key(row), row)
        self.drop("duplicate", len(self.rows) - len(first))
        self.rows = list(first.values())

    def drop_matches(self, evaluation: set[str]) -> None:
        """Drop rows whose whole prompt, or a distinctive user message of it, is in an evaluation set.

        evaluation: the keys that `evaluation_keys` returns.
        """
        self.drop_where(lambda row: not evaluation.isdisjoint(prompt_keys(row)), "matches an evaluation prompt")

    def limit(self, most: int | None, seed: int, reason: str = "over the limit") -> None:
        """Keep at most `most` rows, chosen by a seeded shuffle that does not depend on their current order."""
        if most is not None and len(self.rows) > most:
            surplus = {row.id for row in shuffled(self.rows, seed)[most:]}
            self.drop_where(lambda row: row.id in surplus, reason)

    def limit_each(self, kind_of: Callable[[R], str], limits: Mapping[Any, int | None], seed: int) -> None:
        """Apply `limit` separately to the rows of each kind. A kind that `limits` does not name has no limit."""
        for kind, most in limits.items():
            of_kind = RowSet(row for row in self.rows if kind_of(row) == kind)
            of_kind.limit(most, seed)
            kept = {row.id for row in of_kind.rows}
            self.rows = [row for row in self.rows if row.id in kept or kind_of(row) != kind]
            self.dropped.update(of_kind.dropped)

    def apply_weight(self, weight: float, seed: int) -> None:
        """Repeat the rows `weight` times; a weight below 1 keeps only that part of them.

        With weight 2.5, every row is there twice and a seeded half of the rows a third time; with 0.5, a seeded half is
        kept. A copy gets its own id: the row's id followed by `.1`, `.2` and so on.
        """
        whole = int(weight)
        order = shuffled(self.rows, seed)
        extra = order[: round((weight - whole) * len(order))]
        if whole == 0:
            self.drop("down-weighted", len(order) - len(extra))
            self.rows = extra
            return
        copies = [_copy(row, number) for number in range(1, whole) for row in order]
        copies += [_copy(row, whole) for row in extra]
        self.rows = order + copies
        self.copies += len(copies)

    def shuffle(self, seed: int) -> None:
        self.rows = shuffled(self.rows, seed)

    @property
    def counts(self) -> dict[str, Any]:
        """The counts for the manifest.

        Example: `{"read": 531, "rows": 512, "dropped": {"duplicate": 19}, "sources": {"nq-open": 512}}`.
        """
        return {
            "read": len(self.rows) - self.copies + self.dropped.total(),
            "rows": len(self.rows),
            **({"copies": self.copies} if self.copies else {}),
            "dropped": dict(sorted(self.dropped.items())),
            "sources": dict(sorted(Counter(row.source for row in self.rows).items())),
        }

    def summary(self) -> str:
        """The counts as a line of the log: `512 rows (31 dropped: 19 duplicate, 12 over the limit)`."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{len(self.rows)} rows" + (f" ({self.dropped.total()} dropped: {reasons})" if reasons else "")

    def write(
        self,
        path: Path,
        *,
        config: dict[str, Any],
        inputs: Iterable[Path] | Mapping[str, str] = (),
        notes: dict[str, Any] | None = None,
    ) -> Path:
        """Write the rows as JSONL to `path`, and their manifest next to it."""
        write_rows(path, self.rows)
        write_data_manifest(path, config=config, inputs=inputs, counts=self.counts, notes=notes)
        return path


def shuffled(rows: Iterable[R], seed: int) -> list[R]:
    """Shuffle the rows into an order that depends only on their ids and the seed."""
    ordered = sorted(rows, key=lambda row: row.id)
    random.Random(seed).shuffle(ordered)
    return ordered


def _copy(row: R, number: int) -> R:
    return row.model_copy(update={"id": f"{row.id}.{number}", "made_from": (row.id,)})


def content_key(row: Row) -> str:
    """Return a key that is equal for two rows with the same content, whatever their ids and sources are."""
    parts = [row.tools]
    if isinstance(row, SFTRow):
        parts += message_texts(row.messages)
    elif isinstance(row, PreferenceRow):
        parts += message_texts(row.prompt)
        for completion in row.completions:
            parts += ["completion", *message_texts(completion)]
    elif isinstance(row, PromptRow):
        parts += message_texts(row.prompt)
    else:
        raise TypeError(f"no content key for {type(row).__name__}")
    return exact_key(*parts)


def prompt_keys(row: Row) -> set[str]:
    """Return the keys by which a row is compared with evaluation prompts.

    There is one key for the whole prompt, and one for each distinctive user message.
    """
    if isinstance(row, SFTRow):
        return message_keys(row.messages[:-1])
    if isinstance(row, PreferenceRow | PromptRow):
        return message_keys(row.prompt)
    raise TypeError(f"no prompt in {type(row).__name__}")


def message_keys(prompt: Messages) -> set[str]:
    """Return the keys of a prompt that `prompt_keys` returns for a row."""
    users = [message.content for message in prompt if message.role == "user"]
    distinctive = {exact_key(text) for text in users if len(normalize(text).split()) >= MIN_DISTINCTIVE_WORDS}
    return distinctive | {exact_key(*message_texts(prompt))}


def read_row_set(sources: Sources, kind: type[R], reading: Reading, seed: int = 0) -> RowSet[R]:
    """Read the rows of one or more sources. Bad rows and exact repeats that were dropped are counted."""
    drops = Drops()
    found = RowSet(read_rows(sources, kind, reading, drops=drops, seed=seed))
    found.dropped.update(drops.reasons)
    return found


def evaluation_keys(sources: Iterable[SourceLike], bad_rows: Literal["stop", "drop"] = "stop") -> set[str]:
    """Return the prompt keys of evaluation sets. Rows of any kind are accepted; only their prompts are read.

    bad_rows: with "drop", records without a prompt are skipped, and the log says how many there were.
    """
    drops = Drops()
    keys: set[str] = set()
    for prompt in usable(records_of(sources), prompt_in, bad_rows, drops):
        keys |= message_keys(prompt)
    drops.tell()
    return keys


def characters(messages: Iterable[Message], tools: str = "") -> int:
    """Count the characters of a dialog: its texts, its calls, and the definitions of the offered functions."""
    return len(tools) + sum(
        len(message.content) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
        for message in messages
    )


def message_texts(messages: Iterable[Message]) -> list[str]:
    """Return roles, texts and calls of a dialog as a list of texts, from which keys are computed."""
    texts = []
    for message in messages:
        calls = [f"{call.name} {json.dumps(call.parsed(), sort_keys=True)}" for call in message.tool_calls]
        texts += [message.role, message.content, *calls]
    return texts


def prompt_in(record: dict[str, Any], where: str) -> Messages:
    """Read the prompt of a record of any supported form. Its other columns, such as answers or scores, are ignored."""
    with contextlib.suppress(RowError):  # not an SFT row: try the next kind
        return row_of(record, SFTRow, where).messages[:-1]
    with contextlib.suppress(RowError):
        return row_of(record, PreferenceRow, where).prompt
    fields = {ours: record[name] for name, ours in _PROMPT_COLUMNS.items() if name in record}
    fields |= {"id": "-", "source": "-"}  # required columns, so that our own prompt rows are recognized
    try:
        return row_of(fields, PromptRow, where).prompt
    except RowError as error:
        how = "Give prompts, questions, SFT rows or preferences, or map the column: {path: ..., columns: {prompt: ...}}"
        problem = " ".join(error.what.split())[:120]
        raise RowError(where, f"expected a row with prompt or messages, found none ({problem})", how) from None
