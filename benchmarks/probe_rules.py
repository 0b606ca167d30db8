"""Rules of choosing probe queries that the house's own is compared with. Each gives positions, at most `count`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from routers.estimators.kmeans import centroids
from routers.onboarding.onboarded import LEVEL, PLACES, SHARPNESS
from routers.onboarding.probes import choose_probes, expected
from routers.protocol import Outcomes, Router

CANDIDATES = 400
"""Rules that compare queries pairwise look at so many, drawn at random."""

Indices = NDArray[np.intp]
Rule = Callable[[Outcomes, Router, int, int], Indices]
F64 = NDArray[np.float64]


def at_random(outcomes: Outcomes, router: Router, count: int, seed: int) -> Indices:
    """Uniform, without replacement."""
    return _rng(seed).choice(len(outcomes.query_ids), count, replace=False)


def one_per_cluster(outcomes: Outcomes, router: Router, count: int, seed: int) -> Indices:
    """One random query of each of `count` clusters of vectors."""
    centers = centroids(outcomes.vectors, count, seed)
    labels, rng = np.argmax(outcomes.vectors @ centers.T, axis=1), _rng(seed)
    return np.array([rng.choice(np.flatnonzero(labels == label)) for label in np.unique(labels)])


def most_disputed(outcomes: Outcomes, router: Router, count: int, seed: int) -> Indices:
    """The queries on which the known arms' scores differ most; ties at random."""
    spread = np.nanvar(outcomes.quality, axis=1) + 1e-6 * _rng(seed).random(len(outcomes.query_ids))
    return np.argsort(-spread)[:count]


def medoids(outcomes: Outcomes, router: Router, count: int, seed: int) -> Indices:
    """The middle query of each of `count` clusters of score vectors: the anchor points of tinyBenchmarks (2024)."""
    rows = _some(outcomes, seed)
    scores = np.nan_to_num(outcomes.quality[rows]).astype(np.float64)
    centers = scores[_rng(seed).choice(len(rows), count, replace=False)]
    for _ in range(15):
        nearest = _distances(scores, centers).argmin(axis=1)
        centers = np.stack([scores[nearest == c].mean(axis=0) if np.any(nearest == c) else centers[c]
                            for c in range(count)])  # fmt: skip
    chosen: list[int] = []
    for order in _distances(scores, centers).argsort(axis=0).T:
        chosen.append(next(int(row) for row in order if int(row) not in chosen))
    return rows[chosen]


def d_optimal(outcomes: Outcomes, router: Router, count: int, seed: int) -> Indices:
    """Greedy: each probe is the one whose score is least certain relative to its noise."""
    return _greedy(outcomes, router, count, seed, lambda own, cross, noise: own / noise)


def least_variance_left(outcomes: Outcomes, router: Router, count: int, seed: int) -> Indices:
    """Greedy: each probe is the one that leaves least mean posterior variance."""
    return _greedy(outcomes, router, count, seed, lambda own, cross, noise: (cross**2).sum(axis=0) / (own + noise))


def balanced(outcomes: Outcomes, router: Router, count: int, seed: int) -> Indices:
    """The house's rule (`routers.onboarding.probes.choose_probes`)."""
    return choose_probes(outcomes, router, count, seed)


RULES: Final[dict[str, Rule]] = {
    "random": at_random,
    "one per cluster": one_per_cluster,
    "most disputed": most_disputed,
    "medoids": medoids,
    "D-optimal": d_optimal,
    "least variance": least_variance_left,
    "balanced": balanced,
}


def _greedy(
    outcomes: Outcomes, router: Router, count: int, seed: int, worth: Callable[[F64, F64, F64], F64]
) -> Indices:
    rows = _some(outcomes, seed)
    hopes, vectors = expected(outcomes, router), outcomes.vectors[rows]
    profile, noise = hopes.profile[rows], hopes.spread[rows]
    cross = profile @ profile.T / profile.shape[1] + LEVEL + PLACES[0] * np.exp(SHARPNESS * (vectors @ vectors.T - 1.0))
    chosen: list[int] = []
    for _ in range(count):
        gains = worth(np.diag(cross), cross, noise)
        gains[chosen] = -np.inf
        best = int(gains.argmax())
        chosen.append(best)
        column = cross[:, best] / np.sqrt(cross[best, best] + noise[best])
        cross = cross - np.outer(column, column)
    return rows[chosen]


def _distances(points: F64, centers: F64) -> F64:
    squares = (points**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1)
    return np.asarray(squares - 2 * points @ centers.T)


def _some(outcomes: Outcomes, seed: int) -> Indices:
    total = len(outcomes.query_ids)
    return np.sort(_rng(seed).choice(total, min(CANDIDATES, total), replace=False))


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
