"""Figures of a comparison on the same queries: means with intervals, paired differences, the oracle, the verdict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

RESAMPLES = 10_000
_BLOCK = 500
"""Resamples drawn at once, which bounds the memory."""


class Interval(NamedTuple):
    """A mean and the ends of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class Verdict(NamedTuple):
    """Whether learning helped, and the sentence that says why."""

    helped: bool
    reason: str


def interval(values: F64, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """95 % percentile bootstrap interval of the mean of `values` [n], n >= 1. For paired figures pass the differences.

    Raises ValueError for no or non-finite values: a figure that is missing must be left out by the caller.
    """
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"expected at least one value and only finite ones, got {values.size} values")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, values.size, (min(_BLOCK, resamples - start), values.size))].mean(axis=1)
            for start in range(0, resamples, _BLOCK)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def oracle(scores: F64, costs: F64) -> tuple[F64, F64]:
    """Score and cost [n] of the best model for each query, the cheapest of the best; `scores` and `costs` are [n, m].

    An unknown cost is NaN and loses against any known one. This is the ceiling of a router that sees the future: with
    many models part of it is luck that no router can foresee.
    """
    best = scores.max(axis=1)
    dear = np.where(np.isnan(costs), np.inf, costs)
    chosen = np.where(scores == best[:, None], dear, np.inf).argmin(axis=1)
    # Where no best model has a known cost, argmin over infinities names the first column, which need not be a best one.
    unknown = np.isinf(np.where(scores == best[:, None], dear, np.inf).min(axis=1))
    chosen = np.where(unknown, scores.argmax(axis=1), chosen)
    return best, costs[np.arange(len(costs)), chosen]


def judge_learning(after_minus_before: Interval) -> Verdict:
    """Learning helped if accuracy rose, and the whole interval of the paired difference lies above 0."""
    mean, low, high = (100 * value for value in after_minus_before)
    figures = f"{mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if mean <= 0:
        return Verdict(False, f"accuracy did not rise: after minus before is {figures}")
    if low <= 0:
        return Verdict(False, f"the rise cannot be told from chance: after minus before is {figures}")
    return Verdict(True, f"after minus before is {figures}")
