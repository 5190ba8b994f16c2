"""Files of many kinds as text. A reader is one function from a path to text; READERS says which suffix it reads.

A file is refused, in words for the model, when it is too large, unpacks to too much, is locked, or is not what its
suffix says.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from align.tools.limited_process import LimitedProcess
from align.tools.registry import Tool, tool_of
from align.tools.results import ToolError, ToolFailure, library

MAX_FILE_BYTES = 20 << 20
MAX_UNPACKED_BYTES = 100 << 20
MAX_TEXT_CHARACTERS = 1_000_000
"""What a reader gives at most; a registry caps a result far below that."""
MAX_PDF_PAGES = 500

_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
"""The compound files of Office before 2007; a file locked by a password is wrapped in one too."""


def read_plain(path: Path) -> str:
    """Text in UTF-8, or in UTF-16 with its mark."""
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ToolFailure("refused", f"{path.name} is not text in UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise ToolFailure("refused", f"{path.name} is not text: it holds null characters")
    return text


def read_json(path: Path) -> str:
    """JSON as it is written, once it is seen to be JSON."""
    text = read_plain(path)
    _see_json(text, path.name)
    return text


def read_jsonl(path: Path) -> str:
    """One JSON value a line, as written."""
    text = read_plain(path)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            _see_json(line, f"{path.name}, line {number}")
    return text


def read_html(path: Path) -> str:
    """The text of a page, a line for each block, without scripts and styles."""
    soup = library("bs4").BeautifulSoup(read_plain(path), "lxml")
    for unseen in soup(["script", "style", "template", "noscript"]):
        unseen.decompose()
    return "\n".join(soup.stripped_strings)


def read_xml(path: Path) -> str:
    """XML as it is written, once it is seen to be well formed and to declare no entities."""
    text = read_plain(path)
    parse, refused = library("defusedxml.ElementTree"), library("defusedxml").DefusedXmlException
    try:
        parse.fromstring(text.encode() if "encoding=" not in text[:200] else path.read_bytes())
    except parse.ParseError as error:
        raise ToolFailure("refused", f"{path.name} is not well-formed XML: {error}") from None
    except refused as error:
        raise ToolFailure(
            "refused", f"{path.name} declares entities ({type(error).__name__}); they are not read"
        ) from None
    return text


def read_pdf(path: Path) -> str:
    """The text layer, a blank line between pages. Pictures of text are not read."""
    pypdf = library("pypdf")
    _see(b"%PDF-" in path.read_bytes()[:1024], path, "a PDF")
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ToolFailure("refused", f"{path.name} is locked by a password")
        pages = _until_full(page.extract_text() for page in reader.pages[:MAX_PDF_PAGES])
    except pypdf.errors.DependencyError:
        raise ToolFailure("refused", f"{path.name} is encrypted") from None
    except pypdf.errors.LimitReachedError:
        raise ToolFailure("size", f"{path.name} unpacks to too much") from None
    except pypdf.errors.PyPdfError as error:
        raise ToolFailure("refused", f"{path.name} is a damaged PDF: {error}") from None
    text = "\n\n".join(page.strip() for page in pages).strip()
    if not text:
        raise ToolFailure("refused", f"{path.name} holds no text, only pictures perhaps")
    return text


def read_docx(path: Path) -> str:
    """Paragraphs and tables in their order; a table's row is a line, its cells apart by tabs."""
    with _office(path, "word/document.xml", "a Word document"):
        document = library("docx").Document(str(path))
        table = library("docx.table").Table
        blocks = []
        for block in document.iter_inner_content():
            if isinstance(block, table):
                blocks += ["\t".join(cell.text for cell in row.cells) for row in block.rows]
            else:
                blocks.append(block.text)
        return "\n".join(blocks).strip()


def read_xlsx(path: Path) -> str:
    """Each sheet as CSV under its name. A formula gives the value that was last computed."""
    with _office(path, "xl/workbook.xml", "an Excel workbook"):
        book = library("openpyxl").load_workbook(path, read_only=True, data_only=True)
        try:
            return "\n".join(_until_full(line for sheet in book.worksheets for line in _sheet_lines(sheet))).strip()
        finally:
            book.close()


