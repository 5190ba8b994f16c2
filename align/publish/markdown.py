"""Text of a card in which nothing that comes from data is markup: cells, tables and code blocks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence


def cell(value: object) -> str:
    """A value inside a Markdown line or table: one line, in which nothing is markup, a formula, an image or a link."""
    text = re.sub(r"\s+", " ", visible(str(value)))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~!$])", r"\\\1", text)
    # GitHub's Markdown makes links of bare addresses too; an entity in their middle stops that and reads the same.
    text = re.sub(r"(?i)\b([a-z][a-z0-9+.-]*)://", r"\1&#58;//", text)
    return re.sub(r"(?i)\bwww\.", "www&#46;", text).replace("@", "&#64;")


def visible(text: str) -> str:
    """Text without control and format characters, which can reorder or hide what is shown, and without lone surrogates,
    which no file can hold."""
    return "".join(
        each if each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cf", "Cs") else "\ufffd" for each in text
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> list[str]:
    """The lines of a Markdown table. Cells of `rows` are escaped. numbers: columns that are aligned to the right."""
    right = set(numbers)
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("| " + " | ".join("---:" if place in right else "---" for place in range(len(head))) + " |")
    return lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]


def fenced(text: str, language: str) -> list[str]:
    """The lines of a code block, with a fence that the text cannot end."""
    text = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text, fence]
