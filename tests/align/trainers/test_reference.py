"""The reference's log-probabilities on disk: shards whole or not at all, keys, other plans, runs that are killed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import align.trainers.reference
from align.errors import CheckpointError
from align.jsonl import write_rows
from align.reporting import logger
from align.rows import Message, PreferenceRow
from align.settings import ModelConfig
from align.trainers.reference import (
    ReferenceCache,
    checkpoint_fingerprint,
    reference_key,
    rows_fingerprint,
)
from align.tree.encode import PromptTree, Segment
from align.tree.pack import RunPlan, TreeBatch
from tests.processes import PYTHON, ZERO3, Started, run


def tree(number: int) -> PromptTree:
    branches = []
    for branch in range(2):
        ids = [number, branch, *range(1 + (3 * number + branch) % 5)]
        branches.append(Segment(ids, [True] * len(ids), [True] * len(ids)))
    return PromptTree(f"t{number}", [7] * (1 + number % 4), tuple(branches))


TREES = [tree(number) for number in range(1, 30)]
EXACT = np.array([[sum(b.ids) / 4 + len(t.prompt) for b in t.branches] for t in TREES], dtype=np.float32)
"""What `Model` gives, worked out from the trees."""


class Model:
    """A fake policy: one value for each branch, from its tokens and the length of its prompt. Counts its calls."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.calls = 0
        self.dies_after = dies_after

    def __call__(self, batch: TreeBatch) -> torch.Tensor:
        if self.calls == self.dies_after:
            raise KeyboardInterrupt
        self.calls += 1
        values = []
        parts = batch.labels.split(batch.label_counts.tolist())
        first_sources = [part[0] for part in batch.sources.split(batch.label_counts.tolist())]
        for ids, source in zip(parts, first_sources, strict=True):
            values.append(ids.sum() / 4 + batch.position_ids[0, source] + 1)
        return torch.stack(values)


def plan(seed: int = 0, batch_size: int = 4, processes: int = 1, process: int = 0, **changed) -> RunPlan:
    settings = {"epochs": 1.0, "max_steps": None} | changed
    return RunPlan(
        [each.tokens for each in TREES],
        batch_size=batch_size,
        token_budget=30,
        seed=seed,
        processes=processes,
        process=process,
        **settings,
    )


def cache(folder: Path, of: RunPlan | None = None, shard_steps: int = 2, trees: Sequence[PromptTree] = TREES):
    return ReferenceCache(folder, {"key": "test"}, trees, of or plan(), torch.device("cpu"), shard_steps)


def logps(made: ReferenceCache, model: Model, resumed: bool = False):
    return made.logps(model, lambda question: question(), resumed=resumed)


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*.safetensors")}


def times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}


def passes(steps: Sequence[int], of: RunPlan) -> int:
    return sum(len(of[step].bins) for step in steps)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture):
    """What is logged; our logger does not propagate."""
    logger("align")
    ours = logging.getLogger("align")
    ours.addHandler(caplog.handler)
    yield caplog
    ours.removeHandler(caplog.handler)


@pytest.mark.slow
def test_values_stand_by_the_trees_place_and_are_made_once(tmp_path: Path) -> None:
    model = Model()
    made = logps(cache(tmp_path), model)
    assert np.array_equal(made.logps, EXACT)
    assert made.logps.dtype == np.float32
    assert made.same_batches
    assert model.calls == passes(range(8), plan())
    assert len(shards(tmp_path)) == 4, "eight steps, two to a shard"
    again = Model()
    read = logps(cache(tmp_path), again, resumed=True)
    assert again.calls == 0
    assert read.logps.tobytes() == made.logps.tobytes()
    assert read.same_batches


@pytest.mark.slow
def test_a_pass_that_is_cut_off_keeps_its_finished_shards(tmp_path: Path) -> None:
    logps(cache(tmp_path / "whole"), Model())
    with pytest.raises(KeyboardInterrupt):
        logps(cache(tmp_path / "cut"), Model(dies_after=passes(range(5), plan())))
    before = times(tmp_path / "cut")
    assert len(before) == 2, "the fifth step's shard was not yet whole"
    again = Model()
    assert np.array_equal(logps(cache(tmp_path / "cut"), again).logps, EXACT)
    assert again.calls == passes(range(4, 8), plan())
    after = times(tmp_path / "cut")
    assert {name: after[name] for name in before} == before
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")


