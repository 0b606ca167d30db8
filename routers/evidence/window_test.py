"""Whether recent rewards differ from older ones: the tests behind Introspection-Rebirth, which also watch live arms.

Rewards lie in [0, 1]. `two_sample` compares two samples that share no reward, by the "N - 1" chi-squared test of two
rates (E. S. Pearson, 1947; Campbell, 2007). The likelihood ratio has the same power, but near 0 and 1 it fires more
often than it says: 1.7 times at rates of 0.9 with windows of 30. For rewards between 0 and 1 the test is conservative,
since their variance is smaller than that of a coin with the same mean. `published` is SWBLRT of Bohdi (arXiv
2506.15721) as its code has it, a likelihood ratio in which the window is part of the data that it is compared with; so
it cannot fire before these are about twice the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Comparison:
    """A statistic that is near chi-squared with one degree of freedom without a change, and its p-value in [0, 1]."""

    statistic: float
    p_value: float


def two_sample(window: Sequence[float], older: Sequence[float]) -> Comparison:
    """Compare the rates of two samples that share no reward. Raises ValueError if one is empty or leaves [0, 1]."""
    for rewards in (window, older):
        if any(not 0.0 <= reward <= 1.0 for reward in rewards):
            raise ValueError("rewards must lie in [0, 1]")
    return two_sums(sum(window), len(window), sum(older), len(older))


def two_sums(won: float, count: int, older_won: float, older_count: int) -> Comparison:
    """`two_sample` from the sums and counts of the samples. Raises ValueError if one is empty or a sum is no sum."""
    for name, total, size in (("the window", won, count), ("the older sample", older_won, older_count)):
        if size < 1 or not -1e-9 <= total <= size + 1e-9:
            raise ValueError(f"expected rewards in [0, 1] and at least one; {name} has {size} with the sum {total}")
    total = count + older_count
    together = (won + older_won) / total
    variance = together * (1.0 - together) * (1.0 / count + 1.0 / older_count)
    if variance <= 0.0:
        return Comparison(0.0, 1.0)
    difference = won / count - older_won / older_count
    return _compared(difference**2 / variance * (total - 1) / total)


def published(window: Sequence[float], a: float, b: float) -> Comparison:
    """SWBLRT: the window against the rate of all rewards since the last reset, (a - 1) / (a + b - 2).

    Raises
    ------
    ValueError: an empty window, or a posterior that has counted fewer rewards than the window holds.
    """
    counted = a + b - 2.0
    if not window or counted < len(window) - 1e-6:
        raise ValueError(f"a window of {len(window)} cannot be tested against {counted:g} rewards, of which it is part")
    won = sum(window)
    overall = min(max((a - 1.0) / counted, 0.0), 1.0)
    own = _likelihood(won, len(window), won / len(window))
    return _compared(2.0 * (own - _likelihood(won, len(window), overall)))


def chi_squared_tail(statistic: float) -> float:
    """P(chi-squared with one degree of freedom > statistic)."""
    return math.erfc(math.sqrt(max(statistic, 0.0) / 2.0))


def benjamini_hochberg(p_values: Sequence[float], rate: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected so that the expected share of false ones among them is at most `rate`.

    Benjamini and Hochberg, 1995: the k smallest, for the largest k with p_(k) <= rate * k / m. Ties are all rejected.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not len(p):
        return np.zeros(0, dtype=np.bool_)
    in_order = np.sort(p)
    passed = np.flatnonzero(in_order <= rate * np.arange(1, len(p) + 1) / len(p))
    return p <= in_order[passed[-1]] if len(passed) else np.zeros(len(p), dtype=np.bool_)


def _likelihood(won: float, count: float, rate: float) -> float:
    """Log likelihood of `won` of `count` at a rate, with 0 log 0 = 0."""
    total = 0.0
    if won > 0:
        total += won * math.log(rate) if rate > 0 else -math.inf
    if count - won > 0:
        total += (count - won) * math.log1p(-rate) if rate < 1 else -math.inf
    return total


def _compared(statistic: float) -> Comparison:
    statistic = max(statistic, 0.0)
    return Comparison(statistic, chi_squared_tail(statistic))
