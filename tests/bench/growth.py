"""How time grows with the tokens of one packed row: the slope of log time over log tokens, 1 where it is linear."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import measure
import ours
import shapes


def packed_row(folder: Path, *, model: str, tokens: list[int], tree: list[int], steps: int) -> dict[str, Any]:
    """Seconds of a DPO step (ours, float32) for rows of that many tokens, filled with trees of one size.

    tree: tokens of the prompt and of each of its two completions.
    """
    prompt, completion = tree
    size = prompt + 2 * completion
    assert all(count % size == 0 for count in tokens), f"rows are whole trees of {size} tokens"
    rows = {
        count: [ours.made_tree(number, prompt, [completion] * 2) for number in range(count // size)] for count in tokens
    }
    return _grow(folder, model, rows, steps)


def one_tree(folder: Path, *, model: str, tokens: list[int], steps: int) -> dict[str, Any]:
    """The same for rows of one tree, half of it prompt: attention grows with the square here."""
    rows = {count: [ours.made_tree(0, count // 2, [count // 4] * 2)] for count in tokens}
    return _grow(folder, model, rows, steps)


def slope(seconds: dict[int, float]) -> float:
    """Least-squares slope of log seconds over log tokens."""
    points = [(math.log(tokens), math.log(taken)) for tokens, taken in seconds.items()]
    x, y = (sum(point[side] for point in points) / len(points) for side in (0, 1))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def _grow(folder: Path, model: str, rows: dict[int, list[Any]], steps: int) -> dict[str, Any]:
    start, other = (shapes.checkpoint(model, folder, kind) for kind in ("policy", "reference"))
    policy, reference = ours.policy(start, "fp32"), ours.policy(other, "fp32")
    frozen = {count: ours.reference_logps(reference, trees) for count, trees in rows.items()}
    ours.dpo_step(policy, rows[min(rows)], frozen[min(rows)])  # warm
    arms = {str(count): lambda batch, c=count: ours.dpo_step(policy, rows[c], frozen[c]) for count in rows}
    times = measure.alternate(arms, steps, before=lambda: policy.zero_grad(set_to_none=True))
    seconds = {count: measure.summary([taken.wall for taken in times[str(count)]]) for count in rows}
    medians = {count: float(found["median"]) for count, found in seconds.items()}
    larger = sorted(medians)[len(medians) // 3 :]
    return {
        "seconds": seconds,
        "slope": slope(medians),
        "larger": {"from_tokens": larger[0], "slope": slope({count: medians[count] for count in larger})},
    }
