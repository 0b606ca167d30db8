"""What the ensemble's trees see of a query: its feature block and some directions of its vector.

A tree splits one number at a time, so the vector is turned to directions that mean something alone: those that explain
most of the differences between arms (reduced-rank ridge regression), those along which queries differ most (principal
components), and the similarity to the centres of a few clusters.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.estimators.kmeans import centroids
from routers.protocol import F32, Outcomes

F64 = NDArray[np.float64]

CENTERS = 32
COMPONENTS = 24
OUTCOME_DIRECTIONS = 8
RIDGE = 20.0
"""Added to the diagonal of the vectors' scatter matrix."""


class Inputs(NamedTuple):
    """`directions` [d, D]; `typical` [F], the mean feature block (without the tag) of the training queries.

    The row of a query is [features, directions]; of one without features, [typical, directions].
    """

    directions: F32
    typical: F32

    @classmethod
    def learned(cls, outcomes: Outcomes, targets: F64, seed: int) -> Self:
        """`targets` [N, T] are the outcomes that the vectors' directions should explain."""
        vectors = outcomes.vectors
        centers = centroids(vectors, CENTERS, seed).T.astype(np.float64)
        columns = [centers, *_directions(vectors, targets)]
        features = outcomes.features
        width = 0 if features is None else features.shape[1] - 1
        typical = np.zeros(width) if features is None else features[:, :width].mean(axis=0, dtype=np.float64)
        return cls(np.hstack(columns).astype(np.float32), typical.astype(np.float32))

    def one(self, vector: F32, features: F32 | None) -> F32:
        """The row of one query, float32 [F + D]."""
        width = len(self.typical)
        form = self.typical if features is None else features[:width]
        return np.concatenate((form, vector.dot(self.directions)))

    def many(self, vectors: F32, features: F32 | None) -> F32:
        """The rows of many queries, float32 [n, F + D]."""
        width = len(self.typical)
        form = np.tile(self.typical, (len(vectors), 1)) if features is None else features[:, :width]
        return np.hstack([form, vectors @ self.directions]).astype(np.float32)

    @property
    def width(self) -> int:
        return int(len(self.typical) + self.directions.shape[1])


def _directions(vectors: F32, targets: F64) -> list[F64]:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    scatter = centred.T @ centred
    weights = np.linalg.solve(scatter + RIDGE * np.eye(len(scatter)), centred.T @ (targets - targets.mean(axis=0)))
    # Directions of the predicted outcomes' principal components.
    covariance = weights.T @ scatter @ weights
    _, turned = np.linalg.eigh((covariance + covariance.T) / 2)
    explained = weights @ turned[:, ::-1][:, :OUTCOME_DIRECTIONS]
    _, components = np.linalg.eigh(scatter)
    return [_signed(explained), _signed(components[:, ::-1][:, :COMPONENTS])]


def _signed(columns: F64) -> F64:
    """Unit columns whose largest entry is positive, so that they do not depend on the solver's choice of sign."""
    largest = columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])]
    norms = np.linalg.norm(columns, axis=0)
    unit: F64 = columns * np.where(largest < 0, -1.0, 1.0) / np.where(norms > 0, norms, 1.0)
    return unit
