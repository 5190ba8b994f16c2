"""A linear classifier over vectors: multinomial logistic regression with an L2 penalty, which has one best solution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_STEPS = 200
"""Of L-BFGS; a few dozen are enough for vectors of length 1."""


class LinearClassifier(NamedTuple):
    """Dimension letters: N vectors, D their width, C classes."""

    weights: NDArray[np.float64]  # [D, C]
    offsets: NDArray[np.float64]  # [C]

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The probability of each class: [N, C], each row adds up to 1."""
        scores = vectors.astype(np.float64) @ self.weights + self.offsets
        found = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = found / found.sum(axis=1, keepdims=True)
        return shares


def fit(vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int, *, l2: float) -> LinearClassifier:
    """The classifier with the lowest loss: mean cross entropy in nats + l2 / 2 * sum of the squared weights.

    vectors: [N, D]. labels: [N], from 0 to classes - 1. The offsets are not penalized. The loss is convex, so the
    result does not depend on where the search begins: at zero.
    """
    inputs, targets = torch.from_numpy(vectors).double(), torch.from_numpy(labels)
    weights = torch.zeros(vectors.shape[1], classes, dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [weights, offsets], max_iter=_STEPS, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weights + offsets, targets) + l2 / 2 * weights.square().sum()
        value.backward()
        return value

    search.step(loss)
    return LinearClassifier(weights.detach().numpy(), offsets.detach().numpy())
