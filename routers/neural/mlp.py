"""Value regression by a small network: one hidden layer that all arms share, one logistic head for each.

    hidden = relu(W z + b),      quality = sigmoid(w_m . hidden + b_m),      z = vector and feature block, standardised

The hidden layer descends the masked cross-entropy of the scores themselves, weighted by inverse propensity, and stops
by held-out queries. The heads are then fitted again, exactly, with a common prior (`routers.neural.heads`), which
shrinks arms of few observations and gives the standard errors. Nothing is argmax-ed, unlike in `published-mlp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routers.inputs import Inputs
from routers.neural.early_stopping import (
    Plan,
    as_parameters,
    can_stop,
    descended,
    inner_split,
    masked_loss,
    torch_module,
)
from routers.neural.heads import STRENGTHS, Heads, HeldOut, chosen_strength, fitted_heads, log_loss, logit, sigmoid
from routers.protocol import F32, Outcomes, Prediction
from routers.rows import prepared, weights
from routers.standing import Standing, StandingRouter, require_settings, without_direction

SETTINGS = ("hidden", "epochs")
HIDDEN, EPOCHS = 64, 40
PATIENCE, BATCH, RATE, DECAY = 4, 256, 1e-3, 0.1


class MlpRouter(StandingRouter):
    """Predicts in two products of a matrix and a vector, and one for the standard error."""

    name: ClassVar[str] = "mlp"

    def __init__(self, standing: Standing, inputs: Inputs, layer: tuple[F32, F32], heads: Heads) -> None:
        """`layer`: weights [P, H] and bias [H] of the hidden layer."""
        super().__init__(standing)
        self.inputs = inputs
        self.layer = layer
        self.heads = heads

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Settings: `hidden` (units, 64) and `epochs` (at most, 40)."""
        require_settings(cls.name, settings, SETTINGS)
        outcomes = prepared(outcomes)
        inputs = Inputs.learned(outcomes)
        hidden, epochs = int(settings.get("hidden", HIDDEN)), int(settings.get("epochs", EPOCHS))
        standing = Standing.learned(outcomes)
        layer, strength = _learned_layer(outcomes, inputs, hidden, epochs, seed)
        representation = _hidden(inputs.transform(outcomes.vectors, outcomes.features), layer)
        heads = fitted_heads(representation, outcomes.quality, weights(outcomes), strength)
        return cls(standing, inputs, layer, heads)

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        quality, std = self.heads.predict(_hidden(self.inputs.transform(vectors, features), self.layer))
        return self.standing.completed(quality, std, without_direction(vectors), vectors, features)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        layer = {"layer_weights": self.layer[0], "layer_bias": self.layer[1]}
        return self.standing.arrays() | self.inputs.arrays() | self.heads.arrays() | layer

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return super().meta() | {"hidden": len(self.layer[1])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        layer = (arrays["layer_weights"], arrays["layer_bias"])
        return cls(Standing.from_arrays(arrays, meta), Inputs.from_arrays(arrays), layer, Heads.from_arrays(arrays))


def _hidden(z: F32, layer: tuple[F32, F32]) -> F32:
    activation: F32 = np.maximum(z @ layer[0] + layer[1], 0.0)
    return activation


def _learned_layer(
    outcomes: Outcomes, inputs: Inputs, hidden: int, epochs: int, seed: int
) -> tuple[tuple[F32, F32], float]:
    """The hidden layer, and how strongly the heads on it are to be drawn together."""
    rng = np.random.default_rng(seed)
    arms = len(outcomes.arms)
    start = {
        "weights": rng.normal(0.0, np.sqrt(2.0 / inputs.width), (inputs.width, hidden)).astype(np.float32),
        "bias": np.zeros(hidden, dtype=np.float32),
        "heads": np.zeros((hidden, arms), dtype=np.float32),
        "levels": np.zeros(arms, dtype=np.float32),
    }
    training, held_out = inner_split(outcomes, seed)
    if not can_stop(training, held_out):
        return (start["weights"], start["bias"]), STRENGTHS[0]
    plan = Plan(epochs, PATIENCE, BATCH, RATE, DECAY)
    found = _descended(start, training, held_out, inputs, plan, seed)
    layer = (found["weights"], found["bias"])
    hiddens = [_hidden(inputs.transform(part.vectors, part.features), layer) for part in (training, held_out)]
    judge = HeldOut(hiddens[1], held_out.quality, weights(held_out))
    return layer, chosen_strength(hiddens[0], training.quality, weights(training), judge)


def _descended(
    start: dict[str, F32], training: Outcomes, held_out: Outcomes, inputs: Inputs, plan: Plan, seed: int
) -> dict[str, F32]:
    torch = torch_module()
    cell_weights = weights(training)
    total = cell_weights.sum() / len(cell_weights)
    level = np.nansum(cell_weights * np.nan_to_num(training.quality)) / cell_weights.sum()
    parameters = as_parameters(start | {"levels": start["levels"] + np.float32(logit(np.array(level)))})
    z = torch.from_numpy(inputs.transform(training.vectors, training.features))
    scores = torch.from_numpy(np.nan_to_num(training.quality))
    weight = torch.from_numpy(cell_weights)
    other = torch.from_numpy(inputs.transform(held_out.vectors, held_out.features))
    other_weights = weights(held_out)

    def logits(rows: Any) -> Any:
        hidden = torch.relu(rows @ parameters["weights"] + parameters["bias"])
        return hidden @ parameters["heads"] + parameters["levels"]

    def objective(chunk: Any) -> Any:
        return masked_loss(logits(z[chunk]), scores[chunk], weight[chunk]) / (float(total) * len(chunk))

    def held_out_loss() -> float:
        return log_loss(sigmoid(logits(other).numpy()), held_out.quality, other_weights)

    return descended(parameters, objective, held_out_loss, len(z), plan, seed)
