"""The cluster router: shrunk means of quality, cost and latency per cluster of queries and arm.

Queries are clustered by spherical k-means; a query reads the means of the few clusters nearest to it, mixed by

    weight of cluster c  ~  size_c * exp(sharpness * cosine(query, centroid_c)),

which at the sharpness used leaves next to nothing to the others. Number of clusters and sharpness are chosen by
cross-validation inside the training data; one single cluster (which is the best single arm) is among the candidates,
and any other must not choose worse than it. After Avengers (Zhang et al., 2025), with shrunk means in place of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.cost_scale import CostScale
from routers.estimators.kmeans import centroids
from routers.estimators.shrinkage import group_sums, quality_means, ratio_means, refined_means
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import folds, prepared, subset, weights
from routers.standing import require_settings

COUNTS = (8, 16, 32, 64, 128, 256)
"""Numbers of clusters that are tried beside one."""
SHARPNESS = (20.0, 40.0, 60.0)
"""Candidates; at most 60, so that neither exp(sharpness) times a size nor its inverse leaves float32."""
COARSE, COARSE_SHARPNESS = 16, 20.0
"""From four times as many clusters on, means are drawn toward those of so many coarse ones, not the arm's mean."""
FOLDS = 3
MIN_ROWS_PER_CLUSTER = 10
JUST_BELOW_ONE = 1.0 - 1e-6
"""Upper bound of a cell, so that rounding in a mixture of cells never exceeds 1."""


