"""The sums of a step, and the comparisons of a reward batch, by the examples in their docstrings; what a step reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from align.models.logps import TreePolicy, TreeScorer
from align.settings import DPOConfig, RewardConfig
from align.trainers.base import TreeTrainer
from align.trainers.dpo import OBJECTIVES, DPOTrainer
from align.trainers.metrics import MetricSums
from align.trainers.processes import Processes
from align.trainers.reward import RewardTrainer, comparisons
from align.trainers.sft import SFTTrainer
from align.tree.encode import PromptTree, Segment
from align.tree.pack import collate
from tests import accelerator
from tests.trees import SHORT_AND_LONG, tiny_llama, tree_of

ALONE = Processes(1, 0, torch.device("cpu"))


def tree(name: str, branches: int, level: str) -> PromptTree:
    read = np.ones(1, bool)
    return PromptTree(
        name, np.array([1]), tuple(Segment(np.array([2 + n]), read, read) for n in range(branches)), level
    )


def test_a_metric_is_the_mean_over_rows_and_starts_again_after_a_report() -> None:
    sums = MetricSums()
    sums.add(rows=3, margin_sum=1.5)
    sums.add(rows=torch.tensor(1.0), margin_sum=0.5, tokens=30, token_places=40)
    assert sums.report(ALONE) == {"filled_share": 0.75, "margin": 0.5, "tokens": 30.0}
    sums.add(rows=2, margin_sum=3)
    assert sums.report(ALONE) == {"margin": 1.5}


def test_every_better_completion_is_compared_with_every_worse_one_of_its_prompt() -> None:
    found = comparisons(collate([tree("pair", 2, "better"), tree("edited", 3, "better")]), {"better": 0.67})
    assert found.better.tolist() == [0, 2, 2, 3]
    assert found.worse.tolist() == [1, 3, 4, 4]
    assert found.target_margins.tolist() == pytest.approx([0.67, 0, 0.67, 0.67])
    assert found.weights.tolist() == [1, 1, 1, 1]


def trainer_of(kind: type[TreeTrainer]) -> TreeTrainer:
    """A trainer with what `batch_loss` reads, and no more: a whole one would start transformers' Trainer on a GPU."""
    made = kind.__new__(kind)
    made.sums = MetricSums()
    if isinstance(made, DPOTrainer):
        made.dpo = DPOConfig()
        made.objective = OBJECTIVES[made.dpo.loss]
        made.contrast = made.objective.make(made.dpo)
    if isinstance(made, RewardTrainer):
        made.reward = RewardConfig(centering=0.01)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SFTTrainer, DPOTrainer, RewardTrainer])
def test_a_loss_and_its_metrics_are_computed_without_reading_a_value_back(kind: type[TreeTrainer]) -> None:
    """Reading waits for all work that is queued on a GPU; losses are judged after the backward pass.

    Without gradients, which PyTorch's CPU build cannot record for tensors of a GPU.
    """
    scores = kind is RewardTrainer
    model = tiny_llama(LlamaForSequenceClassification, num_labels=1) if scores else tiny_llama(LlamaForCausalLM)
    trees = [tree_of("short", 5, 4), tree_of("long", 40, 30)] if kind is SFTTrainer else SHORT_AND_LONG
    batch = collate(trees)
    if kind is DPOTrainer:
        batch.reference = torch.zeros(4)

    def step(trainer: TreeTrainer, device: str) -> None:
        tree_model = (TreeScorer if scores else TreePolicy)(model).to(device)
        here = batch.to(device)
        for _ in range(2):
            accelerator.reads.clear()
            trainer.batch_loss(tree_model, here, trainer.denominators(trees))

    on_cpu, there = trainer_of(kind), trainer_of(kind)
    with torch.no_grad():
        step(on_cpu, "cpu")
        with accelerator.accelerator():
            step(there, "cuda")
            assert accelerator.reads == []
            found = there.sums.report(ALONE)
            assert accelerator.reads == ["tolist"], "all metrics are read at once"
    assert found == pytest.approx(on_cpu.sums.report(ALONE), rel=1e-5)
