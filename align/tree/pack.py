"""Trees to padding-free rows: the plan of a run (which tree in which step, process and bin), and a bin as tensors.

Dimension letters: T tokens of a bin, B branches in it, N label positions (tokens under the loss mask).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from align.tree.attention import TreeLayout
from align.tree.encode import PromptTree


@dataclass(slots=True)
class TreeBatch:
    """One bin as tensors. Trees stand one after the other; in a tree the prompt, then its branches."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T], restarting with each tree, and at the prompt's end with each branch
    layout: TreeLayout | None  # None for a plain causal row
    sources: Tensor  # [N], where the state stands that predicts a label: for a branch's first token, the prompt's last
    labels: Tensor  # [N]
    contrast_mask: Tensor  # [N], bool
    label_counts: Tensor  # [B], label positions of each branch; labels stand in branch order
    ends: Tensor  # [B], position of each branch's last token: where the reward model reads its score
    branch_counts: list[int]  # branches of each tree
    tree_ids: list[str]
    levels: list[str | None]  # each tree's grade
    weights: Tensor  # [trees], 1; 0 for a tree that only fills an empty place
    reference: Tensor | None = None  # [B], the reference's log-probability of each branch, for methods that have one

    def to(self, device: torch.device | str) -> TreeBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if hasattr(value, "to")}
        return replace(self, **moved)


def collate(trees: Sequence[PromptTree], weights: Sequence[float] | None = None) -> TreeBatch:
    """Trees to one padding-free batch."""
    ids: list[int] = []
    positions: list[int] = []
    sources: list[int] = []
    labels: list[int] = []
    contrast: list[bool] = []
    label_counts: list[int] = []
    ends: list[int] = []
    spans = []
    for tree in trees:
        start, length = len(ids), len(tree.prompt)
        assert length, f"tree {tree.id} has an empty prompt: nothing would predict a branch's first token"
        ids += tree.prompt
        positions += range(length)
        branches = []
        for branch in tree.branches:
            first = len(ids)
            ids += branch.ids
            positions += range(length, length + len(branch.ids))
            branches.append((first, len(ids)))
            ends.append(len(ids) - 1)
            label_counts.append(sum(branch.loss_mask))
            for place, trained in enumerate(branch.loss_mask):
                if trained:
                    sources.append(first + place - 1 if place else start + length - 1)
                    labels.append(branch.ids[place])
                    contrast.append(branch.contrast_mask[place])
        spans.append((start, start + length, tuple(branches)))
    return TreeBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        layout=TreeLayout.of(spans),
        sources=torch.tensor(sources, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.long),
        contrast_mask=torch.tensor(contrast, dtype=torch.bool),
        label_counts=torch.tensor(label_counts, dtype=torch.long),
        ends=torch.tensor(ends, dtype=torch.long),
        branch_counts=[len(tree.branches) for tree in trees],
        tree_ids=[tree.id for tree in trees],
        levels=[tree.level for tree in trees],
        weights=torch.ones(len(trees)) if weights is None else torch.tensor(weights),
    )


def bins_under_budget(sizes: Sequence[int], token_budget: int) -> list[list[int]]:
    """First-fit decreasing: indices grouped so that no group's sizes exceed the budget, unless one alone does."""
    bins: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        fitting = next((number for number, left in enumerate(room) if left >= sizes[place]), None)
        if fitting is None:
            bins.append([place])
            room.append(token_budget - sizes[place])
        else:
            bins[fitting].append(place)
            room[fitting] -= sizes[place]
    return bins


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one process does in one optimizer step."""

    rows: tuple[int, ...]  # every tree of the step, over all processes
    bins: tuple[tuple[int, ...], ...]  # this process's, each a forward and backward pass; () where it only keeps step


class RunPlan(Dataset):
    """Which trees are trained on in which optimizer step: a pure function of (seed, step), for any number of processes.

    Each epoch is a seeded permutation, cut into steps of `batch_size` trees (the last may be smaller). A step's trees
    are packed into bins under the token budget, the same number of bins for each process (ZeRO-3 gathers weights in
    every forward pass, so all must make as many), balanced by tokens.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_size: int,
        token_budget: int,
        epochs: float,
        max_steps: int | None,
        seed: int,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self.sizes = sizes
        self.batch_size = batch_size
        self.token_budget = token_budget
        self.seed = seed
        self.processes = processes
        self.process = process
        self.steps_per_epoch = -(-len(sizes) // batch_size)
        wanted = max(1, int(np.ceil(epochs * self.steps_per_epoch)))
        self.steps = min(wanted, max_steps) if max_steps else wanted
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> StepPlan:
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        sizes = [self.sizes[row] for row in rows]
        bins = bins_under_budget(sizes, self.token_budget)
        rounds = -(-len(bins) // self.processes)
        if len(bins) < rounds * self.processes:
            bins = _spread(sizes, rounds * self.processes, self.token_budget) or bins
        bins += [[] for _ in range(rounds * self.processes - len(bins))]
        bins.sort(key=lambda members: -sum(sizes[i] for i in members))
        mine = bins[self.process :: self.processes]
        return StepPlan(tuple(rows), tuple(tuple(rows[i] for i in sorted(members)) for members in mine))

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes)))
        return self._epoch[1]


def _spread(sizes: Sequence[int], count: int, token_budget: int) -> list[list[int]] | None:
    """Exactly `count` bins of about equal size, or None where that would break the budget."""
    bins: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        emptiest = min(range(count), key=lambda number: (filled[number], number))
        bins[emptiest].append(place)
        filled[emptiest] += sizes[place]
    return bins if max(filled) <= token_budget else None
