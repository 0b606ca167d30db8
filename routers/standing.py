"""What a router knows beside its network: the arms, what is typical of them, and what they cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routers.cost_scale import CostScale
from routers.expense import Expense
from routers.prior import PriorRouter
from routers.protocol import F32, Outcomes, Prediction, TrainingError


@dataclass(frozen=True, slots=True)
class Standing:
    """The part of a router that its network has no share in.

    Attributes
    ----------
    arms, encoder, dim: see `routers.protocol.Router`.
    feature_set: the definition of the features that it learned from, or None.
    quality, std: float32 [M], the arms' shrunk overall means and their standard errors: what an empty query gets.
    expense: cost and latency.
    """

    arms: tuple[str, ...]
    encoder: str
    dim: int
    feature_set: str | None
    quality: F32
    std: F32
    expense: Expense

    @classmethod
    def learned(cls, outcomes: Outcomes) -> Self:
        """From prepared outcomes (`routers.rows.prepared`)."""
        typical = PriorRouter.fit(outcomes).predict(outcomes.vectors[0])
        dim = outcomes.vectors.shape[1]
        means = (typical.quality, typical.quality_std)
        return cls(outcomes.arms, outcomes.encoder, dim, outcomes.feature_set, *means, Expense.fit(outcomes))

    def completed(
        self, quality: F32, std: F32, empty: NDArray[np.bool_], vectors: F32, features: F32 | None
    ) -> Prediction:
        """The prediction of n queries from quality and standard error [n, M]; those that are `empty` [n] get what is
        typical."""
        if empty.any():
            quality = np.where(empty[:, None], self.quality, quality)
            std = np.where(empty[:, None], self.std, std)
        return Prediction(quality, std, *self.expense.predict(vectors, features))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays, under names of its own."""
        return {"typical_quality": self.quality, "typical_std": self.std, **self.expense.arrays()}

    def meta(self, router: str) -> dict[str, Any]:
        """Its settings, and the name of the router that it belongs to."""
        return {
            "router": router,
            "arms": list(self.arms),
            "encoder": self.encoder,
            "dim": self.dim,
            "feature_set": self.feature_set,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """The inverse of `arrays` and `meta`; what is the router's own is left alone."""
        means = (arrays["typical_quality"], arrays["typical_std"])
        place = (tuple(meta["arms"]), meta["encoder"], int(meta["dim"]), meta["feature_set"])
        return cls(*place, *means, Expense.from_arrays(arrays))


class BatchRouter(ABC):
    """Base of the routers to which one query is a batch of one."""

    @abstractmethod
    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """See `routers.protocol.Router.predict`."""
        return first(self.predict_batch(vector[None], None if features is None else features[None], [text]))


class StandingRouter(BatchRouter):
    """Base of the routers that hold a `Standing` beside what they learned."""

    name: ClassVar[str]

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.arms = standing.arms
        self.encoder = standing.encoder
        self.dim = standing.dim
        self.cost_scale: CostScale = standing.expense.cost_scale

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return self.standing.meta(self.name)


def without_direction(vectors: F32) -> NDArray[np.bool_]:
    """Which of the vectors [n, d] are zero: empty queries."""
    return np.asarray(np.logical_not(vectors.any(axis=1)))


def first(batch: Prediction) -> Prediction:
    """The prediction of the first query of a batch, [M] each."""
    return Prediction(*(column[0] for column in batch))


def require_settings(name: str, given: dict[str, Any], known: Sequence[str]) -> None:
    """Raise TrainingError if a setting is given that the router `name` does not have."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TrainingError(f"the {name} router has the settings {', '.join(known)}, got {', '.join(unknown)}")
