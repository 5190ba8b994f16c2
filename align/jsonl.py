"""Rows from any source of records, and rows to JSON lines: errors name file and line, files appear whole.

`align/records/` reads the records. A record may be one of our rows, or a form that other toolkits write
(`align/formats/rows.py` turns it into ours). What is dropped on the way is counted in `Drops`.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from blake3 import blake3
from pydantic import ValidationError

from align.errors import RowError, UnusableRow
from align.files import whole_file
from align.formats.rows import is_ours, to_row
from align.records import Entry, Record, SourceLike, count_of, entries_of, label_of, parsed, sources_of
from align.records.seen import Seen
from align.records.selection import NOT_SELECTED
from align.reporting import logger
from align.rows import PreferenceRow, Row, SFTRow
from align.settings import Reading, Source

_EXAMPLES = 20
"""Bad rows that are listed one by one; all are counted."""
_REASONS = 50
"""Different reasons that are counted apart."""
REPEATED = "exact repeat of another row"
SAME_ID = "bad row: its id is the id of another row"

R = TypeVar("R", bound=Row)
T = TypeVar("T")
Sources = SourceLike | Iterable[SourceLike]

log = logger(__name__)


class Drops:
    """How many records were read of each source, and which were dropped for which reason."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.sources: dict[str, dict[str, Any]] = {}
        self.bad: list[RowError] = []
        """The first bad rows, with their places."""

    def read(self, source: str) -> None:
        self._of(source)["read"] += 1

    def drop(self, source: str, reason: str) -> None:
        if reason not in self.reasons and len(self.reasons) >= _REASONS:
            reason = "bad row: another reason"
        self.reasons[reason] += 1
        self._of(source)["dropped"][reason] += 1

    def leave_out(self, source: str, reasons: Mapping[str, int]) -> None:
        """Count records that were passed over before anything was read of them."""
        for reason, count in reasons.items():
            self.reasons[reason] += count
            self._of(source)["read"] += count
            self._of(source)["dropped"][reason] += count

    def drop_bad(self, source: str, error: RowError) -> None:
        if len(self.bad) < _EXAMPLES:
            self.bad.append(error)
        self.drop(source, f"bad row: {reason_of(error)}")

    @property
    def counts(self) -> dict[str, Any]:
        """`{"sources": {"a.jsonl": {"read": 9, "dropped": {...}}}, "bad_rows": ["a.jsonl:3: is not JSON ..."]}`."""
        sources = {name: {**found, "dropped": dict(found["dropped"])} for name, found in self.sources.items()}
        return {"sources": sources, **({"bad_rows": [str(error) for error in self.bad]} if self.bad else {})}

    @property
    def dropped(self) -> dict[str, dict[str, int]]:
        """`{"dropped": {reason: rows}}`, or nothing if nothing was dropped."""
        return {"dropped": dict(self.reasons)} if self.reasons else {}

    def tell(self) -> None:
        """One line in the log, if anything was dropped."""
        if self.reasons:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
            first = f"; the first: {self.bad[0]}" if self.bad else ""
            log.info("dropped while reading: %s%s", reasons, first)

    def _of(self, source: str) -> dict[str, Any]:
        if source not in self.sources:
            self.sources[source] = {"read": 0, "dropped": Counter()}
        return self.sources[source]


def read_rows(
    sources: Sources, kind: type[R], reading: Reading | None = None, *, drops: Drops | None = None, seed: int = 0
) -> list[R]:
    """All rows of one or more sources, in order; what is dropped is counted in `drops`, and named in the log.

    Raises RowError naming file, line and field, or where no row is left.
    """
    drops = Drops() if drops is None else drops
    rows = list(stream_rows(sources, kind, reading=reading, drops=drops, seed=seed))
    drops.tell()
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in drops.reasons.most_common())
        where = ", ".join(map(label_of, sources_of(sources)))
        raise RowError(where, f"no row is left ({reasons})", drops.bad[0].how if drops.bad else "Bring other rows")
    return rows


def stream_rows(
    sources: Sources,
    kind: type[R],
    places: Collection[int] | None = None,
    *,
    reading: Reading | None = None,
    drops: Drops | None = None,
    seed: int = 0,
) -> Iterator[R]:
    """The rows of one or more sources one at a time, for files larger than memory; some 50 bytes a row are kept.

    places: which rows, counted from 0 over all sources, each as often as its weight says; the others are passed over
        unread. None for all.
    reading: what becomes of bad rows and exact repeats; they stop the run, and are dropped, where it is None.
    seed: which rows a weight repeats or leaves out.

    A row of ours repeats another if id and content are equal; a record of another form if its content is. An id that
    belongs to two different rows is an error, or a drop with `bad_rows: drop`.
    Raises RowError as `read_rows` does, also where the sources hold no record.
    """
    reading = Reading() if reading is None else reading
    admission = Admission(sources, kind, reading, Drops() if drops is None else drops)
    for found in found_records(sources, places, seed):
        if isinstance(found, LeftOut):
            admission.leave_out(found)
            continue
        try:
            row, ours = row_from(found.entry, kind, found.where, reading.ignore_columns)
        except RowError as error:
            admission.ids(found, error)
            continue
        for row_id in admission.ids(found, Read(row.id, content_of(row), ours)):
            yield row if row_id == row.id else row.model_copy(update={"id": row_id})


