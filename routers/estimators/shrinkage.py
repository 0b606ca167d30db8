"""Means of masked, weighted outcomes per group of queries and arm, shrunk along a hierarchy.

    quality:  cell -> (what a coarser grouping expects, or) arm's mean + how hard the group is -> pool's mean
    cost, latency:  cell -> arm's overall mean * how long the group's answers are

An arm is rarely asked about every group, so its plain mean mixes what it can do with what it was asked. Effects of
groups and of arms are therefore fitted together, by turns. Costs of arms differ by orders of magnitude: they are never
pulled toward the pool's mean, and a group changes them by a factor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32

ARM_STRENGTH = 10.0
"""Observations that the pool's mean counts for in an arm's mean."""
GROUP_STRENGTH = 20.0
"""Observations that the expectation counts for in the effect of a group, and in its means of cost and latency."""
STRENGTHS = (5.0, 500.0)
"""Bounds of what it counts for in a group's mean quality (n0), which is estimated."""
NOISE_GUESS = 0.2
"""Variance of a score where no cell has two."""
TURNS = 5

F64 = NDArray[np.float64]


class Means(NamedTuple):
    """`cells` and `variance` (of the mean, not of single outcomes) are [G, M]; `arms` [M] are the overall means."""

    cells: F64
    variance: F64
    arms: F64


class Sums(NamedTuple):
    """Weighted sums of one matrix per group, each [G, M]; `observations` their effective number (sum w)^2 / sum w^2."""

    weight: F64
    value: F64
    square: F64
    observations: F64


def group_sums(values: F32, weights: F32, groups: NDArray[np.intp], count: int) -> Sums:
    """Sums over the rows of each group; NaN cells and cells of weight 0 take no part."""
    weights = np.where(np.isnan(values), 0.0, weights)
    known = np.where(weights > 0, values, 0.0)

    def per_group(matrix: NDArray[np.floating]) -> F64:
        order = np.argsort(groups, kind="stable")
        found, starts = np.unique(groups[order], return_index=True)
        sums = np.zeros((count, matrix.shape[1]))
        sums[found] = np.add.reduceat(matrix[order].astype(np.float64), starts, axis=0)
        return sums

    weight = per_group(weights)
    effective = weight**2 / np.maximum(per_group(weights**2), 1e-12)
    return Sums(weight, per_group(weights * known), per_group(weights * known**2), effective)


def shrunk(mean: F64, count: F64, prior: F64 | float, strength: float) -> F64:
    """`mean` of `count` observations drawn toward `prior`, which counts for `strength` of them."""
    return (count * mean + strength * prior) / (count + strength)


def quality_means(sums: Sums) -> Means:
    """Shrunk means of scores in [0, 1]."""
    pool = sums.value.sum() / sums.weight.sum()
    arm_count = _effective_total(sums)
    cell_mean = _cell_means(sums)
    seen = sums.weight > 0
    group_effect = np.zeros((len(sums.weight), 1))
    arms = np.full(sums.weight.shape[1], pool)
    for _ in range(TURNS):
        residual = np.where(seen, cell_mean - group_effect, 0.0)
        arms = shrunk(_mean(residual, sums.weight, axis=0), arm_count, pool, ARM_STRENGTH)
        group_effect = _group_effect(sums, cell_mean - arms)
    return _shrunk_cells(sums, cell_mean, arms + group_effect, arm_count)._replace(arms=arms)


def refined_means(sums: Sums, coarse: F64) -> Means:
    """Shrunk means of scores, where `coarse` [G, M] is what a coarser grouping expects of each cell."""
    cell_mean = _cell_means(sums)
    expected = coarse + _group_effect(sums, cell_mean - coarse)
    return _shrunk_cells(sums, cell_mean, expected, _effective_total(sums))


def _cell_means(sums: Sums) -> F64:
    seen = sums.weight > 0
    return np.where(seen, sums.value / np.where(seen, sums.weight, 1.0), 0.0)


