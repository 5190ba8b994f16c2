"""Searched weights with real checkpoints and a real evaluation: what is tried, recorded, resumed and left behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import eval.average_search as average_search
from align.config import load_config
from align.errors import CheckpointError, ConfigError
from align.manifest import verify_folder
from align.models.averaging import average_checkpoints
from align.models.checkpoints import checkpoint_fingerprint
from align.publish import sections
from align.publish.searches import weight_search_of
from recipes.average import AverageRecipe
from recipes.average import run as run_average
from recipes.run_eval import RunEvalRecipe
from recipes.run_eval import run as run_eval

PAIRS = 40
SETTINGS = "search: {score: reward_accuracy.accuracy, dtype: float32}\nreward_accuracy: {pairs: %s}\n"


@pytest.fixture
def members(tiny_reward_checkpoint: Path, tmp_path: Path) -> list[Path]:
    """Three reward models with different heads, and pairs for them in tmp_path / "pairs.jsonl"."""
    folders = []
    for number in range(3):
        folder = Path(shutil.copytree(tiny_reward_checkpoint, tmp_path / f"r{number}"))
        tensors = load_file(folder / "model.safetensors")
        generator = torch.Generator().manual_seed(number)
        tensors["score.weight"] = torch.randn(tensors["score.weight"].shape, generator=generator)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    rows = [
        {"prompt": f"Name the number {n}.", "chosen": f"It is {n}.", "rejected": f"I say {n * n % 17} or so."}
        for n in range(PAIRS)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folders


def recipe(tmp_path: Path, members: list[Path], text: str = SETTINGS) -> AverageRecipe:
    file = tmp_path / "average.yaml"
    text = text.replace("%s", str(tmp_path / "pairs.jsonl"))
    file.write_text(f"checkpoints: [{', '.join(map(str, members))}]\noutput_dir: {tmp_path / 'mean'}\n{text}")
    return load_config(AverageRecipe, file)


def accuracy(tmp_path: Path, model: Path) -> float:
    """What recipes/run_eval.py says."""
    text = f"reward_model: {{path: {model}, dtype: float32}}\nreward_accuracy: {{pairs: {tmp_path / 'pairs.jsonl'}}}"
    (tmp_path / "eval.yaml").write_text(f"{text}\noutput_dir: {tmp_path / 'eval'}\n")
    folder = run_eval(load_config(RunEvalRecipe, tmp_path / "eval.yaml"))
    return float(json.loads((folder / "reward_accuracy.json").read_text())["scores"]["accuracy"]["value"])


@pytest.mark.slow
def test_an_interrupted_search_continues_and_its_manifest_has_every_average_with_its_score(
    members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, calls = average_search.run_evaluations, 0

    def interrupted(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments, **more)

    monkeypatch.setattr(average_search, "run_evaluations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_average(recipe(tmp_path, members))
    assert not (tmp_path / "mean").exists()
    mean = run_average(recipe(tmp_path, members))
    assert calls == 3 + 3, "five trials, of which the third was begun twice"
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"r0", "r1", "r2", "mean"}

    manifest = verify_folder(mean)
    search = manifest["search"]
    assert [trial["weights"] for trial in search["trials"]][:3] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert len(search["trials"]) == 5
    assert [one["fingerprint"] for one in search["checkpoints"]] == [checkpoint_fingerprint(path) for path in members]
    assert search["objective"] == max(trial["objective"] for trial in search["trials"])
    assert search["evaluation"]["reward_accuracy"]["pairs"].endswith("pairs.jsonl")
    assert str(tmp_path) not in json.dumps(manifest), "no place of this machine"
    used = [(path, share) for path, share in zip(members, search["weights"], strict=True) if share]
    assert [member["weight"] for member in manifest["averaged"]] == [share for _, share in used]

    shown = weight_search_of(manifest)
    assert shown is not None
    assert shown.checkpoints == tuple(one["checkpoint"] for one in search["checkpoints"])
    assert (
        "by reward_accuracy.accuracy, with the method greedy: 5 averages were evaluated, of at most 16"
        in shown.sentence
    )
    assert re.search(r"on development rows \(reward_accuracy: [^ ]*pairs.jsonl\)", shown.sentence)
    assert [row[2] for row in shown.rows] == [f"{trial['objective']:.4f}" for trial in search["trials"]]
    (chosen,) = (row for row in shown.rows if row[-1] == "chosen")
    assert chosen[0] == ", ".join(f"{share:.3g}" for share in search["weights"])
    value = next(trial for trial in search["trials"] if trial["weights"] == search["weights"])["scores"]
    score = value["reward_accuracy.accuracy"]
    assert chosen[1] == f"{score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})"
    assert f"| {chosen[0]} | {chosen[1]} | {chosen[2]} | chosen |" in sections.search(manifest)
    del search["trials"][0]["scores"]
    assert weight_search_of(manifest) is None, "a record that cannot be read says nothing"
    assert sections.search({"averaged": manifest["averaged"]}) == "", "weights that were given"

    last = search["trials"][-1]
    kept = [path for path, share in zip(members, last["weights"], strict=True) if share]
    assert accuracy(tmp_path, average_checkpoints(kept, tmp_path / "by-hand")) == last["objective"]
    plain = average_checkpoints([path for path, _ in used], tmp_path / "plain", [share for _, share in used])
    assert (plain / "model.safetensors").read_bytes() == (mean / "model.safetensors").read_bytes()


def test_checkpoints_that_have_no_mean_are_refused_before_anything_is_evaluated(
    members: list[Path], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(average_search, "run_evaluations", lambda *_, **__: pytest.fail("evaluated"))
    with pytest.raises(CheckpointError, match="has architectures"):
        run_average(recipe(tmp_path, [*members[:2], tiny_checkpoint]))
    (tmp_path / "mean").mkdir()
    (tmp_path / "mean" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="mean holds files that this recipe did not write"):
        run_average(recipe(tmp_path, members))
    assert not list(tmp_path.glob(".mean*"))


ACCURACY = "search: {score: reward_accuracy.accuracy"


@pytest.mark.parametrize(
    "text, message",
    [
        ("reward_accuracy: {pairs: p}", "reward_accuracy: evaluations are read by search, which is missing"),
        (ACCURACY + "}", "search.score names reward_accuracy, which requires the section reward_accuracy"),
        ("search: {score: reward_rate.x}", "search.score names reward_rate; expected one of factuality"),
        (
            ACCURACY + "}\nreward_accuracy: {pairs: p}\nmaths: {problems: p}",
            "the section maths is given, and search.score names none of its scores",
        ),
        (
            "search: {score: {reward_accuracy.accuracy: 1, maths.exact: 1}}\nreward_accuracy: {pairs: p}\n"
            "maths: {problems: p}",
            "search.score names scores of a model and of a reward_model",
        ),
        (
            ACCURACY
            + ", sampling: {backend: server, server: {base_urls: [http://a/v1]}}}\nreward_accuracy: {pairs: p}",
            "a server does not load the averages",
        ),
        (
            ACCURACY + ", method: grid, max_evaluations: 14}\nreward_accuracy: {pairs: p}",
            "search.max_evaluations is 14, and the method grid needs 15 for 3 checkpoints",
        ),
        (ACCURACY + ", weights: [1]}\nreward_accuracy: {pairs: p}", "search.weights: is not a setting"),
    ],
)
def test_a_search_that_cannot_run_is_refused_at_once(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(tmp_path, [Path("a"), Path("b"), Path("c")], text)


def test_given_weights_and_a_search_are_refused_together(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "checkpoints: [{path: a, weight: 0.5}, {path: b, weight: 0.5}]\noutput_dir: out\n" + SETTINGS % "pairs.jsonl"
    )
    with pytest.raises(ConfigError, match="checkpoints have weights, and search would choose others"):
        load_config(AverageRecipe, tmp_path / "c.yaml")


def test_only_a_search_depends_on_the_code_of_evaluations(tmp_path: Path) -> None:
    assert recipe(tmp_path, [Path("a")], "").code_modules() == ("align.models.averaging",)
    searched = recipe(tmp_path, [Path("a")], SETTINGS).code_modules()
    assert {"align.models.averaging", "eval.average_search", "eval.reward_accuracy"} < set(searched)
