"""`rounds.py trace`: rows and checkpoints followed back to raw records, raters, seeds, scores and models."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from align.cli import RECIPES
from align.errors import ConfigError
from align.jsonl import write_rows
from align.manifest import write_folder_manifest
from align.rounds.commands import answered
from align.rounds.decisions import LEDGER
from align.rounds.finished import described
from align.rounds.ledger import Ledger
from align.rounds.trace import trace_text
from align.rows import Candidate, Message, PromptRow, SFTRow
from align.sampling.selection import best_and_worst, best_of
from data_builders.preferences.builder import PreferencesConfig
from data_builders.preferences.builder import build as build_preferences
from data_builders.quality.builder import QualityConfig
from data_builders.quality.builder import build as build_quality
from data_builders.quality.mix import SFTMixConfig
from data_builders.quality.mix import build as build_mix

QUESTION = "Wie heißt die Hauptstadt von Frankreich, bitte?"


def said(role: str, content: str) -> tuple[Message, ...]:
    return (Message(role=role, content=content),)  # type: ignore[arg-type]


def record(ledger: Ledger, label: str, inputs: dict[str, Path], output: Path, **config: object) -> None:
    """Write a stage that ended well into the ledger, as the driver does."""
    name, number = label.rpartition("/")[2], 1 if "/" in label else None
    paths = {key: {"path": str(path), "blake3": "-"} for key, path in inputs.items()}
    started = ledger.begin_stage(
        1, label=label, name=name, round_number=number, recipe="r", key="k", command="c", config=config, inputs=paths
    )
    ledger.end_stage(started, "finished", described({"output": output}))
    with sqlite3.connect(ledger.path) as db:
        db.execute("UPDATE stages SET ended = started + id WHERE id = ?", (started,))


def sealed(folder: Path, **notes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    write_folder_manifest(folder, [folder / "config.json"], notes)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of two raters and prompts from outside; preferences, candidates, a mix, and models of one round."""
    root = tmp_path_factory.mktemp("trace")
    run, first = root / "run", root / "run" / "round-1"
    ratings = [
        {
            "prompt": f"{number}?",
            "responses": ["Yes it is.", "No."],
            "ratings": [{"rater": name, "chosen": 0} for name in ("ann", "bob")],
        }
        for number in range(4)
    ]
    (root / "ratings.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ratings))
    (root / "prompts.jsonl").write_text(json.dumps({"prompt": QUESTION}, ensure_ascii=False) + "\n")
    build_preferences(PreferencesConfig(path=root / "ratings.jsonl", heldout_ratio=0), run / "data")
    prompt = PromptRow(id="p1", source="geo", prompt=said("user", QUESTION))
    run.joinpath("prompts").mkdir()
    write_rows(run / "prompts" / "prompts.jsonl", [prompt])
    base = sealed(root / "base", config={"model": {"path": "meta-llama/Llama-3.1-8B"}})
    reward = sealed(first / "reward", config={})
    candidates = [
        Candidate(
            **{"id": f"c{place}", "source": "geo", "prompt_id": "p1", "prompt": prompt.prompt, "index": place},
            **{"completion": said("assistant", text), "seed": 70 + place, "finished": True, "score": score},
            **{"model": "base", "round": 1, "temperature": 0.5},
        )
        for place, (text, score) in enumerate((("Paris.", 2.5), ("Lyon.", -1.0)))
    ]
    sampled = first / "candidates"
    sampled.mkdir()
    write_rows(sampled / "candidates.jsonl", candidates)
    write_rows(sampled / "sft.jsonl", best_of(candidates).rows)
    write_rows(sampled / "preferences.jsonl", best_and_worst(candidates, 1.0).rows)
    (sampled / "units").mkdir()
    (sampled / "units" / "units.json").write_text("{}")
    (sampled / "units" / "unit-00000.jsonl").write_text((sampled / "candidates.jsonl").read_text())
    loud = SFTRow(id="loud", source="people", messages=(*said("user", "Hi?"), *said("assistant", "Hello!!!!!!")))
    write_rows(run / "data" / "tools.jsonl", [loud])
    gates = {"duplicates": {"near": False}, "decontamination": {"benchmarks": ()}}
    passed = {"candidates": sampled / "sft.jsonl", "tools": run / "data" / "tools.jsonl"}
    build_quality(QualityConfig(sources=passed, **gates), first / "quality")
    source = {"path": first / "quality" / "candidates.jsonl", "weight": 2}
    build_mix(SFTMixConfig.model_validate({"sources": {"candidates": source}}), first / "mix")
    sft = sealed(first / "sft", config={})
    ledger = Ledger(run / LEDGER)
    ledger.begin_run("rounds")
    record(ledger, "data", {"preferences.path": root / "ratings.jsonl"}, run / "data", preferences={"seed": 3})
    record(ledger, "prompts", {"path": root / "prompts.jsonl"}, run / "prompts")
    record(ledger, "round-1/reward", {"model.path": base, "data.path": run / "data" / "preferences.jsonl"}, reward)
    inputs = {"model.path": base, "reward_model.path": reward, "prompts": run / "prompts" / "prompts.jsonl"}
    record(ledger, "round-1/candidates", inputs, sampled, seed=11)
    record(
        ledger, "round-1/quality", {f"quality.sources.{key}": path for key, path in passed.items()}, first / "quality"
    )
    record(ledger, "round-1/mix", {"sources.candidates": first / "quality" / "candidates.jsonl"}, first / "mix")
    record(
        ledger, "round-1/sft", {"model.path": base, "data.path": first / "mix" / "sft.jsonl"}, sft, training={"seed": 5}
    )
    members = {"checkpoints": [{"path": str(sft), "weight": 0.75}]}
    record(ledger, "round-1/average", {"checkpoints.0.path": sft}, sealed(first / "average", averaged=[]), **members)
    ledger.close()
    return run


def lines_of(run: Path, target: str) -> list[str]:
    text = trace_text(run, target, Ledger(run / LEDGER, in_memory=True))
    return [re.sub(r" at \d{4}-\d\d-\d\d \d\d:\d\d", "", line).replace(str(run), "RUN") for line in text.splitlines()]


def test_a_row_of_the_mix_is_followed_to_candidate_prompt_seed_score_and_models(run: Path) -> None:
    lines = lines_of(run, "c0.1")
    mixed = (run / "round-1" / "mix" / "sft.jsonl").read_text().splitlines()
    number = next(place for place, line in enumerate(mixed, 1) if '"id":"c0.1"' in line)
    assert lines[:3] == [
        "c0.1",
        f"  RUN/round-1/mix/sft.jsonl:{number}",
        "    source rejection-sampling/geo, score 2.5, model base, round 1",
    ]
    assert "    made by round-1/mix" in lines
    assert "    read by round-1/sft (data.path)" in lines
    assert "  RUN/round-1/quality/candidates.jsonl:1" in lines
    assert "    read by round-1/quality (quality.sources.candidates)" in lines
    place = lines.index("  RUN/round-1/candidates/candidates.jsonl:1")
    assert (
        lines[place + 1]
        == "    source geo, index 0, seed 70, temperature 0.5, finished True, score 2.5, model base, round 1"
    )
    assert "    made by round-1/candidates (seed 11)" in lines
    assert f"      model.path: {run.parent}/base" in lines
    assert "      reward_model.path: RUN/round-1/reward" in lines
    assert lines[lines.index("p1") + 1] == "  RUN/prompts/prompts.jsonl:1"
    assert "    read by round-1/candidates (prompts)" in lines
    at = lines.index("the same prompt in a file from outside the run")
    assert lines[at + 1] == f"  {run.parent}/prompts.jsonl:1"
    assert not [line for line in lines if "units" in line]


def test_a_dropped_row_says_which_gate_dropped_it_and_why(run: Path) -> None:
    lines = lines_of(run, "loud")
    place = lines.index("  RUN/round-1/quality/dropped.jsonl:1")
    assert lines[place + 1].endswith("source people, gate rules, reason too many exclamation marks, detail 6")
    assert lines[place + 2] == "    made by round-1/quality"
    assert "    read by round-1/quality (quality.sources.tools)" in lines
    assert not [line for line in lines if "mix" in line]


def test_a_preference_is_followed_to_its_raters_and_its_raw_record(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "data" / "preferences.jsonl").read_text().splitlines()]
    row = rows[2]
    lines = lines_of(run, row["id"])
    assert "  RUN/data/preferences.jsonl:3" in lines
    assert any("raters ann, bob" in line for line in lines)
    assert "    made by data (preferences.seed 3)" in lines
    raw = next(line for line in lines if line.startswith(row["made_from"][0]))
    assert f"record of {run.parent}/ratings.jsonl" in raw
    prompt = row["prompt"][0]["content"]
    number = int(row["made_from"][0].rpartition(":")[2])
    assert prompt == f"{number - 1}?", "the record in that line of the file"
    assert lines[-1].startswith(f'  {{"prompt": "{prompt}"')


