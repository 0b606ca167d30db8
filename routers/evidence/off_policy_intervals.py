"""95 % intervals of means of heavy-tailed terms, as off-policy estimates are: most terms are small, a few are huge.

The default is Student's interval whose degrees of freedom are those that the variance itself is known with
(Satterthwaite): where a few terms make up the variance it is as wide as if there were only so many. What else was tried
(normal, bootstrap, empirical Bernstein) and how often each held the truth is in the laboratory notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Z95: Final = NormalDist().inv_cdf(0.975)
LEAST_FREEDOM = 3.0
RESAMPLES = 400


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    each: F64, groups: NDArray[np.intp] | None = None, method: str = "student", seed: int = 0
) -> Interval:
    """The mean of the n terms and its interval.

    Parameters
    ----------
    each: [n] terms.
    groups: [n] group of each term; terms of one group are dependent (the variance is that of the groups' sums). None:
        each is its own.
    method: one of METHODS.
    seed: of the bootstrap; the others draw nothing.
    """
    mean = float(each.mean())
    if np.ptp(each) == 0.0:
        return Interval(mean, mean, mean)
    deviations = each - mean
    if groups is not None:
        deviations = np.asarray(np.bincount(groups, deviations), dtype=np.float64)
    if len(deviations) < 2:
        return Interval(mean, -np.inf, np.inf)
    below, above = METHODS[method](deviations, len(each), seed)
    return Interval(mean, mean - below, mean + above)


def t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's distribution, by its expansion around the normal one (error under 0.01 from 3
    degrees of freedom on)."""
    z = Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / freedom + second / freedom**2 + third / freedom**3 + fourth / freedom**4


def standard_error(sums: F64, n: int) -> float:
    """Of the mean of n terms, from the sums [G] of the deviations in each of G independent groups."""
    count = len(sums)
    return sqrt(count / (count - 1) * float(np.square(sums).sum())) / n


def _normal(sums: F64, n: int, seed: int) -> tuple[float, float]:
    half = Z95 * standard_error(sums, n)
    return half, half


def _student(sums: F64, n: int, seed: int) -> tuple[float, float]:
    half = t_quantile(degrees_of_freedom(sums)) * standard_error(sums, n)
    return half, half


def degrees_of_freedom(sums: F64) -> float:
    """How well the variance is known: 2 var^2 / variance of the estimated variance, from the fourth moment."""
    count, squares = len(sums), np.square(sums)
    spread = float(squares.var())
    if spread <= 0.0:
        return float(count - 1)
    return float(np.clip(2.0 * count * float(squares.mean()) ** 2 / spread, LEAST_FREEDOM, count - 1))


def _bootstrap(sums: F64, n: int, seed: int) -> tuple[float, float]:
    drawn = _resampled(sums, seed)[:, 0] / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(-low), float(high)


def _bootstrap_t(sums: F64, n: int, seed: int) -> tuple[float, float]:
    drawn, count = _resampled(sums, seed), len(sums)
    variance = np.maximum(drawn[:, 1] - drawn[:, 0] ** 2 / count, 1e-300)
    low, high = np.quantile(drawn[:, 0] / np.sqrt(variance), [0.025, 0.975])
    scale = standard_error(sums, n)
    return float(high) * scale, float(-low) * scale


def _resampled(sums: F64, seed: int) -> F64:
    """Sums and sums of squares of the groups drawn again, [RESAMPLES, 2]; Poisson weights stand for the draws."""
    rng, both = np.random.default_rng(seed), np.stack([sums, np.square(sums)], axis=1)
    return np.concatenate([rng.poisson(1.0, (50, len(sums))) @ both for _ in range(RESAMPLES // 50)])


def _skew_corrected(sums: F64, n: int, seed: int) -> tuple[float, float]:
    """Hall's (1992) transformation of the t statistic, which takes out the skewness of the mean."""
    count, variance = len(sums), float(np.square(sums).mean())
    if variance <= 0.0:
        return 0.0, 0.0
    skew = float((sums**3).mean()) / variance**1.5 / sqrt(count)
    z, scale = t_quantile(degrees_of_freedom(sums)), standard_error(sums, n)

    def inverse(y: float) -> float:
        if abs(skew) < 1e-9:
            return y
        return float((np.cbrt(1.0 + skew * (y - skew / 6.0)) - 1.0) / (skew / 3.0))

    return inverse(z) * scale, -inverse(-z) * scale


def _empirical_bernstein(sums: F64, n: int, seed: int) -> tuple[float, float]:
    """Maurer and Pontil (2009), with the observed range; holds without any approximation if that is the true range."""
    count, level = len(sums), log(2 / 0.025)
    variance, width = float(np.square(sums).sum()) / (count - 1), float(np.ptp(sums))
    half = sqrt(2 * variance * level / count) + 7 * width * level / (3 * (count - 1))
    return half * count / n, half * count / n


METHODS: Final[dict[str, Callable[[F64, int, int], tuple[float, float]]]] = {
    "student": _student,
    "normal": _normal,
    "skew-corrected": _skew_corrected,
    "bootstrap": _bootstrap,
    "bootstrap-t": _bootstrap_t,
    "empirical-bernstein": _empirical_bernstein,
}
"""Half-widths (below, above) of the mean from the groups' sums of deviations, the number of terms and a seed."""
