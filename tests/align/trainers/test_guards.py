"""Faulty steps: computed again, rolled back, left out; and the same end after a kill.

Faults are injected into the loss of the real trainers. What a run must end with is worked out in another way: by
a run without faults whose optimizer leaves out one update.
"""

from __future__ import annotations

import json
import math
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from align.errors import CheckError, CheckpointError, CorruptionError
from align.jsonl import write_rows
from align.manifest import verify_folder
from align.rows import Message, SFTRow
from align.settings import GuardsConfig, ModelConfig, TrainingConfig, TreeDataConfig
from align.trainers.guards import StepGuards
from align.trainers.rollbacks import SKIPPED, Rollback, read_rollbacks, require_rows_left, skipped_trees
from align.trainers.spikes import LEAST_NORM_SPREAD, SpikeMeter
from align.trainers.watchdog import Watchdog
from align.tree.pack import RunPlan
from tests.metrics import metrics_of
from tests.torture import guards as torture

ROWS = 12


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Callable[..., Path]:
    """Six steps of four rows each, over two epochs, with a checkpoint after every second step."""
    data = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    turns = [
        (Message(role="user", content=f"Say {n}."), Message(role="assistant", content=f"{n} it is."))
        for n in range(ROWS)
    ]
    write_rows(data, [SFTRow(id=f"r{n}", source="test", messages=each) for n, each in enumerate(turns)])

    def run(output: Path, *, guards: dict | None = None, **changed) -> Path:
        from recipes import sft

        settings = {"batch_size": 4, "epochs": 2, "save_steps": 2, "learning_rate": 1e-3, "precision": "fp32"} | changed
        training = TrainingConfig(output_dir=output, checks=False, guards=GuardsConfig(**(guards or {})), **settings)
        model = ModelConfig(path=tiny_checkpoint)
        return sft.run(sft.SFTRecipe(model=model, data=TreeDataConfig(path=data), training=training))

    return run


