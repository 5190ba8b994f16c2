"""Documents, and the snippets that questions are asked about: whole paragraphs of one document, up to a limit.

A `.txt` file holds one document a line, as dumps of Wikipedia have it; JSON lines have `text`, and `title` where it is
known.
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
    """One text."""

    title: str
    """Its own, or the words that it opens with."""
    text: str
    source: str
    """The name of its file, without the ending."""


_PARAGRAPHS = re.compile(r"\n\s*|(?<=[a-z0-9)\]\"'”][.!?])(?=[A-Z“])")
"""A line break, or a full stop with a capital right behind it: dumps that were stripped of their line breaks."""
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[\"'“(]?[A-Z0-9])")
_OPENING = re.compile(
    r"^(?!This\b|These\b|It\b)(?:The )?\W*(.{2,80}?)(?=\s*[(,;:]|\s+(?:is|are|was|were|refers|primarily)\b)"
)


def read_documents(
    given: Sequence[SourceLike], bad_rows: Literal["stop", "drop"] = "stop", drops: Drops | None = None
) -> Iterator[Document]:
    """The documents of all sources, in order. What is dropped is counted in `drops`.

    Raises RowError naming file and line.
    """
    drops = Drops() if drops is None else drops
    for source in sources_of(given):
        read = partial(_document, source=Path(source.path).stem)
        entries = text_lines(Path(source.path)) if source.path.endswith(".txt") else records_of(source)
        yield from usable(entries, read, bad_rows, drops)


def snippets_of(text: str, most: int) -> list[str]:
    """The text in snippets of at most `most` characters: whole paragraphs, or sentences where one is longer.

    Edge: a sentence that is longer alone is left out.
    """
    pieces: list[str] = []
    for paragraph in filter(None, map(str.strip, _PARAGRAPHS.split(text))):
        if len(paragraph) <= most:
            pieces.append(paragraph)
        else:
            pieces += _packed(_SENTENCES.split(paragraph), " ", most)
    return _packed(pieces, "\n", most)


def opening_words(text: str) -> str:
    """What a text without a title is about, by how an article opens: "Albedo is ..." -> "Albedo"."""
    found = _OPENING.match(text)
    return found[1].strip() if found else " ".join(text.split()[:8])


def _packed(pieces: Sequence[str], joint: str, most: int) -> list[str]:
    """Neighbors joined as long as they fit."""
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
        what = f"expected text, and title where it is known, found {', '.join(record)}"
        raise RowError(where, what, "Write one document a line")
    if not text.strip():
        raise RowError(where, "holds an empty text", "Remove the line")
    return Document(title.strip() or opening_words(text), text.strip(), source)
