"""Files of exported rows: whole or not there, counted, with a manifest; Parquet with every field of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.config import config_from_argv
from align.errors import AlignError, ConfigError, RowError
from align.formats.export import EARLIER, MIDDLE, WHOLE
from align.jsonl import read_rows, write_rows
from align.manifest import input_fingerprint, read_data_manifest
from align.row_export import EXPORTED, export_rows
from align.rows import Candidate, Message, PreferenceRow, QuestionRow, SFTRow, ToolCall
from recipes.export import ExportRecipe, run

USER, GOOD, FAIR, BAD = (
    Message(role=role, content=text)  # type: ignore[arg-type]
    for role, text in (("user", "Capital?"), ("assistant", "Rome."), ("assistant", "Rom."), ("assistant", "Oslo."))
)
CALL = Message(role="assistant", tool_calls=(ToolCall(name="f", arguments='{"a": null, "b": [1]}'),), trained=False)
DIALOG = SFTRow(
    id="s1", source="a", messages=(USER, CALL, Message(role="tool", name="f", content="1"), GOOD), score=0.5, round=3
)
PAIR = PreferenceRow(
    id="p1", source="a", prompt=(USER,), completions=((GOOD,), (BAD,)), level="better", scores=(2.5, 1.0), seeds=(7, 8)
)
THREE = PAIR.model_copy(update={"id": "p2", "completions": ((GOOD,), (FAIR,), (BAD,)), "scores": (), "seeds": ()})
CANDIDATE = Candidate(
    id="c1", source="a", prompt_id="p", prompt=(USER,), completion=(GOOD,), index=0, seed=2**60, finished=True
)
QUESTION = QuestionRow(id="q1", source="a", prompt=(USER,), entity="Italy", relation="capital", answers=("Rome",))


@pytest.mark.slow
@pytest.mark.parametrize("row", [DIALOG, PAIR, THREE, CANDIDATE, QUESTION], ids=lambda row: row.id)
def test_parquet_holds_every_field_of_every_kind_of_row(row: Any, tmp_path: Path) -> None:
    from datasets import load_dataset

    row = row.model_copy(update={"made_from": ("mine.jsonl:12", "q1")})
    write_rows(tmp_path / "rows.jsonl", [row])
    made = export_rows(tmp_path / "rows.jsonl", "parquet")
    assert made == tmp_path / "rows.parquet"
    (columns,) = load_dataset("parquet", data_files=str(made), split="train", cache_dir=str(tmp_path / "cache"))
    assert type(row)(**columns) == row, "datasets reads what was written"
    if not isinstance(row, Candidate):
        assert read_rows(made, type(row)) == [row], "and so do we"
    assert read_data_manifest(made)[EXPORTED]["not_in_the_file"] == {}


def test_a_recipe_takes_the_rows_as_its_first_argument_and_counts_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "preferences.jsonl"
    write_rows(rows, [PAIR, THREE])
    recipe = config_from_argv(ExportRecipe, [str(rows), "--to", "openai"])
    made = run(recipe)
    assert made == tmp_path / "preferences.openai.jsonl"
    manifest = read_data_manifest(made)
    assert manifest["inputs"] == {str(rows): input_fingerprint(rows)}
    assert manifest["counts"] == {"rows": 2, "dropped": {}, "sources": {"a": 2}}
    assert manifest[EXPORTED] == {
        "to": "openai",
        "rows": "PreferenceRow",
        "not_in_the_file": {"id": 2, "source": 2, "level": 2, "scores": 1, "seeds": 1},
        "changed": {MIDDLE: 1},
    }
    run(config_from_argv(ExportRecipe, [str(rows), "to=openai", "inexact=drop"]))  # over its own file
    assert read_data_manifest(made)["counts"]["dropped"] == {MIDDLE: 1}
    assert len(made.read_text().splitlines()) == 1
    config = tmp_path / "export.yaml"
    config.write_text(f"rows: {rows}\nto: trl\n")
    assert config_from_argv(ExportRecipe, [str(config), "--train_on=all"]).train_on == "all"
    with pytest.raises(SystemExit):
        config_from_argv(ExportRecipe, ["--to", "trl"])
    assert "command line: rows: required, but missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        ({"output": "rows.jsonl"}, r"output: .*rows\.jsonl is one of the files that are read"),
        ({"output": "mine.jsonl"}, r"output: .*mine\.jsonl exists, and this recipe did not write it"),
        ({"output": "a.parquet"}, r"output: is .*a\.parquet, and the form sharegpt is written as \.jsonl"),
        ({"sources": ["rows.jsonl", "more.jsonl"]}, r"output: required where the rows are not one file"),
        ({}, r"rows\.jsonl: no row is left to export \(1 turns that do not alternate"),
        ({"sources": "bad.jsonl"}, r"bad\.jsonl:1: is no SFTRow and no form known here"),
        ({"sources": "candidates.jsonl"}, r"row c1: is a Candidate, which the form sharegpt has no record for"),
    ],
    ids=str,
)
def test_nothing_is_written_where_nothing_can_be(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    twice = SFTRow(id="s2", source="a", messages=(USER, USER, GOOD))
    for name, rows in (("rows", [twice]), ("more", [DIALOG]), ("candidates", [CANDIDATE])):
        write_rows(f"{name}.jsonl", rows)
    Path("mine.jsonl").write_text("mine\n")
    Path("bad.jsonl").write_text('{"nothing": 1}\n')
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    with pytest.raises(AlignError, match=message) as raised:
        export_rows(
            change.get("sources", "rows.jsonl"), "sharegpt", Path(change["output"]) if "output" in change else None
        )
    assert isinstance(raised.value, ConfigError | RowError)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize("form, train_on, reason", [("sharegpt", "final", EARLIER), ("trl", "all", WHOLE)])
def test_dialogs_that_would_be_trained_on_elsewhere_are_counted_and_dropped(
    form: Any, train_on: Any, reason: str, tmp_path: Path
) -> None:
    once = SFTRow(id="s3", source="a", messages=(USER, GOOD))
    twice = SFTRow(id="s4", source="a", messages=(USER, BAD, USER, GOOD))
    write_rows(tmp_path / "rows.jsonl", [once, twice])
    made = export_rows(tmp_path / "rows.jsonl", form, train_on=train_on)
    assert read_data_manifest(made)[EXPORTED]["changed"] == {reason: 1 if form == "sharegpt" else 2}
    if form == "sharegpt":
        export_rows(tmp_path / "rows.jsonl", form, train_on=train_on, inexact="drop")
        assert [json.loads(line)["id"] for line in made.read_text().splitlines()] == ["s3"]
        return
    with pytest.raises(RowError, match="no row is left to export"):
        export_rows(tmp_path / "rows.jsonl", form, train_on=train_on, inexact="drop")


def test_a_record_that_can_be_a_pair_and_a_dialog_is_what_kind_says(tmp_path: Path) -> None:
    both = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    both |= {
        "prompt": "a",
        "chosen": both["messages"],
        "rejected": [both["messages"][0], {"role": "assistant", "content": "c"}],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(both))
    pairs = export_rows(tmp_path / "rows.jsonl", "trl", tmp_path / "pairs.jsonl")
    dialogs = export_rows(tmp_path / "rows.jsonl", "trl", tmp_path / "dialogs.jsonl", kind="sft")
    assert json.loads(pairs.read_text()).keys() == {"id", "source", "prompt", "chosen", "rejected"}
    assert json.loads(dialogs.read_text()).keys() == {"id", "source", "prompt", "completion"}
