"""The part of each item in the uplift of what is shown together, drawn toward what items like it show.

Showing the items of a request changes its score by the sum of their parts; the parts are a weighted regression of what
the requests say (`routers.evidence.uplift`) on what was shown in them, drawn toward the mean of the item's cluster, and
that toward the mean of all, as strongly as the data say (empirical Bayes, method of moments). Items that are always
shown together cannot be told apart and share alike; an effect that only two items together have is split between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.evidence.off_policy import F64

Indices = NDArray[np.intp]

GLOBAL_SPREAD = 0.1
"""Standard deviation that the mean uplift of all items is expected to have around 0."""
SPREADS = (0.02, 0.3)
"""Bounds of the standard deviation between items of a cluster, and between clusters; it is estimated."""
NOISE_LEAST = 1e-3
"""Least variance of a score."""
ROUNDS = 200
SETTLED = 1e-6


@dataclass(frozen=True, slots=True)
class Shown:
    """What was shown in n requests: pairs (`request`, `item`), int [k] each; J items, each of a `cluster`, int [J]."""

    request: Indices
    item: Indices
    cluster: Indices


class Parts(NamedTuple):
    """`items` [J] and `clusters` [C]: expected uplifts."""

    items: F64
    clusters: F64


def parts(h: F64, w: F64, shown: Shown, weight: F64 | None = None) -> Parts:
    """The expected part of each item in the uplift.

    Parameters
    ----------
    h, w: [n], see `routers.evidence.uplift`.
    weight: [n], how much a request counts (less, the older it is); 1 if left out.
    """
    count, clusters = len(shown.cluster), int(shown.cluster.max(initial=-1)) + 1
    weight = np.ones(len(h)) if weight is None else weight
    together = np.bincount(shown.request, minlength=len(h))
    seen = together > 0
    noise = max(float((weight[seen] * h[seen] ** 2 / w[seen]).sum() / max(weight[seen].sum(), 1e-9)), NOISE_LEAST)
    share = np.where(seen, 1.0 / np.maximum(together, 1), 0.0)
    information: F64 = np.bincount(shown.item, (weight * w)[shown.request], minlength=count).astype(np.float64)
    sums: F64 = np.bincount(shown.item, (weight * h * share)[shown.request], minlength=count).astype(np.float64)
    known = information > 0.0
    raw: F64 = np.where(known, sums / np.where(known, information, 1.0), 0.0)
    variance = np.where(known, noise / np.where(known, information, 1.0), np.inf)
    between = _spread(raw, variance, shown.cluster, clusters)
    cluster, cluster_variance = _means(raw, variance + between, shown.cluster, clusters)
    everyone = np.zeros(clusters, dtype=np.intp)
    between_clusters = _spread(cluster, cluster_variance, everyone, 1)
    overall, overall_variance = _means(cluster, cluster_variance + between_clusters, everyone, 1)
    overall = _toward(overall, overall_variance, np.zeros(1), GLOBAL_SPREAD**2)
    cluster = _toward(cluster, cluster_variance, overall[everyone], between_clusters)
    prior = cluster[shown.cluster]
    return Parts(_regressed(h, w, weight, shown, together, information, prior, noise / between), cluster)


def _regressed(
    h: F64, w: F64, weight: F64, shown: Shown, together: NDArray[np.intp], information: F64, prior: F64, strength: float
) -> F64:
    """Ridge regression toward the prior by damped Jacobi steps, which converge because at most `most` overlap."""
    found, most = prior.copy(), int(together.max(initial=1))
    for _ in range(ROUNDS):
        total = np.bincount(shown.request, found[shown.item], minlength=len(h))
        left = (weight * (h - w * total))[shown.request]
        gradient = np.bincount(shown.item, left, minlength=len(found)) - strength * (found - prior)
        step = gradient / ((information + strength) * most)
        found = found + step
        if np.max(np.abs(step), initial=0.0) < SETTLED:
            break
    return np.clip(found, -1.0, 1.0)


def _spread(values: F64, variance: F64, group: Indices, groups: int) -> float:
    """The variance of true values within groups, by the method of moments (DerSimonian and Laird)."""
    precision = np.where(np.isfinite(variance), 1.0 / np.where(np.isfinite(variance), variance, 1.0), 0.0)
    total = np.bincount(group, precision, minlength=groups)
    mean = np.bincount(group, precision * values, minlength=groups) / np.where(total > 0, total, 1.0)
    squares = float((precision * (values - mean[group]) ** 2).sum())
    freedom = int((precision > 0).sum()) - int((total > 0).sum())
    each = np.bincount(group, precision**2, minlength=groups)
    scale = float(precision.sum() - (each / np.where(total > 0, total, 1.0)).sum())
    found = (squares - freedom) / scale if scale > 0.0 else 0.0
    return float(np.clip(found, SPREADS[0] ** 2, SPREADS[1] ** 2))


def _means(values: F64, variance: F64, group: Indices, groups: int) -> tuple[F64, F64]:
    """Means weighted by precision, and their variances (infinite without data)."""
    precision = np.where(np.isfinite(variance), 1.0 / np.where(np.isfinite(variance), variance, 1.0), 0.0)
    total = np.bincount(group, precision, minlength=groups)
    known = total > 0
    means = np.bincount(group, precision * values, minlength=groups) / np.where(known, total, 1.0)
    return means, np.where(known, 1.0 / np.where(known, total, 1.0), np.inf)


def _toward(values: F64, variance: F64, prior: F64, spread: float) -> F64:
    own = np.where(np.isfinite(variance), spread / (spread + np.where(np.isfinite(variance), variance, 1.0)), 0.0)
    return np.asarray(own * values + (1.0 - own) * prior)