@pytest.fixture(scope="module")
def whole(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without faults."""
    return train(tmp_path_factory.mktemp("whole") / "run")


@contextmanager
def faults(factor_of: Callable[[int, list[str]], float], *, of_gradient: bool = False) -> Iterator[list[int]]:
    """In the block, the loss of a batch, or its gradient alone, is multiplied by `factor_of(step, ids)`.

    Gives the steps that were computed, from 1.
    """
    from align.trainers.sft import SFTTrainer

    honest = SFTTrainer.batch_loss
    computed: list[int] = []

    def faulty(self, model, batch, denominators):
        computed.append(self.state.global_step + 1)
        loss = honest(self, model, batch, denominators)
        factor = factor_of(computed[-1], batch.tree_ids)
        if not of_gradient:
            return loss * factor
        if factor != 1:
            loss.register_hook(lambda gradient: gradient * factor)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTTrainer, "batch_loss", faulty)
        yield computed


def content(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("of_gradient", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_that_is_not_finite_again_is_left_out_and_the_run_goes_on(
    factor: float, of_gradient: bool, train: Callable[..., Path], tmp_path: Path
) -> None:
    with faults(lambda step, ids: factor if step == 4 else 1, of_gradient=of_gradient) as computed:
        done = train(tmp_path / "run")
    assert computed == [1, 2, 3, 4, 4, 3, 5, 6], "computed again once, back to checkpoint-2, on without its rows"

    update = torch.optim.AdamW.step
    calls = iter(range(1, 100))

    def without_the_fourth(self, *arguments, **settings):
        if next(calls) != 4:
            return update(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", without_the_fourth)
        expected = train(tmp_path / "expected")
    assert content(done) == content(expected)

    (rollback,) = read_rollbacks(done)
    plan = RunPlan([1] * ROWS, batch_size=4, token_budget=9, epochs=2, max_steps=None, seed=0)
    assert rollback.rows == tuple(f"r{row}" for row in plan[3].rows)
    assert rollback.step == 4
    assert ("gradient norm" in rollback.cause) == of_gradient
    assert verify_folder(done)["rollbacks"] == json.loads((done / SKIPPED).read_text())["rollbacks"]
    lines = metrics_of(done)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line.get("skipped_rows") for line in lines] == [None, None, None, 4, None, None]
    assert [line["loss"] is None for line in lines] == [False, False, False, True, False, False]


class Killed(BaseException):
    """Ends a training at once, as SIGKILL would: no code of the trainer catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the record", "after the record", "after a later checkpoint"])
def test_killed_around_a_roll_back_the_run_ends_with_the_same_bytes(
    moment: str, train: Callable[..., Path], tmp_path: Path, left_unfinished, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers import guards

    def spoil(step: int, ids: list[str]) -> float:
        return math.nan if step == 4 else 1

    with faults(spoil):
        expected = train(tmp_path / "expected")

    output, write = tmp_path / "run", guards.write_rollbacks

    def die(*arguments):
        if moment == "after the record":
            write(*arguments)
        raise Killed

    with faults(spoil) as computed:
        if moment == "after a later checkpoint":
            with left_unfinished():
                train(output)
        else:
            monkeypatch.setattr(guards, "write_rollbacks", die)
            with pytest.raises(Killed):
                train(output)
            monkeypatch.undo()
        killed_at = len(computed)
        train(output)
    again = {"before the record": [3, 4, 4, 3, 5, 6], "after the record": [3, 5, 6], "after a later checkpoint": [5, 6]}
    assert computed[killed_at:] == again[moment]
    assert content(output) == content(expected)
    assert metrics_of(output) == metrics_of(expected)
    assert read_rollbacks(output) == read_rollbacks(expected)


@pytest.mark.slow
def test_without_a_checkpoint_the_run_starts_over_and_a_row_is_left_out_of_later_epochs_too(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    with faults(lambda step, ids: math.nan if "r5" in ids else 1) as computed:
        done = train(tmp_path / "run", save_steps=100)
    (rollback,) = read_rollbacks(done)
    assert "r5" in rollback.rows
    assert computed[: rollback.step + 1] == [*range(1, rollback.step + 1), rollback.step]
    left_out = [line.get("skipped_rows", 0) for line in metrics_of(done)]
    assert sum(left_out) == 8, "four rows in each of two epochs"
    assert left_out[rollback.step - 1] == 4
    assert all(math.isfinite(line["loss"]) for line in metrics_of(done) if line.get("skipped_rows") != 4)


@pytest.mark.slow
@pytest.mark.parametrize("of_gradient", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_with_other_values_the_second_time_is_suspected_corruption_and_the_same_command_goes_on(
    factor: float, of_gradient: bool, train: Callable[..., Path], whole: Path, tmp_path: Path
) -> None:
    seen: list[int] = []

    def once(step: int, ids: list[str]) -> float:
        seen.append(step)
        return factor if step == 4 and seen.count(4) == 1 else 1

    output = tmp_path / "run"
    message = r"step 4: suspected silent data corruption on rank 0 \(\S+\): .* computed again from the same weights"
    with faults(once, of_gradient=of_gradient), pytest.raises(CorruptionError, match=message) as said:
        train(output)
    assert ("the gradient norm was" in str(said.value)) == of_gradient
    assert not (output / SKIPPED).exists()
    assert content(train(output)) == content(whole)


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "again"])
def test_weights_that_are_not_finite_at_a_save_are_computed_again_from_the_last_checkpoint(
    lasting: bool, train: Callable[..., Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers.gradients import Gradients

    honest, steps = Gradients.compute, []

    def compute(self, *arguments):
        losses = honest(self, *arguments)
        steps.append(self.trainer.state.global_step + 1)
        if steps[-1] == 4 and (lasting or steps.count(4) == 1):  # between the step's judgement and its update
            next(self.trainer.hugging_face_model.parameters()).data[3, 3] = math.inf
        return losses

    monkeypatch.setattr(Gradients, "compute", compute)
    if lasting:
        with pytest.raises(
            CheckError, match=r"step 4: the weight model\.embed_tokens\.weight is not finite after the up"
        ):
            train(tmp_path / "run")
    else:
        done = train(tmp_path / "run")
        assert content(done) == content(whole)
        assert [each.rows for each in read_rollbacks(done)] == [()]
    assert steps == [1, 2, 3, 4, 3, 4] + ([] if lasting else [5, 6])


@pytest.mark.slow
def test_after_enough_roll_backs_the_run_stops_and_says_where_they_were(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with faults(lambda step, ids: math.nan if step >= 3 else 1):
        message = r"step 5: after 2 roll-backs \(steps 3, 4\): the loss is nan on rows r\d+, r\d+\. Nothing of"
        with pytest.raises(CheckError, match=message):
            train(output, guards={"max_rollbacks": 2})
    assert [each.step for each in read_rollbacks(output)] == [3, 4]
    with faults(lambda step, ids: math.nan), pytest.raises(CheckError, match=r"step 3: after 2 roll-backs") as said:
        train(tmp_path / "none", epochs=1)
    assert "step 3" in str(said.value), "a run of which no row is left does not end well"


@pytest.mark.slow
def test_a_record_of_another_run_or_one_that_is_damaged_is_refused(
    train: Callable[..., Path], tmp_path: Path, left_unfinished
) -> None:
    output = tmp_path / "run"
    with faults(lambda step, ids: math.nan if step == 4 else 1), left_unfinished():
        train(output)
    record = output / SKIPPED
    text = record.read_text()
    record.unlink()
    with pytest.raises(
        CheckpointError, match=r"checkpoint-4: was trained without 4 rows of step 4, which .*skipped.json"
    ):
        train(output)
    record.write_text(text[:-20])
    with pytest.raises(CheckpointError, match=r"skipped\.json: is not a record of skipped rows"):
        train(output)
    record.write_text(text)
    for folder in output.glob("checkpoint-*"):
        folder.rename(tmp_path / folder.name)
    with pytest.raises(CheckpointError, match=r"skipped\.json: was made with training\.learning_rate=0\.001, and now"):
        train(output, learning_rate=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("of_gradient", [False, True], ids=["loss", "gradient"])
def test_a_spike_is_rolled_back_and_judged_before_clipping(
    of_gradient: bool, train: Callable[..., Path], tmp_path: Path
) -> None:
    """The loss of one row is 1,000 times as large from step 15 on. Gradients are clipped to a norm of 0.01."""
    settings = {"batch_size": 2, "epochs": 4, "save_steps": 5, "max_grad_norm": 0.01, "learning_rate": 1e-4}
    with faults(lambda step, ids: 1000 if step > 15 and "r5" in ids else 1, of_gradient=of_gradient):
        done = train(tmp_path / "run", guards={"spike_warmup": 10}, **settings)
    (rollback,) = read_rollbacks(done)
    assert "r5" in rollback.rows
    assert ("gradient norm" in rollback.cause) == of_gradient
    assert f"the {'gradient norm' if of_gradient else 'loss'} is" in rollback.cause
    assert "and a spike is above" in rollback.cause
    assert metrics_of(done)[-1]["step"] == 24
    with faults(lambda step, ids: 1000 if step > 15 and "r5" in ids else 1, of_gradient=of_gradient):
        unguarded = train(tmp_path / "unguarded", guards={"spike_threshold": None}, **settings)
    assert not (unguarded / SKIPPED).exists()


# Short forms of tests/torture/guards.py


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gradient bit", "weight bit", "probe bit"])
def test_a_flipped_bit_is_found(kind: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    rng = random.Random(0)
    (fault,) = [each for each in torture.faults_of(5, rng) if each.kind == kind]
    data = torture.write_data(tmp_path / "rows.jsonl", 0)
    outcome = torture.outcome_of(fault, tiny_checkpoint, data, tmp_path / "run", rng)
    assert torture.is_found(fault, outcome), outcome


@pytest.mark.slow
def test_clean_steps_have_no_false_alarm(tmp_path: Path, tiny_checkpoint: Path) -> None:
    data = torture.write_data(tmp_path / "rows.jsonl", 0)
    assert torture.false_alarms(tiny_checkpoint, data, tmp_path / "run", 60) == []


# The meter


def meter(values: list[float], **changed) -> SpikeMeter:
    found = SpikeMeter(GuardsConfig(**{"spike_warmup": 10, "spike_window": 10} | changed))
    found.restore(values)
    return found


def test_the_limit_is_the_median_times_ten_robust_deviations_of_the_logarithms() -> None:
    assert meter([2.0, 2.2, 1.8, 2.1, 2.0] * 2).limit == pytest.approx(2 * math.e)
    wide = [math.exp(each) for each in (-1.0, -0.5, 0.0, 0.5, 1.0)] * 2
    assert meter(wide).limit == pytest.approx(math.exp(10 * 1.4826 * 0.5))
    assert meter([1.0] * 9).limit == math.inf, "warm-up"
    assert meter([1.0] * 10, spike_threshold=None).limit == math.inf
    assert meter([0.0] * 10).limit < 1e-11


def test_a_gradient_norm_that_rises_while_a_model_begins_to_fit_is_no_spike() -> None:
    """The norms of a DPO run on eight pairs, from its step 113 on. Each of the steps from 148 to 161 was called a spike
    once, until no row was left."""
    before = [1.19, 1.16, 1.21, 1.23, 1.36, 1.2, 1.22, 1.24, 1.25, 1.44, 1.39, 1.46, 2.08, 1.6, 1.61, 2.39, 2.17, 3.05]
    norms = SpikeMeter(GuardsConfig(spike_warmup=10), least_value=1.0, least_spread=LEAST_NORM_SPREAD)
    norms.restore([1.2] * 80 + before)
    for norm in (4.451, 4.838, 5.931, 6.727, 3.758):
        assert not norms.is_spike(norm)
        norms.add(norm)
    assert norms.is_spike(30 * norms.middle)


def test_1000_clean_steps_have_no_spike_and_a_fault_after_them_is_one() -> None:
    """Losses that fall from 3 to 1 with 15% noise, and norms whose logarithms vary by 0.5, as those of few rows do."""
    for seed in range(3):
        rng = random.Random(seed)
        losses, norms = SpikeMeter(GuardsConfig(), least_rise=0.5), SpikeMeter(GuardsConfig(), least_value=1.0)
        for step in range(1000):
            loss = (1 + 2 * math.exp(-step / 200)) * rng.lognormvariate(0, 0.15)
            norm = rng.lognormvariate(0, 0.5)
            assert not losses.is_spike(loss)
            assert not norms.is_spike(norm)
            losses.add(loss)
            norms.add(norm)
        assert losses.is_spike(20 * losses.middle)
        assert norms.is_spike(1e4 * norms.middle)


def test_a_tree_is_left_out_from_its_earliest_faulty_step_on_and_no_sum_counts_it() -> None:
    sizes = [3, 5, 2, 7, 4, 6, 8]

    def plan(skipped: dict[int, int], process: int = 0) -> RunPlan:
        settings = {"batch_size": 3, "token_budget": 16, "epochs": 3, "max_steps": None, "seed": 1, "processes": 2}
        return RunPlan(sizes, process=process, skipped=skipped, **settings)

    whole = plan({})
    gone = whole[4].rows
    part, other = (plan({row: 4 for row in gone}, process) for process in (0, 1))
    for step in range(len(whole)):
        left = tuple(row for row in whole[step].rows if step < 4 or row not in gone)
        assert part[step].rows == left
        assert sorted(row for each in (*part[step].bins, *other[step].bins) for row in each) == sorted(left)
    assert part[4].rows == ()
    assert part[4].bins == ()
    for step in range(len(whole) + 1):
        assert part.sum_to_step(np.array(sizes), step) == sum(sizes[row] for k in range(step) for row in part[k].rows)
    assert part.first_with_rows() == part[0]
    assert plan({row: 0 for row in whole[0].rows}).first_with_rows().rows == tuple(
        row for row in whole[1].rows if row not in whole[0].rows
    )


def test_no_row_is_left_if_no_step_of_the_run_has_one_whatever_other_rows_are_encoded(tmp_path: Path) -> None:
    """Six rows, of which a run of one step uses two: with these two left out there is nothing to train on."""
    plan = RunPlan([1] * 6, batch_size=2, token_budget=9, epochs=1, max_steps=1, seed=0)
    assert plan.has_rows()
    used = plan[0].rows
    trainer = SimpleNamespace(
        plan=plan,
        trees=[SimpleNamespace(id=f"r{n}") for n in range(6)],
        training=TrainingConfig(output_dir=tmp_path, batch_size=2),
        state=SimpleNamespace(global_step=0),
        rollbacks=[],
        output=tmp_path,
    )
    guards = StepGuards(trainer)  # type: ignore[arg-type]
    guards.planned = plan[0]
    with pytest.raises(CheckError, match="step 1: the loss is nan"):
        guards._roll_back("the loss is nan")
    assert not (tmp_path / SKIPPED).exists()
    with pytest.raises(CheckpointError, match=r"skipped\.json: leaves out every row of the run's 1 steps"):
        require_rows_left(plan.skipping(dict.fromkeys(used, 0)), tmp_path)
    require_rows_left(plan.skipping({used[0]: 0}), tmp_path)


def test_a_roll_back_that_leaves_no_row_for_all_later_steps_ends_the_run(tmp_path: Path) -> None:
    """Two rows in a step, of four: after two roll-backs the rest of the run would train on nothing."""
    plan = RunPlan([1] * 4, batch_size=2, token_budget=9, epochs=3, max_steps=None, seed=0)
    trainer = SimpleNamespace(
        plan=plan,
        trees=[SimpleNamespace(id=f"r{n}") for n in range(4)],
        training=TrainingConfig(output_dir=tmp_path, batch_size=2),
        state=SimpleNamespace(global_step=3),
        rollbacks=[Rollback(3, "the loss is nan", plan[2].rows, ())],
        output=tmp_path,
    )
    guards = StepGuards(trainer)  # type: ignore[arg-type]
    guards.planned = plan[3]
    with pytest.raises(CheckError, match=r"step 4: after 1 roll-backs .*, and without its rows no later step has any"):
        guards._roll_back("the loss is nan")
    assert not (tmp_path / SKIPPED).exists()


@pytest.mark.slow
def test_a_roll_back_with_a_tracker_leaves_nothing_of_the_trainer_before(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog hears of each part of both starts."""
    from align.trainers.sft import SFTTrainer

    honest, alive, said = SFTTrainer.__init__, [], []
    note = Watchdog.note_progress

    def built(self, model, *arguments, **settings):
        alive.append([each() is not None for each in trainers])
        trainers.extend((weakref.ref(self), weakref.ref(model)))
        honest(self, model, *arguments, **settings)

    def noted(self, doing: str) -> None:
        said.append(doing)
        note(self, doing)

    trainers: list[weakref.ref] = []
    monkeypatch.setattr(SFTTrainer, "__init__", built)
    monkeypatch.setattr(Watchdog, "note_progress", noted)
    with faults(lambda step, ids: math.nan if step == 3 else 1):
        train(tmp_path / "run", report_to=["tensorboard"], epochs=1)
    assert alive == [[], [False, False]]
    read = ["the start", "reading the starting weights and the rows", "verifying the finished model"]
    start = [*read, "verifying checkpoints", "the start", "loading", "the checks before the first step"]
    again = said.index("the start", len(start))
    assert said[: len(start)] == said[again : again + len(start)] == start


def test_two_faults_of_one_tree_count_from_the_earlier_step() -> None:

    found = skipped_trees([Rollback(9, "", (1, 2), ("a", "b")), Rollback(4, "", (2, 3), ("b", "c"))])
    assert found == {1: 8, 2: 3, 3: 3}
