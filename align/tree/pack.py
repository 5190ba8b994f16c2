"""Pack trees into rows without padding: the plan of a run (which tree in which step, process and bin), and its batches.

Dimension letters: T tokens of a bin, B branches in it, N label positions (tokens under the loss mask).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from align.tree.attention import Tree, TreeLayout
from align.tree.encode import PromptTree


@dataclass(slots=True)
class TreeBatch:
    """One bin as tensors: tree after tree, and in each tree the prompt and then its branches."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T], restarting with each tree, and at the prompt's end with each branch
    layout: TreeLayout | None  # None for a plain causal row
    sources: Tensor  # [N], position of the state that predicts a label: for a branch's first token, the prompt's last
    labels: Tensor  # [N]
    contrast_mask: Tensor  # [N], bool
    label_counts: Tensor  # [B], label positions of each branch; labels are in branch order
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
    """Concatenate trees to one batch without padding. weights: 1 for each tree if None.

    Example. Tree A has the prompt 10 11 12 and the branches 20 21 and 30 31 32; tree B has the prompt 40 and the branch
    50 51. All tokens of the branches are labels, except 21:

        place            0  1  2   3  4   5  6  7 |  8   9 10
        segment          A       A.0    A.1      |  B  B.0
        input_ids       10 11 12  20 21  30 31 32 | 40  50 51
        position_ids     0  1  2   3  4   3  4  5 |  0   1  2     restart at 3 for A.1, at 0 for B
        state before     -  0  1   2  3   2  5  6 |  -   8  9     30 is predicted by 12 (place 2), not by 21
        is a label       .  .  .   x  .   x  x  x |  .   x  x

        labels         20 30 31 32 50 51
        sources         2  2  5  6  8  9      "state before" of each label
        label_counts    1  3  2               of A.0, A.1 and B.0
        ends            4  7 10               the last place of A.0, A.1 and B.0
    """
    segments: list[np.ndarray] = []  # [10 11 12], [20 21], [30 31 32], [40], [50 51]
    masks: list[np.ndarray] = []
    contrasts: list[np.ndarray] = []
    is_branch: list[bool] = []  # F T T F T
    prompt_lengths: list[int] = []  # of each segment's tree: 3 3 3 1 1
    for tree in trees:
        length = len(tree.prompt)
        assert length, f"tree {tree.id} has an empty prompt: nothing would predict a branch's first token"
        nothing = np.zeros(length, bool)
        segments += [tree.prompt, *(branch.ids for branch in tree.branches)]
        masks += [nothing, *(branch.loss_mask for branch in tree.branches)]
        contrasts += [nothing, *(branch.contrast_mask for branch in tree.branches)]
        is_branch += [False, *(True for _ in tree.branches)]
        prompt_lengths += [length] * (1 + len(tree.branches))
    ids = np.concatenate(segments).astype(np.int64)
    mask, contrast = np.concatenate(masks), np.concatenate(contrasts)
    branch = np.array(is_branch)
    lengths = np.fromiter(map(len, segments), np.int64, len(segments))  # 3 2 3 1 2
    ends = np.cumsum(lengths)  # 3 5 8 9 11, exclusive
    starts = ends - lengths  # 0 3 5 8 9
    tokens = np.arange(len(ids))
    # A token's place, less where its segment starts, plus the prompt's length in a branch: place 5 is 5 - (5 - 3) = 3.
    positions = tokens - np.repeat(starts - np.where(branch, prompt_lengths, 0), lengths)
    # The state before a token predicts it. The first token of a branch is predicted by the last one of the prompt.
    before = tokens - 1
    prompt_ends = ends[~branch]  # 3 9
    branch_counts = [len(tree.branches) for tree in trees]
    full = branch & (lengths > 0)  # an empty branch has no first token
    before[starts[full]] = np.repeat(prompt_ends, branch_counts)[lengths[branch] > 0] - 1
    labels = np.flatnonzero(mask)
    labels_before = np.concatenate([[0], np.cumsum(mask)])  # 0 0 0 0 1 1 2 3 4 4 5 6: labels in a span by difference
    return TreeBatch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(positions)[None],
        layout=TreeLayout.of(_spans(branch_counts, starts.tolist(), ends.tolist())),
        sources=torch.from_numpy(before[labels]),
        labels=torch.from_numpy(ids[labels]),
        contrast_mask=torch.from_numpy(contrast[labels]),
        label_counts=torch.from_numpy((labels_before[ends] - labels_before[starts])[branch]),
        ends=torch.from_numpy(ends[branch] - 1),
        branch_counts=branch_counts,
        tree_ids=[tree.id for tree in trees],
        levels=[tree.level for tree in trees],
        weights=torch.ones(len(trees)) if weights is None else torch.tensor(weights),
    )


