"""FusionFactory's SVM router as published: for each arm a LinearSVR (C = 1, epsilon 0) that regresses "is it the
argmax?".

A ruler, argmax defect and all. Its absolute loss aims at the median of a label that is mostly 0. Not as published: the
vectors are the encoder's in use (there: MiniLM).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.published.base import PublishedRouter
from routers.published.labels import Surroundings, rewards, whole_rows
from routers.standing import require_settings

SETTINGS = ("preference",)
STEEPNESS = 4.0


class PublishedSvmRouter(PublishedRouter):
    """Scores are sigmoid(4 (y - 1/2)) of the regressions' outputs y: the same order, inside (0, 1)."""

    name: ClassVar[str] = "published-svm"

    def __init__(self, surroundings: Surroundings, slope: F32, constant: F32) -> None:
        """`slope` [d, M], `constant` [M]."""
        super().__init__(surroundings)
        self.slope = slope
        self.constant = constant

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Setting: `preference` (weight of the score in the label, 1.0)."""
        require_settings(cls.name, settings, SETTINGS)
        preference = float(settings.get("preference", 1.0))
        outcomes = whole_rows(outcomes, preference)
        label = rewards(outcomes, preference).label
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.svm import LinearSVR
        except ImportError as error:
            raise TrainingError(f"{cls.name} needs scikit-learn: run `pip install 'tokamak[learn]'`") from error
        slope, constant = [], []
        for arm in range(len(outcomes.arms)):
            model = LinearSVR(C=1.0, epsilon=0.0, random_state=seed)
            with warnings.catch_warnings():
                # As published: it stops after 1,000 iterations, converged or not.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(outcomes.vectors.astype(np.float64), (label == arm).astype(np.float64))
            slope.append(model.coef_)
            constant.append(model.intercept_[0])
        stacked = np.ascontiguousarray(np.stack(slope, axis=1), dtype=np.float32)
        return cls(Surroundings.learned(outcomes, preference), stacked, np.array(constant, dtype=np.float32))

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        scores = vectors @ self.slope + self.constant
        return self.surroundings.completed(1.0 / (1.0 + np.exp(-STEEPNESS * (scores - 0.5))))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        return self.surroundings.arrays() | {"slope": self.slope, "constant": self.constant}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        return cls(Surroundings.from_arrays(arrays, meta), arrays["slope"], arrays["constant"])
