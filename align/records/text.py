r"""Reads records from text files: JSON lines, one JSON array, CSV and TSV. Errors name the record's file and line.

Bytes are split at "\n" only and decoded line by line, so neither U+2028 in a string nor one line in Latin-1 affects
other lines. No record of more than MAX_RECORD_BYTES is ever in memory.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from align.errors import RowError

Record = dict[str, Any]

MAX_RECORD_BYTES = 8 * 2**20
"""A longer line, or element of an array, is refused. As Python's objects, JSON may take 25 times its size."""
MAX_NESTING = 100
"""Levels of lists and objects in one record. Python's own limit is about 1,000, for all that is done with a record."""

_CHUNK = 2**20
_BOM = codecs.BOM_UTF8
_OTHER_ENCODINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_SURROGATE = re.compile("[\ud800-\udfff]")
# An escape that may be half a character. It only selects texts for a closer look, so it may match too much:
#   "\ud83d\ude00"   an emoji as two escapes: matches, and check_strings accepts the pair
#   "\ud83d"         half of it: matches, and check_strings refuses it
#   "\\ud83d"        an escaped backslash before the letters ud83d: matches too, and is accepted
#   "\u00e9"         an accent: does not match
_ESCAPES = re.compile(r"\\u[dD][89a-fA-F]")
_OBJECT_A_LINE = "Write one JSON object a line, or one array"
_JSON_COLUMNS = frozenset(
    [
        "messages",
        "conversations",
        "conversation",
        "generations",
        "rating",
        "ranks",
        "function",
        "ground_truth",
        "tools",
        "functions",
        "responses",
        "ratings",
        "judgements",
        "scores",
        "turns",
        "completions",
        "models",
        "raters",
        "history",
        "answers",
        "calls",
        "context",
    ]
)
"""Columns of CSV whose cells hold JSON, where it is a list or an object."""
_DIALOG_COLUMNS = frozenset(("prompt", "completion", "chosen", "rejected"))
"""Columns of CSV whose cells are text, or a list of messages in JSON."""


def json_lines(handle: IO[bytes], path: object) -> Iterator[tuple[int, bytes | RowError]]:
    """Number and bytes of every line that is not blank; an error in place of a line that is too long."""
    number = 0
    while line := handle.readline(MAX_RECORD_BYTES + 1):
        number += 1
        line = line.removeprefix(_BOM)  # also of later lines: files with such a mark may have been joined
        if len(line) > MAX_RECORD_BYTES:
            ended = line.endswith(b"\n")
            del line  # the next pieces need not fit in memory with it
            yield number, _too_long(f"{path}:{number}")
            while not ended:
                piece = handle.readline(_CHUNK)
                ended = not piece or piece.endswith(b"\n")
        elif line and not line.isspace():
            yield number, line


