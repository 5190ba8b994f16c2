"""Win rates at equal length, as in AlpacaEval 2: a logistic regression of wins on the difference in length.

AlpacaEval's model of a win (Dubois et al. 2024, arXiv:2404.04475, eq. 2) has three terms: the models, the length, and
how difficult each instruction is. The third one is fitted over many models and is left out here, where two models are
compared:

    P(win) = sigmoid(model + length tanh(d / s))

for d characters by which the answer is longer than the other, and the standard deviation s of d over all prompts. The
length-controlled win rate is P(win) at d = 0. Exchanging the models gives 1 minus the rate, and a model against itself
has 0.5. For example, half of the answers are longer and win with 70%, and the other half are equally long and win with
50%: the win rate is 0.6, and 0.5 at equal length. If every answer were longer by the same number of characters, nothing
would show whether the better answers win or the longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.intervals import RESAMPLES, Share, share

if TYPE_CHECKING:
    import numpy as np

RIDGE = 0.01
"""Penalty on the squares of both coefficients, in nats. It keeps them finite if all answers win, or if length alone
separates wins from losses, and moves the rate of 100 prompts by less than 0.0005 otherwise."""

_LARGEST = 1_000_000
"""Numbers in one array of the fits of resamples, which are fitted together in parts of this size."""
_STEPS = 100
_TOLERANCE = 1e-10


def length_controlled(points: Sequence[float], longer_by: Sequence[float]) -> Share | None:
    """The win rate at equal length, with its 95% interval over prompts.

    points: 1 for a win, 0.5 for a tie, 0 for a loss. longer_by: characters by which the answer is longer.
    Each end of the interval is the outer one of the bootstrap over prompts and Wilson's interval of the same rate, so
    that it has a width even if all answers win.
    Edge: None if there are no prompts, or if all answers differ by the same number of characters, other than 0.
    """
    import numpy as np

    if not points or (len(set(longer_by)) == 1 and longer_by[0] != 0):
        return None
    n = len(points)
    features, wins = _features(longer_by), np.asarray(points, dtype=float)
    rate = float(_rates(_fit(features, wins, np.ones((1, n))))[0])
    times_drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES // 2)
    parts = np.array_split(times_drawn.astype(float), -(-times_drawn.size // _LARGEST))
    rates = np.concatenate([_rates(_fit(features, wins, part)) for part in parts])
    low, high = np.quantile(rates, [0.025, 0.975])
    plain = share(rate * n, n)
    assert plain is not None
    return Share(rate, min(plain.low, float(low)), max(plain.high, float(high)), n)


def length_effect(points: Sequence[float], longer_by: Sequence[float]) -> float:
    """The coefficient of length, in log-odds of a win: above 0 if longer answers win more often.

    The tanh of the model is at most 1, so this is the most that length can add.
    """
    import numpy as np

    fitted = _fit(_features(longer_by), np.asarray(points, dtype=float), np.ones((1, len(points))))
    return float(fitted[0, 1])


def _features(longer_by: Sequence[float]) -> np.ndarray:
    """[N, 2]: a constant 1 for the models, and tanh(d / s) for the length, 0 if all differences are 0."""
    import numpy as np

    differences = np.asarray(longer_by, dtype=float)
    deviation = differences.std()
    lengths = np.tanh(differences / deviation) if deviation > 0 else np.zeros_like(differences)
    return np.stack([np.ones_like(lengths), lengths], axis=1)


def _rates(coefficients: np.ndarray) -> np.ndarray:
    """P(win) at equal length, of each row of coefficients."""
    import numpy as np

    rates: np.ndarray = 1 / (1 + np.exp(-coefficients[:, 0]))
    return rates


def _fit(features: np.ndarray, wins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The coefficients [R, 2] that minimize the cross entropy of each row of weights, by Newton's method.

    Shapes: features [N, 2], wins [N], weights [R, N], such as how often each prompt is drawn. A step that would make
    the loss larger is halved; the ridge makes the loss strictly convex, so that this converges.
    """
    import numpy as np

    def loss(found: np.ndarray) -> np.ndarray:
        logits = found @ features.T
        entropies = (weights * (np.logaddexp(0, logits) - wins * logits)).sum(axis=1)
        losses: np.ndarray = entropies + RIDGE / 2 * (found**2).sum(axis=1)
        return losses

    squares = (features[:, :, None] * features[:, None, :]).reshape(-1, 4)  # features times features, flattened
    found: np.ndarray = np.zeros((len(weights), 2))
    now = loss(found)
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(found @ features.T, -700, 700)))
        gradient = (weights * (chances - wins)) @ features + RIDGE * found
        curvature = ((weights * chances * (1 - chances)) @ squares).reshape(-1, 2, 2)
        step = np.linalg.solve(curvature + RIDGE * np.eye(2), gradient[:, :, None])[:, :, 0]
        after = loss(found - step)
        while (worse := after > now + _TOLERANCE).any():
            step[worse] /= 2
            after = loss(found - step)
        found, now = found - step, after
        if np.abs(step).max() < _TOLERANCE:
            break
    return found
