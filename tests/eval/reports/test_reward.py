"""Runs that belong together are pooled over questions, and columns are compared with each other pair by pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.config import load_config
from align.errors import StageError
from eval.intervals import clustered_share
from eval.reports.reward import markdown, read_columns
from recipes.reward_report import RewardReportRecipe, run


def result(path: Path, points: dict[str, list[int]]) -> Path:
    """A result in which the pairs of each question are ranked right (1) or wrong (0)."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"{question}-{number}",
            "prompt": question,
            "level": "better",
            "scores": [float(point), 0.5],
            "characters": [4 + number, 4],
        }
        for question, found in points.items()
        for number, point in enumerate(found)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": "reward_accuracy", "rows": rows}))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[Path]]:
    """Two runs a column: one holds out the questions a, the other the questions b."""
    good = [{f"{part}{number}": [1, 1, number % 2] for number in range(20)} for part in "ab"]
    poor = [{question: [0, *points[1:]] for question, points in part.items()} for part in good]
    return {
        "good": [result(tmp_path / f"good-{number}.json", part) for number, part in enumerate(good)],
        "poor": [result(tmp_path / f"poor-{number}.json", part) for number, part in enumerate(poor)],
    }


@pytest.mark.slow
def test_parts_that_were_held_out_in_turn_are_one_share_over_all_questions(runs: dict[str, list[Path]]) -> None:
    columns = read_columns(runs)
    points = [float(point) for number in range(40) for point in (1, 1, number % 2)]
    asked = [str(number) for number in range(40) for _ in range(3)]
    assert columns["good"].scores["accuracy"] == pytest.approx(clustered_share(points, asked), abs=0.01)
    assert [run.value for run in columns["good"].runs] == pytest.approx([5 / 6, 5 / 6])
    assert columns["good"].gains["poor"][0] == pytest.approx(1 / 3)
    assert columns["poor"].gains["good"] == pytest.approx((-1 / 3, -1 / 3, -1 / 3)), "each question loses one of three"


@pytest.mark.slow
def test_seeds_that_scored_the_same_questions_do_not_make_them_more(runs: dict[str, list[Path]]) -> None:
    once = read_columns({"good": runs["good"]})["good"].scores["accuracy"]
    thrice = read_columns({"good": runs["good"] * 3})["good"].scores["accuracy"]
    assert once is not None
    assert thrice is not None
    assert thrice.n == 3 * once.n
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.25)


@pytest.mark.slow
def test_the_recipe_prints_and_writes_the_same_table(
    runs: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "report.yaml"
    config.write_text(
        json.dumps({"runs": {k: list(map(str, v)) for k, v in runs.items()}, "output_dir": str(tmp_path)})
    )
    path = run(load_config(RewardReportRecipe, config))
    text = path.read_text()
    assert capsys.readouterr().out == text == markdown(read_columns(runs))
    cells = {line.split(" | ")[0].strip("| "): line.strip("| \n").split(" | ")[1:] for line in text.splitlines()}
    assert cells["accuracy"][0].startswith("83.3% (")
    assert cells["accuracy of each run"] == ["83.3%, 83.3%", "50.0%, 50.0%"]
    assert cells["gain over poor, percentage points"][0] == "+33.3 (+33.3 to +33.3)"
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["good"]["scores"]["accuracy"]["n"] == 120


@pytest.mark.parametrize(
    "text", ["", '{"name": "factuality", "rows": []}', '{"name": "reward_accuracy", "rows": [{}]}']
)
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(StageError, match=r"other\.json: is not a result of reward_accuracy\. .*run_eval"):
        read_columns({"one": [path]})