class Found(NamedTuple):
    """A record that is read."""

    source: str
    """The label of its source."""
    where: str
    entry: Entry
    copies: Sequence[int]
    """Numbers of the copies of its row that are used, from 0. Without a weight: [0]."""


class LeftOut(NamedTuple):
    """Records that are passed over before anything is read of them."""

    source: str
    reasons: Mapping[str, int]


def found_records(sources: Sources, places: Collection[int] | None = None, seed: int = 0) -> Iterator[Found | LeftOut]:
    """The records of one or more sources, in order, by what `stream_rows` says of places and seed.

    Raises RowError where a source cannot be read, or where all of them hold no record.
    """
    listed = sources_of(sources)
    chosen = None if places is None else frozenset(places)
    place, empty, not_selected = 0, True, 0
    for number, source in enumerate(listed):
        label = label_of(source)
        times = _Times(source, seed, number)
        left_out: Counter[str] = Counter()
        for index, (where, entry) in enumerate(entries_of(source, left_out)):
            empty = False
            repeats = times.of(index)
            first, place = place, place + repeats
            copies = [copy for copy in range(repeats) if chosen is None or first + copy in chosen]
            if copies:
                yield Found(label, where, entry, copies)
            elif not repeats:
                yield LeftOut(label, {"left out by weight": 1})
        if left_out:
            not_selected += left_out[NOT_SELECTED]
            yield LeftOut(label, left_out)
    if empty:
        names = ", ".join(map(label_of, listed))
        if not_selected:
            how = "Collect rows of these rounds and batches, or select others"
            raise RowError(names, f"no row is selected ({not_selected} are of other ones)", how)
        raise RowError(names, "holds no rows", "Check the stage that wrote it, and its manifest")


class Read(NamedTuple):
    """What decides whether a row is kept among the others."""

    id: str
    content: int
    """See `content_of`."""
    ours: bool
    """Whether its record was in our own form."""


class Admission:
    """Which rows are kept among those of all sources, and under which ids; the others are counted in `drops`.

    Records may be read by several processes (`align/trainers/encoding.py`). What becomes of a row depends on the rows
    before it, so this is asked in their order, in one place.
    """

    def __init__(self, sources: Sources, kind: type[Row], reading: Reading, drops: Drops) -> None:
        self._sources, self._kind, self._reading, self._drops = sources, kind, reading, drops
        self._seen = Seen()

    def leave_out(self, found: LeftOut) -> None:
        """Count records that were passed over."""
        self._drops.leave_out(found.source, found.reasons)

    def ids(self, found: Found, read: Read | RowError) -> list[str]:
        """The id of each copy of the row that is used; empty if it is dropped.

        read: the row, or why the record is none.
        Raises RowError if the reading says that such a row stops the run.
        """
        label, reading = found.source, self._reading
        self._drops.read(label)
        if isinstance(read, UnusableRow):
            self._drops.drop(label, read.reason)
            return []
        if isinstance(read, RowError):
            if reading.bad_rows == "stop":
                raise read
            self._drops.drop_bad(label, read)
            return []
        known = self._seen.add(*read)
        if (known == "other" and reading.bad_rows == "stop") or (known == "repeat" and reading.duplicates == "error"):
            raise _repeated(read, known, found.where, self._kind, sources_of(self._sources), reading)
        if known == "other" or (known == "repeat" and reading.duplicates == "drop"):
            self._drops.drop(label, REPEATED if known == "repeat" else SAME_ID)
            return []
        return [self._seen.new_id(read.id) if copy or known == "repeat" else read.id for copy in found.copies]


def count_rows(sources: Sources) -> int:
    """Rows that `stream_rows` has places for, without reading them as rows."""
    return sum(_weighed(count_of(source), source.weight) for source in sources_of(sources))


