"""Probes for silent corruption, and alarms of metrics."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from align.errors import CheckError, CorruptionError
from align.settings import AlarmsConfig, GuardsConfig
from align.trainers.alarms import Alarms, alarms_so_far
from align.trainers.probe import Probe
from align.trainers.processes import Processes
from align.tree.encode import PromptTree, Segment
from align.tree.pack import RunPlan


def tree(name: str, tokens: int) -> PromptTree:
    ids = np.arange(tokens)
    return PromptTree(name, ids[:1], (Segment(ids[1:], np.ones(tokens - 1, bool), np.ones(tokens - 1, bool)),))


class Elsewhere(Processes):
    """Three processes of which this one is real; the others give `others` in the place of what they would compute."""

    others: list[list[float]] = [[0.0, 0.0, 3.0, 3.0]] * 2

    def gathered(self, values: Any) -> list[list[float]]:
        return [list(values), *self.others]

    def gathered_objects(self, here: Any) -> list[Any]:
        return ["m0", "m1", "m2"]


def probe(values: list[float], count: int = 1, step: int = 0, **changed: Any) -> tuple[Probe, torch.nn.Module]:
    """A probe of three rows, and a model that gives one of `values` for each label of its n-th pass."""
    trees = [tree(f"r{n}", 4) for n in range(3)]
    passes = iter(values)
    kind = Processes if count == 1 else Elsewhere
    trainer = SimpleNamespace(
        trees=trees,
        training=SimpleNamespace(guards=GuardsConfig(**changed)),
        plan=RunPlan([4] * 3, batch_size=3, token_budget=9, epochs=1, max_steps=None, seed=0),
        processes=kind(count, 0, torch.device("cpu")),
        args=SimpleNamespace(device=torch.device("cpu")),
        state=SimpleNamespace(global_step=step),
        model=SimpleNamespace(low_precision=False),
    )

    class Model(torch.nn.Module):
        def forward(self, batch: Any) -> torch.Tensor:
            assert not self.training
            return torch.full((len(batch.labels),), next(passes))

    return Probe(trainer), Model()  # type: ignore[arg-type]


def test_a_probe_passes_if_every_bit_is_the_same_and_names_step_and_rank_if_one_is_not() -> None:
    made, model = probe([0.5, 0.5])
    made.check(model)
    assert len(made.batch.tree_ids) == 2, "as many rows as fit into one packed row"
    made, model = probe([0.5, float(np.nextafter(np.float32(0.5), np.float32(1)))], step=300)
    with pytest.raises(
        CorruptionError, match=r"step 300: suspected .* on rank 0 \(\S+\): two computations .* 5\.96e-08"
    ):
        made.check(model)
    made, model = probe([0.5, float("nan")])
    with pytest.raises(CorruptionError):
        made.check(model)


def test_a_process_whose_values_are_not_those_of_the_others_is_named() -> None:
    made, model = probe([0.5, 0.5], count=3)  # six labels: the sum is 3, as that of the others
    made.check(model)
    made, model = probe([0.25, 0.25], count=3)
    with pytest.raises(CorruptionError, match=r"on rank 0 \(m0\): the values of one batch sum up to 1\.5, and to 3 on"):
        made.check(model)


def test_sums_of_scores_that_cancel_are_compared_by_the_size_of_the_scores() -> None:
    """Two sums of scores around 1,000 that differ by rounding, near 0: the same. By more than 1e-4 of them: not."""
    for apart, same in ((1e-3, True), (0.2, False)):
        made, model = probe([0.5, 0.5], count=3)
        made.trainer.args = SimpleNamespace(device=torch.device("meta"))  # type: ignore[misc]
        made._batch = SimpleNamespace(labels=range(6))  # type: ignore[assignment]
        made.trainer.processes.others = [[0.0, 0.0, 3.0 + apart, 1000.0]] * 2  # type: ignore[attr-defined]
        if same:
            made.check(model)
        else:
            with pytest.raises(CorruptionError, match=r"sum up to 3, and to 3\.2 on"):
                made.check(model)


def test_probes_come_before_the_first_step_and_every_n_steps() -> None:
    due = [step for step in range(250) if probe([], step=step)[0].is_due()]
    assert due == [0, 100, 200]
    assert not probe([], probe_steps=None)[0].is_due()


# Alarms


def lines(metric: str, values: list[float], alarms: Alarms) -> list[dict[str, Any]]:
    """The history of a run in which a metric has these values."""
    history: list[dict[str, Any]] = []
    for step, value in enumerate(values, 1):
        logs = {"loss": 1.0, metric: value}
        history.append({**logs, **alarms.judge(logs, history), "step": step})
        history.append({"eval_loss": 1.0, metric: 1e9, "step": step})  # of held-out rows: not judged
    return [line for line in history if "loss" in line]


@pytest.mark.parametrize(
    "stage, name, metric, fine, wrong",
    [
        ("dpo", "chosen_reward", "rewards/chosen", -9.0, -11.0),
        ("dpo", "margin", "rewards/margins", 99.0, 101.0),
        ("reward", "margin", "margin", 99.0, 101.0),
        ("reward", "mean_reward", "mean_reward", -99.0, -101.0),
        ("reward", "mean_reward", "mean_reward", 99.0, 101.0),
    ],
)
def test_an_alarm_is_on_while_the_mean_of_the_window_is_out_of_range(
    stage: str, name: str, metric: str, fine: float, wrong: float, caplog: pytest.LogCaptureFixture
) -> None:
    config = AlarmsConfig(window=4)
    found = lines(metric, [wrong] * 3, Alarms(config, stage, np.ones(1)))
    assert not any(f"alarms/{name}" in line for line in found), "not before there are four lines"
    caplog.clear()
    found = lines(metric, [fine] * 4 + [wrong] * 6 + [fine] * 6, Alarms(config, stage, np.ones(1)))
    # A mean of fine and wrong values is beyond the threshold once two of four are; at exactly two it is on it.
    assert [line["step"] for line in found if f"alarms/{name}" in line] == [7, 8, 9, 10, 11]
    assert found[7][f"alarms/{name}"] == pytest.approx(wrong)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1, "said once"
    assert f"training.guards.alarms.{name} is" in caplog.text
    assert alarms_so_far(found) == {name: (5, 7)}
    off = lines(metric, [wrong] * 9, Alarms(AlarmsConfig(window=4, **{name: None}), stage, np.ones(1)))
    assert alarms_so_far(off) == {}


def test_rows_without_a_trained_token_are_an_alarm_but_not_for_a_reward_model() -> None:
    labels = np.array([3, 0, 2, 1])
    alarms = Alarms(AlarmsConfig(), "sft", labels)
    alarms.count([0, 1])
    alarms.count([2, 3])
    assert alarms.judge({"loss": 1.0}, []) == {"alarms/empty_masks": 0.25}
    alarms.count([0, 2])
    assert alarms.judge({"loss": 1.0}, []) == {}
    allowed = Alarms(AlarmsConfig(empty_masks=0.25), "sft", labels)
    allowed.count([0, 1, 2, 3])
    assert allowed.judge({"loss": 1.0}, []) == {}
    scores = Alarms(AlarmsConfig(), "reward", labels)
    scores.count([1])
    assert scores.judge({"loss": 1.0}, []) == {}


@pytest.mark.slow
@pytest.mark.parametrize("action", ["warn", "stop"])
def test_a_dpo_run_with_sinking_chosen_logps_warns_or_stops(
    action: str, tmp_path: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from align.jsonl import write_rows
    from align.settings import DPOConfig, ModelConfig, PreferenceDataConfig
    from recipes.dpo import DPORecipe, run
    from tests.align.trainers.test_steps import preference_rows, training

    write_rows(tmp_path / "pairs.jsonl", preference_rows(16))
    alarms = {"action": action, "window": 2, "chosen_reward": 1e3}
    recipe = DPORecipe(
        model=ModelConfig(path=tiny_checkpoint),
        data=PreferenceDataConfig(path=tmp_path / "pairs.jsonl"),
        dpo=DPOConfig(),
        training=training(tmp_path / "run", epochs=2, save_steps=1, guards={"alarms": alarms}),
    )
    if action == "stop":
        with pytest.raises(
            CheckError, match=r"step 2: the chosen completions become less likely: rewards/chosen \S+, and"
        ):
            run(recipe)
    else:
        run(recipe)
        assert "alarm" in caplog.text
        assert "chosen_reward in 3 log lines, first at step 2" in caplog.text
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = [2] if action == "stop" else [2, 3, 4]
    assert [line["step"] for line in written if "alarms/chosen_reward" in line] == expected
    assert Counter(line["step"] for line in written) == Counter(range(1, expected[-1] + 1))