def _group_effect(sums: Sums, residual: F64) -> F64:
    """How much easier a group is than expected, for all arms alike, [G, 1]."""
    effect = _mean(residual, sums.weight, axis=1)
    return shrunk(effect, sums.observations.sum(axis=1), 0.0, GROUP_STRENGTH)[:, None]


def _shrunk_cells(sums: Sums, cell_mean: F64, expected: F64, arm_count: F64) -> Means:
    """Cells drawn toward what is expected of them, as strongly as the data say (empirical Bayes).

    The variance of a cell's mean has two parts: of its own observations, and of the arm's as far as it leans on that.
    """
    expected = np.clip(expected, 0.0, 1.0)
    count = sums.observations
    noise = _noise(sums, cell_mean, arm_count)
    strength = _strength(sums, cell_mean - expected, float((noise * arm_count).sum() / arm_count.sum()))
    cells = np.clip(shrunk(cell_mean, count, expected, strength), 0.0, 1.0)
    leaning = strength / (count + strength)
    variance = noise / (count + strength) + leaning**2 * noise / (arm_count + 1.0)
    return Means(cells, variance, _mean(cells, sums.weight, axis=0))


def _noise(sums: Sums, cell_mean: F64, arm_count: F64) -> F64:
    """Variance of a single observation about its cell's mean, per arm, [M]; drawn toward the pool's."""
    spread = np.where(sums.weight > 0, sums.square / np.where(sums.weight > 0, sums.weight, 1.0) - cell_mean**2, 0.0)
    squares = (sums.observations * np.maximum(spread, 0.0)).sum(axis=0)
    freedom = np.maximum(sums.observations - 1.0, 0.0).sum(axis=0)
    pooled = squares.sum() / freedom.sum() if freedom.sum() > 0 else NOISE_GUESS
    own = squares / np.where(freedom > 0, freedom, 1.0)
    return np.maximum(shrunk(own, freedom, pooled, ARM_STRENGTH), 1e-4)


def _strength(sums: Sums, residual: F64, noise: float) -> float:
    """How many observations the expectation counts for: the noise of one, over the real variance between cells.

    By the method of moments: `count * residual^2` is `count * (variance between cells) + noise` on average.
    """
    seen = sums.weight > 0
    freedom = max(int(seen.sum()) - seen.shape[0] - seen.shape[1] + 1, 0)
    squares = float((sums.observations * np.where(seen, residual, 0.0) ** 2).sum())
    between = max(squares - freedom * noise, 0.0) / float(sums.observations.sum())
    return float(np.clip(noise / between if between > 0 else np.inf, *STRENGTHS))


def ratio_means(sums: Sums) -> F64:
    """Shrunk means, [G, M], of positive quantities whose scale differs between arms; NaN for an arm never observed."""
    total = sums.weight.sum(axis=0)
    arms = np.where(total > 0, sums.value.sum(axis=0) / np.where(total > 0, total, 1.0), np.nan)
    comparable = (sums.weight > 0) & (arms > 0)
    cell_mean = sums.value / np.where(sums.weight > 0, sums.weight, 1.0)
    ratio = np.where(comparable, cell_mean / np.where(comparable, arms, 1.0), 0.0)
    factor = _mean(ratio, np.where(comparable, sums.weight, 0.0), axis=1)
    factor = shrunk(factor, np.where(comparable, sums.observations, 0.0).sum(axis=1), 1.0, GROUP_STRENGTH)[:, None]
    return shrunk(cell_mean, sums.observations, arms * factor, GROUP_STRENGTH)


def _mean(values: F64, weights: F64, axis: int) -> F64:
    total = weights.sum(axis=axis)
    return np.asarray((values * weights).sum(axis=axis) / np.where(total > 0, total, 1.0))


def _effective_total(sums: Sums) -> F64:
    squares = np.where(
        sums.observations > 0, sums.weight**2 / np.where(sums.observations > 0, sums.observations, 1.0), 0.0
    )
    return np.asarray(sums.weight.sum(axis=0) ** 2 / np.maximum(squares.sum(axis=0), 1e-12))
