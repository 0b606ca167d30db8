"""What routers that regress quality on `z` (`routers.inputs`) have in common: everything but the regression.

A subclass learns a function from `z` to the qualities of all arms. Cost and latency come from `routers.expense`, the
standard error from `routers.estimators.uncertainty`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.estimators.least_squares import F64
from routers.estimators.shrinkage import ARM_STRENGTH, shrunk
from routers.estimators.uncertainty import Uncertainty, noise_of
from routers.expense import Expense
from routers.inputs import Inputs
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import prepared, weights


class Lesson(NamedTuple):
    """Outcomes made ready for a regression.

    `z` float64 [N, P]; `quality` float64 [N, M], 0 where not observed; `weight` float64 [N, M], in observations: an
    arm's weights are proportional to inverse propensities and sum to their effective number. `positions` [N] are the
    rows in `outcomes`.
    """

    outcomes: Outcomes
    inputs: Inputs
    z: F64
    quality: F64
    weight: F64
    positions: NDArray[np.intp]

    @classmethod
    def of(cls, outcomes: Outcomes, rank: int | None) -> Self:
        """From outcomes as they come; raises TrainingError as `routers.rows.prepared` does."""
        outcomes = prepared(outcomes)
        inputs = Inputs.learned(outcomes, rank)
        z = inputs.transform(outcomes.vectors, outcomes.features).astype(np.float64)
        quality = np.nan_to_num(outcomes.quality.astype(np.float64))
        return cls(outcomes, inputs, z, quality, observations(outcomes), np.arange(len(z)))

    def rows(self, chosen: NDArray[Any]) -> Self:
        """The lesson of some of the queries; its `outcomes` stay whole."""
        arrays = (self.z, self.quality, self.weight, self.positions)
        return type(self)(self.outcomes, self.inputs, *(array[chosen] for array in arrays))


def observations(outcomes: Outcomes) -> F64:
    """Weights of cells in observations, float64 [N, M]; see `Lesson`."""
    inverse = weights(outcomes).astype(np.float64)
    squares = (inverse**2).sum(axis=0)
    return np.asarray(inverse * (inverse.sum(axis=0) / np.maximum(squares, 1e-12)))


def levels(residual: F64, weight: F64) -> F64:
    """Mean of each arm, [M], of what is left to explain; drawn toward the mean over the pool."""
    count = weight.sum(axis=0)
    mean = (weight * residual).sum(axis=0) / np.where(count > 0, count, 1.0)
    pool = float((weight * residual).sum() / max(count.sum(), 1e-12))
    return shrunk(mean, count, pool, ARM_STRENGTH)


def typical(predicted: F64) -> F32:
    """Mean predictions over the training queries, [M]: the array `typical` of a router that is not linear in `z`."""
    return np.asarray(predicted.mean(axis=0), dtype=np.float32)


def squared_error(predicted: F64, part: Lesson) -> float:
    """Weighted sum over the observed cells, of predictions cut to [0, 1]."""
    return float((part.weight * (np.clip(predicted, 0.0, 1.0) - part.quality) ** 2).sum())


@dataclass(frozen=True, slots=True)
class Ground:
    """What every such router holds beside its regression."""

    arms: tuple[str, ...]
    encoder: str
    feature_set: str | None
    inputs: Inputs
    expense: Expense
    uncertainty: Uncertainty

    @classmethod
    def under(cls, lesson: Lesson, predicted: F64, strength: float) -> Self:
        """For a regression that predicts `predicted` [N, M] of the lesson and has this ridge strength."""
        outcomes = lesson.outcomes
        noise = noise_of(predicted - lesson.quality, lesson.weight)
        uncertainty = Uncertainty.learned(lesson.z, noise, lesson.weight.sum(axis=0), strength)
        expense = Expense.fit(outcomes)
        return cls(outcomes.arms, outcomes.encoder, outcomes.feature_set, lesson.inputs, expense, uncertainty)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return self.inputs.arrays() | self.expense.arrays() | self.uncertainty.arrays()

    def meta(self) -> dict[str, Any]:
        return {"arms": list(self.arms), "encoder": self.encoder, "feature_set": self.feature_set}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        parts = (Inputs.from_arrays(arrays), Expense.from_arrays(arrays), Uncertainty.from_arrays(arrays))
        return cls(tuple(meta["arms"]), meta["encoder"], meta["feature_set"], *parts)


class RegressionRouter(ABC):
    """Base of the routers that regress quality on `z`. A subclass defines `fit`, `_quality` and what is `own`."""

    name: ClassVar[str]

    def __init__(self, ground: Ground, own: dict[str, NDArray[Any]], settings: dict[str, Any]) -> None:
        """`own` are the arrays of the regression, `settings` what was chosen (JSON-able).

        Where `own` has an array `typical` [M], it is what the zero vector predicts.
        """
        self.ground = ground
        self.arms = ground.arms
        self.encoder = ground.encoder
        self.dim = len(ground.inputs.axes)
        self.cost_scale = ground.expense.cost_scale
        self.own = own
        self.settings = settings

    @abstractmethod
    def _quality(self, z: F32) -> F32:
        """Predicted mean qualities, [M] of `z` [P] or [n, M] of [n, P]; they are cut to [0, 1] afterwards."""

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """See `routers.protocol.Router.predict`."""
        return self._predicted(vector, features)

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        return self._predicted(vectors, features)

    def _predicted(self, vectors: F32, features: F32 | None) -> Prediction:
        z = self.ground.inputs.transform(vectors, features)
        quality = np.maximum(np.minimum(self._quality(z), np.float32(1.0)), np.float32(0.0))
        if "typical" in self.own:
            quality = np.where(z.any(axis=-1, keepdims=True), quality, self.own["typical"])
        return Prediction(quality, self.ground.uncertainty.std(z), *self.ground.expense.predict(vectors, features))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        return self.ground.arrays() | self.own

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return {"router": self.name, **self.ground.meta(), "settings": self.settings, "own": sorted(self.own)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        return cls(Ground.from_arrays(arrays, meta), {name: arrays[name] for name in meta["own"]}, meta["settings"])


def require(router: str, package: str) -> None:
    """Raise TrainingError if a package that only training needs is not installed."""
    if find_spec(package) is None:
        raise TrainingError(f"the {router} router needs {package} to learn: run `pip install 'tokamak[learn]'`")


def positive(router: str, settings: Mapping[str, Any], known: Iterable[str]) -> dict[str, float]:
    """The settings, each of which must be known and a finite positive number; else TrainingError."""
    known = sorted(known)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise TrainingError(f"the {router} router has the settings {', '.join(known)}, got {unknown}")
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise TrainingError(f"setting {name} of the {router} router must be a positive number, got {value!r}")
    return {name: float(value) for name, value in settings.items()}
