"""Numbers of different units as ratings from 0 to 1, so that they can be combined. Unknown values are NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 0.5
"""The rating of a row that no number is known of."""


def rank_ratios(values: NDArray[np.float64], groups: NDArray[np.uint64] | None = None) -> NDArray[np.float64]:
    """The rank of each known value divided by their number, from 1 / n for the lowest to 1; equal values have the mean
    of their ranks. NaN stays NaN.

    3, 1, NaN, 1, 8 give 3/4, 1.5/4, NaN, 1.5/4, 4/4. groups: rows are ranked among those of the same group.
    """
    found = np.full(len(values), np.nan)
    if groups is None:
        groups = np.zeros(len(values), np.uint64)
    for group in np.unique(groups):
        known = np.flatnonzero((groups == group) & ~np.isnan(values))
        _, places, counts = np.unique(values[known], return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        found[known] = (ends - (counts - 1) / 2)[places] / max(len(known), 1)
    return found


def mean_of_known(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean of the values that are known of each row; `UNKNOWN` if none is."""
    stacked = np.stack(parts)
    known = ~np.isnan(stacked)
    sums = np.where(known, stacked, 0.0).sum(0)
    means: NDArray[np.float64] = np.divide(
        sums, known.sum(0), out=np.full(stacked.shape[1], UNKNOWN), where=known.any(0)
    )
    return means
