"""Similarities made mean scores: one line per arm on the logit scale, fitted on queries held out from the similarities.

    quality = sigmoid( level_m + slope_m (s_m - center_m) )

Slopes are drawn to one that all arms share, levels to the arms' overall means. The standard error is Laplace's, of the
line; it does not hold the error of the similarities themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.neural.heads import LEAST_STD, LEVEL_STRENGTH, LONGEST_STEP, TURNS, logit, sigmoid
from routers.protocol import F32

SLOPE_STRENGTH = 10.0
"""Precision of the prior of an arm's slope, per standard deviation of its similarity."""


class Affine(NamedTuple):
    """Float32 [M] each: the lines, and the variances of level and slope and their covariance."""

    center: F32
    slope: F32
    level: F32
    level_variance: F32
    slope_variance: F32
    covariance: F32

    def predict(self, similarities: F32) -> tuple[F32, F32]:
        """Mean quality and its standard error, [n, M] each, for similarities [n, M]."""
        x = similarities - self.center
        quality = sigmoid(self.level + self.slope * x)
        variance = self.level_variance + 2.0 * x * self.covariance + np.square(x) * self.slope_variance
        std = quality * (1.0 - quality) * np.sqrt(np.maximum(variance, 0.0))
        return quality, np.maximum(std, LEAST_STD)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {f"line_{field}": getattr(self, field) for field in self._fields}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        return cls(*(arrays[f"line_{field}"] for field in cls._fields))


def fitted_lines(similarities: F32, scores: F32, weights: F32, typical: F32) -> Affine:
    """Lines from similarities, scores and weights [n, M] (cells of weight 0 take no part); `typical` [M] is what the
    arms score over all."""
    squares = np.square(weights, dtype=np.float64).sum(axis=0)
    total = weights.sum(axis=0, dtype=np.float64)
    weight = weights * (total / np.where(squares > 0, squares, 1.0))
    y = np.where(weights > 0, scores, 0.0).astype(np.float64)
    center = similarities.mean(axis=0, dtype=np.float64)
    spread = similarities.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 1e-6, spread, 1.0)
    x = (similarities - center) / spread
    prior = logit(typical)
    shared = 0.0
    for _ in range(TURNS):
        quality = sigmoid(prior + shared * x)
        pull = float((weight * (y - quality) * x).sum()) - SLOPE_STRENGTH * shared
        curve = float((weight * quality * (1.0 - quality) * x * x).sum()) + SLOPE_STRENGTH
        shared += float(np.clip(pull / curve, -LONGEST_STEP, LONGEST_STEP))
    level, slope = prior.copy(), np.full(len(prior), shared)
    for _ in range(TURNS):
        quality = sigmoid(level + slope * x)
        residual, curve = weight * (y - quality), weight * quality * (1.0 - quality)
        pulls = (
            residual.sum(axis=0) - LEVEL_STRENGTH * (level - prior),
            (residual * x).sum(axis=0) - SLOPE_STRENGTH * (slope - shared),
        )
        a, b, c = _curvature(curve, x)
        determinant = a * c - b * b
        level += np.clip((c * pulls[0] - b * pulls[1]) / determinant, -LONGEST_STEP, LONGEST_STEP)
        slope += np.clip((a * pulls[1] - b * pulls[0]) / determinant, -LONGEST_STEP, LONGEST_STEP)
    quality = sigmoid(level + slope * x)
    a, b, c = _curvature(weight * quality * (1.0 - quality), x)
    determinant = a * c - b * b
    columns = (center, slope / spread, level, c / determinant, a / determinant / spread**2, -b / determinant / spread)
    return Affine(*(np.ascontiguousarray(column, dtype=np.float32) for column in columns))


def _curvature(
    curve: NDArray[Any], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Level by level, level by slope and slope by slope, [M] each."""
    level = curve.sum(axis=0, dtype=np.float64) + LEVEL_STRENGTH
    return level, (curve * x).sum(axis=0), (curve * x * x).sum(axis=0) + SLOPE_STRENGTH