@pytest.mark.slow
def test_a_flipped_bit_is_found_and_the_shard_made_again(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    logps(cache(tmp_path), Model())
    whole = shards(tmp_path)
    name = sorted(whole)[1]
    (file,) = tmp_path.rglob(name)
    found = 0
    for place in range(0, len(whole[name]), 7):
        content = bytearray(whole[name])
        content[place] ^= 4
        file.write_bytes(content)
        model = Model()
        made = logps(cache(tmp_path), model)
        assert np.array_equal(made.logps, EXACT), f"byte {place}"
        if model.calls:
            assert model.calls == passes(range(2, 4), plan())
            assert shards(tmp_path) == whole
            found += 1
    assert found > 20
    warned = [record for record in said.records if "its rows are computed again" in record.getMessage()]
    assert len(warned) == found
    assert any("does not match its checksum" in record.getMessage() for record in warned)


@pytest.mark.slow
def test_a_torn_shard_is_made_again(tmp_path: Path) -> None:
    logps(cache(tmp_path), Model())
    whole = shards(tmp_path)
    (file,) = tmp_path.rglob(sorted(whole)[0])
    for length in (0, 5, 40, len(whole[file.name]) - 1):
        file.write_bytes(whole[file.name][:length])
        assert np.array_equal(logps(cache(tmp_path), Model()).logps, EXACT)
        assert shards(tmp_path) == whole


@pytest.mark.parametrize("target", ["gone", "itself"])
def test_a_link_to_nothing_in_the_place_of_a_shard_is_made_again(
    target: str, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    logps(cache(tmp_path), Model())
    whole = shards(tmp_path)
    (file,) = tmp_path.rglob(sorted(whole)[0])
    file.unlink()
    file.symlink_to(file if target == "itself" else tmp_path / "gone")
    assert cache(tmp_path)._read_files() is not None, "another try would find the same link, again and again"
    model = Model()
    assert np.array_equal(logps(cache(tmp_path), model).logps, EXACT)
    assert model.calls == passes(range(2), plan())
    assert shards(tmp_path) == whole
    assert f"its rows are computed again: {file}: cannot be read" in said.text


@pytest.mark.slow
def test_a_resumed_run_without_its_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"of 8 optimizer steps are missing or damaged.*The weights have changed since"
    ):
        logps(cache(tmp_path), Model(), resumed=True)
    logps(cache(tmp_path), Model())
    next(tmp_path.rglob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="of 2 optimizer steps are missing or damaged"):
        logps(cache(tmp_path), Model(), resumed=True)


@pytest.mark.slow
def test_another_plan_takes_what_is_there_by_row_and_makes_the_rest(tmp_path: Path) -> None:
    half = plan(max_steps=3)
    partial = logps(cache(tmp_path, half), Model())
    known = sorted(row for step in range(3) for row in half[step].rows)
    assert np.array_equal(partial.logps[known], EXACT[known])
    assert np.isnan(np.delete(partial.logps, known, axis=0)).all(), "what was not made cannot be mistaken for a value"
    other, model = plan(seed=1, batch_size=3), Model()
    made = logps(cache(tmp_path, other), model)
    assert np.array_equal(made.logps, EXACT)
    missing = [step for step in range(len(other)) if set(other[step].rows) - set(known)]
    assert model.calls == passes(missing, other)
    third = plan(seed=2)
    assert not logps(cache(tmp_path, third), Model()).same_batches
    assert logps(cache(tmp_path, other), Model()).same_batches == (0 in missing)


@pytest.mark.slow
def test_two_processes_write_their_own_shards_and_one_reads_them_all(tmp_path: Path) -> None:
    written = []
    for process in range(2):
        mine, model = cache(tmp_path, plan(processes=2, process=process)), Model()
        made = mine._make(range(8), model)
        written.append((made != 0).any(axis=1))
        assert model.calls == passes(range(8), plan(processes=2, process=process))
    assert not (written[0] & written[1]).any()
    assert (written[0] | written[1]).all()
    assert {name.partition("rank-")[2] for name in shards(tmp_path)} == {"0-of-2.safetensors", "1-of-2.safetensors"}
    alone = Model()
    read = logps(cache(tmp_path), alone)
    assert alone.calls == 0
    assert np.array_equal(read.logps, EXACT)
    assert not read.same_batches


def test_the_shards_that_the_comment_lists_are_the_ones_that_are_written(tmp_path: Path) -> None:
    trees = [PromptTree(f"t{n}", [7], (Segment([n, 1, 2], [True] * 3, [True] * 3),)) for n in range(5)]
    sizes = {"batch_size": 2, "token_budget": 4, "epochs": 1, "max_steps": None, "seed": 0, "processes": 2}
    for process in range(2):
        planned = RunPlan([4] * 5, process=process, **sizes)
        cache(tmp_path, planned, shard_steps=2, trees=trees)._make(range(3), Model())
    written = {
        file.name.partition("-")[2]: load_file(file)["rows"].tolist() for file in tmp_path.rglob("*.safetensors")
    }
    assert written == {
        "steps-0-1-rank-0-of-2.safetensors": [2, 3],
        "steps-0-1-rank-1-of-2.safetensors": [4, 0],
        "steps-2-3-rank-0-of-2.safetensors": [1],
    }


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files are many."""
    for module in ("reference", "reference_files"):
        monkeypatch.setattr(f"align.trainers.{module}.MANY", 3)


def test_many_files_are_merged_during_the_pass_and_after_it(tmp_path: Path, few: None) -> None:
    made = logps(cache(tmp_path, shard_steps=1), Model())
    assert np.array_equal(made.logps, EXACT)
    names = sorted(name.split("-")[1] for name in shards(tmp_path))
    assert names == ["merged", "merged", "steps", "steps"][: len(names)]
    assert len(names) <= 4, "eight steps, a file for each"
    again = Model()
    read = logps(cache(tmp_path, shard_steps=1), again, resumed=True)
    assert again.calls == 0
    assert read.logps.tobytes() == made.logps.tobytes()
    assert read.same_batches


def test_files_of_several_processes_become_one_after_the_pass(tmp_path: Path, few: None) -> None:
    for process in range(2):
        cache(tmp_path, plan(processes=2, process=process), shard_steps=1)._make(range(7), Model())
    mine = cache(tmp_path, plan(processes=2), shard_steps=1)
    assert len(shards(tmp_path)) > 3
    values, _ = mine._read()
    mine._merge_all()
    assert [name.split("-")[1] for name in shards(tmp_path)] == ["merged"]
    assert mine._read()[0].tobytes() == values.tobytes()


def test_a_pass_that_is_killed_while_files_are_merged_loses_no_row(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if "-steps-" in path.name:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            logps(cache(tmp_path, shard_steps=1), Model())
    assert len(shards(tmp_path)) == 4, "three files and the one that they were merged into"
    model = Model()
    made = logps(cache(tmp_path, shard_steps=1), model)
    assert np.array_equal(made.logps, EXACT)
    assert model.calls == passes(range(3, 8), plan()), "the first three steps are known"
    assert len(shards(tmp_path)) <= 3


def test_a_file_that_another_run_has_merged_meanwhile_is_read_from_there(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers import reference, reference_files

    first = cache(tmp_path, shard_steps=4)
    first._make(range(8), Model())
    honest, merged = reference_files.read_shard, []

    def read_after_merge(path: Path) -> tuple[np.ndarray, np.ndarray]:
        if not merged:
            merged.append(reference_files.merge(first._place.glob("*.safetensors"), first._maker))
        return honest(path)

    monkeypatch.setattr(reference, "read_shard", read_after_merge)
    read = logps(cache(tmp_path), Model(), resumed=True)
    assert np.array_equal(read.logps, EXACT)


def test_a_damaged_file_is_not_merged(tmp_path: Path, few: None) -> None:
    from align.trainers.reference_files import merge

    made = cache(tmp_path, shard_steps=1)
    made._make(range(2), Model())
    damaged, whole = sorted(made._place.glob("*.safetensors"))
    damaged.write_bytes(b"torn")
    assert merge([damaged, whole], made._maker) is None
    assert damaged.exists()
    assert whole.exists()


@pytest.mark.slow
def test_both_processes_run_a_step_again_that_one_of_them_lost(tmp_path: Path) -> None:
    for process in range(2):
        cache(tmp_path, plan(processes=2, process=process))._make(range(8), Model())
    for file in tmp_path.rglob("*steps-2-3-rank-1-of-2*"):
        file.unlink()
    both = []
    for process in range(2):
        mine = cache(tmp_path, plan(processes=2, process=process))
        values, _ = cache(tmp_path, plan(processes=2))._read()  # rank zero's answer
        missing, model = mine._missing_steps(values), Model()
        mine._make(missing, model)
        both.append((missing, model.calls))
    assert both[0] == both[1] == ([2, 3], passes([2, 3], plan(processes=2)))


@pytest.mark.slow
def test_the_key_follows_weights_config_rows_masks_and_precision(tmp_path: Path, tiny_checkpoint: Path) -> None:
    def key(
        path: Path = tiny_checkpoint, precision="bf16", trees=TREES, summed="content", dtype="float32", **model
    ) -> tuple:
        start = ModelConfig(path=path, dtype=dtype, **model)
        return tuple(sorted(reference_key(start, precision, trees, summed).items()))

    assert key() == key()
    copied = tmp_path / "copied"
    shutil.copytree(tiny_checkpoint, copied)
    (copied / "README.md").write_text("a note")
    assert key(copied) == key(), "the place of a checkpoint, and notes next to it, do not count"

    state = load_file(copied / "model.safetensors")
    first = next(iter(state))
    state[first].view(-1)[0] += 1e-6
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    changed = [key(copied)]
    config = tmp_path / "config"
    shutil.copytree(tiny_checkpoint, config)
    values = json.loads((config / "config.json").read_text())
    (config / "config.json").write_text(json.dumps(values | {"rms_norm_eps": 1e-5}))
    changed.append(key(config))

    branch = TREES[0].branches[0]
    for other in (
        replace(branch, ids=[*branch.ids[:-1], 99]),
        replace(branch, loss_mask=[False, *branch.loss_mask[1:]]),
        replace(branch, contrast_mask=[False, *branch.contrast_mask[1:]]),
    ):
        changed.append(key(trees=[replace(TREES[0], branches=(other, TREES[0].branches[1])), *TREES[1:]]))
    changed.append(key(trees=[replace(TREES[0], id="other"), *TREES[1:]]))
    changed.append(key(trees=[TREES[1], TREES[0], *TREES[2:]]))
    changed += [key(precision="fp32"), key(dtype="bfloat16"), key(summed="content and terminators")]
    changed.append(key(quantization="nf4"))
    changed.append(key(trees=[replace(TREES[0], level="better"), *TREES[1:]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align.trainers.reference, "code_of", lambda *names: {"align/models/logps.py": "edited"})
        changed.append(key())
    assert len({key(), *changed}) == 1 + len(changed)


def test_rows_that_a_mapped_array_holds_have_the_fingerprint_of_lists() -> None:
    def arrays(each: PromptTree) -> PromptTree:
        branches = [
            Segment(np.array(b.ids, dtype=np.int32), np.array(b.loss_mask), np.array(b.contrast_mask))
            for b in each.branches
        ]
        return replace(each, prompt=np.array(each.prompt, dtype=np.int32), branches=tuple(branches))

    assert rows_fingerprint([arrays(each) for each in TREES]) == rows_fingerprint(TREES)


def test_an_adapter_counts_with_its_base(tmp_path: Path, tiny_checkpoint: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_checkpoint, base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": 4}))
    (adapter / "adapter_model.safetensors").write_bytes(b"one")
    found = {checkpoint_fingerprint(base), checkpoint_fingerprint(adapter)}
    (adapter / "adapter_model.safetensors").write_bytes(b"two")
    found.add(checkpoint_fingerprint(adapter))
    (base / "model.safetensors").write_bytes(b"three")
    found.add(checkpoint_fingerprint(adapter))
    assert len(found) == 4


def test_a_name_on_the_hub_counts_by_its_snapshot(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants
    import transformers.utils.hub

    home = tmp_path / "hub" / "models--me--tiny"
    shutil.copytree(tiny_checkpoint, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert checkpoint_fingerprint("me/tiny") == checkpoint_fingerprint(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="me/other: is no folder, and the Hub's cache does not hold it"):
        checkpoint_fingerprint("me/other")


# Through the recipe


def pairs(path: Path) -> Path:
    rows = []
    for n in range(24):
        said = [f"{'Paris Rome Seine '[n % 3 :]}{'guess ' * (1 + (n * k) % 7)}" for k in (1, 2)]
        rows.append(
            PreferenceRow(
                id=f"p{n}",
                source="test",
                prompt=(Message(role="user", content=f"What is the capital? {n}"),),
                completions=tuple((Message(role="assistant", content=text + str(k)),) for k, text in enumerate(said)),
            )
        )
    write_rows(path, rows)
    return path


def train(folder: Path, checkpoint: Path, name: str, data: Path | None = None, dpo: dict | None = None, **training):
    from recipes.dpo import DPORecipe, run

    settings = {"output_dir": folder / name, "batch_size": 4, "learning_rate": 1e-3, "precision": "fp32"}
    values = {"path": data or pairs(folder / "pairs.jsonl"), "token_budget": 200}
    return run(DPORecipe(model={"path": checkpoint}, data=values, dpo=dpo or {}, training=settings | training))


def first_line(run: Path) -> dict:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[0])


@pytest.mark.slow
def test_a_sweep_over_beta_takes_the_reference_pass_once(
    tmp_path: Path, tiny_checkpoint: Path, said: pytest.LogCaptureFixture
) -> None:
    shared = {"reference_cache": tmp_path / "shared"}
    train(tmp_path, tiny_checkpoint, "one", dpo={**shared, "beta": 0.1})
    before = times(tmp_path / "shared")
    for name, dpo in (("two", {"beta": 0.5}), ("three", {"loss": "length_normalized", "beta": 5})):
        run = train(tmp_path, tiny_checkpoint, name, dpo={**shared, **dpo})
        assert first_line(run)["absolute_margin"] == 0
    assert times(tmp_path / "shared") == before
    assert sum("24 rows are known, 0 steps to compute" in record.getMessage() for record in said.records) == 2
    assert not (tmp_path / "one" / "reference").exists()
    assert len(list((tmp_path / "shared").iterdir())) == 1
    train(tmp_path, tiny_checkpoint, "four", dpo={**shared, "mask_format_tokens": False})
    assert len(list((tmp_path / "shared").iterdir())) == 2, "another key is another folder, and the old one stays"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cache_of_another_plan_is_taken_with_the_tolerance_of_rounding(
    precision: str, tmp_path: Path, tiny_checkpoint: Path, said: pytest.LogCaptureFixture
) -> None:
    shared = {"reference_cache": tmp_path / "shared"}
    train(tmp_path, tiny_checkpoint, "one", dpo=shared, precision=precision)
    train(tmp_path, tiny_checkpoint, "two", dpo=shared, precision=precision, seed=3, batch_size=5)
    agreed = [record.getMessage() for record in said.records if "policy and reference agree" in record.getMessage()]
    assert "reference computed in the same batches" in agreed[0]
    assert "margin 0 (at most 0.001;" in agreed[0]
    assert "reference computed in other batches" in agreed[1]
    assert ("(at most 0.001;" in agreed[1]) == (precision == "fp32")


@pytest.mark.slow
@pytest.mark.parametrize(
    "dpo, untrained",
    [
        ({"label_smoothing": 0.1}, 0.6931471805599453),
        ({"loss": "ipo", "beta": 0.25}, 4.0),
        ({"loss": "length_normalized", "beta": 5}, 0.6931471805599453),
    ],
    ids=["smoothed", "ipo", "length normalized"],
)
def test_a_variant_begins_at_what_it_must_cost_and_learns(
    dpo: dict, untrained: float, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    run = train(tmp_path, tiny_checkpoint, "run", dpo=dpo, epochs=4)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["dpo_loss"] == pytest.approx(untrained, abs=1e-6)
    assert lines[0]["absolute_margin"] == 0
    assert lines[-1]["dpo_loss"] < 0.9 * untrained
    assert lines[-1]["rewards/margins"] > 0.05
    assert lines[-1]["rewards/chosen"] - lines[-1]["rewards/rejected"] == pytest.approx(
        lines[-1]["rewards/margins"], abs=1e-4
    )


@pytest.mark.slow
def test_simpo_takes_no_reference_pass_and_reads_means_of_the_policy_alone(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Worked out again with transformers' own logits, a completion at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from align.jsonl import read_rows

    data = pairs(tmp_path / "pairs.jsonl")
    dpo = {"loss": "simpo", "beta": 2.0, "simpo_gamma": 1.0}
    run = train(tmp_path, tiny_checkpoint, "run", data, dpo=dpo, batch_size=24)
    assert not (run / "reference").exists()
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    margins = []
    for row in read_rows(data, PreferenceRow):
        means = []
        for completion in row.completions:
            opened = [message.model_dump(include={"role", "content"}) for message in row.prompt]
            prompt = tokenizer.apply_chat_template(opened, add_generation_prompt=True)["input_ids"]
            answer = tokenizer.encode(completion[0].content)
            with torch.no_grad():
                found = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            means.append(found.gather(1, torch.tensor(answer)[:, None]).mean().item())
        margins.append(2.0 * (means[0] - means[1]))
    expected = torch.nn.functional.softplus(1.0 - torch.tensor(margins)).mean().item()
    assert first_line(run)["rewards/margins"] == pytest.approx(np.mean(margins), abs=1e-4)
    assert first_line(run)["dpo_loss"] == pytest.approx(expected, abs=1e-4)


# As users start it


def command(checkpoint: Path, data: Path, output: Path, start: Sequence[str] = (PYTHON,)) -> list[str]:
    config = output.parent / f"{output.name}.yaml"
    config.write_text(
        f"model: {{path: {checkpoint}}}\n"
        f"data: {{path: {data}, token_budget: 200}}\n"
        "dpo: {reference_shard_steps: 1}\n"
        f"training: {{output_dir: {output}, batch_size: 4, learning_rate: 1e-3, precision: fp32}}\n"
    )
    return [*start, "recipes/dpo.py", str(config)]


def stored(run: Path) -> dict[int, tuple[float, ...]]:
    values: dict[int, tuple[float, ...]] = {}
    for file in (run / "reference").rglob("*.safetensors"):
        tensors = load_file(file)
        values |= {int(r): tuple(v) for r, v in zip(tensors["rows"], tensors["logps"].tolist(), strict=True)}
    return values


@pytest.mark.engine
def test_killed_in_the_reference_pass_and_started_again_ends_with_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    data = pairs(tmp_path / "pairs.jsonl")
    run(command(tiny_checkpoint, data, tmp_path / "whole"))
    arguments = command(tiny_checkpoint, data, tmp_path / "killed")
    process = Started(arguments)
    process.wait_for(lambda: times(tmp_path / "killed"))
    process.kill()
    before = times(tmp_path / "killed")
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    run(arguments)
    after = times(tmp_path / "killed" / "reference")
    assert {name: after[name] for name in before} == before, "finished shards are not made again"
    assert shards(tmp_path / "killed" / "reference") == shards(tmp_path / "whole" / "reference")
    whole, killed = (tmp_path / name / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


@pytest.mark.engine
def test_zero3_on_two_processes_stores_the_values_of_one_process(tmp_path: Path, tiny_checkpoint: Path) -> None:
    data = pairs(tmp_path / "pairs.jsonl")
    run(command(tiny_checkpoint, data, tmp_path / "alone"))
    arguments = command(tiny_checkpoint, data, tmp_path / "sharded", ZERO3)
    run(arguments)
    alone, sharded = stored(tmp_path / "alone"), stored(tmp_path / "sharded")
    assert alone.keys() == sharded.keys() == set(range(24))
    for row, values in alone.items():
        assert sharded[row] == pytest.approx(values, abs=1e-5, rel=1e-6), row
    assert first_line(tmp_path / "sharded")["absolute_margin"] == 0

    # One process of a run that was stopped in the pass had written less than the other.
    output = tmp_path / "sharded"
    whole, shard_bytes = (output / "model.safetensors").read_bytes(), shards(output / "reference")
    for file in [*output.glob("*.json*"), *output.glob("*.safetensors"), *output.rglob("*steps-2-2-rank-1-of-2*")]:
        file.unlink()
    run(arguments)
    assert shards(output / "reference") == shard_bytes
    assert (output / "model.safetensors").read_bytes() == whole