def decoded(line: bytes, where: str) -> str:
    """The text of a line. Raises RowError naming `where` if it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(line, error, where) from None


def object_in(line: bytes, where: str) -> Record:
    """The JSON object of one line. Raises RowError naming `where`."""
    text = decoded(line, where)
    parser = _PARSER
    parser.faults.clear()
    try:
        found = parser.decoder.decode(text)
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        if "\0" in text:
            raise RowError(where, "holds NUL characters, so it is no JSON", _how_to_encode(line)) from None
        raise RowError(where, f"is not JSON ({error})", _OBJECT_A_LINE) from None
    if (
        not parser.faults
        and isinstance(found, dict)
        and b"\\u" not in line
        and line.count(b"{") < 30 > line.count(b"[")
    ):
        return found  # what most rows are: nothing in them needs a closer look
    return _checked(found, text, parser, where)


def array_elements(handle: IO[bytes], path: object) -> Iterator[tuple[int, Record | RowError]]:
    """Line number and object of every element of one JSON array; an error in place of one that cannot be used.

    Reads a piece at a time. Raises RowError where the text is no array, since nothing after that can be trusted.
    """
    parser = _Parser()
    text = _Text(handle)
    text.skip_space()
    assert text.char() == "[", "the caller has looked"
    text.move(1)
    text.skip_space()
    while text.char() != "]":
        line, where = text.line, f"{path}:{text.line}"
        found, written = _element(text, parser, where)
        try:
            yield line, _checked(found, written, parser, where)
        except RowError as error:
            yield line, error
        text.skip_space()
        if text.char() not in (",", "]"):
            raise RowError(where, "is followed by neither a comma nor the array's end", "Export the file again")
        if text.char() == ",":
            text.move(1)
            text.skip_space()
    text.move(1)
    text.skip_space()
    if text.char():
        raise RowError(f"{path}:{text.line}", "has text after the array's end", "Write one array, or JSON lines")


def csv_records(handle: IO[bytes], path: object, delimiter: str) -> Iterator[tuple[int, Record | RowError]]:
    """Line number and record of every row below the header; an error in place of a row that cannot be used.

    All cells are text: "007" and "NA" stay what they are. An empty cell is an absent value. A cell of a column that
    holds lists, such as `messages`, is read as JSON.
    Raises RowError for a header that does not name the columns.
    """
    previous_limit = csv.field_size_limit(MAX_RECORD_BYTES)
    try:
        rows = csv.reader(_csv_lines(handle, path), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            first = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                fault = RowError(f"{path}:{first}", f"is not CSV ({error})", "Check the quotes of this row")
                if header is None or "end of data" in str(error) or "larger than" in str(error):
                    raise fault from None  # an open quote has taken in all rows below it
                yield first, fault
                continue
            if not any(map(str.strip, cells)):
                continue
            if header is None:
                header = _header(cells, f"{path}:{first}", delimiter)
                continue
            try:
                yield first, _csv_record(header, cells, f"{path}:{first}")
            except RowError as error:
                yield first, error
    finally:
        csv.field_size_limit(previous_limit)


def check_strings(record: Any, where: str) -> None:
    """Raise RowError naming the first string in a record that is no text: half a character, a foreign byte."""
    stack: list[tuple[str, Any]] = [("", record)]
    while stack:
        field, value = stack.pop()
        if isinstance(value, str):
            if not value.isascii() and (found := _SURROGATE.search(value)):
                raise RowError(f"{where}: {field}", *_surrogate(found[0]))
        elif isinstance(value, dict):
            prefix = f"{field}." if field else ""
            for key, inner in value.items():
                if isinstance(key, str) and _SURROGATE.search(key):
                    raise RowError(f"{where}: {field}", f"has the key {key!r}, which is no text", "Rename the key")
                stack.append((f"{prefix}{key}", inner))
        elif isinstance(value, list | tuple):
            stack.extend((f"{field}[{place}]", inner) for place, inner in enumerate(value))


def check_nesting(value: Any, where: str) -> None:
    """Raise RowError for lists and objects inside each other more than MAX_NESTING deep."""
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
        if depth > MAX_NESTING:
            raise _too_deep(where)


class _Parser:
    """JSON to values. What Python's decoder accepts and JSON does not is collected in `faults`.

    Collected, not raised: of an array's element one has to know where it ends.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)

    def _object(self, pairs: list[tuple[str, Any]]) -> Record:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            self.faults.append(f"has the key {twice!r} twice in one object")
        return found

    def _constant(self, name: str) -> float:
        self.faults.append(f"holds {name}, which is no JSON")
        return float(name)


_PARSER = _Parser()
"""For lines, which are parsed one after the other. To make one takes as long as to parse a short line."""


class _Text:
    """Text of a binary file, read a piece at a time, and a place in it.

    A byte that is not UTF-8 becomes a lone surrogate (Python's `surrogateescape`), so only the element that contains it
    is refused.
    """

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
        self.buffer, self.place, self.line, self.ended = "", 0, 1, False

    def more(self, characters: int = _CHUNK) -> None:
        """Delete the text before the place from memory, and read on."""
        chunk = self._handle.read(characters)
        self.ended = not chunk
        self.buffer = self.buffer[self.place :] + self._decoder.decode(chunk, final=self.ended)
        self.place = 0

    def move(self, by: int) -> None:
        self.line += self.buffer.count("\n", self.place, self.place + by)
        self.place += by

    def char(self) -> str:
        """The character at the place; empty at the end of the file."""
        while self.place >= len(self.buffer) and not self.ended:
            self.more()
        return self.buffer[self.place : self.place + 1]

    def skip_space(self) -> None:
        while (char := self.char()) and char in " \t\r\n":
            self.move(1)


def _element(text: _Text, parser: _Parser, where: str) -> tuple[Any, str]:
    """The value at the place and its text; moves the place to the end of the value.

    The buffer may end inside a value, so decoding is tried again with more text until it succeeds. An example with
    pieces of 8 characters, for the array [{"a": 1}, 1234]:

        buffer              place 1                     result
        [{"a": 1            object not closed           more() drops "[", and reads "}, 1234]"
        {"a": 1}, 1234]     {"a": 1} ends at 8 < 15     complete

    A number needs one character more: "12" at the end of the buffer may be the beginning of "1234", which is why a
    value that ends where the buffer ends counts only at the end of the file.
    """
    while True:
        parser.faults.clear()
        available = len(text.buffer) - text.place
        try:
            found, end = parser.decoder.raw_decode(text.buffer, text.place)
            if end < len(text.buffer) or text.ended:
                written = text.buffer[text.place : end]
                text.move(end - text.place)
                return found, written
        except RecursionError:
            raise _too_deep(where) from None
        except ValueError as error:
            if text.ended:
                raise RowError(where, f"is an array that breaks off ({error})", "Export the file again") from None
        if available > MAX_RECORD_BYTES:
            raise _too_long(where)
        text.more(max(_CHUNK, available))  # twice as much each time: the work stays proportional to the size


