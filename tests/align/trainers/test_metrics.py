"""The sums of a step, and the comparisons of a reward batch, by the examples in their docstrings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from align.trainers.metrics import MetricSums
from align.trainers.processes import Processes
from align.trainers.reward import comparisons
from align.tree.encode import PromptTree, Segment
from align.tree.pack import collate

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
