"""Dialogs about files: written, read by the real tool, and answered with what an independent reading of them finds."""

from __future__ import annotations

import ast
import csv
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from align.chat import load_protocol
from align.jsonl import read_rows
from align.rows import Message, SFTRow, ToolCall, tools_of
from align.settings import TreeDataConfig
from align.tools.reader import READERS, file_reader
from align.tools.registry import Registry
from align.tools.replay import CallRecord, Replay, differences
from align.tree.encode import encode_sft
from data_builders.tool_use.dialogs.file_forms import Note, Script, Table, bytes_of, suffixes_of
from data_builders.tool_use.dialogs.file_kinds import Kind, Question, file_kinds
from data_builders.tool_use.dialogs.files import _FRAMES, drawn_file, questions_of
from data_builders.tool_use.templates import ToolTemplatesConfig, build

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROWS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ToolTemplatesConfig(rows={"file": ROWS}, heldout_rows={}, alone_ratio=0.0)
    return build(config, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[SFTRow]:
    return list(read_rows(folder / "tools.jsonl", SFTRow))


def file_of(folder: Path, row: SFTRow) -> Path:
    (found,) = (path for path in (folder / "files" / row.id).rglob("*") if path.is_file())
    return found


# A reading of our own: each file by the library of its kind, never by the reader


def grid_of(path: Path) -> list[list[str]]:
    """Rows of cells, headings first, as text; a note's lines as rows of two."""
    import docx
    import openpyxl
    import pptx
    from lxml import etree, html

    text = path.read_text(encoding="utf-8") if path.suffix not in (".docx", ".xlsx", ".pptx") else ""
    match path.suffix:
        case ".csv" | ".tsv":
            return list(csv.reader(text.splitlines(), delimiter="," if path.suffix == ".csv" else "\t"))
        case ".txt":
            body = text.splitlines()[2:]
            return [line.split(" | ") if " | " in line else line.split(": ", 1) for line in body]
        case ".json":
            return flat(json.loads(text))
        case ".jsonl":
            return flat([json.loads(line) for line in text.splitlines()])
        case ".py":
            values = {each.targets[0].id: ast.literal_eval(each.value)  # type: ignore[attr-defined]
                      for each in ast.parse(text).body if isinstance(each, ast.Assign)}  # fmt: skip
            (only, *more) = values.values()
            return flat(values if more else only)
        case ".xml":
            root = etree.fromstring(text)
            return flat([{cell.tag: cell.text for cell in row} for row in root] if root.tag == "table"
                        else {fact.tag: fact.text for fact in root})  # fmt: skip
        case ".html":
            page = html.fromstring(text)
            table = [[cell.text for cell in row.iter("td", "th")] for row in page.iter("tr")]
            return table or [point.text.split(": ", 1) for point in page.iter("li")]
        case ".xlsx":
            sheet = openpyxl.load_workbook(path).active
            return [[str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
        case ".docx":
            document = docx.Document(str(path))
            if document.tables:
                return [[cell.text for cell in row.cells] for row in document.tables[0].rows]
            return [paragraph.text.split(": ", 1) for paragraph in document.paragraphs[1:]]
        case ".pptx":
            for shape in pptx.Presentation(str(path)).slides[0].shapes:
                if shape.has_table:
                    return [[cell.text for cell in row.cells] for row in shape.table.rows]
                if ": " in shape.text_frame.text:
                    return [line.split(": ", 1) for line in shape.text_frame.text.splitlines()]
    raise AssertionError(path)


def flat(found: Any) -> list[list[str]]:
    if isinstance(found, dict):
        return [[str(name), str(value)] for name, value in found.items()]
    return [list(found[0]), *([str(value) for value in row.values()] for row in found)]


def named(text: str) -> str:
    return text.lower().replace(" ", "_")


def expected(question: Question, path: Path, said: dict[str, str]) -> dict[str, Any] | None:
    """What the question's answer has to say, by our own reading; None where the question has none in this file."""
    if question.asks == "returns":
        names: dict[str, Any] = {}
        exec(path.read_text(), names)
        return {"result": str(names[said["key"]](int(said["value"])))}
    grid = grid_of(path)
    if question.asks == "fact":
        return {"result": {named(name): value for name, value in grid}[question.about]}
    keys = [row[0] for row in grid[1:]]
    if question.asks == "absent":
        return {"file": str(path)} if said["key"] not in keys else None
    if question.asks == "rows":
        return {"result": str(len(keys))}
    at = [named(name) for name in grid[0]].index(question.about)
    column = [row[at] for row in grid[1:]]
    if question.asks == "cell":
        return {"result": column[keys.index(said["key"])]} if said["key"] in keys else None
    having = [key for key, value in zip(keys, column, strict=True) if value == said.get("value")]
    if question.asks in ("count", "which"):
        assert having
        return {"result": str(len(having)) if question.asks == "count" else ", ".join(having)}
    if question.asks == "total":
        return {"result": f"{sum(map(float, column)):.2f}".rstrip("0").rstrip(".")}
    numbers = [float(value) if re.fullmatch(r"-?[\d.]+", value) else value for value in column]
    ordered = sorted(zip(numbers, keys, column, strict=True), reverse=question.asks == "largest")
    assert ordered[0][0] != ordered[1][0], "a question of the end of a column that two rows share"
    return {"result": ordered[0][1], "value": ordered[0][2]}


@cache
def pattern(template: str, file: str) -> re.Pattern[str]:
    parts = re.split(r"\{(key|value|file)\}", template)
    for place in range(0, len(parts), 2):
        parts[place] = re.escape(parts[place])
    for place in range(1, len(parts), 2):
        parts[place] = re.escape(file) if parts[place] == "file" else f"(?P<{parts[place]}>.+)"
    return re.compile("".join(parts))


def right_answers(text: str, kind: Kind, path: Path, name: str) -> Iterator[tuple[Question, str]]:
    """Every answer that is right for what the user says."""
    for question in kind.questions:
        for query in question.queries:
            for frame in _FRAMES:
                said = pattern(frame.replace("{}", query), name).fullmatch(text)
                found = expected(question, path, said.groupdict()) if said else None
                if said and found is not None:
                    fields = {"file": name, **said.groupdict(), **{k: v for k, v in found.items() if k != "file"}}
                    yield from ((question, each.format(**fields)) for each in question.answers)


@pytest.mark.slow
def test_every_answer_is_what_another_reading_of_the_file_finds(folder: Path, rows: list[SFTRow]) -> None:
    seen: Counter[str] = Counter()
    suffixes: Counter[str] = Counter()
    for row in rows:
        path = file_of(folder, row)
        name = path.relative_to(folder / "files" / row.id).as_posix()
        (kind,) = (
            kind
            for kind in file_kinds()
            if any(re.fullmatch(rf"{s}(_20\d\d|-new|-\d+)?", path.stem) for s in kind.stems)
        )
        asked = [message.content for message in row.messages if message.role == "user"]
        said = [message.content for message in row.messages if message.role == "assistant" and not message.tool_calls]
        assert len(asked) == len(said) > 0
        for text, answer in zip(asked, said, strict=True):
            right = {each: question for question, each in right_answers(text, kind, path, name)}
            assert answer in right, (path, text, answer, list(right))
            seen[right[answer].asks] += 1
        suffixes[path.suffix] += 1
    assert seen.keys() == {question.asks for kind in file_kinds() for question in kind.questions}
    assert suffixes.keys() == READERS.keys() - {".pdf", ".md", ".htm"}


@pytest.mark.slow
def test_a_row_tells_of_its_file_reads_it_once_and_can_be_run_again(folder: Path, rows: list[SFTRow]) -> None:
    lines = map(json.loads, (folder / "tools.records.jsonl").read_text(encoding="utf-8").splitlines())
    records = {line["id"]: [CallRecord.model_validate(each) for each in line["records"]] for line in lines}
    others = 0
    for row in rows:
        name = file_of(folder, row).relative_to(folder / "files" / row.id).as_posix()
        first = next(place for place, message in enumerate(row.messages) if message.role != "system")
        assert row.messages[first] == Message(role="tool", content=f'# There is a file accessible to you at "{name}"')
        assert row.messages[first + 1].role == "user"
        calls = [call for message in row.messages for call in message.tool_calls]
        assert calls == [ToolCall(name="read_file", arguments={"path": name})] == [e.call for e in records[row.id]]
        (result,) = (message for message in row.messages if message.role == "tool" and message.name)
        replay = Replay(records[row.id])
        assert replay.call(calls[0]).text == result.content
        replay.end()
        others += len(tools_of(row.tools)) > 1
    assert others > ROWS / 4, "other functions are offered too"
    for row in rows[:6]:  # each starts a process
        assert differences(records[row.id], Registry([file_reader(folder / "files" / row.id)])) == []


@pytest.mark.slow
def test_kept_rows_have_one_folder_each_and_no_path_of_the_machine_is_in_them(folder: Path, rows: list[SFTRow]) -> None:
    assert len(rows) >= ROWS * 0.95
    assert {path.name for path in (folder / "files").iterdir()} == {row.id for row in rows}
    assert {row.source for row in rows} == {"tasks/file"}
    for name in ("tools.jsonl", "tools.records.jsonl"):
        text = (folder / name).read_text(encoding="utf-8")
        assert str(folder) not in text
        assert "align-files" not in text
    counts = json.loads((folder / "tools.jsonl.manifest.json").read_text())["counts"]
    assert counts["rows"] == len(rows) == counts["read"] - sum(counts["dropped"].values())


@pytest.mark.slow
def test_a_seed_gives_the_same_bytes_and_another_seed_other_ones(tmp_path: Path) -> None:
    def made(name: str, seed: int) -> dict[str, bytes]:
        folder = build(ToolTemplatesConfig(rows={"file": 25}, heldout_rows={}, seed=seed), tmp_path / name)
        paths = [*(folder / "files").rglob("*"), folder / "tools.jsonl", folder / "tools.records.jsonl"]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}

    first = made("a", 1)
    assert first == made("b", 1)
    assert not {path for path in first if path.startswith("files/")} & made("c", 2).keys()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", sorted(READERS.keys() - {".pdf", ".md", ".htm"}))
def test_every_suffix_is_read_back_with_its_values_in_order(tmp_path: Path, suffix: str) -> None:
    registry = Registry([file_reader(tmp_path)])
    kinds = set()
    for seed in range(12):
        drawn = drawn_file(random.Random(seed), suffix)
        (tmp_path / f"a{suffix}").write_bytes(drawn.data)
        result = registry.call(ToolCall(name="read_file", arguments={"path": f"a{suffix}"}))
        assert result.ok, result.text
        match drawn.content:
            case Table(rows=found):
                values = [str(value) for row in found for value in row]
            case Note(facts=facts):
                values = [str(value) for value in facts.values()]
            case Script(functions=functions):
                values = [f"{name}(value):\n    return value {op} {n}" for name, (op, n) in functions.items()]
        place = 0
        for value in values:
            place = result.text.index(value, place) + len(value)
        kinds.add(type(drawn.content))
    assert Table in kinds


@pytest.mark.slow
def test_office_files_do_not_hold_the_time_of_their_making() -> None:
    table = Table("Stock", ("item", "quantity"), (("pens", 3), ("lamps", 4)))
    began = {suffix: bytes_of(table, suffix) for suffix in suffixes_of(table)}
    time.sleep(2.1)  # a zip's time counts in steps of two seconds
    assert {suffix: bytes_of(table, suffix) for suffix in suffixes_of(table)} == began


@pytest.mark.slow
def test_each_kind_of_file_has_questions_said_in_three_ways_or_more_and_answers_some() -> None:
    assert len(file_kinds()) >= 8
    assert len({stem for kind in file_kinds() for stem in kind.stems}) == sum(len(kind.stems) for kind in file_kinds())
    for kind in file_kinds():
        for question in kind.questions:
            assert len(set(question.queries)) >= 3, question
            assert len(set(question.answers)) >= 2, question
    for seed in range(200):
        rng = random.Random(seed)
        drawn = drawn_file(rng)
        asked = questions_of(drawn, 2, rng)
        assert asked
        assert all(each.result in each.answer for each in asked)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_rows_encode_and_what_a_file_says_is_never_trained_on(
    request: pytest.FixtureRequest, rows: list[SFTRow], name: str
) -> None:
    tokenizer: PreTrainedTokenizerFast = request.getfixturevalue(f"{name}_tokenizer")
    protocol = load_protocol(tokenizer, name)
    data = TreeDataConfig(path=Path(__file__), token_budget=100_000)
    dropped: Counter[str] = Counter()

    def trained(some: list[SFTRow]) -> list[str]:
        trees = encode_sft(some, protocol, data, "all", dropped)
        return [tokenizer.decode(branch.ids[branch.loss_mask]) for tree in trees for branch in tree.branches]

    def other(message: Message) -> Message:
        return message.model_copy(update={"content": "zq " * 40}) if message.role == "tool" else message

    some = rows[:40]
    found = trained(some)
    assert len(found) == len(some)
    assert not dropped
    assert found == trained([row.model_copy(update={"messages": tuple(map(other, row.messages))}) for row in some])
    for row, text in zip(some, found, strict=True):
        assert row.messages[-1].content in text
        assert "accessible to you" not in text
        assert "read_file" in text
        encoded = protocol.encode(row.messages, row.tools)
        assert "There is a file accessible to you at" in tokenizer.decode(encoded.ids)


def test_held_out_files_are_refused_in_words() -> None:
    with pytest.raises(
        ValueError, match="heldout_rows: code, file cannot be held out, because no domain has their functions"
    ):
        ToolTemplatesConfig(heldout_rows={"file": 3, "code": 3})
