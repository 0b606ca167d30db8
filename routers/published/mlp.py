"""FusionFactory's MLP router as published: for each arm a network that regresses "is it the argmax?".

Relu, step size 1e-3, L2 0.01, early stopping on a tenth, at most 500 iterations. Hidden units: 50, its class's default;
its `main()` sets 1 (`hidden=1`). Not as published: the vectors are the encoder's in use (there: MiniLM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routers.neural.heads import sigmoid
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.published.base import PublishedRouter
from routers.published.labels import Surroundings, rewards, whole_rows
from routers.standing import require_settings

SETTINGS = ("preference", "hidden")
HIDDEN = 50
STEEPNESS = 4.0
LAYERS = ("inner", "inner_bias", "outer", "outer_bias")


class PublishedMlpRouter(PublishedRouter):
    """Scores are sigmoid(4 (y - 1/2)) of the networks' outputs y: the same order, inside (0, 1)."""

    name: ClassVar[str] = "published-mlp"

    def __init__(self, surroundings: Surroundings, layers: tuple[F32, F32, F32, F32]) -> None:
        """`layers`: [d, M H], [M H], [M, H] and [M]."""
        super().__init__(surroundings)
        self.layers = layers

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Settings: `preference` (weight of score, 1.0) and `hidden` (units, 50)."""
        require_settings(cls.name, settings, SETTINGS)
        try:
            from sklearn.neural_network import MLPRegressor
        except ImportError as error:
            raise TrainingError("published-mlp needs scikit-learn: run `pip install 'tokamak[learn]'`") from error
        preference = float(settings.get("preference", 1.0))
        outcomes = whole_rows(outcomes, preference)
        label = rewards(outcomes, preference).label
        inner, inner_bias, outer, outer_bias = [], [], [], []
        for arm in range(len(outcomes.arms)):
            network = MLPRegressor(
                hidden_layer_sizes=(int(settings.get("hidden", HIDDEN)),),
                learning_rate_init=1e-3,
                alpha=0.01,
                early_stopping=True,
                validation_fraction=0.1,
                max_iter=500,
                random_state=seed,
            )
            network.fit(outcomes.vectors, (label == arm).astype(np.float32))
            inner.append(network.coefs_[0])
            inner_bias.append(network.intercepts_[0])
            outer.append(network.coefs_[1][:, 0])
            outer_bias.append(network.intercepts_[1][0])
        stacked = (np.hstack(inner), np.concatenate(inner_bias), np.stack(outer), np.array(outer_bias))
        a, b, c, d = (np.ascontiguousarray(array, dtype=np.float32) for array in stacked)
        return cls(Surroundings.learned(outcomes, preference), (a, b, c, d))

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        inner, inner_bias, outer, outer_bias = self.layers
        hidden = np.maximum(vectors @ inner + inner_bias, 0.0).reshape(len(vectors), *outer.shape)
        scores = np.einsum("nmh,mh->nm", hidden, outer) + outer_bias
        return self.surroundings.completed(sigmoid(STEEPNESS * (scores - 0.5)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        return self.surroundings.arrays() | dict(zip(LAYERS, self.layers, strict=True))

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        a, b, c, d = (arrays[name] for name in LAYERS)
        return cls(Surroundings.from_arrays(arrays, meta), (a, b, c, d))
