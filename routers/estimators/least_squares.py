"""Ridge regressions of many arms at once, from normal equations over the cells that were observed.

    minimise  sum_i w_im (y_im - z_i b_m)^2 + alpha |b_m - prior_m|^2        for every arm m

Where every arm has the same weights (a full mask) one Gram matrix and one factorisation serve all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Normal(NamedTuple):
    """Sufficient statistics: `gram` [M, P, P], or [1, P, P] where it is the same for all arms; `moment` [M, P]."""

    gram: F64
    moment: F64

    def minus(self, part: Normal) -> Normal:
        """The statistics of the other rows."""
        return Normal(self.gram - part.gram, self.moment - part.moment)


def is_shared(weights: NDArray[np.floating]) -> bool:
    """Whether every arm weighs every row alike."""
    return bool(np.all(weights == weights[:, :1]))


def normal(
    z: NDArray[np.floating], values: NDArray[np.floating], weights: NDArray[np.floating], shared: bool
) -> Normal:
    """Statistics of rows `z` [n, P] with values [n, M] (anything where the weight is 0) and weights [n, M].

    `shared` is `is_shared` of all the rows that the statistics will be added or subtracted with.
    """
    z = z.astype(np.float64)
    weighted = np.where(weights > 0, weights * np.where(weights > 0, values, 0.0), 0.0).astype(np.float64)
    moment = weighted.T @ z
    if shared:
        return Normal(((z * weights[:, :1]).T @ z)[None], moment)
    gram = np.empty((weights.shape[1], z.shape[1], z.shape[1]))
    for arm in range(len(gram)):
        rows = np.flatnonzero(weights[:, arm] > 0)
        gram[arm] = (z[rows] * weights[rows, arm, None]).T @ z[rows]
    return Normal(gram, moment)


def within(statistics: Normal, z: F64, values: F64, weights: F64) -> Normal:
    """The statistics about the means of each arm's own rows, which gives every arm an intercept of its own."""
    total = np.maximum(weights.sum(axis=0), 1e-12)[:, None]
    mean_z, mean_value = weights.T @ z / total, (weights * values).sum(axis=0)[:, None] / total
    arms = len(statistics.gram)
    outer = total[:arms, :, None] * mean_z[:arms, :, None] * mean_z[:arms, None, :]
    return Normal(statistics.gram - outer, statistics.moment - total * mean_z * mean_value)


def solve(statistics: Normal, alpha: float, prior: F64 | None = None) -> F64:
    """Coefficients [M, P]; `prior` [M, P] or [P] is what they are drawn to (0 if None)."""
    gram, moment = statistics
    moment = moment if prior is None else moment + alpha * prior
    ridge = gram + alpha * np.eye(gram.shape[-1])
    if len(gram) == 1:
        return np.asarray(np.linalg.solve(ridge[0], moment.T).T)
    return np.asarray(np.linalg.solve(ridge, moment[:, :, None])[:, :, 0])


def slopes(statistics: Normal, answers: float, common: float, own: float) -> F64:
    """[M, P]: every arm's own coefficients, drawn to those common to all arms, which are drawn to zero.

    `common` and `own` are the two ridge strengths in observations; with `own` infinite all arms have the common ones,
    with both infinite all are zero. `answers` is the mean number of arms observed per query: many arms' answers to one
    query are no independent evidence about the query, so `common` counts queries.
    """
    arms, width = statistics.moment.shape
    pooled = np.zeros(width)
    if common < np.inf:
        copies = arms if len(statistics.gram) == 1 else 1
        together = Normal(copies * statistics.gram.sum(axis=0, keepdims=True), statistics.moment.sum(axis=0)[None])
        pooled = solve(together, common * answers)[0]
    return np.tile(pooled, (arms, 1)) if own == np.inf else solve(statistics, own, pooled)
