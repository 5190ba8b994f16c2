"""Times float32 matrix products of SmolLM2-135M's shapes by PyTorch's default (MKL on x86) and by oneDNN, on this CPU.

    python tests/bench/matmul.py

Prints, for each shape, how many times as fast oneDNN is: the layer, and the layer with its two gradients.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch.nn.functional import linear

from align.cpu_matmul import VARIABLE, use_onednn
from align.hardware import describe

SHAPES = [(576, 192), (576, 576), (576, 1536), (1536, 576), (576, 49152)]  # inputs and outputs of a layer
ROWS = (8, 64, 512)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Of one call: the fastest of five means."""
    call()
    means = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        means.append((time.perf_counter() - began) / repeats)
    return min(means)


def measured() -> dict[tuple[int, int, int], tuple[float, float]]:
    found = {}
    for rows in ROWS:
        for inner, outer in SHAPES:
            states, weight = torch.randn(rows, inner, requires_grad=True), torch.randn(outer, inner, requires_grad=True)
            gradient, repeats = torch.randn(rows, outer), 3 if outer > 2000 else 20
            with torch.no_grad():
                forward = seconds(lambda: linear(states, weight), repeats)  # noqa: B023
            both = seconds(lambda: torch.autograd.grad(linear(states, weight), (states, weight), gradient), repeats)  # noqa: B023
            found[rows, inner, outer] = forward, both
    return found


def main() -> None:
    default = measured()
    os.environ[VARIABLE] = "onednn"
    assert use_onednn(), "this PyTorch has no oneDNN"
    replaced = measured()
    print(f"{describe()}, {torch.get_num_threads()} threads\n")
    print("| rows | layer | forward | with gradients |\n| ---: | --- | ---: | ---: |")
    for rows, inner, outer in default:
        forward, both = (a / b for a, b in zip(default[rows, inner, outer], replaced[rows, inner, outer], strict=True))
        print(f"| {rows} | {inner} -> {outer} | {forward:.1f} | {both:.1f} |")


if __name__ == "__main__":
    main()
