"""FusionFactory's BERT router as published: a classifier of (query, model name) pairs, scored in a way of its own.

The pair's label says whether the model is the query's argmax. 0.1 epoch, step size 2e-5 with 500 steps of warm-up and a
linear fall, decay 0.01, batches of 8. A query is then routed to the model whose *name alone* gives logits nearest, by
cosine, to those of the *query alone*; the classifier never saw either by itself (FusionFactory's own choice).

Not as published: the encoder is the small one of `routers.neural.bert`, trained from scratch, in place of
AmirMohseni/BERT-Router-large-v2, so this is a floor for it; and steps end at `steps` (600), which large pools reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routers.neural.bert import has_text, pooled, required_texts
from routers.neural.early_stopping import as_arrays, as_parameters, torch_module
from routers.neural.text_backbones import Backbone, small_backbone
from routers.neural.text_encoder import Shape, arrays_of
from routers.neural.text_tokens import Tokens
from routers.neural.text_training import DROPOUT, encoded_with_gradients
from routers.protocol import F32, Outcomes, Prediction
from routers.published.base import PublishedRouter
from routers.published.labels import Surroundings, rewards, whole_rows
from routers.rows import subset
from routers.standing import require_settings

SETTINGS = ("preference", "tokens", "layers", "width", "steps")
TOKENS, LAYERS, WIDTH, STEPS = 128, 2, 128, 600
EPOCHS, BATCH, RATE, DECAY, WARM_UP = 0.1, 8, 2e-5, 0.01, 500
HEAD, HEAD_BIAS = "head", "head_bias"


class PublishedBertRouter(PublishedRouter):
    """Scores are (1 + cosine) / 2. A query without text gets the same score for all arms."""

    name: ClassVar[str] = "published-bert"

    def __init__(self, surroundings: Surroundings, backbone: Backbone, head: tuple[F32, F32], names: F32) -> None:
        """`head` [H, 2] and [2]; `names` [M, 2], unit rows: the directions of the names' logits."""
        super().__init__(surroundings)
        self.backbone = backbone
        self.head = head
        self.names = names

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Settings: `preference` (weight of score, 1.0), `steps` (600 at most), and
        the encoder's `tokens`, `layers` and `width`.

        Raises
        ------
        TrainingError: beside the usual, no query has a text.
        """
        require_settings(cls.name, settings, SETTINGS)
        preference = float(settings.get("preference", 1.0))
        outcomes = whole_rows(outcomes, preference)
        required_texts(outcomes)
        outcomes = subset(outcomes, np.flatnonzero([has_text(text) for text in outcomes.texts or ()]))
        texts = required_texts(outcomes)
        sizes = (int(settings.get("layers", LAYERS)), int(settings.get("width", WIDTH)))
        backbone = small_backbone(texts, int(settings.get("tokens", TOKENS)), *sizes, seed)
        label = rewards(outcomes, preference).label
        found = _descended(backbone, texts, outcomes.arms, label, int(settings.get("steps", STEPS)), seed)
        head = (found.pop(HEAD), found.pop(HEAD_BIAS))
        backbone = backbone._replace(arrays=found)
        names = _directions(pooled(backbone, outcomes.arms), head)
        return cls(Surroundings.learned(outcomes, preference), backbone, head, names)

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        given = [None] * len(vectors) if texts is None else texts
        spoken = np.array([has_text(text) for text in given], dtype=np.bool_)
        scores = np.full((len(vectors), len(self.arms)), 0.5, dtype=np.float32)
        if spoken.any():
            hidden = pooled(self.backbone, [text for text in given if text is not None and has_text(text)])
            scores[spoken] = 0.5 + 0.5 * np.clip(_directions(hidden, self.head) @ self.names.T, -1.0, 1.0)
        return self.surroundings.completed(scores)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        text = {f"text_{name}": array for name, array in self.backbone.arrays.items()}
        own = {HEAD: self.head[0], HEAD_BIAS: self.head[1], "names": self.names}
        return self.surroundings.arrays() | self.backbone.tokens.arrays() | text | own

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return super().meta() | {"shape": self.backbone.shape._asdict()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        shape = Shape(**meta["shape"])
        backbone = Backbone(Tokens.from_arrays(arrays), shape, arrays_of(arrays, shape))
        head = (arrays[HEAD], arrays[HEAD_BIAS])
        return cls(Surroundings.from_arrays(arrays, meta), backbone, head, arrays["names"])


def _directions(hidden: F32, head: tuple[F32, F32]) -> F32:
    logits = hidden @ head[0] + head[1]
    units: F32 = logits / np.maximum(np.linalg.norm(logits, axis=1, keepdims=True), 1e-6)
    return units


def _descended(
    backbone: Backbone, texts: Sequence[str], arms: Sequence[str], label: NDArray[np.intp], most: int, seed: int
) -> dict[str, F32]:
    torch = torch_module()
    shape, rng = backbone.shape, np.random.default_rng(seed)
    head = {
        HEAD: rng.normal(0.0, 0.02, (shape.pooled, 2)).astype(np.float32),
        HEAD_BIAS: np.zeros(2, dtype=np.float32),
    }
    parameters = as_parameters(backbone.arrays | head)
    optimiser = torch.optim.AdamW(list(parameters.values()), lr=RATE, weight_decay=DECAY)
    pairs = rng.permutation(len(texts) * len(arms))
    steps = max(1, min(most, round(EPOCHS * len(pairs) / BATCH)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            at = pairs[step * BATCH : (step + 1) * BATCH]
            query, arm = np.divmod(at, len(arms))
            rows = [
                backbone.tokens.rows((texts[q], arms[a]), shape.longest)
                for q, a in zip(query.tolist(), arm.tolist(), strict=True)
            ]
            ids, mask = map(torch.from_numpy, backbone.tokens.padded(rows))
            hidden = encoded_with_gradients(parameters, shape, ids, mask, DROPOUT)
            logits = hidden @ parameters[HEAD] + parameters[HEAD_BIAS]
            target = torch.from_numpy((label[query] == arm).astype(np.int64))
            for group in optimiser.param_groups:
                group["lr"] = RATE * min((step + 1) / WARM_UP, (steps - step) / max(steps - WARM_UP, 1))
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits, target).backward()
            optimiser.step()
    return as_arrays(parameters)