def _spans(branch_counts: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> list[Tree]:
    """The spans of each tree's prompt and branches, from those of all segments.

    Example, as in `collate`: (0, 3, ((3, 5), (5, 8))) for tree A, (8, 9, ((9, 11),)) for tree B.
    """
    spans: list[Tree] = []
    place = 0
    for count in branch_counts:
        first, place = place, place + 1 + count
        branches = tuple(zip(starts[first + 1 : place], ends[first + 1 : place], strict=True))
        spans.append((starts[first], ends[first], branches))
    return spans


def bins_under_budget(sizes: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group indices so that the sizes of no group exceed the budget, unless a single one does: best-fit decreasing.

    From the largest to the smallest, each size goes into the bin that it fills best.

    >>> bins_under_budget([6, 3, 5, 2, 4], token_budget=8)
    [[0, 3], [2, 1], [4]]

    The steps: 6 opens bin 0 (2 tokens free), 5 opens bin 1 (3 free), 4 opens bin 2 (4 free). 3 fits into the bins 1 and
    2, and fills bin 1. 2 fits into the bins 0 and 2, and fills bin 0.

    The bin is found by bisection of the numbers of free tokens, not of the bins: there are at most `token_budget` + 1
    different ones, so the time hardly grows with the number of bins.
    """
    bins: list[list[int]] = []
    rooms: list[int] = []  # each number of free tokens that some bin has, once, ascending: 2 3 4 after three steps
    bins_with: dict[int, list[int]] = {}  # that number -> the bins that have it: {2: [0], 3: [1], 4: [2]}
    for place in _descending(sizes):
        size = sizes[place]
        at = bisect_left(rooms, size)
        if at == len(rooms):
            number, room = len(bins), max(token_budget, size)
            bins.append([])
        else:
            room = rooms[at]
            number = bins_with[room].pop()
            if not bins_with[room]:
                del bins_with[room], rooms[at]
        bins[number].append(place)
        left = room - size
        if left not in bins_with:
            insort(rooms, left)
            bins_with[left] = []
        bins_with[left].append(number)
    return bins


def tree_numbers(trees: Sequence[PromptTree], name: str) -> np.ndarray:
    """`tokens`, `unshared_tokens`, `labels` or `attended` of each tree, [trees] int64.

    A `TreeStore` has them without reading a tree, and so have the rows of a plan, which are numbers alone.
    """
    found = getattr(trees, name, None)
    if isinstance(found, np.ndarray):
        return found
    return np.array([getattr(tree, name) for tree in trees], np.int64)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one process does in one optimizer step."""

    rows: tuple[int, ...]  # every tree of the step, over all processes
    bins: tuple[
        tuple[int, ...], ...
    ]  # of this process, each a forward and backward pass; () if the pass has no row of its own


class Occupancy(NamedTuple):
    """How much of the packed rows of all processes is used, from 0 to 1."""

    filled: float
    """Share of the token places that hold a token."""
    empty: float
    """Share of the bins without a row: a process makes such a pass for nothing, since the others make one."""


LEAST_FILLED = 0.25


def occupancy_warnings(plan: RunPlan, occupancy: Occupancy) -> list[str]:
    """What wastes most of the processes of a run, with what to change."""
    found = []
    now = f"{plan.batch_size:,} rows a step on {plan.processes:,} processes"
    if occupancy.empty:
        found.append(
            f"{occupancy.empty:.0%} of the passes have no row ({now}): use fewer processes, or raise "
            "training.batch_size, which changes the result"
        )
    if occupancy.filled < LEAST_FILLED and plan.processes > 1:
        found.append(
            f"packed rows are {occupancy.filled:.0%} full ({now}, data.token_budget {plan.token_budget:,}): use fewer "
            "processes, or raise training.batch_size, which changes the result"
        )
    return found


class RunPlan(Dataset[StepPlan]):
    """Which trees are trained on in which optimizer step: a pure function of (seed, step), for any number of processes.

    Each epoch is a seeded permutation, cut into steps of `batch_size` trees (the last may be smaller). A step's trees
    are packed into bins under the token budget, the same number of bins for each process (ZeRO-3 gathers weights in
    every forward pass, so all must make as many), balanced by cost: in each round of bins, since processes wait for
    each other there, and over the step.

    sizes: tokens of each tree. costs: the cost of each tree in time; None to take the sizes.
    skipped: tree -> the step from which on it is left out. The other trees stay in their steps, so a step may have
        fewer trees than `batch_size`, or none.

    Example: a step with trees of 6, 3, 5, 2 and 4 tokens, a budget of 8, two processes. Three bins would be enough, but
    two processes need an even number, so the trees are spread over four bins:

                     process 0     process 1
        round 0      6             5
        round 1      4             3 + 2         10 tokens for each process

    Three trees of 8 tokens make three bins and two rounds; in round 1 process 0 has the empty bin ().
    """

    def __init__(
        self,
        sizes: Sequence[int] | np.ndarray,
        *,
        batch_size: int,
        token_budget: int,
        epochs: float,
        max_steps: int | None,
        seed: int,
        costs: Sequence[float] | np.ndarray | None = None,
        processes: int = 1,
        process: int = 0,
        skipped: Mapping[int, int] | None = None,
    ) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self.costs = np.asarray(sizes if costs is None else costs, np.float64)
        self.batch_size = batch_size
        self.token_budget = token_budget
        self.seed = seed
        self.processes = processes
        self.process = process
        self.skipped = dict(skipped or {})
        self.steps_per_epoch = -(-len(sizes) // batch_size)
        steps = max(1, int(np.ceil(epochs * self.steps_per_epoch)))
        self.steps = min(steps, max_steps) if max_steps else steps
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> StepPlan:
        mine = self.bins(step)[self.process :: self.processes]
        return StepPlan(tuple(self._rows(step).tolist()), tuple(tuple(members) for members in mine))

    def bins(self, step: int) -> list[list[int]]:
        """The trees of each bin of a step, over all processes: bin n belongs to process n % processes."""
        rows = self._rows(step)
        numbers = rows.tolist()
        return [[numbers[place] for place in sorted(members)] for members in self._bins(rows)]

    def occupancy(self, steps: int = 100) -> Occupancy:
        """How full the bins of all processes are, over the first `steps` of an epoch.

        The last step of an epoch, which may have fewer rows, counts only if there is no other.
        """
        tokens = places = count = empty = 0
        for step in range(min(steps, max(1, len(self.sizes) // self.batch_size))):
            filled = [int(self.sizes[members].sum()) for members in self.bins(step)]
            tokens += sum(filled)
            places += sum(max(each, self.token_budget) for each in filled)
            count += len(filled)
            empty += filled.count(0)
        return Occupancy(tokens / max(places, 1), empty / max(count, 1))

    def filled_share(self, steps: int = 100) -> float:
        """How full the bins of all processes are, from 0 to 1, over the first `steps` of an epoch."""
        return self.occupancy(steps).filled

    def sum_to_step(self, values: np.ndarray, step: int) -> int:
        """The sum of `values`, one for each tree, over the trees of the first `step` steps.

        Example: three trees with the values 1, 2 and 4, in steps of two, so an epoch has two steps. After step 3 it is
        1 + 2 + 4 for the first epoch and the sum of the two trees with which the second begins.
        """
        epochs, steps = divmod(step, self.steps_per_epoch)
        begun = int(values[self._order(epochs)[: steps * self.batch_size]].sum()) if steps else 0
        left_out = sum(int(values[self._left_out(each)].sum()) for each in self._steps_with_skipped(step))
        return epochs * int(values.sum()) + begun - left_out

    def planned_rows(self, step: int) -> int:
        """How many trees a step would have if none was skipped."""
        return len(self._planned(step))

    def skipping(self, skipped: Mapping[int, int]) -> RunPlan:
        """The same plan with other skipped trees."""
        other = copy(self)
        other.skipped = dict(skipped)
        return other

    def has_rows(self, first: int = 0) -> bool:
        """Whether any step has a tree. first: the first step that is looked at, from 0."""
        return any(self._rows(step).size for step in range(first, len(self)))

    def first_with_rows(self) -> StepPlan:
        """The first step that has any trees."""
        return next(planned for step in range(len(self)) if (planned := self[step]).rows)

    def _rows(self, step: int) -> np.ndarray:
        rows = self._planned(step)
        if not self.skipped:
            return rows
        return rows[[self.skipped.get(row, step + 1) > step for row in rows.tolist()]]

    def _planned(self, step: int) -> np.ndarray:
        """The trees of a step as if none was skipped."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def _left_out(self, step: int) -> np.ndarray:
        """The skipped trees of a step."""
        rows = self._planned(step)
        return rows[[self.skipped.get(row, step + 1) <= step for row in rows.tolist()]]

    def _steps_with_skipped(self, before: int) -> list[int]:
        """Steps before `before` in which a tree is left out."""
        if not self.skipped:
            return []
        trees = np.fromiter(self.skipped, np.int64)
        found = set()
        for epoch in range(min(self.skipped.values()) // self.steps_per_epoch, -(-before // self.steps_per_epoch)):
            places = np.flatnonzero(np.isin(self._order(epoch), trees)) // self.batch_size
            found.update((epoch * self.steps_per_epoch + places).tolist())
        return sorted(step for step in found if step < before)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes)))
        return self._epoch[1]

    def _bins(self, rows: np.ndarray) -> list[list[int]]:
        """Indices into `rows` by bin. Bin n belongs to process n % processes; the bins of a round cost about the same.

        Example, that of the class: the bins [0], [2], [1, 3] and [4] in the order of their cost. The second round is
        dealt backwards: [0] [2] | [4] [1, 3].
        """
        if not len(rows):
            return []
        sizes, costs = self.sizes[rows].tolist(), self.costs[rows].tolist()
        bins = bins_under_budget(sizes, self.token_budget)
        rounds = -(-len(bins) // self.processes)
        if self.processes > 1:
            bins = _spread(sizes, costs, rounds * self.processes, self.token_budget) or bins
        bins += [[] for _ in range(rounds * self.processes - len(bins))]
        bins.sort(key=lambda members: -sum(costs[i] for i in members))
        # Every other round backwards, so that no process has the most expensive bin of each round.
        dealt = [bins[first : first + self.processes] for first in range(0, len(bins), self.processes)]
        return [members for number, round_ in enumerate(dealt) for members in (round_[::-1] if number % 2 else round_)]


_TRIES = 64
"""At most this many bins are tried for a tree, cheapest first."""


def _spread(sizes: Sequence[int], costs: Sequence[float], count: int, token_budget: int) -> list[list[int]] | None:
    """Exactly `count` bins of about equal cost, or None if that would exceed the budget.

    From the most expensive tree to the cheapest, each goes into the cheapest bin in which it fits.

    >>> _spread([6, 3, 5, 2, 4], [6, 3, 5, 2, 4], count=4, token_budget=8)
    [[0], [2], [4], [1, 3]]

    6, 5, 4 and 3 open a bin each; 2 joins 3, since that bin is the cheapest.
    """
    bins: list[list[int]] = [[] for _ in range(count)]
    room = [token_budget] * count
    cheapest = [(0.0, number) for number in range(count)]
    for place in _descending(costs):
        passed: list[tuple[float, int]] = []
        while cheapest and len(passed) < _TRIES:
            cost, number = heappop(cheapest)
            if room[number] >= sizes[place] or not bins[number]:
                break
            passed.append((cost, number))
        else:
            return None
        bins[number].append(place)
        room[number] -= sizes[place]
        heappush(cheapest, (cost + costs[place], number))
        for each in passed:
            heappush(cheapest, each)
    return bins


def _descending(values: Sequence[float]) -> list[int]:
    """Places, largest value first, equal ones in their order."""
    return [int(place) for place in np.argsort(-np.asarray(values), kind="stable")]
