"""Scores of K completions of one prompt: a tree against a row for each, in padded batches of the best size."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gates
import limits
import measure
import ours
import peers
import shapes
import torch

BATCH_SIZES = (1, 2, 4, 8, 16)


def compare(folder: Path, *, model: str, prompt: int, completion: int, completions: int, steps: int) -> dict[str, Any]:
    """Ours against plain transformers, in float32. The rows' batch size is the fastest on the first prompt."""
    start = shapes.checkpoint(model, folder, "reward")
    theirs, scorer = peers.reward_model(start).eval(), ours.scorer(start, "fp32").eval()
    rng = random.Random(0)
    trees = []
    for number in range(steps + 1):
        lengths = [round(rng.uniform(0.5, 1.5) * mean) for mean in (prompt, *[completion] * completions)]
        trees.append(ours.made_tree(number, lengths[0], lengths[1:]))
    whole = [[[*tree.prompt, *branch.ids] for branch in tree.branches] for tree in trees]

    sizes = [size for size in BATCH_SIZES if size <= completions]
    peers.score_padded(theirs, whole[0], sizes[-1])  # warm
    tried = {size: min(_seconds(theirs, whole[0], size) for _ in range(2)) for size in sizes}
    size = min(tried, key=lambda tried_size: tried[tried_size])

    differences = {}
    for number, tree in enumerate(trees):
        mine, expected = ours.score(scorer, tree), peers.score_padded(theirs, whole[number], size)
        apart = ((mine - expected).abs() / expected.abs().clamp(min=1)).max().item()
        differences[f"prompt {number}"] = gates.Difference(apart, 0.0, "scores have no gradient")
    gates.require_same(differences, gates.FP32)

    with torch.inference_mode():
        executed = {
            "rows": limits.count_flops(lambda: peers.score_padded(theirs, whole[1], size)),
            "ours": limits.count_flops(lambda: ours.score(scorer, trees[1])),
        }
    tokens = trees[1].tokens
    peak = limits.matmul_peak(scorer.model, tokens, torch.float32)
    times = measure.alternate(
        {
            "rows": lambda batch: peers.score_padded(theirs, whole[batch + 1], size),
            "ours": lambda batch: ours.score(scorer, trees[batch + 1]),
        },
        steps,
    )
    least = [
        limits.minimal_flops(scorer.model, [ours.shape_of(tree)], training=False, head=False) for tree in trees[1:]
    ]
    return {
        "tokens": [tree.tokens for tree in trees[1:]],
        "batch_size": size,
        "seconds_by_batch_size": tried,
        "gate": {
            "bounds": gates.FP32._asdict(),
            "held_to": "rows",
            "largest_difference_of_a_score": max(apart.loss for apart in differences.values()),
        },
        "arms": {name: {"seconds": measure.summary([t.wall for t in taken])} for name, taken in times.items()},
        "ratios": {"rows / ours": measure.ratio(times["rows"], times["ours"])},
        "limits": {
            "matmul_flops_per_second": peak,
            "minimal_flops": least,
            "arms": {name: limits.shares(executed[name], [t.wall for t in times[name]], least, peak) for name in times},
        },
    }


def _seconds(model: Any, sequences: list[list[int]], size: int) -> float:
    return measure.taken_by(lambda: peers.score_padded(model, sequences, size)).wall
