"""Rows that are encoded before the run: it finds them, whatever it trains, and encodes nothing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from align.config import config_from_argv, load_config
from align.errors import ConfigError
from align.jsonl import write_rows
from align.manifest import SEAL
from align.rounds.plan import recipe_class
from align.rows import Message, PreferenceRow, SFTRow

RECIPES = Path(__file__).parents[2] / "recipes"
USER = Message(role="user", content="What is the capital of France?")


def says(text: str) -> Message:
    return Message(role="assistant", content=text)


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A model without weights, rows, and a config of each recipe that trains."""
    (tmp_path / "model").mkdir()
    for file in tiny_checkpoint.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, tmp_path / "model")
    write_rows(
        tmp_path / "sft.jsonl", [SFTRow(id=f"d{n}", source="t", messages=(USER, says(f"{n}"))) for n in range(30)]
    )
    pairs = [((says(f"Paris {n}"),), (says("Rome"),), (says("I do not know"),)) for n in range(30)]
    rows = [PreferenceRow(id=f"p{n}", source="t", prompt=(USER,), completions=pair) for n, pair in enumerate(pairs)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    for stage, name in (("sft", "sft"), ("dpo", "pairs"), ("reward", "pairs")):
        (tmp_path / stage).mkdir()
        config = {
            "model": {"path": str(tmp_path / "model")},
            "data": {"path": str(tmp_path / f"{name}.jsonl"), "eval_path": str(tmp_path / f"{name}.jsonl")},
            "training": {"output_dir": str(tmp_path / "runs" / stage)},
        }
        (tmp_path / stage / "small.yaml").write_text(json.dumps(config))
    return tmp_path


def encode(*words: str) -> Path:
    cls = recipe_class(RECIPES, "encode")
    found: Path = sys.modules[cls.__module__].run(config_from_argv(cls, list(words)))
    return found


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
def test_a_run_finds_the_rows_and_encodes_nothing(folder: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from align.models.loading import load_tokenizer_for
    from align.trainers import data

    output = encode(str(folder / stage / "small.yaml"), "set.data.token_budget=500")
    assert output == folder / "runs" / stage
    names = {"trees.arrow", "dropped.json", "eval_trees.arrow", "eval_dropped.json"}
    assert {file.name for file in output.iterdir()} == names, "no lock, no start of a run"
    recipe = load_config(recipe_class(RECIPES, stage), folder / stage / "small.yaml", ["data.token_budget=500"])

    def again(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(data, "encoded", again)
    _, protocol = load_tokenizer_for(recipe.model)
    trees, held_out = data.trees_of_run(stage, recipe, protocol)
    assert len(trees) == len(held_out) == 30
    assert len(trees[0].branches) == {"sft": 1, "dpo": 2, "reward": 3}[stage]
    recipe = load_config(recipe_class(RECIPES, stage), folder / stage / "small.yaml", ["data.token_budget=501"])
    with pytest.raises(AssertionError, match="encoded again"):
        data.trees_of_run(stage, recipe, protocol)


def test_a_config_of_another_recipe_is_refused(folder: Path) -> None:
    (folder / "sft").rename(folder / "mine")
    with pytest.raises(ConfigError, match=r"mine is no recipe that trains.*sft, dpo, reward"):
        encode(str(folder / "mine" / "small.yaml"))
    assert encode(str(folder / "mine" / "small.yaml"), "recipe=sft") == folder / "runs" / "sft"


def test_saved_work_is_left_alone(folder: Path) -> None:
    output = folder / "runs" / "sft"
    (output / "checkpoint-3").mkdir(parents=True)
    (output / "checkpoint-3" / SEAL).write_text("{}")
    encode(str(folder / "sft" / "small.yaml"))
    assert [file.name for file in output.iterdir()] == ["checkpoint-3"]


def test_a_model_that_is_missing_or_rows_that_are_missing_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl.*cannot be read"):
        encode(str(folder / "sft" / "small.yaml"), f"set.data.path={folder}/none.jsonl")
    assert not (folder / "runs").exists()
