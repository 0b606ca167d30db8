"""Spherical k-means: clusters of unit vectors by cosine similarity.

Seeded, in NumPy, deterministic for an order of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32

ITERATIONS = 25
SETTLED = 0.005
"""It stops when no more than this share of the rows changed their cluster."""
MAX_ROWS = 20_000
"""More rows do not move the centroids; k-means then learns from a seeded sample."""


def centroids(vectors: F32, count: int, seed: int) -> F32:
    """Unit centroids, float32 [at most `count`, d]. Clusters that end empty are dropped."""
    rng = np.random.default_rng(seed)
    if len(vectors) > MAX_ROWS:
        vectors = vectors[np.sort(rng.choice(len(vectors), MAX_ROWS, replace=False))]
    centers = _spread_start(vectors, min(count, len(vectors)), rng)
    previous: NDArray[np.intp] | None = None
    for _ in range(ITERATIONS):
        nearest = np.argmax(vectors @ centers.T, axis=1)
        if previous is not None and np.mean(nearest != previous) <= SETTLED:
            break
        previous = nearest
        centers = _means(vectors, nearest)
    return centers


def _means(vectors: F32, nearest: NDArray[np.intp]) -> F32:
    order = np.argsort(nearest, kind="stable")
    _, starts = np.unique(nearest[order], return_index=True)
    sums = np.add.reduceat(vectors[order], starts, axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    full = (norms > 1e-6).ravel()
    means: F32 = (sums[full] / norms[full]).astype(np.float32)
    return means


def _spread_start(vectors: F32, count: int, rng: np.random.Generator) -> F32:
    """k-means++: each further centre is drawn with probability in proportion to its distance from those so far."""
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.maximum(1.0 - vectors @ vectors[chosen[0]], 0.0).astype(np.float64)
    for _ in range(count - 1):
        total = distance.sum()
        if total < 1e-9:
            break
        chosen.append(
            int(np.searchsorted(np.cumsum(distance), rng.random() * total, side="right").clip(0, len(vectors) - 1))
        )
        distance = np.minimum(distance, np.maximum(1.0 - vectors @ vectors[chosen[-1]], 0.0))
    start: F32 = vectors[chosen]
    return start