def read_pptx(path: Path) -> str:
    """Each slide's text under its number, with tables and the speaker's notes."""
    with _office(path, "ppt/presentation.xml", "a PowerPoint presentation"):
        lines = []
        for number, slide in enumerate(library("pptx").Presentation(str(path)).slides, 1):
            lines.append(f"# Slide {number}")
            for shape in slide.shapes:
                if shape.has_text_frame:
                    lines.append(shape.text_frame.text)
                elif getattr(shape, "has_table", False):
                    lines += ["\t".join(cell.text for cell in row.cells) for row in shape.table.rows]
            if slide.has_notes_slide:
                lines.append(f"Notes: {slide.notes_slide.notes_text_frame.text}")
        return "\n".join(lines).strip()


READERS: dict[str, Callable[[Path], str]] = {
    **dict.fromkeys((".txt", ".md", ".py", ".csv", ".tsv"), read_plain),
    ".json": read_json,
    ".jsonl": read_jsonl,
    **dict.fromkeys((".html", ".htm"), read_html),
    ".xml": read_xml,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".xlsx": read_xlsx,
    ".pptx": read_pptx,
}


def file_text(path: str | Path, max_file_bytes: int = MAX_FILE_BYTES) -> str:
    """A file's text, from the reader for its suffix. Raises ToolFailure with a message for the model."""
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ToolFailure("refused", f"{path.name}: files of this kind are not read. Read are {', '.join(READERS)}")
    if not path.is_file():
        raise ToolFailure("refused", f"there is no file {path.name}")
    size = path.stat().st_size
    if size > max_file_bytes:
        raise ToolFailure("size", f"{path.name} has {size} bytes, more than the {max_file_bytes} that are read")
    return reader(path)[:MAX_TEXT_CHARACTERS]


def file_reader(folder: str | Path, *, timeout_seconds: float = 20.0, memory_bytes: int = 2 << 30) -> Tool:
    """The tool `read_file`, for files of one folder and those below it. Each is read in a process with limits."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise ToolError(folder, "there is no such folder", "Name the folder of files that may be read")
    limited = LimitedProcess("align.tools.reader:file_text", timeout_seconds=timeout_seconds, memory_bytes=memory_bytes)

    def read_file(path: str) -> str:
        """Read a file and return its text.

        Args:
            path: The file's name, such as report.pdf.
        """
        file = _inside(folder, path)
        return limited(str(file))

    return tool_of(read_file, identity="read_file")


def _inside(folder: Path, name: str) -> Path:
    try:
        file = (folder / name).resolve()
    except (OSError, ValueError):  # a null character, or a name beyond what the system takes
        raise ToolFailure("refused", f"{name[:80]!r} is no file's name") from None
    if not file.is_relative_to(folder):
        raise ToolFailure("refused", f"there is no file {name}")
    return file


def _see(held: bool, path: Path, kind: str) -> None:
    if not held:
        raise ToolFailure("refused", f"{path.name} is not {kind}, whatever its name says")


def _see_json(text: str, where: str) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ToolFailure("refused", f"{where}: not JSON: {error}") from None


@contextlib.contextmanager
def _office(path: Path, part: str, kind: str) -> Iterator[None]:
    """Check that a file is a zip archive with the part that its kind has, and does not unpack to too many bytes."""
    with path.open("rb") as handle:
        if handle.read(4) == _OLD_OFFICE:
            raise ToolFailure("refused", f"{path.name} is locked by a password, or of Office before 2007")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except zipfile.BadZipFile:
        parts = []
    _see(part in {info.filename for info in parts}, path, kind)
    # zipfile never unpacks more of a part than its entry declares, so the sum cannot be lied about.
    unpacked = sum(info.file_size for info in parts)
    if unpacked > MAX_UNPACKED_BYTES:
        raise ToolFailure(
            "size", f"{path.name} unpacks to {unpacked} bytes, more than the {MAX_UNPACKED_BYTES} that are read"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # openpyxl warns of styles, which are no matter here
            yield
    except (KeyError, ValueError, zipfile.BadZipFile, SyntaxError) as error:
        raise ToolFailure("refused", f"{path.name} is damaged: {type(error).__name__}: {error}") from None


def _sheet_lines(sheet: object) -> Iterator[str]:
    yield f"# {sheet.title}"  # type: ignore[attr-defined]
    for row in sheet.iter_rows(values_only=True):  # type: ignore[attr-defined]
        if any(cell is not None for cell in row):
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow(["" if cell is None else cell for cell in row])
            yield line.getvalue()


def _until_full(pieces: Iterator[str]) -> list[str]:
    kept, characters = [], 0
    for piece in pieces:
        kept.append(piece)
        characters += len(piece)
        if characters > MAX_TEXT_CHARACTERS:
            break
    return kept