def test_a_sampled_pair_is_followed_to_both_candidates(run: Path) -> None:
    (row,) = (json.loads(line) for line in (run / "round-1/candidates/preferences.jsonl").read_text().splitlines())
    lines = lines_of(run, row["id"])
    assert [line for line in lines if line in ("c0", "c1", "p1")] == ["c0", "c1", "p1"]


def test_a_checkpoint_is_followed_to_data_reward_model_and_base(run: Path) -> None:
    for target in ("round-1/average", str(run / "round-1" / "average")):
        lines = lines_of(run, target)
        assert lines[:3] == [
            "RUN/round-1/average",
            "  made by round-1/average",
            "    checkpoints.0.path (weight 0.75): RUN/round-1/sft",
        ]
        assert "      made by round-1/sft (training.seed 5)" in lines
        assert "        data.path: RUN/round-1/mix/sft.jsonl (2 rows)" in lines
        assert "                    reward_model.path: RUN/round-1/reward" in lines
        assert f"preferences.path: {run.parent}/ratings.jsonl" in map(str.strip, lines)
        assert "model on the Hub: meta-llama/Llama-3.1-8B" in map(str.strip, lines)


def test_a_run_that_was_copied_is_traced_to_its_own_files(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy" / "run")
    lines = lines_of(copy, "c0.1")
    assert "    made by round-1/mix" in lines
    assert "  RUN/round-1/candidates/candidates.jsonl:1" in lines
    assert not [line for line in lines_of(copy, "round-1/average") if str(run) in line]


def test_what_is_no_file_and_no_row_is_one_message(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"c9: is no file, and no row of .*run has this id. Give the id of a row"):
        trace_text(run, "c9", Ledger(run / LEDGER, in_memory=True))
    before = sorted(run.rglob("*"))
    assert answered(["trace", str(run), "c1"], RECIPES)
    assert "candidates.jsonl:2" in capsys.readouterr().out
    assert sorted(run.rglob("*")) == before
