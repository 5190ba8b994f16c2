"""docs/formats.md says what is read and what is refused; each of its examples is read here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from align.errors import AlignError, RowError
from align.formats.columns import HARMLESS
from align.jsonl import row_of
from align.rows import PreferenceRow, PromptRow, QuestionRow, Row, SFTRow, ToolQuestionRow
from data_builders.preferences.comparisons import majority_row
from data_builders.preferences.importers import ImportConfig, comparisons_in

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
RECORDS = PAGE[PAGE.index("\n## Records\n") :]
KINDS: dict[str, type[Row]] = {"SFT": SFTRow, "pairs": PreferenceRow, "prompts": PromptRow}


def example(cell: str) -> dict[str, Any]:
    return json.loads(cell.strip("`"))


def reads(record: dict[str, Any], kind: type[Row]) -> bool:
    try:
        return bool(row_of(record, kind, "example.jsonl:1"))
    except RowError:
        return False


def builds(record: dict[str, Any], folder: Path) -> bool:
    (folder / "example.jsonl").write_text(json.dumps(record))
    try:
        (found,) = comparisons_in(folder / "example.jsonl", ImportConfig())
    except AlignError:
        return False
    return isinstance(found, list) and bool(found)


READ = [line.strip("|\n ") for line in RECORDS.splitlines() if re.match(r"\| .* \| `\{.*\}` \|$", line)]
FORMS = [cells for line in READ if len(cells := [cell.strip() for cell in line.split(" | ")]) == 6]
QUESTIONS = [cells for line in READ if len(cells := [cell.strip() for cell in line.split(" | ")]) == 3]
REFUSED = re.findall(r"^\| ([^|]+) \| (SFT|pairs|prompts) \| `(\{.*\})` \| (.+) \|$", RECORDS, re.MULTILINE)


def test_the_page_lists_the_forms() -> None:
    assert len(FORMS) > 45
    assert len(QUESTIONS) == 4
    assert len(REFUSED) > 20


@pytest.mark.parametrize("cells", FORMS, ids=lambda cells: cells[0])
def test_each_example_is_read_by_whom_the_page_says(cells: list[str], tmp_path: Path) -> None:
    record = example(cells[5])
    found = {name: reads(record, kind) for name, kind in KINDS.items()} | {"builder": builds(record, tmp_path)}
    assert found == dict(zip(found, [cell == "yes" for cell in cells[1:5]], strict=True))
    assert any(found.values())


@pytest.mark.parametrize("cells", [cells for cells in FORMS if cells[2] == "yes"], ids=lambda cells: cells[0])
def test_trainers_and_the_builder_read_the_same_pair(cells: list[str], tmp_path: Path) -> None:
    record = example(cells[5])
    row = row_of(record, PreferenceRow, "example.jsonl:1")
    (tmp_path / "example.jsonl").write_text(json.dumps(record))
    (compared,) = next(iter(comparisons_in(tmp_path / "example.jsonl", ImportConfig())))  # type: ignore[misc]
    settled_row = majority_row(compared, 0.5)
    assert isinstance(settled_row, PreferenceRow)
    for name in ("prompt", "completions", "tools", "level", "models", "raters", "round", "batch", "source"):
        assert getattr(settled_row, name) == getattr(row, name), name
    if row.prompt[-1].content == "Capital of Italy?":
        assert [row.chosen[0].content.strip(), row.rejected[0].content.strip()] == ["Rome.", "Milan."]


ALL_COLUMNS = {column for cells in FORMS for column in example(cells[5])}
EXPORTS = ("Argilla 2", "Label Studio")
"""Their records have columns of the tool's own, so only the project's fields are checked (test_rated.py)."""


@pytest.mark.parametrize("cells", FORMS, ids=lambda cells: cells[0])
def test_columns_of_all_other_forms_may_be_null(cells: list[str], tmp_path: Path) -> None:
    """As `datasets.concatenate_datasets` fills the columns that a set has not."""
    record = example(cells[5])
    filled = dict.fromkeys(ALL_COLUMNS) | record
    for kind in KINDS.values():
        if reads(record, kind):
            assert row_of(filled, kind, "example.jsonl:1") == row_of(record, kind, "example.jsonl:1")
    assert builds(filled, tmp_path) == builds(record, tmp_path)


@pytest.mark.parametrize("cells", [cells for cells in FORMS if cells[0] not in EXPORTS], ids=lambda cells: cells[0])
def test_a_column_that_nothing_reads_is_refused_by_everyone_who_reads_the_form(
    cells: list[str], tmp_path: Path
) -> None:
    record = example(cells[5]) | {"remark": "Mind this."}
    for kind in KINDS.values():
        with pytest.raises(RowError):
            row_of(record, kind, "example.jsonl:1")
    assert not builds(record, tmp_path)


@pytest.mark.parametrize("cells", QUESTIONS, ids=lambda cells: cells[0])
def test_each_question_is_read(cells: list[str]) -> None:
    kind = ToolQuestionRow if cells[1] == "tool dialogs" else QuestionRow
    assert row_of(example(cells[2]), kind, "example.jsonl:1").prompt[-1].content == "Capital of Italy?"


@pytest.mark.parametrize("name, kind, record, said", REFUSED, ids=[name for name, *_ in REFUSED])
def test_each_refusal_says_what_the_page_says(name: str, kind: str, record: str, said: str) -> None:
    with pytest.raises(RowError) as caught:
        row_of(json.loads(record), KINDS[kind], "example.jsonl:1")
    assert str(caught.value).removeprefix("example.jsonl:1: ").startswith(said)


def test_helpsteer2s_single_ratings_are_paired_by_the_builder(tmp_path: Path) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", RECORDS, re.DOTALL)
    (tmp_path / "example.jsonl").write_text(block)
    first, second = comparisons_in(tmp_path / "example.jsonl", ImportConfig())
    assert isinstance(first, list)
    assert second == []
    (compared,) = first
    assert [judgement.side for judgement in compared.judgements] == [1]
    assert [response[0].content for response in compared.responses] == ["Rome.", "Milan."]


def test_the_page_lists_the_harmless_columns() -> None:
    named = set(re.findall(r"`(\w+)`", RECORDS[RECORDS.index("### Harmless columns") :]))
    assert named >= HARMLESS
