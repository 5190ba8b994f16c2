"""The table of a preference set, its length bias and its levels, against numbers counted by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from align.errors import CheckpointError, ConfigError
from align.jsonl import write_rows
from align.rows import Level, Message, PreferenceRow, ToolCall
from data_builders.preferences.report import composition, length_bias, level_shares, main, measures, table_text


def row(
    name: str, prompt: str, *completions: str, source: str = "english", level: Level | None = None, batch: str = ""
) -> PreferenceRow:
    """prompt: messages of user and assistant in turn, parted by bars."""
    roles = ("user", "assistant")
    messages = [Message(role=roles[place % 2], content=text) for place, text in enumerate(prompt.split("|"))]  # type: ignore[arg-type]
    said = tuple((Message(role="assistant", content=text),) for text in completions)
    return PreferenceRow(id=name, source=source, prompt=tuple(messages), completions=said, level=level, batch=batch)


ROWS = [
    row("a-1", "one two", "three four five", "six", level="better"),
    row("a-2", "one two|three four five|seven", "eight", "nine ten eleven twelve", level="significantly better"),
    row("b-1", "other", "a b c", "d", "e f"),
    row("c-1", "code", "x", "y y", source="code", level="better", batch="week-1"),
]


def test_the_table_counts_what_the_paper_counts() -> None:
    english, code, total = composition(ROWS, "source", measures(None))
    assert [line["dataset"] for line in (english, code, total)] == ["english", "code", "total"]
    assert [line["comparisons"] for line in (english, code, total)] == [3, 1, 4]
    assert (english["share"], code["share"], total["share"]) == (0.75, 0.25, 1.0)
    # Two dialogs in english: a of two turns, whose first turn is the beginning of its second, and b of one.
    assert (english["turns_per_dialog"], code["turns_per_dialog"]) == (1.5, 1)
    assert total["turns_per_dialog"] == pytest.approx(4 / 3)
    # Prompts with all before them: 2, 6, 1 words; responses: 3 + 1, 1 + 4, 3 + 1 + 2.
    assert english["words_per_example"] == (6 + 11 + 7) / 3
    assert english["words_in_prompt"] == (2 + 1 + 1) / 3, "the last user message alone"
    assert english["words_in_response"] == 15 / 7
    assert code["characters_per_example"] == 4 + 1 + 3


def test_the_table_can_stand_by_batch_and_by_level() -> None:
    assert [line["dataset"] for line in composition(ROWS, "batch", {})] == ["(no batch)", "week-1", "total"]
    by_level = {line["dataset"]: line["comparisons"] for line in composition(ROWS, "level", {})}
    assert by_level == {"better": 2, "significantly better": 1, "(ungraded)": 1, "total": 4}


def test_tokens_are_those_of_the_tokenizer(tiny_checkpoint: Path, chatml_tokenizer) -> None:
    (line, _) = composition(ROWS[:1], "source", measures(tiny_checkpoint))
    count = [len(chatml_tokenizer(text)["input_ids"]) for text in ("one two", "three four five", "six")]
    assert line["tokens_per_example"] == sum(count)
    assert line["tokens_in_prompt"] == count[0]
    assert line["tokens_in_response"] == (count[1] + count[2]) / 2
    assert not [key for key in line if key.startswith("words")]


def test_calls_count_as_text() -> None:
    call = ToolCall.model_validate({"name": "clock", "arguments": {"zone": "Paris"}})
    made = (Message(role="assistant", tool_calls=(call,)),)
    called = row("c", "now", "x", "y").model_copy(update={"completions": (made, (Message(role="assistant"),))})
    (line, _) = composition([called], "source", measures(None))
    assert line["words_in_response"] == 3 / 2, "clock, and its arguments with one space"


def test_length_bias_is_how_often_the_longer_one_was_chosen() -> None:
    bias = length_bias(ROWS)
    assert bias["all"]["chosen_longer"] == 2 / 4
    assert bias["better"]["chosen_longer"] == 1 / 2
    assert bias["significantly better"]["mean_chosen_characters"] == len("eight")
    assert bias["significantly better"]["mean_rejected_characters"] == len("nine ten eleven twelve")
    assert bias["(ungraded)"]["chosen_longer"] == 1, "best against worst"
    assert length_bias([]) == {}


def test_level_shares_add_up() -> None:
    shares = level_shares(ROWS)
    assert list(shares) == ["significantly better", "better", "(ungraded)"]
    assert shares["better"] == {"rows": 2, "share": 0.5}
    assert sum(one["share"] for one in shares.values()) == 1


def test_the_printed_table_is_even() -> None:
    lines = table_text(composition(ROWS, "source", measures(None))).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[:4] == ["english", "3", "75.00%", "1.5"]
    assert table_text([]) == "no rows"
    assert "total" in table_text(composition([], "source", measures(None)))


def test_the_table_of_any_file_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    assert main([str(tmp_path / "rows.jsonl"), "--by", "level"]) == 0
    shown = capsys.readouterr().out
    assert "turns per dialog" in shown
    assert "significantly better" in shown
    assert "chosen is longer in 50.0% of 4 rows" in shown
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: cannot be read" in capsys.readouterr().err


def test_a_tokenizer_that_is_not_there_is_one_message(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer: there is no folder .*absent"):
        measures(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{oops", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"holds a tokenizer that cannot be read"):
        measures(tmp_path)
    shutil.copy(tiny_checkpoint / "tokenizer.json", tmp_path)
    shutil.copy(tiny_checkpoint / "tokenizer_config.json", tmp_path)
    assert measures(tmp_path)["tokens"]((Message(role="assistant", content="Paris"),)) > 0
