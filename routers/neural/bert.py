"""A text encoder fine-tuned to the pool: reads the query's text itself, one logistic head for each arm.

`backbone="small"` is a small BERT trained here; another name is a BERT model that is fine-tuned. The encoder descends
the masked cross-entropy of the scores, weighted by inverse propensity, and stops by held-out queries; the heads are
then fitted again with a common prior (`routers.neural.heads`). It serves in NumPy, so a gateway needs no torch. A query
without text gets the arms' overall means. Cost and latency are predicted from vector and features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

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
from routers.neural.text_backbones import SMALL, Backbone, named_backbone, small_backbone
from routers.neural.text_encoder import Shape, arrays_of, encoded
from routers.neural.text_tokens import Tokens
from routers.neural.text_training import DROPOUT, encoded_with_gradients, length_groups
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import prepared, subset, weights
from routers.standing import Standing, StandingRouter, require_settings

SETTINGS = ("backbone", "epochs", "tokens", "layers", "width")
EPOCHS, TOKENS, LAYERS, WIDTH = 5, 128, 2, 128
PATIENCE, BATCH, DECAY = 1, 32, 0.01
RATE, NAMED_RATE = 5e-4, 5e-5
"""Step sizes of an encoder from scratch and of one that was trained."""
HEAD_WEIGHTS, HEAD_LEVELS = "head", "head_levels"


class BertRouter(StandingRouter):
    """Predicts from the text: an encoder of a few layers, then a product with the heads."""

    name: ClassVar[str] = "bert"

    def __init__(self, standing: Standing, backbone: Backbone, heads: Heads) -> None:
        super().__init__(standing)
        self.backbone = backbone
        self.heads = heads

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`.

        Settings: `backbone` (`small`, `minilm`, or the folder or hub name of an uncased BERT), `epochs` (5 at most),
        `tokens` (longest input, 128; of a longer text its two ends are read), and of a small one `layers` and `width`.

        Raises
        ------
        TrainingError: beside the usual, no query has a text.
        """
        require_settings(cls.name, settings, SETTINGS)
        outcomes = prepared(outcomes)
        texts = required_texts(outcomes)
        longest, name = int(settings.get("tokens", TOKENS)), str(settings.get("backbone", SMALL))
        standing = Standing.learned(outcomes)
        training, held_out = (_with_text(part) for part in inner_split(outcomes, seed))
        if name == SMALL:
            sizes = (int(settings.get("layers", LAYERS)), int(settings.get("width", WIDTH)))
            backbone = small_backbone(texts, longest, *sizes, seed)
        else:
            backbone = named_backbone(name, longest, seed)
        strength = STRENGTHS[0]
        if can_stop(training, held_out):
            plan = Plan(int(settings.get("epochs", EPOCHS)), PATIENCE, 1, RATE if name == SMALL else NAMED_RATE, DECAY)
            backbone = backbone._replace(arrays=_fine_tuned(backbone, training, held_out, plan, seed))
            hidden = [pooled(backbone, required_texts(part)) for part in (training, held_out)]
            judge = HeldOut(hidden[1], held_out.quality, weights(held_out))
            strength = chosen_strength(hidden[0], training.quality, weights(training), judge)
        spoken = _with_text(outcomes)
        heads = fitted_heads(pooled(backbone, texts), spoken.quality, weights(spoken), strength)
        return cls(standing, backbone, heads)

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        given = [None] * len(vectors) if texts is None else texts
        spoken = np.array([has_text(text) for text in given], dtype=np.bool_)
        quality = np.zeros((len(vectors), len(self.arms)), dtype=np.float32)
        std = np.ones_like(quality)
        if spoken.any():
            hidden = pooled(self.backbone, [text for text in given if text is not None and has_text(text)])
            quality[spoken], std[spoken] = self.heads.predict(hidden)
        return self.standing.completed(quality, std, np.logical_not(spoken), vectors, features)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        text = {f"text_{name}": array for name, array in self.backbone.arrays.items()}
        return self.standing.arrays() | self.heads.arrays() | self.backbone.tokens.arrays() | text

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return super().meta() | {"shape": self.backbone.shape._asdict()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        shape = Shape(**meta["shape"])
        backbone = Backbone(Tokens.from_arrays(arrays), shape, arrays_of(arrays, shape))
        return cls(Standing.from_arrays(arrays, meta), backbone, Heads.from_arrays(arrays))


def has_text(text: str | None) -> bool:
    """Whether there is anything to read."""
    return text is not None and bool(text.strip())


def required_texts(outcomes: Outcomes) -> list[str]:
    """The texts of the queries that have one.

    Raises
    ------
    TrainingError: none has.
    """
    found = [text for text in outcomes.texts or () if text is not None and has_text(text)]
    if not found:
        raise TrainingError("this router reads texts and none was kept; log query texts, or train another router")
    return found


def _with_text(outcomes: Outcomes) -> Outcomes:
    return subset(outcomes, np.flatnonzero([has_text(text) for text in outcomes.texts or ()]))


def pooled(backbone: Backbone, texts: Sequence[str]) -> F32:
    """The encoder's vectors [n, H] of texts."""
    rows = [backbone.tokens.rows((text,), backbone.shape.longest) for text in texts]
    found = np.zeros((len(rows), backbone.shape.pooled), dtype=np.float32)
    for group in length_groups(rows, BATCH):
        found[group] = encoded(backbone.arrays, backbone.shape, *backbone.tokens.padded([rows[at] for at in group]))
    return found


def _fine_tuned(backbone: Backbone, training: Outcomes, held_out: Outcomes, plan: Plan, seed: int) -> dict[str, F32]:
    torch = torch_module()
    shape, tokens = backbone.shape, backbone.tokens
    cell_weights = weights(training)
    per_row = float(cell_weights.sum() / len(cell_weights))
    scores = torch.from_numpy(np.nan_to_num(training.quality))
    weight = torch.from_numpy(cell_weights)
    level = float((cell_weights * np.nan_to_num(training.quality)).sum() / cell_weights.sum())
    arms = len(training.arms)
    head = {
        HEAD_WEIGHTS: np.zeros((shape.pooled, arms), dtype=np.float32),
        HEAD_LEVELS: np.full(arms, logit(np.array(level)), dtype=np.float32),
    }
    parameters = as_parameters(backbone.arrays | head)
    rows = [tokens.rows((text,), shape.longest) for text in required_texts(training)]
    groups = length_groups(rows, BATCH)
    other = [tokens.rows((text,), shape.longest) for text in required_texts(held_out)]
    other_groups, other_weights = length_groups(other, BATCH), weights(held_out)

    def logits(batch: list[list[int]], dropout: float) -> Any:
        ids, mask = map(torch.from_numpy, tokens.padded(batch))
        hidden = encoded_with_gradients(parameters, shape, ids, mask, dropout)
        return hidden @ parameters[HEAD_WEIGHTS] + parameters[HEAD_LEVELS]

    def objective(chunk: Any) -> Any:
        at = np.concatenate([groups[group] for group in chunk.tolist()])
        chosen = torch.from_numpy(at)
        loss = masked_loss(logits([rows[row] for row in at], DROPOUT), scores[chosen], weight[chosen])
        return loss / (per_row * len(at))

    def held_out_loss() -> float:
        quality = np.zeros_like(held_out.quality)
        for group in other_groups:
            quality[group] = sigmoid(logits([other[row] for row in group], 0.0).numpy())
        return log_loss(quality, held_out.quality, other_weights)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = descended(parameters, objective, held_out_loss, len(groups), plan, seed)
    return {name: array for name, array in found.items() if name not in head}
