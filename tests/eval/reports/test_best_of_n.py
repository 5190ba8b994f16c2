"""The best-of-n curve as tables, files and plots, by the recipe and in the report of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from xml.etree import ElementTree

import numpy as np
import pytest

from align.config import load_config
from align.jsonl import write_rows
from align.rounds.ledger import Ledger
from align.rows import Candidate, Message, SFTRow
from eval.best_of_n import best_of_n
from eval.reports.best_of_n import best_of_n_table, markdown, read_best_of_n, sentences, write_best_of_n
from eval.reports.page import page
from eval.reports.rounds import read_report
from eval.reports.text import markdown as run_markdown
from eval.reports.text import text_table
from recipes.best_of_n import BestOfNRecipe, run
from tests.eval.reports.svg import lines_of


def candidates(prompts: int, k: int, seed: int = 0, finished: bool = True) -> list[Candidate]:
    scores = np.random.default_rng(seed).standard_normal((prompts, k))
    return [
        Candidate(
            id=f"{prompt}-{index}",
            source="test",
            prompt_id=str(prompt),
            prompt=(Message(role="user", content=f"Say {prompt}."),),
            completion=(Message(role="assistant", content="word " * (1 + (prompt + index) % 3)),),
            index=index,
            seed=index,
            finished=finished and (prompt, index) != (0, 0),
            score=float(score),
        )
        for prompt, row in enumerate(scores)
        for index, score in enumerate(row)
    ]


def test_the_table_has_the_powers_of_two_and_k_and_gains_over_the_row_above() -> None:
    found = best_of_n(candidates(20, 6))
    head, rows = best_of_n_table(found)
    assert head == ["n", "kept", "score", "gain", "length"]
    assert [row[0] for row in rows] == ["1", "2", "4", "6"]
    scores = [float(row[2].split(" ")[0]) for row in rows]
    gains = [float(row[3].split(" ")[0]) for row in rows[1:]]
    assert gains == pytest.approx(np.diff(scores), abs=0.011)
    assert rows[0][1] == "99%", "119 of 120 candidates are finished"
    assert rows[-1][1] == "100%"


def test_the_files_have_the_numbers_the_alarm_and_both_judges(tmp_path: Path) -> None:
    made = candidates(60, 8)
    found = best_of_n(made, {one.id: -(one.score or 0.0) for one in made})
    path = write_best_of_n(found, tmp_path)
    assert read_best_of_n(path) == found
    assert json.loads(path.read_text(encoding="utf-8"))["suggested_k"] == found.suggested_k == 1
    text = markdown(found)
    alarm = "ALARM: with more than 1 candidate the reward model's score rises, and the held-out judge's score falls."
    assert alarm in text
    assert "Suggested k: 1, because of the alarm." in text
    assert "| n | kept | score | gain | held-out judge | gain | length |" in text
    drawn = ElementTree.fromstring((tmp_path / "best_of_n.svg").read_text(encoding="utf-8"))
    labels = "".join(drawn.itertext())
    for text in ("reward model", "held-out judge", "gain over a random candidate, in standard deviations"):
        assert text in labels
    assert "%" not in labels, "the axis counts candidates, and is no percentage"
    heights = [[up for _, up in line] for line in lines_of(drawn)]
    assert heights[0][0] > heights[0][-1], "the reward model's line rises; in SVG, y grows downwards"
    assert heights[1][0] < heights[1][-1], "the other judge's line falls"
    assert ElementTree.fromstring((tmp_path / "best_of_n_length.svg").read_text(encoding="utf-8")) is not None


@pytest.mark.slow
def test_the_sentences_say_where_the_gain_ends() -> None:
    assert (
        "No k is suggested: the last measured doubling of k=8 still gains 0.1 or more, or keeps 5%"
        in sentences(best_of_n(candidates(40, 8)))[0]
    )
    found = best_of_n(candidates(40, 8), min_gain=5.0)
    assert sentences(found)[0] == "Suggested k: 1. From there on every measured doubling gains less than 5."
    assert "nothing to choose from" in sentences(best_of_n(candidates(3, 1)))[0]


@pytest.mark.slow
def test_the_recipe_measures_candidates_with_a_second_reward_model(
    tiny_reward_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = candidates(6, 4)
    write_rows(tmp_path / "candidates.jsonl", made)
    config = tmp_path / "config.yaml"
    config.write_text(f"candidates: {tmp_path}/candidates.jsonl\noutput_dir: {tmp_path}/plain\n", encoding="utf-8")
    assert read_best_of_n(run(load_config(BestOfNRecipe, config))) == best_of_n(made)
    assert "n  kept" in capsys.readouterr().out

    judged = [f"output_dir={tmp_path}/judged", f"heldout_judge.path={tiny_reward_checkpoint}"]
    judged.append("heldout_judge.dtype=float32")
    found = read_best_of_n(run(load_config(BestOfNRecipe, config, judged)))
    assert found is not None
    assert found.points[0].heldout is not None

    from align.judges.reward_model import RewardModelJudge
    from align.settings import ModelConfig

    judge = RewardModelJudge.from_settings(ModelConfig(path=tiny_reward_checkpoint, dtype="float32"), 4096)
    scores = {one.id: judge.score(one.prompt, [one.completion])[0] for one in made if one.finished}
    of_prompts = [mean(scores[one.id] for one in made if one.prompt_id == str(p) and one.finished) for p in range(6)]
    assert found.points[0].heldout.value == pytest.approx(mean(of_prompts), abs=1e-4)
    best = [max((one for one in made if one.prompt_id == str(p) and one.finished), key=_score) for p in range(6)]
    assert found.points[-1].heldout is not None
    assert found.points[-1].heldout.value == pytest.approx(mean(scores[one.id] for one in best), abs=1e-4)


def _score(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score


@pytest.mark.slow
def test_the_report_of_a_run_shows_the_curve_of_each_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 1 has candidates only, round 2 has a curve with a held-out judge too, and those of round 3 give none.

    In round 4 two stages sample. Quality gates write rows for training under the name of the candidates that they have
    read.
    """
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    run_id = ledger.begin_run("python recipes/rounds.py")

    def stage(
        name: str, number: int, made: Sequence[Candidate] | Sequence[SFTRow], recipe: str = "rejection_sample"
    ) -> Path:
        folder = tmp_path / f"round-{number}" / name
        folder.mkdir(parents=True)
        write_rows(folder / "candidates.jsonl", made)
        record = ledger.begin_stage(
            run_id, label=f"round-{number}/{name}", name=name, round_number=number, recipe=recipe, key="k",
            command="c", config={}, inputs={},
        )  # fmt: skip
        ledger.end_stage(record, "finished", {"out": {"path": str(folder), "blake3": ""}})
        return folder

    first, second = candidates(30, 4), candidates(30, 8, seed=1)
    stage("candidates", 1, first)
    judged = best_of_n(second, {one.id: -_score(one) for one in second})
    write_best_of_n(judged, stage("candidates", 2, second))
    stage("candidates", 3, candidates(2, 2, finished=False))
    kept = SFTRow(id="a", source="test", messages=(first[0].prompt[0], first[0].completion[0]))
    for number in (1, 2):
        stage("quality", number, [kept], recipe="build_data")
    stage("candidates", 4, first)
    stage("candidates-tools", 4, second)
    ledger.close()

    report = read_report(tmp_path, samples=0)
    assert report.best_of_n == {
        "round 1": best_of_n(first),
        "round 2": judged,
        "round 4, candidates": best_of_n(first),
        "round 4, candidates-tools": best_of_n(second),
    }
    assert len({line for line in caplog.messages if "has no best-of-n curve" in line}) == 1
    said = "round 3 has no best-of-n curve: candidates: contain no candidate that may be chosen for any of 2 prompts"
    assert said in caplog.text
    scores, lengths = report.curves
    of_round_4 = ["round 4, candidates", "round 4, candidates-tools"]
    assert list(scores.lines) == ["round 1", "round 2", "round 2, held-out judge", *of_round_4]
    assert scores.dashed == ("round 2, held-out judge",)
    assert [len(points) for points in lengths.lines.values()] == [4, 8, 4, 8]
    shown = page(report)
    assert "<h3>Best of n, round 2</h3>" in shown
    for text in (shown, run_markdown(report), text_table(report)):
        assert "Suggested k: 1, because of the alarm." in text
