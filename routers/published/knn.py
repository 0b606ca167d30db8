"""FusionFactory's KNN router as published: the share of the 50 nearest queries whose argmax label is the arm.

A ruler, argmax defect and all: where many arms are right on a query its label is the first of them, so that the shares
say little about who is good. Not as published: the vectors are the encoder's in use (there: MiniLM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32, Outcomes, Prediction
from routers.published.base import PublishedRouter
from routers.published.labels import Surroundings, rewards, whole_rows
from routers.standing import require_settings

SETTINGS = ("preference",)
NEIGHBOURS = 50


class PublishedKnnRouter(PublishedRouter):
    """Keeps the training vectors and labels. For the zero vector the scores are the shares of the labels over all."""

    name: ClassVar[str] = "published-knn"

    def __init__(self, surroundings: Surroundings, vectors: F32, label: NDArray[np.int32]) -> None:
        """`vectors` [N, d], `label` [N] the arms' indices."""
        super().__init__(surroundings)
        self.vectors = vectors
        self.label = label
        self._member = np.eye(len(self.arms), dtype=np.float32)[label]
        self._index = faiss.IndexFlatIP(self.dim)
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Setting: `preference` (weight of the score in the label, 1.0)."""
        require_settings(cls.name, settings, SETTINGS)
        preference = float(settings.get("preference", 1.0))
        outcomes = whole_rows(outcomes, preference)
        label = rewards(outcomes, preference).label.astype(np.int32)
        return cls(Surroundings.learned(outcomes, preference), outcomes.vectors, label)

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        _, found = self._index.search(np.ascontiguousarray(vectors), min(NEIGHBOURS, len(self.label)))
        shares = self._member[found].mean(axis=1)
        return self.surroundings.completed(
            np.where(vectors.any(axis=1, keepdims=True), shares, self._member.mean(axis=0))
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        return self.surroundings.arrays() | {"vectors": self.vectors, "label": self.label}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        return cls(Surroundings.from_arrays(arrays, meta), arrays["vectors"], arrays["label"])
