"""Files read as text: each kind made here by its own library or by hand, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from align.rows import ToolCall
from align.tools.reader import READERS, file_reader, file_text
from align.tools.registry import Registry
from align.tools.results import ToolFailure


def pdf_bytes(text: str) -> bytes:
    """A PDF of one page, written by hand with its table of offsets."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    tail = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(body)
    return body + b"xref\n0 6\n0000000000 65535 f \n" + table + tail


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import docx
    import openpyxl
    import pptx

    plain = {
        "a.txt": "Grüße\n", "a.py": "x = 1\n", "a.csv": "a,b\n1,2\n", "a.tsv": "a\tb\n", "a.md": "# A\n",
        "a.json": '{"a": [1]}', "a.jsonl": '{"a": 1}\n{"a": 2}\n', "a.xml": "<r><i>5</i></r>",
        "a.html": "<title>T</title><script>bad()</script><p>One <b>two</b></p>",
    }  # fmt: skip
    for name, text in plain.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "wide.txt").write_bytes("Grüße".encode("utf-16"))
    (tmp_path / "a.pdf").write_bytes(pdf_bytes("Hello from page one"))
    document = docx.Document()
    document.add_paragraph("First")
    row = document.add_table(1, 2).rows[0]
    row.cells[0].text, row.cells[1].text = "left", "right"
    document.add_paragraph("Last")
    document.save(str(tmp_path / "a.docx"))
    book = openpyxl.Workbook()
    book.active.title = "Prices"
    book.active.append(["tea, green", 2.5])
    book.create_sheet("Empty")
    book.save(tmp_path / "a.xlsx")
    slides = pptx.Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[1])
    slide.shapes.title.text = "Plan"
    slide.placeholders[1].text = "Step one"
    slide.notes_slide.notes_text_frame.text = "Be brief"
    slides.save(str(tmp_path / "a.pptx"))
    return tmp_path


TEXTS = {
    "a.txt": "Grüße\n", "wide.txt": "Grüße", "a.py": "x = 1\n", "a.csv": "a,b\n1,2\n", "a.tsv": "a\tb\n",
    "a.md": "# A\n", "a.json": '{"a": [1]}', "a.jsonl": '{"a": 1}\n{"a": 2}\n', "a.xml": "<r><i>5</i></r>",
    "a.html": "T\nOne\ntwo",
    "a.pdf": "Hello from page one", "a.docx": "First\nleft\tright\nLast",
    "a.xlsx": '# Prices\n"tea, green",2.5\n# Empty',
    "a.pptx": "# Slide 1\nPlan\nStep one\nNotes: Be brief",
}  # fmt: skip


@pytest.mark.slow
def test_every_kind_gives_the_text_that_was_put_in(folder: Path) -> None:
    assert {name: file_text(folder / name) for name in TEXTS} == TEXTS
    assert {Path(name).suffix for name in TEXTS} | {".htm"} == READERS.keys()


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(ToolFailure) as raised:
        file_text(path)
    return raised.value.kind, str(raised.value)


@pytest.mark.slow
def test_what_is_not_what_its_name_says_is_refused(folder: Path) -> None:
    for kind, words in [("pdf", "a PDF"), ("docx", "a Word document"), ("xlsx", "an Excel workbook"),
                        ("pptx", "a PowerPoint presentation")]:  # fmt: skip
        wrong = folder / f"wrong.{kind}"
        wrong.write_text("just text")
        assert refusal(wrong) == ("refused", f"wrong.{kind} is not {words}, whatever its name says")
    (folder / "book.docx").write_bytes((folder / "a.xlsx").read_bytes())
    assert "is not a Word document" in refusal(folder / "book.docx")[1]
    (folder / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0" + b"\0" * 600)
    assert "locked by a password, or of Office before 2007" in refusal(folder / "old.docx")[1]
    (folder / "b.txt").write_bytes(b"\x00\x01")
    assert "null characters" in refusal(folder / "b.txt")[1]
    (folder / "b.json").write_text("{")
    assert "b.json: not JSON" in refusal(folder / "b.json")[1]
    (folder / "b.jsonl").write_text("{}\n{")
    assert "b.jsonl, line 2: not JSON" in refusal(folder / "b.jsonl")[1]
    (folder / "b.xml").write_text("<a>")
    assert "not well-formed XML" in refusal(folder / "b.xml")[1]
    assert "files of this kind are not read" in refusal(folder / "b.exe")[1]
    assert refusal(folder / "none.txt") == ("refused", "there is no file none.txt")
    (folder / "cut.pdf").write_bytes(b"%PDF-1.4\n garbage")
    assert refusal(folder / "cut.pdf")[0] == "refused"


@pytest.mark.slow
def test_a_locked_pdf_is_refused_and_one_without_a_password_is_read(folder: Path) -> None:
    import pypdf

    for password, name in [("secret", "locked.pdf"), ("", "open.pdf")]:
        writer = pypdf.PdfWriter(clone_from=folder / "a.pdf")
        writer.encrypt(password, "owner", algorithm="RC4-128")
        writer.write(folder / name)
    assert refusal(folder / "locked.pdf") == ("refused", "locked.pdf is locked by a password")
    assert file_text(folder / "open.pdf") == "Hello from page one"


@pytest.mark.slow
def test_bombs_are_refused_before_they_unpack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = '<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><b>&b;</b>'
    (folder / "bomb.xml").write_text(bomb)
    assert "declares entities" in refusal(folder / "bomb.xml")[1]
    with zipfile.ZipFile(folder / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * (101 << 20))
    assert (folder / "bomb.docx").stat().st_size < 1 << 20
    assert refusal(folder / "bomb.docx")[0] == "size"
    with pytest.raises(ToolFailure, match="more than the 3 that are read"):
        file_text(folder / "a.txt", max_file_bytes=3)


@pytest.fixture
def tools(folder: Path) -> Registry:
    return Registry([file_reader(folder)])


@pytest.mark.slow
def test_the_tool_reads_within_its_folder_and_nowhere_else(folder: Path, tools: Registry) -> None:
    (folder.parent / "outside.txt").write_text("secret")
    (folder / "link.txt").symlink_to(folder.parent / "outside.txt")
    assert tools.call(ToolCall(name="read_file", arguments={"path": "a.docx"})).text == TEXTS["a.docx"]
    for path in ("../outside.txt", str(folder.parent / "outside.txt"), "link.txt", "none.txt", ".", "a\0b.txt"):
        result = tools.call(ToolCall(name="read_file", arguments={"path": path}))
        assert result.error == "refused", path
        assert "secret" not in result.text
