"""Intervals of differences between ways of choosing that were judged on the same queries.

Queries are drawn with replacement (a multinomial of their counts); all ways of choosing see the same draws. A query
that was judged in several splits is one query: it is drawn with all that was found for it, so the interval does not
shrink with the number of splits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offline.routing.metrics import Interval

RESAMPLES = 10_000
BATCH = 64

F64 = NDArray[np.float64]


def intervals(sums: F64, counts: F64, resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """The mean of each of K columns of differences, with its 95 % interval.

    Parameters
    ----------
    sums: [n, K], of each query the sum of the differences over the splits in which both ways were judged on it.
    counts: [n, K], in how many splits; the mean of a column is its summed sums over its summed counts.

    Raises
    ------
    ValueError: a column has no query.
    """
    n, columns = sums.shape
    if n == 0 or not np.all(counts.sum(axis=0) > 0):
        raise ValueError("an interval needs at least one query that both ways of choosing were judged on")
    stacked = np.hstack([sums, counts]).astype(np.float64)
    rng, offsets = np.random.default_rng(seed), n * np.arange(BATCH)[:, None]
    means = np.empty((resamples, columns))
    for start in range(0, resamples, BATCH):
        size = min(BATCH, resamples - start)
        drawn = rng.integers(n, size=(size, n)) + offsets[:size]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        totals = times @ stacked
        with np.errstate(invalid="ignore", divide="ignore"):
            means[start : start + size] = totals[:, :columns] / totals[:, columns:]
    low, high = np.nanquantile(means, [0.025, 0.975], axis=0)
    total = stacked.sum(axis=0)
    return [
        Interval(float(mean), float(lower), float(upper))
        for mean, lower, upper in zip(total[:columns] / total[columns:], low, high, strict=True)
    ]
