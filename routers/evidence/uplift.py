"""How much showing something changes the score, from requests that were dealt to showing or not by a known chance.

With A = shown or not, e its exact chance, Y the score and m an expectation of it that does not know Y, each request
gives

    h = (A - e) (Y - m),      E[h] = w * uplift,      w = e (1 - e)      (Robinson 1988; the R-learner's moment)

which is right whatever m is (doubly robust, as the chance is known), and lies in [-1, 1] however small the chance of a
control was. The estimate is sum(h) / sum(w), the mean uplift where showing and not showing overlap.

The interval may be looked at after every request. It holds the uplifts t against which a bettor who stakes on
"above t" (or "below t") has not multiplied the stake by 2 / alpha: a confidence sequence by betting (Waudby-Smith and
Ramdas, 2024). A part of the stake is laid aside for bettors who start later, so an effect that turns is found too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.evidence.off_policy import F64

ALPHA = 0.05
"""Chance that the interval ever fails to hold the uplift, at any look; half of it on either side."""
BETS = (0.05, 0.1, 0.2, 0.4, 0.75)
"""Stakes. The best is about uplift / variance of the score; at the largest all factors stay positive."""
START_EVERY = 128
"""So many requests apart bettors start anew."""
STEPS = 24
"""Halvings of [-1, 1] by which an end of an interval is found."""
CALIBRATION = 20.0
"""Scores that the router's own prediction counts for against the mean error of its predictions so far."""


class Uplift(NamedTuple):
    """An uplift of the score, in [-1, 1], with the interval that holds at every look. NaN without data."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trials:
    """n scored requests, in the order in which their scores became known.

    Attributes
    ----------
    shown: bool [n].
    chance: float64 [n], the exact probability of showing, in (0, 1), given that it was one of the two.
    score: float64 [n], in [0, 1].
    with_it, without: float64 [n], what was expected of the score if shown and if not, before it was known.
    group: int [n], whose expectations go wrong in the same way (the model's index).
    """

    shown: NDArray[np.bool_]
    chance: F64
    score: F64
    with_it: F64
    without: F64
    group: NDArray[np.intp]


class Moments(NamedTuple):
    """`h` and `w` [n] (see above), and the two corrected expectations [n]: shown and not shown."""

    h: F64
    w: F64
    with_it: F64
    without: F64


def moments(trials: Trials) -> Moments:
    """What each request says about the uplift. The expectations are corrected by the mean error so far, never by what
    comes later, so the interval stays valid.

    Raises
    ------
    ValueError: a chance is not in (0, 1), or a score not in [0, 1].
    """
    if not np.all((trials.chance > 0.0) & (trials.chance < 1.0)):
        raise ValueError("a chance of showing must lie in (0, 1): what was certain has no control to compare with")
    if not np.all((trials.score >= 0.0) & (trials.score <= 1.0)):
        raise ValueError("scores must lie in [0, 1]; rescale them")
    with_it, without = trials.with_it.copy(), trials.without.copy()
    for group in np.unique(trials.group):
        here = np.flatnonzero(trials.group == group)
        for expected, cell in ((with_it, trials.shown[here]), (without, ~trials.shown[here])):
            expected[here] += _mean_error_so_far(trials.score[here] - expected[here], cell)
    with_it, without = np.clip(with_it, 0.0, 1.0), np.clip(without, 0.0, 1.0)
    # The expectation with the least variance weighs either side by the chance of the other.
    expected = (1.0 - trials.chance) * with_it + trials.chance * without
    h = (trials.shown - trials.chance) * (trials.score - expected)
    return Moments(h, trials.chance * (1.0 - trials.chance), with_it, without)


def estimated(h: F64, w: F64) -> float:
    """The uplift; NaN without data."""
    total = float(w.sum())
    return float(np.clip(h.sum() / total, -1.0, 1.0)) if total > 0.0 else math.nan


def uplift(h: F64, w: F64, alpha: float = ALPHA) -> Uplift:
    """The uplift with its interval, which is [-1, 1] as long as little is known. `h`, `w`: [n], oldest first."""
    if not len(h):
        return Uplift(math.nan, -1.0, 1.0)
    level = math.log(2.0 / alpha)
    high = -_lower_end(-h, w, level)
    return Uplift(estimated(h, w), _lower_end(h, w, level), high)


def evidence(h: F64, w: F64, at: float = 0.0) -> float:
    """Log of what a stake on "the uplift is above `at`" has become; at most log(1 / a) ever but with chance a, if it is
    never above."""
    log_factors = np.log1p(np.multiply.outer(BETS, h - at * w))
    total = log_factors.sum(axis=1)
    starts = np.arange(0, len(h), START_EVERY)
    before = np.concatenate([np.zeros((len(BETS), 1)), np.cumsum(log_factors, axis=1)], axis=1)[:, starts]
    order = np.arange(1, len(starts) + 1)
    laid_aside = -math.log(len(starts) + 1)
    stakes = -np.log(order * (order + 1.0)) - math.log(len(BETS))
    return float(np.logaddexp(_log_sum(total[:, None] - before + stakes), laid_aside))


def _lower_end(h: F64, w: F64, level: float) -> float:
    """The largest uplift that a bettor on more than that has refuted; the evidence falls as it grows."""
    if evidence(h, w, -1.0) < level:
        return -1.0
    low, high = -1.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        if evidence(h, w, middle) >= level:
            low = middle
        else:
            high = middle
    return low


def _log_sum(values: F64) -> float:
    most = float(values.max())
    return most + math.log(float(np.exp(values - most).sum()))


def _mean_error_so_far(errors: F64, known: NDArray[np.bool_]) -> F64:
    """For each request the mean of the errors that were known before it, drawn toward 0."""
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, errors, 0.0))[:-1]])
    counts = np.concatenate([[0.0], np.cumsum(known)[:-1]])
    mean: F64 = sums / (counts + CALIBRATION)
    return mean