class ClusterRouter:
    """Predicts in two products of a matrix and a vector: similarities to the K centroids, then a mixture of K rows."""

    name: ClassVar[str] = "cluster"

    def __init__(
        self,
        arms: tuple[str, ...],
        encoder: str,
        cost_scale: CostScale,
        centers: F32,
        sizes: F32,
        cells: Prediction,
        sharpness: float,
    ) -> None:
        """`centers` [K, d], unit rows; `sizes` [K], positive; `cells` [K, M] each."""
        self.arms = arms
        self.encoder = encoder
        self.dim = centers.shape[1]
        self.cost_scale = cost_scale
        self.centers = centers
        self.sizes = sizes
        self.cells = cells
        self.sharpness = sharpness
        columns = [np.minimum(cells.quality, JUST_BELOW_ONE), cells.quality_std**2, cells.cost_usd, cells.latency_s]
        mixed = np.hstack([*columns, np.ones((len(centers), 1))]) * sizes[:, None]
        self._table = np.ascontiguousarray(mixed, dtype=np.float32)
        self._keys = np.ascontiguousarray(centers * sharpness, dtype=np.float32)

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`.

        Settings `clusters` (int) and `sharpness` (in (0, 60]) fix what is otherwise chosen by cross-validation.
        """
        require_settings(cls.name, settings, ("clusters", "sharpness"))
        outcomes = prepared(outcomes)
        clusters, sharpness = settings.get("clusters"), settings.get("sharpness")
        if clusters is None or sharpness is None:
            counts = COUNTS if clusters is None else (int(clusters),)
            chosen = _chosen(outcomes, counts, SHARPNESS if sharpness is None else (float(sharpness),), seed)
            clusters, sharpness = chosen
        if clusters < 1 or not 0 < sharpness <= max(SHARPNESS):
            raise TrainingError(f"clusters must be at least 1 and sharpness in (0, 60], got {clusters}, {sharpness}")
        centers, groups = _grouped(outcomes.vectors, int(clusters), seed)
        cells, _ = _cells(outcomes, centers, groups, _coarse(outcomes, int(clusters), seed))
        sizes = np.bincount(groups, minlength=len(centers)).astype(np.float32)
        # A centroid that is nobody's nearest has no rows; half a query keeps its means in play next to it.
        scale = CostScale.learned(outcomes.cost_usd)
        return cls(outcomes.arms, outcomes.encoder, scale, centers, np.maximum(sizes, 0.5), cells, float(sharpness))

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """See `routers.protocol.Router.predict`."""
        out = np.exp(self._keys.dot(vector)).dot(self._table)
        out /= out[-1]
        m = len(self.arms)
        return Prediction(out[:m], np.sqrt(out[m : 2 * m]), out[2 * m : 3 * m], out[3 * m : 4 * m])

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        out = np.exp(vectors @ self._keys.T) @ self._table
        out /= out[:, -1:]
        m = len(self.arms)
        return Prediction(out[:, :m], np.sqrt(out[:, m : 2 * m]), out[:, 2 * m : 3 * m], out[:, 3 * m : 4 * m])

    def with_cells(self, arms: tuple[str, ...], cells: Prediction) -> Self:
        """The same clusters over other arms; `cells` is [K, number of arms]."""
        scale, sharpness = self.cost_scale, self.sharpness
        return type(self)(arms, self.encoder, scale, self.centers, self.sizes, cells, sharpness)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        return {"centers": self.centers, "sizes": self.sizes, **self.cells._asdict()}

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return {
            "router": self.name,
            "arms": list(self.arms),
            "encoder": self.encoder,
            "clusters": len(self.centers),
            "sharpness": self.sharpness,
            "cost_scale": self.cost_scale.to_meta(),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        cells = Prediction(**{field: arrays[field] for field in Prediction._fields})
        scale = CostScale.from_meta(meta["cost_scale"])
        arms = tuple(meta["arms"])
        return cls(arms, meta["encoder"], scale, arrays["centers"], arrays["sizes"], cells, float(meta["sharpness"]))


def _grouped(vectors: F32, count: int, seed: int) -> tuple[F32, NDArray[np.intp]]:
    """Centroids, and the nearest one of each row."""
    if count == 1:
        return np.zeros((1, vectors.shape[1]), dtype=np.float32), np.zeros(len(vectors), dtype=np.intp)
    centers = centroids(vectors, count, seed)
    return centers, np.argmax(vectors @ centers.T, axis=1)


class Coarse(NamedTuple):
    """A coarse grouping: its centres [C, d] and shrunk mean qualities [C, M]."""

    centers: F32
    quality: NDArray[np.float64]


def _coarse(outcomes: Outcomes, count: int, seed: int) -> Coarse | None:
    """The grouping that so many clusters lean on; None if they are too few to need one."""
    if count < 4 * COARSE:
        return None
    centers, groups = _grouped(outcomes.vectors, COARSE, seed)
    return Coarse(centers, quality_means(group_sums(outcomes.quality, weights(outcomes), groups, len(centers))).cells)


def _cells(
    outcomes: Outcomes, centers: F32, groups: NDArray[np.intp], coarse: Coarse | None
) -> tuple[Prediction, NDArray[np.float64]]:
    """Shrunk means per group and arm, and the arms' overall mean quality."""
    count, cell_weights = len(centers), weights(outcomes)
    sums = group_sums(outcomes.quality, cell_weights, groups, count)
    if coarse is None:
        means = quality_means(sums)
    else:
        nearness = np.exp(COARSE_SHARPNESS * (centers @ coarse.centers.T))
        means = refined_means(sums, (nearness / nearness.sum(axis=1, keepdims=True)) @ coarse.quality)
    # Cost and latency say nothing about who was asked: every observed answer counts once.
    once = np.ones_like(cell_weights)
    cost = ratio_means(group_sums(outcomes.cost_usd, once, groups, count))
    latency = ratio_means(group_sums(outcomes.latency_s, once, groups, count))
    columns = (means.cells, np.sqrt(means.variance), cost, latency)
    return Prediction(*(np.ascontiguousarray(column, dtype=np.float32) for column in columns)), means.arms


def _chosen(
    outcomes: Outcomes, counts: tuple[int, ...], sharpnesses: tuple[float, ...], seed: int
) -> tuple[int, float]:
    """Number of clusters and sharpness of the lowest cross-validated squared error among those whose choices are, on
    the same folds, worth at least as much as always choosing the best single arm."""
    rows = len(outcomes.query_ids)
    candidates = [(1, sharpnesses[0])]
    candidates += [(k, s) for k in counts for s in sharpnesses if 1 < k <= rows // MIN_ROWS_PER_CLUSTER]
    error, value = np.zeros(len(candidates)), np.zeros(len(candidates))
    fold_of = folds(outcomes, FOLDS, f"cluster-{seed}")
    for fold in range(FOLDS):
        train = subset(outcomes, np.flatnonzero(fold_of != fold))
        test = subset(outcomes, np.flatnonzero(fold_of == fold))
        if not len(train.query_ids) or np.all(np.isnan(train.quality)):
            continue
        for index, (predicted, baseline) in enumerate(_predictions(train, test.vectors, candidates, seed)):
            error[index] += _squared_error(predicted, test)
            value[index] += _value(predicted, baseline, test)
    sound = value >= value[0] - 1e-9
    best = min(np.flatnonzero(sound), key=lambda index: error[index])
    return candidates[best]


def _predictions(
    train: Outcomes, vectors: F32, candidates: list[tuple[int, float]], seed: int
) -> list[tuple[F32, NDArray[np.float64]]]:
    """For each candidate, predicted quality [n, M] of the vectors; and the arms' overall means [M]."""
    found = []
    made: dict[int, tuple[F32, F32, Prediction, NDArray[np.float64]]] = {}
    for count, sharpness in candidates:
        if count not in made:
            centers, groups = _grouped(train.vectors, count, seed)
            sizes = np.maximum(np.bincount(groups, minlength=len(centers)), 0.5).astype(np.float32)
            made[count] = (centers, sizes, *_cells(train, centers, groups, _coarse(train, count, seed)))
        centers, sizes, cells, overall = made[count]
        router = ClusterRouter(train.arms, train.encoder, CostScale(), centers, sizes, cells, sharpness)
        found.append((router.predict_batch(vectors).quality, overall))
    return found


def _squared_error(predicted: F32, test: Outcomes) -> float:
    cell_weights = weights(test)
    total = cell_weights.sum()
    return float(np.nansum(cell_weights * (predicted - test.quality) ** 2) / total) if total > 0 else 0.0


def _value(predicted: F32, baseline: NDArray[np.float64], test: Outcomes) -> float:
    """Doubly robust value of choosing the best predicted arm: the arm's overall mean, corrected where it was observed.

    With every arm observed this is the plain mean of the chosen arms' scores.
    """
    rows, choice = np.arange(len(predicted)), np.argmax(predicted, axis=1)
    weight, observed = weights(test)[rows, choice], test.quality[rows, choice]
    correction = np.where(weight > 0, weight * (np.nan_to_num(observed) - baseline[choice]), 0.0)
    return float(np.sum(baseline[choice] + correction))
