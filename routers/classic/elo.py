"""Ratings: how often each arm beats the others, whatever the query. A ruler, not a router.

Bradley-Terry ratings (the fixed point of Elo's updates, with no order of games to depend on):

    P(i beats j) = 1 / (1 + 10^((r_j - r_i) / 400))

fitted to the pairs of `routers.estimators.pairs` with two drawn games between every pair of arms, which keeps an arm
that never lost finite. `quality` keeps the arms in the order of their ratings: mean scores made monotone in the rating
(isotonic regression), so that it lies on the scale of scores.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routers.classic.regression import Ground, Lesson, RegressionRouter, levels, positive
from routers.estimators.least_squares import F64
from routers.estimators.pairs import Pairs, compared
from routers.protocol import F32, Outcomes

POINTS = 400.0 / np.log(10.0)
"""Rating points per unit of log odds."""
DRAWS = 2.0
STEPS = 200
STEP_QUALITY = 1e-6
"""Difference in quality that keeps arms of equal mean in the order of their ratings."""
NOMINAL_STRENGTH = 1e6
RANK = 8


class EloRouter(RegressionRouter):
    """The same for every query. Arrays: `rating` [M], mean 1000; `level` [M], the qualities."""

    name: ClassVar[str] = "elo"

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`; it has no settings."""
        positive(cls.name, settings, ())
        lesson = Lesson.of(outcomes, RANK)
        rating = ratings(compared(lesson, np.random.default_rng(seed)), lesson.weight.shape[1])
        count = lesson.weight.sum(axis=0)
        level = monotone(levels(lesson.quality, lesson.weight), rating, count)
        ground = Ground.under(lesson, np.tile(level, (len(lesson.z), 1)), NOMINAL_STRENGTH)
        arrays = {"rating": rating.astype(np.float32), "level": level.astype(np.float32)}
        return cls(ground, arrays, {})

    def _quality(self, z: F32) -> F32:
        return np.broadcast_to(self.own["level"], (*z.shape[:-1], len(self.arms)))

    def win_probability(self, one: str, other: str) -> float:
        """How likely `one` is to do better than `other` on a query on which they differ."""
        first, second = (float(self.own["rating"][self.arms.index(arm)]) for arm in (one, other))
        return float(1.0 / (1.0 + 10.0 ** ((second - first) / 400.0)))


def ratings(pairs: Pairs, arms: int) -> F64:
    """Bradley-Terry ratings [M] of mean 1000, by minorise-maximise steps (Hunter, 2004)."""
    wins = np.zeros((arms, arms))
    np.add.at(wins, (pairs.winner, pairs.loser), pairs.weight)
    wins += DRAWS / 2.0 * (1.0 - np.eye(arms))
    games, won = wins + wins.T, wins.sum(axis=1)
    strength = np.ones(arms)
    for _ in range(STEPS if arms > 1 else 0):
        strength = won / (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        strength /= np.exp(np.log(strength).mean())
    return np.asarray(1000.0 + POINTS * np.log(strength))


def monotone(mean: F64, rating: F64, count: F64) -> F64:
    """The means [M] made non-decreasing in the rating: pools of neighbours out of order share their weighted mean."""
    order = np.argsort(rating, kind="stable")
    blocks: list[tuple[float, float, list[int]]] = []
    for arm in order.tolist():
        value, weight, members = float(mean[arm]), float(count[arm]) + 1.0, [arm]
        while blocks and blocks[-1][0] >= value:
            below, size, earlier = blocks.pop()
            value, weight = (below * size + value * weight) / (size + weight), size + weight
            members = earlier + members
        blocks.append((value, weight, members))
    quality = np.empty(len(mean))
    for value, _, members in blocks:
        quality[members] = value
    place: NDArray[np.intp] = np.empty(len(order), dtype=np.intp)
    # Arms of the same rating stay equal.
    place[order] = np.searchsorted(np.sort(rating), np.sort(rating))
    return np.asarray(quality + STEP_QUALITY * place)
