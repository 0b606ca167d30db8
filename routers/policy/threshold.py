"""The choice between a strong and a weak arm by a threshold (RouteLLM): strong iff P(strong beats weak) >= threshold.

The probability is the router's own `win_probability` where it has one. Else it follows from the two predicted qualities
p_s and p_w, read as chances of a right answer: given that exactly one of the two is right, it is the strong one with
probability p_s (1 - p_w) / (p_s (1 - p_w) + p_w (1 - p_s)).

Calibration: for a share x of calls to the strong arm, the threshold is the (1 - x) quantile of the probability over
logged queries. It holds for traffic like that of the log; calibrate anew when the traffic or the router changes.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from routers.policy.decide import Choice, drawn
from routers.protocol import F32, Prediction

NAME = re.compile(r"router-(?P<router>[a-z][a-z0-9_]*(?:-[a-z][a-z0-9_]*)*)-(?P<threshold>\d+(?:\.\d+)?|\.\d+)")
"""Model names of this form, as RouteLLM has them: `router-mf-0.11593`."""
DECIMALS = 5


@runtime_checkable
class Duellist(Protocol):
    """A router that predicts who wins, not only how good each is."""

    def win_probability(self, vector: F32, strong: str, weak: str) -> float:
        """Probability in [0, 1] that the arm `strong` beats the arm `weak` on the query."""


class Pair(NamedTuple):
    """Indices of the two arms."""

    strong: int
    weak: int


def win_probability(strong: float, weak: float) -> float:
    """P(strong beats weak) from two predicted qualities in [0, 1]; one half where neither can be told apart."""
    wins, losses = strong * (1.0 - weak), weak * (1.0 - strong)
    return wins / (wins + losses) if wins + losses > 0.0 else 0.5


def win_probabilities(strong: NDArray[np.floating], weak: NDArray[np.floating]) -> NDArray[np.float64]:
    """`win_probability` for arrays of qualities of one shape."""
    first, second = np.clip(strong.astype(np.float64), 0, 1), np.clip(weak.astype(np.float64), 0, 1)
    wins, losses = first * (1 - second), second * (1 - first)
    total = wins + losses
    return np.divide(wins, total, out=np.full_like(total, 0.5), where=total > 0)


def choose(
    pair: Pair, win: float, threshold: float, arms: int, exploration: float, draw: float, floor: float = 0.0
) -> Choice:
    """The strong arm iff `win >= threshold`, with exploration on top, exactly as `routers.policy.decide` explores.

    `arms` is the number M of arms that the choice is over. The utilities are the distances to the threshold.
    """
    utility = [math.nan] * arms
    utility[pair.strong], utility[pair.weak] = win - threshold, 0.0
    ranking = [pair.strong, pair.weak] if win >= threshold else [pair.weak, pair.strong]
    return drawn(ranking, list(pair), utility, exploration, draw, floor, {})


def default_pair(prediction: Prediction, allowed: list[int]) -> Pair | None:
    """The dearest and the cheapest of the allowed arms by predicted cost, ties by quality; None without two costs."""
    costs, quality = prediction.cost_usd.tolist(), prediction.quality.tolist()
    known = sorted((arm for arm in allowed if costs[arm] == costs[arm]), key=lambda arm: (costs[arm], quality[arm]))
    if len(known) < 2:
        return None
    return Pair(strong=known[-1], weak=known[0])


def calibrated(wins: NDArray[np.floating], strong_share: float) -> float:
    """The threshold by which `strong_share` of these queries go to the strong arm.

    Of the values that occur (and one above all of them) the one whose share comes closest; a tie goes to fewer calls.

    Raises
    ------
    ValueError: no probabilities, or a share outside [0, 1].
    """
    if not 0.0 <= strong_share <= 1.0:
        raise ValueError(f"the share of strong calls must lie in [0, 1], got {strong_share:g}")
    if wins.size == 0:
        raise ValueError("no query to calibrate on; route some traffic first, or name a file of queries")
    # A model's name holds so many decimals: rounding down keeps the query at the threshold with the strong arm.
    step = 10.0**-DECIMALS
    values = np.unique(np.floor(np.asarray(wins, dtype=np.float64) / step) * step)
    candidates = np.append(values, values[-1] + 2 * step).round(DECIMALS)
    shares = strong_shares(wins, candidates)
    return float(candidates[np.flatnonzero(np.abs(shares - strong_share) == np.min(np.abs(shares - strong_share)))[-1]])


def strong_shares(wins: NDArray[np.floating], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the queries that each threshold sends to the strong arm, [T]."""
    ordered = np.sort(np.asarray(wins, dtype=np.float64))
    return np.asarray(1.0 - np.searchsorted(ordered, thresholds, side="left") / len(ordered))
