"""Counts that add up, duplicates, evaluation matches, and parts that do not move: what every builder shares."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

import pytest

from align.errors import RowError
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rows import Message, PreferenceRow, PromptRow, SFTRow
from align.splits import part_of
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_contents import message_keys
from data_builders.row_set import RowSet


def keys_of(sources: list[Path | str], bad_rows: Literal["stop", "drop"] = "stop") -> set[str]:
    return set(Decontamination.of(sources, DecontaminationConfig(benchmarks=()), bad_rows).keys)


def against(*prompt: Message) -> Decontamination:
    found = Decontamination(DecontaminationConfig())
    found.add_keys(message_keys(prompt))
    return found


def asked(text: str, name: str = "", source: str = "made") -> PromptRow:
    return PromptRow(id=name or text, source=source, prompt=(Message(role="user", content=text),))


def test_duplicates_go_whatever_their_id_case_or_full_stop() -> None:
    rows = RowSet([asked("Who was first?", "a"), asked("who was  first", "b"), asked("Who was second?", "c")])
    rows.drop_duplicates()
    assert [row.id for row in rows.rows] == ["a", "c"]
    assert rows.dropped == {"duplicate": 1}


def test_rows_with_other_roles_or_tools_are_no_duplicates() -> None:
    user, system = (Message(role=role, content="Do it.") for role in ("user", "system"))
    tools = '[{"name": "f"}]'
    rows = RowSet(
        [
            PromptRow(id="a", source="made", prompt=(user,)),
            PromptRow(id="b", source="made", prompt=(system,)),
            PromptRow(id="c", source="made", prompt=(user,), tools=tools),
        ]
    )
    rows.drop_duplicates()
    assert len(rows.rows) == 3


def test_a_row_goes_when_any_telling_user_message_is_an_evaluation_prompt() -> None:
    dialog = (
        Message(role="user", content="Hello there."),
        Message(role="assistant", content="Hello."),
        Message(role="user", content="What is the capital of Chad?"),
        Message(role="assistant", content="N'Djamena."),
    )
    rows = RowSet([SFTRow(id="a", source="made", messages=dialog)])
    rows.drop_matches(against(Message(role="user", content="what is the capital of chad")))
    assert rows.rows == []
    assert rows.dropped == {"matches an evaluation prompt": 1}


def test_small_talk_is_no_match_by_itself() -> None:
    yes = Message(role="user", content="Yes, please.")
    dialog = (Message(role="user", content="Shall we?"), Message(role="assistant", content="Now?"), yes)
    rows = RowSet([PromptRow(id="a", source="made", prompt=dialog)])
    rows.drop_matches(against(yes))
    assert len(rows.rows) == 1


def test_a_limit_takes_the_same_rows_in_whatever_order_they_come() -> None:
    rows = [asked(f"Question number {number}") for number in range(50)]
    straight, mixed = RowSet(rows), RowSet(random.Random(1).sample(rows, len(rows)))
    for part in (straight, mixed):
        part.limit(7, seed=3)
    assert {row.id for row in straight.rows} == {row.id for row in mixed.rows}
    assert straight.dropped == {"over the limit": 43}


def test_limits_act_on_the_kinds_they_name() -> None:
    rows = RowSet(asked(f"Question {number}", source=f"s{number % 3}") for number in range(30))
    rows.limit_each(lambda row: row.source, {"s0": 2, "s1": 0}, seed=0)
    assert rows.counts["sources"] == {"s0": 2, "s2": 10}
    assert rows.counts["read"] == 30


def test_parts_have_their_shares_and_a_key_stays_in_its_part() -> None:
    keys = [f"key {number}" for number in range(4000)]
    parts = [part_of(key, (0.2, 0.4), seed=0) for key in keys]
    assert abs(parts.count(0) / 4000 - 0.2) < 0.03
    assert abs(parts.count(1) / 4000 - 0.4) < 0.03
    assert parts[:10] == [part_of(key, (0.2, 0.4), seed=0) for key in keys[:10]]
    assert parts != [part_of(key, (0.2, 0.4), seed=1) for key in keys]
    assert all(part_of(key, (0.0,), seed=0) == 1 for key in keys)


def test_the_manifest_says_what_was_dropped(tmp_path: Path) -> None:
    rows = RowSet([asked("One question only", "a"), asked("One question only", "b")])
    rows.drop_duplicates()
    rows.write(tmp_path / "rows.jsonl", config={"seed": 0})
    counts = read_data_manifest(tmp_path / "rows.jsonl")["counts"]
    assert counts == {"read": 2, "rows": 1, "dropped": {"duplicate": 1}, "sources": {"made": 1}}
    assert read_rows(tmp_path / "rows.jsonl", PromptRow) == rows.rows
    assert rows.summary() == "1 rows (1 dropped: 1 duplicate)"


def test_evaluation_files_may_hold_any_kind_of_row(tmp_path: Path) -> None:
    user = Message(role="user", content="Which one is it then?")
    answer = (Message(role="assistant", content="This."),)
    other = (Message(role="assistant", content="That."),)
    lines = [
        PromptRow(id="a", source="made", prompt=(user,)).model_dump_json(),
        SFTRow(id="b", source="made", messages=(user, *answer)).model_dump_json(),
        PreferenceRow(id="c", source="made", prompt=(user,), completions=(answer, other)).model_dump_json(),
        json.dumps({"prompt": "Which one is it then?"}),
    ]
    for number, line in enumerate(lines):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(line + "\n")
        assert not message_keys((user,)).isdisjoint(keys_of([path]))


@pytest.mark.parametrize("line", ["no json", '{"text": "no prompt"}', '{"prompt": [{"role": "unknown"}]}', "[1]"])
def test_an_evaluation_line_without_a_prompt_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(RowError, match=r"evaluation\.jsonl:2: (expected|is not JSON)"):
        keys_of([path])


def test_an_evaluation_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"none\.jsonl: cannot be read .* Name a file that exists"):
        keys_of([tmp_path / "none.jsonl"])
