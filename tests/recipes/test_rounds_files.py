"""The shipped files of rounds: what each stage reads is what an earlier one writes, under the same paths everywhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from align.config import load_config
from align.rounds.plan import RoundsConfig, load_stages, recipe_class
from align.rounds.stage import Stage, within
from align.settings import INPUT, OUTPUT, paths_of

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes/configs/rounds").glob("*.yaml"))
WRITES = {  # recipe or builder -> the files in its folder that other stages may read, as expressions
    "knowledge_probe": r"sft\.jsonl|preferences\.jsonl",
    "document_questions": r"questions\.jsonl",
    "tool_trajectories": r"trajectories\.jsonl|preferences\.jsonl",
    "quality": r"rows\.jsonl|(probe|tools|candidates)\.jsonl",
    "sft_mix": r"sft\.jsonl",
    "rejection_sample": r"sft\.jsonl|preferences\.jsonl|candidates\.jsonl",
    "weak_prompts": r"prompts\.jsonl",
    "collect": r"preferences\.jsonl|ratings\.jsonl",
    "instructions": r"instructions\.(round-\d|heldout)\.jsonl",
    "maths": r"maths\.(round-\d|heldout|examples)\.jsonl",
    "rehearsal": r"(preferences|tools|questions|prompts)(\.heldout)?\.jsonl|questions\.dev\.jsonl|"
    r"(questions|prompts)\.round-\d\.jsonl",
}
LAST = {"report.html", "report.md", "eval"}
"""Outputs that no stage has to read."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@cache
def planned(file: Path) -> tuple[RoundsConfig, list[Stage]]:
    config = load_config(RoundsConfig, file)
    return config, load_stages(config, Path("recipes"))


def files_of(stage: Stage) -> str:
    if stage.recipe == "run_eval":
        return "|".join(rf"{name}\.json" for name in stage.config.sections)  # type: ignore[attr-defined]
    if stage.recipe != "build_data":
        return WRITES.get(stage.recipe, "")
    builders = [name for name in type(stage.config).catalogue() if getattr(stage.config, name, None)]  # type: ignore[attr-defined]
    return WRITES[builders[0]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_stages_are_those_of_the_shared_file_with_the_changes_of_each(file: Path) -> None:
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    shared = yaml.safe_load((ROOT / written["stages"]).read_text(encoding="utf-8"))
    config, stages = planned(file)
    for part in ("once", "each_round", "after"):
        in_order = [stage["name"] for stage in shared[part]]
        all_names = [stage.name for stage in getattr(config.all_stages, part)]
        assert [name for name in all_names if name in in_order] == in_order, "every shared stage, in their order"
        assert set(all_names) == {*in_order, *(stage["name"] for stage in written.get(part, ()))}
    rounds = config.all_stages.each_round
    numbers = range(1, config.rounds + 1)
    expected = [f"round-{number}/{each.name}" for number in numbers for each in rounds if number >= each.first_round]
    assert [stage.label for stage in stages if stage.round] == expected
    assert len(expected) > len(rounds) > 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_stage_reads_what_an_earlier_one_writes(file: Path) -> None:
    config, stages = planned(file)
    followed, read = 0, set()
    for place, stage in enumerate(stages):
        for key, path in stage.inputs.items():
            if not within(path, config.run_dir) or within(config.run_dir, path):
                continue
            makers = [(each, out) for each in stages[:place] for out in each.outputs.values() if within(path, out)]
            assert len(makers) == 1, f"{stage.label}: {key} reads {path}, which {len(makers)} stages write"
            (maker, folder) = makers[0]
            read.add(folder)
            followed += 1
            if path != folder:
                assert re.fullmatch(files_of(maker), path.name), f"{stage.label}: {maker.label} writes no {path.name}"
    for rule in config.rules.values():
        read |= {config.run_dir / f"round-{number}/{rule.evaluation}" for number in range(1, config.rounds + 1)}
        read |= {config.run_dir / str(rule.start_evaluation)}
    unread = {out for stage in stages for out in stage.outputs.values() if out not in read and out.name not in LAST}
    assert not unread, "written for nothing"
    assert followed > 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_reward_model_reads_all_batches_and_dpo_the_latest(file: Path) -> None:
    """Fact sheet of Llama 3, section 4.2.1: preferences of all rounds for the reward model, the latest for DPO."""
    config, stages = planned(file)
    for stage in stages:
        if stage.recipe == "dpo":
            rows = config.run_dir / f"round-{stage.round}" / "quality-preferences" / "rows.jsonl"
            assert [path for path in stage.inputs.values() if path.suffix == ".jsonl"] == [rows]
        if stage.name not in ("reward", "quality-preferences"):
            continue
        expected = [*range(1, stage.round + 1)] if stage.recipe == "reward" else [stage.round]
        made = [
            config.run_dir / f"round-{number}" / "collect" / "preferences.jsonl" for number in expected if number > 1
        ]
        assert [path for path in stage.inputs.values() if path.parent.name == "collect"] == made
        sources = [found for key in stage.inputs if (found := stage.source_of(key)) is not None]
        assert len(sources) == 1 or expected[0] > 1, "without a file for this round, the collected batch is the latest"
        for source in sources:
            assert source.path.endswith("/preferences.jsonl")
            assert source.rounds is not None
            assert [number for number in range(1, config.rounds + 1) if number in source.rounds] == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_best_model_is_chosen_without_held_out_rows(file: Path) -> None:
    config, stages = planned(file)
    by_label = {stage.label: stage for stage in stages}
    chosen_by = [by_label[f"round-1/{config.best.evaluation}"], by_label["round-1/average"]]
    rows = [path for stage in chosen_by for path in stage.inputs.values() if path.suffix == ".jsonl"]
    assert rows
    assert not [path for path in rows if "heldout" in path.name]
    trained = {path for stage in stages if stage.recipe in ("sft", "dpo", "reward") for path in stage.inputs.values()}
    assert trained.isdisjoint(rows)


def test_every_8b_config_has_the_paths_of_the_rounds() -> None:
    config, stages = planned(next(file for file in FILES if file.stem == "llama3.1-8b"))
    read = {path for stage in stages for path in stage.inputs.values()}
    written = {path for stage in stages for path in stage.outputs.values()}
    files = sorted((ROOT / "recipes/configs").glob("*/llama3.1-8b*.yaml"))
    own = (config.run_dir, Path("data/llama3.1-8b"))
    checked = 0
    for file in files:
        if file.parent.name == "rounds":
            continue
        loaded = load_config(recipe_class(Path("recipes"), file.parent.name), file)
        for key, path in paths_of(loaded, INPUT).items():
            if any(within(path, folder) for folder in own):
                checked += 1
                assert path in read | written, f"{file.name}: {key}: no stage of the rounds reads or writes {path}"
        for key, path in paths_of(loaded, OUTPUT).items():
            if within(path, config.run_dir) and path.suffix != ".sqlite":
                checked += 1
                assert path in written, f"{file.name}: {key}: no stage of the rounds writes {path}"
    assert len(files) > 10
    assert checked > 25
