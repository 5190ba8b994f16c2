"""The plan of a run, and a bin as tensors, against plain loops."""

from __future__ import annotations

import doctest
import random
import time

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

import align.tree.pack
from align.tree.encode import PromptTree, Segment
from align.tree.pack import RunPlan, bins_under_budget, collate
from tests.trees import random_tree

CONFIG = LlamaConfig(
    vocab_size=89,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    pad_token_id=0,
)


def test_the_batch_that_collate_draws_is_the_one_that_it_makes() -> None:
    def branch(ids: list[int], trained: list[bool]) -> Segment:
        return Segment(np.array(ids, np.int32), np.array(trained), np.array(trained))

    a = PromptTree("A", np.array([10, 11, 12]), (branch([20, 21], [True, False]), branch([30, 31, 32], [True] * 3)))
    b = PromptTree("B", np.array([40]), (branch([50, 51], [True, True]),))
    batch = collate([a, b])
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 31, 32, 40, 50, 51]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2]]
    assert batch.labels.tolist() == [20, 30, 31, 32, 50, 51]
    assert batch.sources.tolist() == [2, 2, 5, 6, 8, 9]
    assert batch.label_counts.tolist() == [1, 3, 2]
    assert batch.ends.tolist() == [4, 7, 10]
    assert batch.layout is not None
    trees = [tree for block in batch.layout.blocks for tree in block.trees]
    assert trees == [(0, 3, ((3, 5), (5, 8))), (8, 9, ((9, 11),))]


def test_the_plans_that_the_comments_work_out_are_the_ones_that_are_made() -> None:
    assert doctest.testmod(align.tree.pack).attempted == 2
    assert doctest.testmod(align.tree.pack).failed == 0

    def bins(sizes: list[int], process: int) -> list[list[int]]:
        plan = RunPlan(
            sizes, batch_size=5, token_budget=8, epochs=1, max_steps=None, seed=0, processes=2, process=process
        )
        return [[sizes[row] for row in members] for members in plan[0].bins]

    assert [sorted(each) for each in bins([6, 3, 5, 2, 4], 0)] == [[6], [4]]
    assert [sorted(each) for each in bins([6, 3, 5, 2, 4], 1)] == [[5], [2, 3]]
    assert (bins([8, 8, 8], 0), bins([8, 8, 8], 1)) == ([[8], []], [[8], [8]])


def test_a_batch_is_what_going_through_it_token_by_token_gives() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        trees = [random_tree(rng, f"t{n}", untrained=True) for n in range(rng.integers(1, 6))]
        ids, positions, sources, labels, contrast, label_counts, ends = ([] for _ in range(7))
        for tree in trees:
            prompt_end = len(ids) + len(tree.prompt)
            ids += tree.prompt.tolist()
            positions += range(len(tree.prompt))
            for branch in tree.branches:
                for place, token in enumerate(branch.ids.tolist()):
                    if branch.loss_mask[place]:
                        sources.append(len(ids) - 1 if place else prompt_end - 1)
                        labels.append(token)
                        contrast.append(bool(branch.contrast_mask[place]))
                    ids.append(token)
                    positions.append(len(tree.prompt) + place)
                ends.append(len(ids) - 1)
                label_counts.append(sum(branch.loss_mask.tolist()))
        batch = collate(trees)
        assert batch.input_ids.tolist() == [ids]
        assert batch.position_ids.tolist() == [positions]
        assert batch.sources.tolist() == sources
        assert batch.labels.tolist() == labels
        assert batch.contrast_mask.tolist() == contrast
        assert batch.label_counts.tolist() == label_counts
        assert batch.ends.tolist() == ends
        assert batch.levels == [tree.level for tree in trees]
        assert {batch.input_ids.dtype, batch.sources.dtype, batch.labels.dtype, batch.ends.dtype} == {torch.int64}


def plan_of(sizes: list[int], **changed) -> RunPlan:
    settings = {"batch_size": 8, "token_budget": 100, "epochs": 2, "max_steps": None, "seed": 3}
    return RunPlan(sizes, **(settings | changed))


def test_each_epoch_trains_on_every_tree_once_over_all_processes() -> None:
    sizes = random.Random(5).choices(range(5, 60 + 1), k=29)
    for processes in (1, 2, 3):
        plans = [plan_of(sizes, processes=processes, process=rank) for rank in range(processes)]
        seen = [
            row for step in range(len(plans[0])) for plan in plans for members in plan[step].bins for row in members
        ]
        assert sorted(seen) == sorted([*range(29)] * 2)


def test_the_rows_of_a_step_do_not_depend_on_the_number_of_processes() -> None:
    sizes = random.Random(6).choices(range(5, 60 + 1), k=40)
    one, three = plan_of(sizes), plan_of(sizes, processes=3, process=1)
    assert [one[step].rows for step in range(len(one))] == [three[step].rows for step in range(len(three))]


