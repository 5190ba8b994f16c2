"""Small files of drawn content, in the formats that `read_file` reads: the same content always gives the same bytes.

A `Table` has rows, a `Note` has named facts, a `Script` has functions; each can be written in the formats that suit it.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as Xml  # nosec B405  # XML is written with it, and not read

from align.tools.results import library


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first column identifies a row."""

    title: str
    columns: tuple[str, ...]
    """In snake_case."""
    rows: tuple[tuple[Any, ...], ...]

    @property
    def headings(self) -> list[str]:
        return [heading(column) for column in self.columns]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Note:
    """Facts by name, such as a program's settings or what a meeting agreed on."""

    title: str
    facts: Mapping[str, Any]
    """Names in snake_case."""

    @property
    def lines(self) -> list[str]:
        return [f"{heading(name)}: {value}" for name, value in self.facts.items()]


@dataclass(frozen=True)
class Script:
    """Python functions of one whole number, each with one sum or product in it."""

    title: str
    functions: Mapping[str, tuple[str, int]]
    """Name -> operator (`+`, `-` or `*`) and the number behind it."""


Content = Table | Note | Script


def heading(name: str) -> str:
    """A name as a column's heading: "log_level" gives "Log level"."""
    return name.replace("_", " ").capitalize()


def bytes_of(content: Content, suffix: str) -> bytes:
    """The file. `suffix` is one of `suffixes_of(content)`."""
    return _FORMS[type(content)][suffix](content)


def suffixes_of(content: Content) -> tuple[str, ...]:
    return tuple(_FORMS[type(content)])


# Text


def _piped(table: Table) -> bytes:
    lines = [table.title, "", *(" | ".join(map(str, row)) for row in (table.headings, *table.rows))]
    return _text(lines)


def _separated(mark: str) -> Callable[[Table], bytes]:
    def form(table: Table) -> bytes:
        handle = io.StringIO()
        csv.writer(handle, delimiter=mark, lineterminator="\n").writerows([table.columns, *table.rows])
        return handle.getvalue().encode()

    return form


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _json(value: Any) -> bytes:
    return _text([json.dumps(value, ensure_ascii=False, indent=1)])


def _literal(table: Table) -> bytes:
    name = re.sub(r"\W+", "_", table.title).upper()
    return _text([f'"""{table.title}."""', "", f"{name} = [", *(f"    {row!r}," for row in table.records), "]"])


def _constants(note: Note) -> bytes:
    return _text([f'"""{note.title}."""', "", *(f"{name.upper()} = {value!r}" for name, value in note.facts.items())])


def _functions(script: Script) -> bytes:
    lines = [f'"""{script.title}."""']
    for name, (operator, number) in script.functions.items():
        lines += ["", "", f"def {name}(value):", f"    return value {operator} {number}"]
    return _text(lines)


# Markup


def _element(tag: str, *inside: Xml.Element | str) -> Xml.Element:
    found = Xml.Element(tag)
    for each in inside:
        if isinstance(each, str):
            found.text = each
        else:
            found.append(each)
    return found


def _xml_facts(tag: str, facts: Mapping[str, Any]) -> Xml.Element:
    return _element(tag, *(_element(name, str(value)) for name, value in facts.items()))


def _xml(root: Xml.Element) -> bytes:
    Xml.indent(root, " ")
    return _text([Xml.tostring(root, encoding="unicode")])


def _xml_table(table: Table) -> bytes:
    return _xml(_element("table", *(_xml_facts("row", row) for row in table.records)))


def _page(title: str, *body: Xml.Element) -> bytes:
    head = _element("head", _element("title", title))
    root = _element("html", head, _element("body", *body))
    Xml.indent(root, " ")
    return _text(["<!DOCTYPE html>", Xml.tostring(root, encoding="unicode", method="html")])


def _html_table(table: Table) -> bytes:
    rows = [_element("tr", *(_element("th", name) for name in table.headings))]
    rows += [_element("tr", *(_element("td", str(value)) for value in row)) for row in table.rows]
    return _page(table.title, _element("table", *rows))


def _html_note(note: Note) -> bytes:
    return _page(note.title, _element("ul", *(_element("li", line) for line in note.lines)))


# Office


def _docx_table(table: Table) -> bytes:
    document = library("docx").Document()
    document.add_heading(table.title, 1)
    _fill(document.add_table(len(table.rows) + 1, len(table.columns)), table)
    return _saved(document)


def _docx_note(note: Note) -> bytes:
    document = library("docx").Document()
    document.add_heading(note.title, 1)
    for line in note.lines:
        document.add_paragraph(line)
    return _saved(document)


def _xlsx(table: Table) -> bytes:
    book = library("openpyxl").Workbook()
    book.active.title = table.title
    for row in (table.headings, *table.rows):
        book.active.append(row)
    return _saved(book)


def _pptx_table(table: Table) -> bytes:
    slides = library("pptx").Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[5])  # a title alone
    slide.shapes.title.text = table.title
    inch = library("pptx.util").Inches
    shape = slide.shapes.add_table(len(table.rows) + 1, len(table.columns), inch(1), inch(2), inch(8), inch(3))
    _fill(shape.table, table)
    return _saved(slides)


def _pptx_note(note: Note) -> bytes:
    slides = library("pptx").Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[1])  # a title, and points below it
    slide.shapes.title.text = note.title
    slide.placeholders[1].text = "\n".join(note.lines)
    return _saved(slides)


def _fill(grid: Any, table: Table) -> None:
    for place, row in enumerate((table.headings, *table.rows)):
        for cell, value in zip(grid.rows[place].cells, row, strict=True):
            cell.text = str(value)


_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?")


def _saved(document: Any) -> bytes:
    """The bytes that the library saves, without the time of saving: each part and the core properties have one."""
    saved, timeless = io.BytesIO(), io.BytesIO()
    document.save(saved)
    with zipfile.ZipFile(saved) as parts, zipfile.ZipFile(timeless, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in parts.namelist():
            data = parts.read(name)
            if name == "docProps/core.xml":
                data = _TIME.sub(b"2024-01-01T00:00:00Z", data)
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return timeless.getvalue()


_FORMS: dict[type, dict[str, Callable[[Any], bytes]]] = {
    Table: {
        ".txt": _piped,
        ".csv": _separated(","),
        ".tsv": _separated("\t"),
        ".json": lambda table: _json(table.records),
        ".jsonl": lambda table: _text([json.dumps(row, ensure_ascii=False) for row in table.records]),
        ".html": _html_table,
        ".xml": _xml_table,
        ".py": _literal,
        ".docx": _docx_table,
        ".xlsx": _xlsx,
        ".pptx": _pptx_table,
    },
    Note: {
        ".txt": lambda note: _text([note.title, "", *note.lines]),
        ".json": lambda note: _json(note.facts),
        ".html": _html_note,
        ".xml": lambda note: _xml(_xml_facts("note", note.facts)),
        ".py": _constants,
        ".docx": _docx_note,
        ".pptx": _pptx_note,
    },
    Script: {".py": _functions},
}
