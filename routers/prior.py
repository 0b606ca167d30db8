"""What is expected of each arm whatever the query: the router of the first day, and the baseline of every other.

Before anything was learned, `prior_router` reads the pool: a model's `quality_prior` if the config has one, else a
guess from its rank in price (dearer models are better more often than not), both with a wide standard error; cost from
prices and typical lengths. `PriorRouter.fit` learns the arms' overall means instead, which makes it the best single
arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from registry.arms import Arm, Pool, Way
from routers.cost_scale import CostScale
from routers.estimators.shrinkage import group_sums, quality_means, ratio_means
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import prepared, weights

PROMPT_TOKENS = 400
COMPLETION_TOKENS = 300
"""Tokens of a typical exchange, for a first guess at cost; learned costs replace it."""
WAY_TOKENS: dict[Way, tuple[int, float]] = {"direct": (0, 1.0), "think": (30, 3.0), "thought": (500, 1.5)}
"""What a way of asking adds to the prompt, and the factor by which it lengthens the answer."""
CHEAPEST_QUALITY, DEAREST_QUALITY = 0.5, 0.7
"""Guesses for the two ends of the price list; a model without a price gets the middle."""
GUESS_STD = 0.2
CONFIGURED_STD = 0.1


class PriorRouter:
    """The same prediction for every query."""

    name: ClassVar[str] = "prior"
    dim = 0

    def __init__(self, arms: tuple[str, ...], encoder: str, cost_scale: CostScale, prediction: Prediction) -> None:
        self.arms = arms
        self.encoder = encoder
        self.cost_scale = cost_scale
        self._prediction = Prediction(*(np.array(column, dtype=np.float32) for column in prediction))
        for column in self._prediction:
            # The same arrays are handed out again and again.
            column.flags.writeable = False

    @property
    def cells(self) -> Prediction:
        """A table of one row: [1, M] each (see `routers.lineup.Tabular`)."""
        return Prediction(*(column[None, :] for column in self._prediction))

    def with_cells(self, arms: tuple[str, ...], cells: Prediction) -> Self:
        """The same over other arms; `cells` is [1, number of arms]."""
        return type(self)(arms, self.encoder, self.cost_scale, Prediction(*(column[0] for column in cells)))

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """The arms' overall means. Takes no settings; see `routers.protocol.Router.fit`."""
        if settings:
            raise TrainingError(f"the prior router has no settings, got {sorted(settings)}")
        outcomes = prepared(outcomes)
        together = np.zeros(len(outcomes.query_ids), dtype=np.intp)
        cell_weights = weights(outcomes)
        once = np.ones_like(cell_weights)
        means = quality_means(group_sums(outcomes.quality, cell_weights, together, 1))
        cost = ratio_means(group_sums(outcomes.cost_usd, once, together, 1))
        latency = ratio_means(group_sums(outcomes.latency_s, once, together, 1))
        columns = (means.cells[0], np.sqrt(means.variance[0]), cost[0], latency[0])
        prediction = Prediction(*(column.astype(np.float32) for column in columns))
        return cls(outcomes.arms, outcomes.encoder, CostScale.learned(outcomes.cost_usd), prediction)

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """See `routers.protocol.Router.predict`; the arrays are shared and read-only."""
        return self._prediction

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        return Prediction(*(np.tile(column, (len(vectors), 1)) for column in self._prediction))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        return dict(self._prediction._asdict())

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        scale = self.cost_scale.to_meta()
        return {"router": self.name, "arms": list(self.arms), "encoder": self.encoder, "cost_scale": scale}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        prediction = Prediction(**{field: arrays[field] for field in Prediction._fields})
        return cls(tuple(meta["arms"]), meta["encoder"], CostScale.from_meta(meta["cost_scale"]), prediction)


def prior_router(pool: Pool, encoder_hash: str) -> PriorRouter:
    """The cold-start router of a pool. Latencies are unknown; so is the cost of a model without prices."""
    arms = tuple(pool.arms.values())
    costs = np.array([typical_cost(arm) for arm in arms])
    guesses = _guessed(arms)
    priors = [arm.model.quality_prior for arm in arms]
    quality = np.array([guess if prior is None else prior for prior, guess in zip(priors, guesses, strict=True)])
    std = np.array([GUESS_STD if prior is None else CONFIGURED_STD for prior in priors])
    prediction = Prediction(
        quality.astype(np.float32),
        std.astype(np.float32),
        costs.astype(np.float32),
        np.full(len(arms), np.nan, dtype=np.float32),
    )
    return PriorRouter(tuple(arm.id for arm in arms), encoder_hash, CostScale.learned(costs), prediction)


def typical_cost(arm: Arm) -> float:
    """USD of a typical exchange with this arm; NaN if its model has no prices."""
    extra, longer = WAY_TOKENS[arm.way]
    cost = arm.model.prices.cost(PROMPT_TOKENS + extra, round(COMPLETION_TOKENS * longer))
    return float("nan") if cost is None else cost


def _guessed(arms: tuple[Arm, ...]) -> list[float]:
    """A quality for each arm from the rank of its model's price among the different prices of the pool."""
    prices = [arm.model.prices.cost(PROMPT_TOKENS, COMPLETION_TOKENS) for arm in arms]
    ranks = {price: rank for rank, price in enumerate(sorted({price for price in prices if price is not None}))}
    middle = (CHEAPEST_QUALITY + DEAREST_QUALITY) / 2
    if len(ranks) < 2:
        return [middle] * len(arms)
    step = (DEAREST_QUALITY - CHEAPEST_QUALITY) / (len(ranks) - 1)
    return [middle if price is None else CHEAPEST_QUALITY + step * ranks[price] for price in prices]
