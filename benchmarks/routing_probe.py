"""How much better than the best single model two plain routers do on an encoder's vectors, cross-validated.

Not the house's routers but the two shapes they share, with nothing tuned: the mean score of the nearest neighbours, and
the shrunken mean score of a cluster. What differs between two probes is then the encoder and nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

FOLDS = 5
NEIGHBOURS = 50
CLUSTERS = 64
PRIOR = 20.0
"""Queries that the overall mean counts for in a cluster's mean."""
SEED = 0

Floats = NDArray[np.float32]
Scores = NDArray[np.float64]
METHODS: Final = ("knn_mean", "cluster_mean")


@dataclass(frozen=True, slots=True)
class Pool:
    """Scored queries: `scores` has shape [queries, models], missing scores filled with the model's mean."""

    name: str
    queries: list[str]
    tasks: NDArray[np.int64]
    scores: Scores

    @property
    def folds(self) -> NDArray[np.int64]:
        """The fold of each query by a hash of its text, so that equal texts never stand on both sides."""
        return np.array([int(sha256(query.encode()).hexdigest()[:8], 16) % FOLDS for query in self.queries])


@dataclass(frozen=True, slots=True)
class Gain:
    """Points of accuracy over the best single model, with the ends of a 95 % paired interval."""

    points: float
    low: float
    high: float


def shared_folder() -> Path:
    """The folder of the multi-LLM logs: `$TOKAMAK_SHARED_DATA`, else `shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("TOKAMAK_SHARED_DATA") or beside)


def read_pool(path: Path, split: str | None = None) -> Pool:
    """The queries of a log that every model was asked, of one of its own splits if named."""
    import pyarrow.parquet as parquet

    filters = [("split", "=", split)] if split else None
    table = parquet.read_table(path, columns=["task", "query_id", "query", "model", "score"], filters=filters)
    columns = [table[name].to_pylist() for name in ("task", "query_id", "query", "model", "score")]
    places: dict[tuple[str, str], int] = {}
    models: dict[str, int] = {}
    texts: dict[int, tuple[str, str]] = {}
    cells = []
    for task, query_id, query, model, score in zip(*columns, strict=True):
        row = places.setdefault((task, query_id), len(places))
        texts[row] = (query, task)
        cells.append((row, models.setdefault(model, len(models)), np.nan if score is None else score))
    scores = np.full((len(places), len(models)), np.nan)
    for row, column, score in cells:
        scores[row, column] = score
    scores = np.where(np.isnan(scores), np.nanmean(scores, 0), scores)
    tasks = np.unique([texts[row][1] for row in range(len(places))], return_inverse=True)[1]
    return Pool(path.stem, [texts[row][0] for row in range(len(places))], tasks, scores)


def probe(pool: Pool, vectors: Floats) -> dict[str, Gain]:
    """The gain of each method of `METHODS` on the pool's queries, whose vectors have shape [queries, dim]."""
    folds = pool.folds
    won = {method: np.zeros(len(folds)) for method in METHODS}
    single = np.zeros(len(folds))
    for fold in range(FOLDS):
        known, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        scores = pool.scores[known]
        single[asked] = pool.scores[asked, scores.mean(0).argmax()]
        for method, predict in ((METHODS[0], _neighbours), (METHODS[1], _clusters)):
            predicted = predict(vectors[known], scores, vectors[asked])
            won[method][asked] = pool.scores[asked, predicted.argmax(1)]
    return {method: _gain(got - single) for method, got in won.items()}


def task_accuracy(pool: Pool, vectors: Floats) -> float:
    """Percent of queries whose ten nearest neighbours of other folds vote for the query's own task."""
    folds, right = pool.folds, 0
    for fold in range(FOLDS):
        known, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors[known])
        votes = pool.tasks[known][index.search(vectors[asked], 10)[1]]
        counts = np.apply_along_axis(np.bincount, 1, votes, minlength=int(pool.tasks.max()) + 1)
        right += int((counts.argmax(1) == pool.tasks[asked]).sum())
    return 100 * right / len(folds)


def _neighbours(known: Floats, scores: Scores, asked: Floats) -> Scores:
    index = faiss.IndexFlatIP(known.shape[1])
    index.add(known)
    means: Scores = scores[index.search(asked, NEIGHBOURS)[1]].mean(1)
    return means


def _clusters(known: Floats, scores: Scores, asked: Floats) -> Scores:
    kmeans = faiss.Kmeans(known.shape[1], CLUSTERS, niter=25, nredo=3, seed=SEED, min_points_per_centroid=1)
    kmeans.train(known)
    home = kmeans.index.search(known, 1)[1][:, 0]
    member = np.eye(CLUSTERS)[home]
    means: Scores = (member.T @ scores + PRIOR * scores.mean(0)) / (member.sum(0)[:, None] + PRIOR)
    predicted: Scores = means[kmeans.index.search(asked, 1)[1][:, 0]]
    return predicted


def _gain(difference: Scores) -> Gain:
    mean = 100 * float(difference.mean())
    half = 196 * float(difference.std(ddof=1)) / float(np.sqrt(len(difference)))
    return Gain(round(mean, 2), round(mean - half, 2), round(mean + half, 2))
