"""What a task tag says beyond the query: by how much the forest is wrong, on average, about queries that carry it.

The errors of trees that have not seen a query are averaged for each tag and drawn to zero as strongly as the data say:
where the forest has understood the task already, the tag moves nothing. A query without a tag, or with one that was not
learned from, is left as it is.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.estimators.shrinkage import group_sums
from routers.protocol import F32

F64 = NDArray[np.float64]
Integers = NDArray[np.intp]

LEAST_ROWS = 20
"""Queries that a tag must be seen on."""
LEAST_STRENGTH = 5.0
"""Observations that no effect counts for, at least."""


class Tags(NamedTuple):
    """`codes` [G], ascending (`encoders.features.tag_code`); `moves` [G, M], what each adds to quality."""

    codes: F32
    moves: F32

    @classmethod
    def learned(cls, codes: F32, errors: F64, counts: F64) -> Self:
        """From the code of each query [N] (0 for none), observed less predicted quality [N, M], and weights [N, M]."""
        found, number = np.unique(codes, return_counts=True)
        kept = found[(found != 0) & (number >= LEAST_ROWS)].astype(np.float32)
        own = np.isin(codes, kept)
        if not len(kept):
            return cls(kept, np.zeros((0, errors.shape[1]), dtype=np.float32))
        group = np.searchsorted(kept, codes[own]).astype(np.intp)
        weights = counts[own].astype(np.float32)
        sums = group_sums(np.where(weights > 0, errors[own], np.nan).astype(np.float32), weights, group, len(kept))
        noise = float(sums.square.sum() / max(sums.weight.sum(), 1e-12))
        seen = sums.weight.sum(axis=1, keepdims=True)
        common = sums.value.sum(axis=1, keepdims=True) / np.maximum(seen, 1e-12)
        apart = np.where(sums.weight > 0, sums.value / np.maximum(sums.weight, 1e-12) - common, 0.0)
        moves = _drawn(common, seen, noise) + _drawn(apart, sums.observations, noise)
        return cls(kept, moves.astype(np.float32))

    def places(self, codes: F32) -> Integers:
        """The row of `moves` of each code [n], or -1."""
        if not len(self.codes):
            return np.full(len(codes), -1, dtype=np.intp)
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[at] == codes, at, -1).astype(np.intp)

    def moved(self, quality: F64, codes: F32) -> F64:
        """Predicted quality [n, M] with what the tags add."""
        place = self.places(codes)
        told: F64 = quality.copy()
        told[place >= 0] += self.moves[place[place >= 0]]
        return told


def _drawn(effect: F64, count: F64, noise: float) -> F64:
    """Mean effects of `count` observations, drawn to zero (empirical Bayes by the method of moments)."""
    cells = int((count > 0).sum())
    between = max(float((count * effect**2).sum()) - cells * noise, 0.0) / max(float(count.sum()), 1e-12)
    strength = max(noise / between, LEAST_STRENGTH) if between > 0 else np.inf
    drawn: F64 = effect * (count / (count + strength))
    return drawn
