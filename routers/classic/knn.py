"""The nearest-neighbour router: mean outcome of the k most similar logged queries, shrunk toward the arm's overall
mean.

    quality(q, m) = (sum_i w_i y_im + n0 mu_m) / (sum_i w_i + n0)       over neighbours i in which m was observed
                                                                        (FusionFactory)

with w_i = propensity weight times exp(10 (cosine_i - cosine of the nearest)). The search is exact up to `FLAT_ROWS`
queries and an HNSW graph above. It keeps every training vector: 1 KB per query at 256 dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from routers.cost_scale import CostScale
from routers.estimators.shrinkage import group_sums, quality_means, ratio_means
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import prepared, weights
from routers.standing import first, require_settings

NEIGHBOURS = 100
SHARPNESS = 10.0
STRENGTH = 10.0
"""Observations that an arm's overall mean counts for (n0)."""
FLAT_ROWS = 20_000
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 16, 100, 128
BATCH = 256
"""Queries gathered at a time in `predict_batch`, which bounds its memory to BATCH * k * M floats a matrix."""


class KnnRouter:
    """Keeps the training vectors and outcomes, and averages the neighbours' at prediction."""

    name: ClassVar[str] = "knn"

    def __init__(self, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> None:
        self.arms: tuple[str, ...] = tuple(meta["arms"])
        self.encoder: str = meta["encoder"]
        self.cost_scale = CostScale.from_meta(meta["cost_scale"])
        self.neighbours = int(meta["neighbours"])
        self.dim = int(meta["dim"])
        self._arrays = arrays
        self._table = _table(arrays)
        self._overall, self._noise = arrays["overall"], arrays["noise"]
        self._overall_cost, self._overall_latency = arrays["overall_cost"], arrays["overall_latency"]
        self._index = _opened(arrays, self.dim)

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. The setting `neighbours` is k (at least 1, by default 100)."""
        require_settings(cls.name, settings, ("neighbours",))
        neighbours = int(settings.get("neighbours", NEIGHBOURS))
        if neighbours < 1:
            raise TrainingError(f"neighbours must be at least 1, got {neighbours}")
        outcomes = prepared(outcomes)
        cell_weights = weights(outcomes)
        # Mean weight 1 per arm, so that n0 counts observations whatever the propensities were.
        seen = (cell_weights > 0).sum(axis=0)
        cell_weights = cell_weights * (seen / np.maximum(cell_weights.sum(axis=0), 1e-12)).astype(np.float32)
        together = np.zeros(len(outcomes.query_ids), dtype=np.intp)
        sums = group_sums(outcomes.quality, weights(outcomes), together, 1)
        means = quality_means(sums)
        spread = np.maximum(sums.square[0] / np.maximum(sums.weight[0], 1e-12) - means.cells[0] ** 2, 0.01)
        once = np.ones_like(cell_weights)
        arrays: dict[str, NDArray[Any]] = {
            "vectors": outcomes.vectors,
            "quality": np.where(cell_weights > 0, outcomes.quality, 0.0).astype(np.float32),
            "weight": cell_weights.astype(np.float32),
            "cost_usd": outcomes.cost_usd,
            "latency_s": outcomes.latency_s,
            "overall": means.cells[0].astype(np.float32),
            "noise": spread.astype(np.float32),
            "overall_cost": ratio_means(group_sums(outcomes.cost_usd, once, together, 1))[0].astype(np.float32),
            "overall_latency": ratio_means(group_sums(outcomes.latency_s, once, together, 1))[0].astype(np.float32),
        }
        if len(outcomes.vectors) > FLAT_ROWS:
            arrays["graph"] = _graph(outcomes.vectors)
        meta = {
            "router": cls.name,
            "arms": list(outcomes.arms),
            "encoder": outcomes.encoder,
            "neighbours": min(neighbours, len(outcomes.query_ids)),
            "dim": outcomes.vectors.shape[1],
            "cost_scale": CostScale.learned(outcomes.cost_usd).to_meta(),
        }
        return cls(arrays, meta)

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """See `routers.protocol.Router.predict`."""
        return first(self.predict_batch(vector[None, :]))

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        starts = range(0, max(len(vectors), 1), BATCH)
        parts = [self._predicted(vectors[start : start + BATCH]) for start in starts]
        if len(parts) == 1:
            return parts[0]
        return Prediction(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _predicted(self, vectors: F32) -> Prediction:
        similarity, found = self._index.search(np.ascontiguousarray(vectors), self.neighbours)
        # A graph that finds fewer than k marks the rest -1. Nothing is similar to the empty query: no neighbours.
        kernel = np.exp(SHARPNESS * (similarity - similarity[:, :1]))
        kernel = np.where((found >= 0) & (similarity[:, :1] > 0), kernel, 0.0).astype(np.float32)
        # One gather and one product give the kernel sums of all six matrices.
        sums = np.matmul(kernel[:, None, :], self._table[found])[:, 0]
        total, quality, *timed = np.split(sums, 6, axis=1)
        mean_quality = (quality + STRENGTH * self._overall) / (total + STRENGTH)
        # n0 stands for the arm's mean of all its rows, whose own error is small beside the neighbours'.
        std = np.sqrt(self._noise / (total + STRENGTH))
        cost = (timed[1] + STRENGTH * self._overall_cost) / (timed[0] + STRENGTH)
        latency = (timed[3] + STRENGTH * self._overall_latency) / (timed[2] + STRENGTH)
        columns = (mean_quality, std, cost, latency)
        return Prediction(*(np.asarray(column, dtype=np.float32) for column in columns))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        return dict(self._arrays)

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return {
            "router": self.name,
            "arms": list(self.arms),
            "encoder": self.encoder,
            "neighbours": self.neighbours,
            "dim": self.dim,
            "cost_scale": self.cost_scale.to_meta(),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        return cls(arrays, meta)


def _table(arrays: dict[str, NDArray[Any]]) -> F32:
    """Weight, weighted quality, and for cost and latency whether known and value, per training query: [N, 6 M]."""
    weight, cost, latency = arrays["weight"], arrays["cost_usd"], arrays["latency_s"]
    columns = [weight, weight * arrays["quality"]]
    for matrix in (cost, latency):
        columns += [~np.isnan(matrix), np.nan_to_num(matrix)]
    return np.hstack(columns, dtype=np.float32, casting="unsafe")


def _graph(vectors: F32) -> NDArray[np.uint8]:
    """A serialised HNSW graph. One thread: with more, the graph depends on how they interleave."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index = faiss.IndexHNSWFlat(vectors.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD
        index.add(vectors)
        graph: NDArray[np.uint8] = faiss.serialize_index(index)
    finally:
        faiss.omp_set_num_threads(threads)
    return graph


def _opened(arrays: dict[str, NDArray[Any]], dim: int) -> Any:
    if "graph" in arrays:
        index = faiss.deserialize_index(arrays["graph"])
        faiss.ParameterSpace().set_index_parameter(index, "efSearch", HNSW_SEARCH)
        return index
    index = faiss.IndexFlatIP(dim)
    index.add(np.ascontiguousarray(arrays["vectors"], dtype=np.float32))
    return index
