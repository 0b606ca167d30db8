"""How good choices are on held-out outcomes, of which each row may show one arm's answer or all of them.

The value of a way of choosing is the self-normalised mean over the rows in which the chosen arm was observed, weighted
by inverse propensity (SNIPS; Swaminathan and Joachims 2015). Where every arm was observed it is the plain mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32

Choices = NDArray[np.intp]
F64 = NDArray[np.float64]

RESAMPLES = 2000
BINS = 10


class Estimate(NamedTuple):
    """A mean, the share of rows that speak for it, and the number of equally weighted rows that it is worth."""

    mean: float
    coverage: float
    effective: float


class Interval(NamedTuple):
    """A difference and its 95 % interval."""

    mean: float
    low: float
    high: float


def value(values: F32, weights: F32, chosen: Choices) -> Estimate | None:
    """Mean of what the chosen arms would have got; None if no chosen arm was ever observed.

    `values` [n, M] with NaN where not observed, `weights` [n, M] inverse propensities, `chosen` [n].
    """
    observed, weight = _picked(values, weights, chosen)
    total = float(weight.sum())
    if total == 0.0:
        return None
    mean = float((weight * observed).sum()) / total
    return Estimate(mean, float((weight > 0).mean()), total**2 / float((weight**2).sum()))


def random_value(values: F32, weights: F32) -> float | None:
    """Value of drawing an arm uniformly."""
    known = np.where(np.isnan(values), 0.0, weights)
    total = float(known.sum())
    return float((known * np.nan_to_num(values)).sum()) / total if total else None


def oracle_value(values: F32) -> float | None:
    """Mean of the best arm per row, over the rows in which all were observed; None unless those are nearly all.

    It is inflated by luck: the best of many noisy answers is not what any router could know.
    """
    whole = ~np.isnan(values).any(axis=1)
    return float(values[whole].max(axis=1).mean()) if whole.mean() >= 0.95 else None


def gain(values: F32, weights: F32, chosen: Choices, baseline: Choices, seed: int = 0) -> Interval | None:
    """By how much one way of choosing beats another: paired bootstrap over rows; None if either is not covered."""
    first, second = _picked(values, weights, chosen), _picked(values, weights, baseline)
    if not first[1].sum() or not second[1].sum():
        return None
    sums = np.stack([first[0] * first[1], first[1], second[0] * second[1], second[1]], axis=1)
    rng = np.random.default_rng(seed)
    share = np.full(len(sums), 1.0 / len(sums))
    draws = [rng.multinomial(len(sums), share, size=100) @ sums for _ in range(RESAMPLES // 100)]
    drawn = np.concatenate(draws)
    drawn = drawn[(drawn[:, 1] > 0) & (drawn[:, 3] > 0)]
    differences = drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3]
    total = sums.sum(axis=0)
    low, high = np.quantile(differences, [0.025, 0.975])
    return Interval(float(total[0] / total[1] - total[2] / total[3]), float(low), float(high))


def calibration_error(predicted: F32, values: F32, weights: F32) -> float | None:
    """Mean distance between predicted and real quality over bins of equal weight of prediction (ECE)."""
    known = weights > 0
    if not np.any(known):
        return None
    order = np.argsort(predicted[known], kind="stable")
    weight = weights[known][order].astype(np.float64)
    error = weight * (values[known][order].astype(np.float64) - predicted[known][order])
    position = np.cumsum(weight) - weight / 2
    bins = np.minimum((position / weight.sum() * BINS).astype(np.intp), BINS - 1)
    return float(np.abs(np.bincount(bins, error, BINS)).sum() / weight.sum())


def _picked(values: F32, weights: F32, chosen: Choices) -> tuple[F64, F64]:
    rows = np.arange(len(chosen))
    picked = values[rows, chosen].astype(np.float64)
    weight = np.where(np.isnan(picked), 0.0, weights[rows, chosen].astype(np.float64))
    return np.nan_to_num(picked), weight
