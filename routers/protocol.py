"""The contract of every router, and the data it learns from.

A router is one file in `routers/`, named in `routers.catalogue.ROUTERS`. It learns from a
*masked* outcome matrix: most cells are missing, because a served request has one answer. Nothing is ever argmax-ed into
a label. It compiles to arrays (`arrays`, `meta`), predicts with NumPy or FAISS alone, and is bound to the hash of the
encoder whose vectors it learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from routers.cost_scale import CostScale

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What was observed: N queries by M arms. A cell that was not observed is NaN in all four matrices.

    Attributes
    ----------
    vectors: float32 [N, d], unit rows.
    arms: the M arm ids, unique.
    quality: float32 [N, M], scores in [0, 1] or NaN.
    cost_usd: float32 [N, M], USD or NaN; may be NaN where quality is known.
    latency_s: float32 [N, M], seconds or NaN.
    propensity: float32 [N, M], probability in (0, 1] with which the arm was chosen, NaN where not observed;
        1.0 in full-information logs.
    encoder: hash of the encoder of `vectors`.
    query_ids: N stable ids (content hashes), the key for splits.
    tasks: N task or domain names for reports, or None; no router reads them.
    features: float32 [N, F], the blocks of `encoders.features`, or None.
    feature_set: digest of the definition of `features`; None without them.
    texts: the N texts that were encoded, for routers that read text; None, or an entry None, where not kept.
    """

    vectors: F32
    arms: tuple[str, ...]
    quality: F32
    cost_usd: F32
    latency_s: F32
    propensity: F32
    encoder: str
    query_ids: tuple[str, ...]
    tasks: tuple[str, ...] | None = None
    features: F32 | None = None
    feature_set: str | None = None
    texts: tuple[str | None, ...] | None = None


class Prediction(NamedTuple):
    """Per-arm predictions aligned with the router's `arms`; each float32 [M] (or [n, M] for a batch).

    `quality_std` is the standard error of the predicted mean quality, not the spread of single outcomes.
    `cost_usd` and `latency_s` are NaN for an arm of which no cost or latency was ever observed.
    """

    quality: F32
    quality_std: F32
    cost_usd: F32
    latency_s: F32


class Router(Protocol):
    """A trained predictor of arm quality, cost and latency.

    `dim` is the length of the vectors it takes; `cost_scale` the normaliser that it learned from its training data.
    The zero vector (an empty query) predicts what is typical: the means over everything that was learned.
    """

    name: ClassVar[str]
    arms: tuple[str, ...]
    encoder: str
    dim: int
    cost_scale: CostScale

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """Learn from the outcomes. Deterministic for a seed and independent of the order of the rows.

        Raises
        ------
        TrainingError: the outcomes cannot be learned from (too few, out of range, ...); says what to do.
        """

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """Predict for one unit vector of shape [d], its feature block [F] and its text.

        A router uses of the two what it learned from, and does without what is None.
        """

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """Predict for unit vectors of shape [n, d], their feature blocks [n, F] and their texts."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as named arrays; `from_arrays(arrays(), meta())` is an equal router."""

    def meta(self) -> dict[str, Any]:
        """JSON-able settings: at least `arms` and `encoder`."""

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self: ...


class TrainingError(ValueError):
    """The outcomes cannot be learned from. The message says what was expected, what came and what to do."""
