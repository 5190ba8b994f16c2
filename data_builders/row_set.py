"""Rows on their way to a file, with a count of what was dropped and why, and the checks that every builder shares.

The counts add up: what was read is what is kept plus what was dropped, less what was copied.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from align.errors import RowError
from align.files import fingerprint_of
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
"""Columns that hold a prompt -> how `align/formats/rows.py` reads them."""

MIN_TELLING_WORDS = 4
"""A user message with fewer words ("Yes, please.") says too little to be a match by itself."""


class Counted(Generic[R]):
    """Rows kept, and how many were dropped for which reason."""

    def __init__(self, rows: Iterable[R] = ()) -> None:
        self.rows: list[R] = list(rows)
        self.dropped: Counter[str] = Counter()
        self.copies = 0
        """Rows that repeat another on purpose: they were not read."""

    def keep(self, row: R) -> None:
        self.rows.append(row)

    def drop(self, reason: str, count: int = 1) -> None:
        if count:
            self.dropped[reason] += count

    def add(self, other: Counted[R]) -> None:
        self.rows.extend(other.rows)
        self.dropped.update(other.dropped)
        self.copies += other.copies

    def drop_where(self, test: Callable[[R], bool], reason: str) -> None:
        kept = [row for row in self.rows if not test(row)]
        self.drop(reason, len(self.rows) - len(kept))
        self.rows = kept

    def drop_duplicates(self) -> None:
        """Keep the first of the rows that say the same, roles, calls and tools included."""
        first: dict[str, R] = {}
        for row in self.rows:
            first.setdefault(content_key(row), row)
        self.drop("duplicate", len(self.rows) - len(first))
        self.rows = list(first.values())

    def drop_matches(self, evaluation: set[str]) -> None:
        """Drop rows of which the whole prompt, or a telling user message, stands in an evaluation file."""
        self.drop_where(lambda row: not evaluation.isdisjoint(prompt_keys(row)), "matches an evaluation prompt")

    def limit(self, most: int | None, seed: int, reason: str = "over the limit") -> None:
        """Keep at most so many rows, taken by a seeded shuffle that does not depend on their order."""
        if most is not None and len(self.rows) > most:
            surplus = {row.id for row in shuffled(self.rows, seed)[most:]}
            self.drop_where(lambda row: row.id in surplus, reason)

    def limit_each(self, kind_of: Callable[[R], str], limits: Mapping[Any, int | None], seed: int) -> None:
        """`limit` for the rows of each kind; a kind that is not named has no limit."""
        for kind, most in limits.items():
            of_kind = Counted(row for row in self.rows if kind_of(row) == kind)
            of_kind.limit(most, seed)
            kept = {row.id for row in of_kind.rows}
            self.rows = [row for row in self.rows if row.id in kept or kind_of(row) != kind]
            self.dropped.update(of_kind.dropped)

    def weigh(self, weight: float, seed: int) -> None:
        """Repeat every row whole times, and a seeded part of them once more for the rest; below 1 drop all but a part.

        Copies get ids of their own: `.1`, `.2` and so on behind the row's.
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
        """For the manifest: `{"read": 531, "rows": 512, "dropped": {"duplicate": 19}, "sources": {"nq-open": 512}}`."""
        return {
            "read": len(self.rows) - self.copies + self.dropped.total(),
            "rows": len(self.rows),
            **({"copies": self.copies} if self.copies else {}),
            "dropped": dict(sorted(self.dropped.items())),
            "sources": dict(sorted(Counter(row.source for row in self.rows).items())),
        }

    def summary(self) -> str:
        """For a person: `512 rows (31 dropped: 19 duplicate, 12 over the limit)`."""
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
        """The rows as JSONL at `path`, and their manifest beside it."""
        write_rows(path, self.rows)
        write_data_manifest(path, config=config, inputs=inputs, counts=self.counts, notes=notes)
        return path


def shuffled(rows: Iterable[R], seed: int) -> list[R]:
    """Rows in an order that depends on their ids and the seed alone."""
    ordered = sorted(rows, key=lambda row: row.id)
    random.Random(seed).shuffle(ordered)
    return ordered


def _copy(row: R, number: int) -> R:
    return row.model_copy(update={"id": f"{row.id}.{number}"})


def part_of(key: str, shares: Sequence[float], seed: int) -> int:
    """Which part a key falls into, by its hash: parts have these shares, and what is left over is the last part.

    A key keeps its part when others come or go, so a held-out entity stays held out as the data grows.
    """
    place = int(fingerprint_of(seed, key)[:12], 16) / 16**12
    for part, share in enumerate(shares):
        if place < share:
            return part
        place -= share
    return len(shares)


def content_key(row: Row) -> str:
    """A key that two rows share when they say the same, whatever their ids and sources."""
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
    """The keys by which a row meets an evaluation prompt: the whole prompt, and each telling user message."""
    if isinstance(row, SFTRow):
        return keys_of(row.messages[:-1])
    if isinstance(row, PreferenceRow | PromptRow):
        return keys_of(row.prompt)
    raise TypeError(f"no prompt in {type(row).__name__}")


def keys_of(prompt: Messages) -> set[str]:
    users = [message.content for message in prompt if message.role == "user"]
    telling = {exact_key(text) for text in users if len(normalize(text).split()) >= MIN_TELLING_WORDS}
    return telling | {exact_key(*message_texts(prompt))}


def read_counted(sources: Sources, kind: type[R], reading: Reading, seed: int = 0) -> Counted[R]:
    """The rows of one or more sources; bad rows and exact repeats that were dropped are counted."""
    drops = Drops()
    found = Counted(read_rows(sources, kind, reading, drops=drops, seed=seed))
    found.dropped.update(drops.reasons)
    return found


def evaluation_keys(sources: Iterable[SourceLike], bad_rows: Literal["stop", "drop"] = "stop") -> set[str]:
    """The prompt keys of evaluation sets, of whatever kind of row; of each record only its prompt is read.

    bad_rows: drop passes over records without a prompt, and logs how many.
    """
    drops = Drops()
    keys: set[str] = set()
    for prompt in usable(records_of(sources), prompt_in, bad_rows, drops):
        keys |= keys_of(prompt)
    drops.tell()
    return keys


def characters(messages: Iterable[Message], tools: str = "") -> int:
    """Characters of a dialog's contents and calls, and of the functions offered."""
    return len(tools) + sum(
        len(message.content) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
        for message in messages
    )


def message_texts(messages: Iterable[Message]) -> list[str]:
    """What a dialog says, roles and calls included, as texts for a key."""
    texts = []
    for message in messages:
        calls = [f"{call.name} {json.dumps(call.parsed(), sort_keys=True)}" for call in message.tool_calls]
        texts += [message.role, message.content, *calls]
    return texts


def prompt_in(record: dict[str, Any], where: str) -> Messages:
    """The prompt of a record of any form. What else the record holds, such as answers or scores, is not read."""
    with contextlib.suppress(RowError):  # a row of another kind
        return row_of(record, SFTRow, where).messages[:-1]
    with contextlib.suppress(RowError):
        return row_of(record, PreferenceRow, where).prompt
    fields = {ours: record[name] for name, ours in _PROMPT_COLUMNS.items() if name in record}
    fields |= {"id": "-", "source": "-"}  # a prompt of ours is then read as ours
    try:
        return row_of(fields, PromptRow, where).prompt
    except RowError as error:
        how = "Give prompts, questions, SFT rows or preferences, or map the column: {path: ..., columns: {prompt: ...}}"
        problem = " ".join(error.what.split())[:120]
        raise RowError(where, f"expected a row with prompt or messages, found none ({problem})", how) from None
