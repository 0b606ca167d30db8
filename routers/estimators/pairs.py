"""Pairwise comparisons derived from outcomes, as preference data would hold them: on this query this arm did better.

Where a query was answered by several arms every pair of them is compared. Where it was answered by one (a served
request), it is compared with the most similar queries that other arms answered. Ties are dropped. A pair weighs the
product of its cells' weights (`routers.classic.regression.Lesson`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.classic.regression import Lesson
from routers.estimators.least_squares import F64

MOST = 300_000
"""More pairs are not learned from: a seeded sample stands for them."""
NEIGHBOURS = 20
"""Similar queries that an answer is compared with where its query has no other."""
BLOCK = 512


class Pairs(NamedTuple):
    """On query `row`, arm `winner` did better than `loser`; all [n]; the weights have mean 1."""

    row: NDArray[np.intp]
    winner: NDArray[np.intp]
    loser: NDArray[np.intp]
    weight: F64


def compared(lesson: Lesson, rng: np.random.Generator) -> Pairs:
    """The pairs of a lesson; there may be none."""
    seen = lesson.weight > 0
    parts = [
        _within(lesson, np.flatnonzero(seen.sum(axis=1) > 1)),
        _across(lesson, np.flatnonzero(seen.sum(axis=1) == 1)),
    ]
    row, winner, loser = (np.concatenate(columns) for columns in zip(*(part[:3] for part in parts), strict=True))
    weight = np.concatenate([part.weight for part in parts])
    if len(row) > MOST:
        kept = np.sort(rng.choice(len(row), MOST, replace=False))
        row, winner, loser, weight = row[kept], winner[kept], loser[kept], weight[kept]
    return Pairs(row, winner, loser, weight / weight.mean() if len(weight) else weight)


def _within(lesson: Lesson, rows: NDArray[np.intp]) -> Pairs:
    found = []
    for begin in range(0, len(rows), BLOCK):
        block = rows[begin : begin + BLOCK]
        quality, weight = lesson.quality[block], lesson.weight[block]
        both = (weight[:, :, None] > 0) & (weight[:, None, :] > 0)
        at, winner, loser = np.nonzero(both & (quality[:, :, None] > quality[:, None, :]))
        found.append(Pairs(block[at], winner, loser, weight[at, winner] * weight[at, loser]))
    return _joined(found)


def _across(lesson: Lesson, rows: NDArray[np.intp]) -> Pairs:
    """Pairs of an answer with those to the most similar queries among `rows`, each of which has one answer."""
    if len(rows) < 2:
        return _joined([])
    arm = np.argmax(lesson.weight[rows] > 0, axis=1)
    score, weight = lesson.quality[rows, arm], lesson.weight[rows, arm]
    vectors = lesson.outcomes.vectors[lesson.positions[rows]]
    count = min(NEIGHBOURS, len(rows) - 1)
    found = []
    for begin in range(0, len(rows), BLOCK):
        block = np.arange(begin, min(begin + BLOCK, len(rows)))
        similar = vectors[block] @ vectors.T
        # An answer is compared with other arms' only.
        similar[arm[block][:, None] == arm[None, :]] = -np.inf
        near = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        near = np.sort(near, axis=1)
        comparable = np.isfinite(np.take_along_axis(similar, near, axis=1)) & (score[block][:, None] != score[near])
        at, place = np.nonzero(comparable)
        this, other = block[at], near[at, place]
        ahead = score[this] > score[other]
        winner, loser = np.where(ahead, arm[this], arm[other]), np.where(ahead, arm[other], arm[this])
        found.append(Pairs(rows[this], winner, loser, weight[this] * weight[other]))
    return _joined(found)


def _joined(parts: list[Pairs]) -> Pairs:
    if not parts:
        nothing = np.zeros(0, dtype=np.intp)
        return Pairs(nothing, nothing, nothing, np.zeros(0))
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
