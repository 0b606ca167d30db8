"""Queries unlike anything that was learned from: how they are known, and how far the forest is believed on them.

A query is novel if it is farther from every cluster of the training queries than all but a few of these are themselves.
What to believe then cannot be seen on queries like the others: whole clusters of the training data are held out, a
smaller forest learns from the rest, and what it says of the novel ones among them decides.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.estimators.kmeans import centroids
from routers.protocol import F32

CENTERS = 64
ROWS_PER_CENTER = 10
FAMILIAR = 0.95
"""Share of the training queries that are not novel."""
FARTHEST = 4.0
"""Standard deviations that one input may count for."""
LEAST_SPREAD = 0.05
MEASURED = slice(1, None, 2)
"""The training queries that the centres are not made from."""


class Novelty(NamedTuple):
    """`centers` [C, W] are unit rows; a row of inputs is moved by `shift`, multiplied by `scale` (both [W]), clipped to
    `limit` [W] and compared; it is novel if its largest cosine is below `least`."""

    centers: F32
    shift: F32
    scale: F32
    limit: F32
    least: float

    @classmethod
    def learned(cls, rows: F32, form_width: int, seed: int) -> Self:
        """From the inputs [N, W] of the training queries, of which the first `form_width` describe the form. Form and
        directions count alike, however many there are of each."""
        width = rows.shape[1]
        share = np.full(width, 1.0 / max(width - form_width, 1))
        share[:form_width] = 1.0 / max(form_width, 1)
        shift = rows.mean(axis=0, dtype=np.float64)
        spread = np.maximum(rows.std(axis=0, dtype=np.float64), LEAST_SPREAD)
        scale = np.sqrt(share) / spread
        limit = FARTHEST * np.sqrt(share)
        shift_, scale_, limit_ = (part.astype(np.float32) for part in (shift, scale, limit))
        found = cls(rows[:0], shift_, scale_, limit_, -2.0)
        placed = found.placed(rows)
        # Centres are nearer to what they were made from than to fresh queries: one half makes them, the other measures.
        made, measured = placed[::2], placed[MEASURED] if len(placed) > 1 else placed
        centers = centroids(made, min(CENTERS, max(1, len(made) // ROWS_PER_CENTER)), seed)
        nearest = (measured @ centers.T).max(axis=1)
        return found._replace(centers=centers, least=float(np.quantile(nearest, 1.0 - FAMILIAR)))

    def placed(self, rows: F32) -> F32:
        """Rows, or one row, of inputs as unit vectors."""
        moved = np.minimum(np.maximum((rows - self.shift) * self.scale, -self.limit), self.limit)
        unit: F32 = moved / np.maximum(np.sqrt(np.sum(moved * moved, axis=-1, keepdims=True)), np.float32(1e-12))
        return unit

    def nearest(self, rows: F32) -> F32:
        """How near each row of inputs, or the one row, is to what was learned from: the largest cosine, [n] or one."""
        found: F32 = (self.placed(rows) @ self.centers.T).max(axis=-1)
        return found

    def novel(self, rows: F32) -> NDArray[np.bool_]:
        """Whether each row of inputs, or the one row, is novel: bool [n], or a single one."""
        told: NDArray[np.bool_] = self.nearest(rows) < self.least
        return told