def _checked(found: Any, text: str, parser: _Parser, where: str) -> Record:
    if parser.faults:
        raise RowError(where, parser.faults[0], "Correct the record")
    if not isinstance(found, dict):
        raise RowError(where, f"expected a JSON object, found {type(found).__name__}", _OBJECT_A_LINE)
    if text.count("{") + text.count("[") > MAX_NESTING:
        check_nesting(found, where)
    if ("\\u" in text and _ESCAPES.search(text)) or (not text.isascii() and _SURROGATE.search(text)):
        check_strings(found, where)
    return found


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _csv_lines(handle: IO[bytes], path: object) -> Iterator[str]:
    """Lines with their ends, as text. `json_lines` would skip the blank ones, which may lie inside a quoted cell."""
    number = 0
    while line := handle.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise _too_long(f"{path}:{number}")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape")


def _header(cells: list[str], where: str, delimiter: str) -> list[str]:
    check_strings(cells, where)
    twice = sorted({name for name in cells if name and cells.count(name) > 1})
    if twice:
        raise RowError(where, f"names the column {twice[0]!r} twice", "Give each column its own name")
    if len(cells) == 1 and (other := next((mark for mark in ";\t|," if mark in cells[0] and mark != delimiter), None)):
        name = "tabs" if other == "\t" else repr(other)
        how = "Name a tab-separated file .tsv; separate other files with commas"
        raise RowError(where, f"has one column, {cells[0][:80]!r}; it looks separated by {name}", how)
    return cells


def _csv_record(header: list[str], cells: list[str], where: str) -> Record:
    if len(cells) != len(header):
        raise RowError(where, f"has {len(cells)} cells, and the header {len(header)}", "Check the quotes of this row")
    record: Record = {}
    for name, cell in zip(header, cells, strict=True):
        if "\0" in cell:
            how = f"{_how_to_encode(cell.encode('utf-8', 'replace'))}, or remove it"
            raise RowError(f"{where}: {name.strip(chr(0))}", "holds a NUL character", how)
        if cell and name:  # pandas writes its index under an empty name
            record[name] = _cell(name, cell, where)
    check_strings(record, where)
    return record


def _cell(name: str, cell: str, where: str) -> Any:
    if name in ("label",) and cell in ("True", "true", "False", "false"):
        return cell in ("True", "true")
    holds_json = name in _JSON_COLUMNS and cell.lstrip()[:1] in ("[", "{")
    may_be_dialog = name in _DIALOG_COLUMNS and re.match(r'\s*\[\s*\{\s*"', cell)
    if not (holds_json or may_be_dialog):
        return cell
    parser = _Parser()
    try:
        found = parser.decoder.decode(cell)
    except RecursionError:
        raise _too_deep(f"{where}: {name}") from None
    except ValueError as error:
        if may_be_dialog:
            return cell
        raise RowError(f"{where}: {name}", f"is not JSON ({error})", "Write lists in JSON") from None
    if may_be_dialog and not all(isinstance(each, dict) and {"role", "from"} & each.keys() for each in found):
        return cell  # an answer that is itself a list in JSON
    if parser.faults:
        raise RowError(f"{where}: {name}", parser.faults[0], "Correct the record")
    check_nesting(found, f"{where}: {name}")
    return cell if name in ("tools", "functions") else found


def _too_long(where: str) -> RowError:
    return RowError(where, f"is longer than {MAX_RECORD_BYTES} bytes", "Split the row")


def _too_deep(where: str) -> RowError:
    return RowError(where, f"is nested more than {MAX_NESTING} levels deep", "Flatten the record")


def _not_utf8(line: bytes, error: UnicodeDecodeError, where: str) -> RowError:
    found = _OTHER_ENCODINGS.get(line[:2])
    what = f"is {found}" if found else f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
    return RowError(where, f"is not UTF-8 ({what})", _how_to_encode(line))


def _how_to_encode(line: bytes) -> str:
    name = "UTF-16" if b"\0" in line else "LATIN1"
    return f"Save the file as UTF-8: `iconv -f {name} -t UTF-8`, or with the encoding that it has"


def _surrogate(char: str) -> tuple[str, str]:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how `surrogateescape` spells the byte
        return f"is not UTF-8 (byte 0x{code - 0xDC00:02x})", "Save the file as UTF-8"
    return f"holds half a character, the lone surrogate U+{code:04X}", "Remove it, or write the whole character"