def test_processes_make_equally_many_passes_within_the_budget() -> None:
    sizes = random.Random(7).choices(range(5, 99 + 1), k=50)
    plans = [plan_of(sizes, processes=2, process=rank) for rank in range(2)]
    for step in range(len(plans[0])):
        first, second = plans[0][step], plans[1][step]
        assert len(first.bins) == len(second.bins)
        assert all(sum(sizes[i] for i in members) <= 100 for members in first.bins + second.bins)


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    sizes = list(range(5, 45))
    forwards, backwards = plan_of(sizes), plan_of(sizes)
    assert [forwards[n] for n in range(10)] == [backwards[n] for n in reversed(range(10))][::-1]
    assert forwards[0] != plan_of(sizes, seed=4)[0]
    assert forwards[0].rows != forwards[5].rows, "the second epoch has an order of its own"


def test_bins_hold_everything_once_and_keep_to_the_budget() -> None:
    sizes = random.Random(8).choices(range(1, 50 + 1), k=200)
    bins = bins_under_budget(sizes, 64)
    assert sorted(i for members in bins for i in members) == list(range(200))
    assert all(sum(sizes[i] for i in members) <= 64 for members in bins)
    assert sum(sizes) / (64 * len(bins)) > 0.95


def test_bins_are_no_more_than_first_fit_makes() -> None:
    rng = random.Random(9)
    for _ in range(100):
        sizes = [rng.randint(1, 100) for _ in range(60)]
        rooms: list[int] = []
        for size in sorted(sizes, reverse=True):
            fitting = next((number for number, room in enumerate(rooms) if room >= size), None)
            if fitting is None:
                rooms.append(100 - size)
            else:
                rooms[fitting] -= size
        assert len(bins_under_budget(sizes, 100)) <= len(rooms)


def test_a_tree_over_the_budget_has_a_bin_of_its_own() -> None:
    sizes = [30, 250, 40, 110, 20]
    assert sorted(map(sorted, bins_under_budget(sizes, 100))) == [[0, 2, 4], [1], [3]]
    for processes in (1, 2, 3):
        plans = [plan_of(sizes, epochs=1, processes=processes, process=rank) for rank in range(processes)]
        bins = [members for plan in plans for members in plan[0].bins]
        assert (1,) in bins
        assert (3,) in bins
        assert sorted(row for members in bins for row in members) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_cost_the_same_in_each_round_and_over_the_step(processes: int) -> None:
    """Lengths as uneven as real rows are; a long tree costs more than its tokens."""
    rng = np.random.default_rng(10)
    sizes = np.minimum(rng.lognormal(6.5, 0.6, 3000).astype(int) + 1, 4096)
    costs = sizes + 1.5e-4 * sizes**2
    settings = {"batch_size": 128, "token_budget": 8192, "epochs": 1, "costs": costs, "processes": processes}
    plans = [plan_of(sizes, process=rank, **settings) for rank in range(processes)]
    waiting, uneven = [], []
    for step in range(len(plans[0]) - 1):
        spent = np.array([[costs[list(members)].sum() for members in plan[step].bins] for plan in plans])
        waiting.append(1 - spent.sum() / (processes * spent.max(axis=0).sum()))
        uneven.append(spent.sum(axis=1).max() / spent.sum(axis=1).mean() - 1)
    assert np.mean(waiting) < 0.02, "share of the time in which a process waits for the slowest of its round"
    assert np.mean(uneven) < 0.02


def test_the_filled_share_is_that_of_the_bins() -> None:
    plan = plan_of([50, 50, 30, 60], batch_size=4, epochs=1)
    assert plan.filled_share() == pytest.approx(190 / 200)
    assert plan_of([50], batch_size=4, epochs=1, processes=2).filled_share() == pytest.approx(50 / 200)


def test_a_sum_up_to_a_step_is_that_over_the_rows_of_the_steps_before() -> None:
    values = np.array([1, 2, 4, 8, 16])
    plan = plan_of(values, batch_size=2, epochs=3)
    rows = [plan[step].rows for step in range(len(plan))]
    sums = [sum(int(values[row]) for step in rows[:done] for row in step) for done in range(len(plan) + 1)]
    assert [plan.sum_to_step(values, done) for done in range(len(plan) + 1)] == sums
    assert sums[3] == 31


@pytest.mark.slow
def test_a_long_run_is_planned_in_seconds() -> None:
    """A million trees in under a minute, and 100,000 in one step, which would take many minutes if a plan looked
    through all bins for each tree.
    """
    sizes = np.random.default_rng(11).integers(1, 3000, 1_000_000)
    began = time.process_time()
    plan = plan_of(sizes, batch_size=64, token_budget=4096, epochs=1, processes=2)
    assert sum(len(plan[step].rows) for step in range(len(plan))) == 1_000_000
    assert plan.filled_share() > 0.9
    sizes = sizes[:100_000]
    large = plan_of(sizes, batch_size=100_000, token_budget=4096, epochs=1, processes=8)
    assert len(large[0].bins) == pytest.approx(sizes.sum() / 4096 / 8, rel=0.02)
    assert time.process_time() - began < 60