def usable(
    entries: Iterable[tuple[str, Record | RowError]],
    read: Callable[[Record, str], T],
    bad_rows: Literal["stop", "drop"],
    drops: Drops,
) -> Iterator[T]:
    """What `read` makes of every record, for stages that read records and not rows.

    entries: as `align.records.records_of` gives them. A RowError, theirs or of `read`, is raised, or with `drop`
    counted in `drops`; an UnusableRow is always counted.
    """
    for where, record in entries:
        source = where.rpartition(":")[0]
        drops.read(source)
        try:
            if isinstance(record, RowError):
                raise record
            found = read(record, where)
        except UnusableRow as error:
            drops.drop(source, error.reason)
        except RowError as error:
            if bad_rows == "stop":
                raise
            drops.drop_bad(source, error)
        else:
            yield found


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows, one a line, whole or not at all. Returns how many."""
    count = 0
    with whole_file(path) as handle:
        for row in rows:
            handle.write(row.json_line())
            count += 1
    return count


def row_of(record: dict[str, Any], kind: type[R], where: str, ignore: Collection[str] = ()) -> R:
    """One record, ours or another toolkit's, as a row. Raises RowError naming `where` and the field.

    ignore: columns that are left out because the user said so.
    """
    try:
        return to_row(record, kind, where, ignore)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "row"
        found = "nothing" if first["type"] == "missing" else repr(first.get("input"))[:80]
        message = first["msg"].removeprefix("Value error, ")
        raise RowError(
            f"{where}: {field}", f"{message}; found {found}", f"See {kind.__name__} in align/rows.py"
        ) from None
    except RecursionError:
        raise RowError(where, "holds JSON that is nested too deeply", "Flatten the record") from None


def answered(row: R, where: str) -> R:
    """The row, unchanged. Raises UnusableRow where its target is empty: a model would learn to say nothing."""
    if isinstance(row, SFTRow):
        name, target = "messages", row.messages[-1:]
    elif isinstance(row, PreferenceRow):
        name, target = "completions", row.chosen
    else:
        return row
    if any(message.content.strip() or message.tool_calls for message in target):
        return row
    what = "ends with an empty answer" if name == "messages" else "have an empty chosen one"
    raise UnusableRow(f"{where}: {name}", what, "Drop the row, or write the answer", "empty response")


def reason_of(error: RowError) -> str:
    """What is wrong with a row, without what was found in it, so that equal faults are counted together.

    `a.jsonl:7: prompt.0.role: Input should be 'system' or 'user'; found 'robot'` -> `prompt: Input should be ...`.
    """
    what = re.split(r"[;,:]? found |, got | \(", error.what, maxsplit=1)[0]
    field = re.match(r".*?:\d+: ([A-Za-z_]\w*)", error.where, re.DOTALL)
    return f"{field[1] + ': ' if field else ''}{what[:100]}"


def row_from(entry: Entry, kind: type[R], where: str, ignore: Collection[str] = ()) -> tuple[R, bool]:
    """The row of an entry of `align.records.entries_of`, and whether the record was in our own form. Raises RowError,
    an UnusableRow where the target is empty.

    ignore: columns that are left out because the user said so.
    """
    if isinstance(entry, RowError):
        raise entry
    record = parsed(entry, where) if isinstance(entry, bytes) else entry
    if is_ours(record, kind):
        with contextlib.suppress(ValidationError, RecursionError):
            return answered(kind.model_validate(record), where), True
    # another toolkit's form, or a fault that is named there
    return answered(row_of(record, kind, where, ignore), where), False


def _repeated(
    read: Read, known: str, where: str, kind: type[Row], sources: Iterable[Source], reading: Reading
) -> RowError:
    """The error of a row that was there before, with both places."""
    for source in sources:
        for here, entry in entries_of(source):
            try:
                other, _ = row_from(entry, kind, here, reading.ignore_columns)
            except RowError:
                continue
            if here != where and (other.id == read.id or (known == "repeat" and content_of(other) == read.content)):
                if known == "repeat":
                    how = "Remove the repeated row, or set duplicates to drop or keep"
                    return RowError(f"{where}: id", f"repeats the row {other.id!r} of {here}", how)
                what = f"{read.id!r} is already the id of another row, {here}"
                return RowError(f"{where}: id", what, "Give each row its own id")
    raise AssertionError(f"{where} was seen before, and is not there any more")


def content_of(row: Row) -> int:
    """A hash of what a row says, in 64 bits: all of it but id and source. The same in every process."""
    text = row.model_dump_json(exclude={"id", "source"})
    return int.from_bytes(blake3(text.encode()).digest(length=8), "little", signed=True)


class _Times:
    """How often each record of a source is used, by its weight: like `RowSet.apply_weight` of the builders, by index.

    Weight 2.5 of four records: each twice, and a seeded two of them once more.
    """

    def __init__(self, source: Source, seed: int, number: int) -> None:
        self._whole = int(source.weight)
        self._extra: frozenset[int] = frozenset()
        if source.weight != self._whole:
            count = count_of(source)
            more = _weighed(count, source.weight) - self._whole * count
            self._extra = frozenset(random.Random(f"{seed} {number}").sample(range(count), more))

    def of(self, index: int) -> int:
        return self._whole + (index in self._extra)


def _weighed(count: int, weight: float) -> int:
    whole = int(weight)
    return whole * count + round((weight - whole) * count)
