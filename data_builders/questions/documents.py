"""Read documents, and cut them into snippets for questions: whole paragraphs of one document, up to a maximum length.

A `.txt` file has one document per line, as in dumps of Wikipedia. JSON lines have `text` and, optionally, `title`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from align.errors import RowError
from align.jsonl import Drops, usable
from align.records import Record, SourceLike, records_of, sources_of, text_lines


class Document(NamedTuple):
    """A document with its title and source."""

    title: str
    """The title of the document, or the first words of its text."""
    text: str
    source: str
    """The name of the file without its suffix."""


_PARAGRAPHS = re.compile(r"\n\s*|(?<=[a-z0-9)\]\"'”][.!?])(?=[A-Z“])")
"""Where paragraphs end: at a line break, or at a full stop that is directly followed by a capital letter.

The second case occurs in dumps whose line breaks were removed: in "It lies in Chad.The river", there was a line break
between "." and "T".
"""
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[\"'“(]?[A-Z0-9])")
_OPENING = re.compile(
    r"^(?!This\b|These\b|It\b)(?:The )?\W*(.{2,80}?)(?=\s*[(,;:]|\s+(?:is|are|was|were|refers|primarily)\b)"
)


def read_documents(
    given: Sequence[SourceLike], bad_rows: Literal["stop", "drop"] = "stop", drops: Drops | None = None
) -> Iterator[Document]:
    """Yield the documents of all sources in order. Records that are dropped are counted in `drops`.

    Raises RowError naming file and line if a record cannot be read and `bad_rows` is "stop".
    """
    drops = Drops() if drops is None else drops
    for source in sources_of(given):
        read = partial(_document, source=Path(source.path).stem)
        entries = text_lines(Path(source.path)) if source.path.endswith(".txt") else records_of(source)
        yield from usable(entries, read, bad_rows, drops)


def snippets_of(text: str, most: int) -> list[str]:
    """Cut a text into snippets of at most `most` characters.

    A snippet consists of whole paragraphs. A paragraph that is too long is cut between sentences, and a sentence that
    is too long is left out.
    """
    pieces: list[str] = []
    for paragraph in filter(None, map(str.strip, _PARAGRAPHS.split(text))):
        if len(paragraph) <= most:
            pieces.append(paragraph)
        else:
            pieces += _packed(_SENTENCES.split(paragraph), " ", most)
    return _packed(pieces, "\n", most)


def opening_words(text: str) -> str:
    """Guess the subject of a text without a title from its beginning: "Albedo is ..." gives "Albedo"."""
    found = _OPENING.match(text)
    return found[1].strip() if found else " ".join(text.split()[:8])


def _packed(pieces: Sequence[str], joint: str, most: int) -> list[str]:
    """Join neighboring pieces as long as the result has at most `most` characters. Longer pieces are left out.

    Example with most = 10 and joint " ": ["abc", "def", "ghij"] gives ["abc def", "ghij"].
    """
    found: list[str] = []
    for piece in pieces:
        if len(piece) > most:
            continue
        if found and len(found[-1]) + len(joint) + len(piece) <= most:
            found[-1] += joint + piece
        else:
            found.append(piece)
    return found


def _document(record: Record, where: str, source: str) -> Document:
    text, title = record.get("text"), record.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        what = f"expected the column text, and optionally title, found {', '.join(record)}"
        raise RowError(where, what, "Write one document per line")
    if not text.strip():
        raise RowError(where, "the text is empty", "Remove the line")
    return Document(title.strip() or opening_words(text), text.strip(), source)
