"""Facts of preference data that builders leave in their reports and manifests."""

from __future__ import annotations

import json
from pathlib import Path

from align.manifest import write_data_manifest
from align.rounds.ledger import StageRecord
from eval.reports.preferences import preference_facts


def record(name: str, made: Path, round_number: int | None = None) -> StageRecord:
    outputs = {"out": {"path": str(made), "blake3": ""}}
    return StageRecord(1, 1, name, name, round_number, name, "k", "finished", "c", {}, {}, outputs, 0.0, 1.0)


def test_judgements_of_the_raters_page_are_counted_with_their_preference_for_a_side(tmp_path: Path) -> None:
    counts = {"rows": 20, "judgements": 24, "raters": {"ann": 12, "bob": 12}, "edited": 3}
    counts |= {"left_is_better": 15, "right_is_better": 5}
    (tmp_path / "ratings.jsonl").write_text("{}\n")
    write_data_manifest(tmp_path / "ratings.jsonl", config={}, counts=counts)
    assert preference_facts([record("collect", tmp_path, 2)]) == {
        "round-2/collect": {
            "judgements": "24 by 2 raters",
            "answers edited by raters": "3",
            "left is better": "75% of 20",
        }
    }


def test_a_probe_says_how_far_rules_and_a_model_agree(tmp_path: Path) -> None:
    found = {"judges": {"answers": 1200, "agree": 0.934, "alpha": None}}
    (tmp_path / "map.json").write_text(json.dumps(found))
    assert preference_facts([record("probe", tmp_path, 1)]) == {
        "round-1/probe": {
            "answers judged by rules and by a model": "1,200",
            "judges agree": "93%",
            "alpha of judges": "-",
        }
    }


def test_stages_without_preferences_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"judges": {"rules": {}}}))
    assert preference_facts([record("probe", tmp_path), record("sft", tmp_path / "missing")]) == {}
