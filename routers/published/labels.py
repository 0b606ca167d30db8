"""The labels that FusionFactory's baselines learn from, and what all of them need.

    P~, C~ = scores and costs, min-max per task over the training data (0 where a task has one value only)
    R = preference P~ - (1 - preference) C~,      label(q) = argmax_m R(q, m), the first arm on ties

Preference 1, 0.5 and 0.2 are the published scenarios. These routers know no masks: queries that not every arm answered
are dropped. Their scores choose; they are no mean qualities, and their standard errors only say how many queries there
were. (Its code gives NaN where a task has one value only, and computes the extremes of the test data on the test data.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routers.cost_scale import CostScale
from routers.prior import PriorRouter
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import prepared, subset

MIN_ROWS = 50
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reward:
    """Normalised scores and costs, the reward of one preference, [n, M] each, and the `label` [n] of each query."""

    score: F64
    cost: F64
    reward: F64
    label: NDArray[np.intp]


def whole_rows(outcomes: Outcomes, preference: float) -> Outcomes:
    """Prepared outcomes, of which the queries that every arm answered (with a cost, where the preference weighs it).

    Raises
    ------
    TrainingError: beside what `prepared` refuses, fewer than `MIN_ROWS` remain, or the preference is not in [0, 1].
    """
    if not 0.0 <= preference <= 1.0:
        raise TrainingError(f"the setting preference must lie in [0, 1], got {preference}")
    outcomes = prepared(outcomes)
    known = ~np.isnan(outcomes.quality)
    if preference < 1.0:
        known &= ~np.isnan(outcomes.cost_usd)
    rows = np.flatnonzero(known.all(axis=1))
    if len(rows) < MIN_ROWS:
        priced = " with a known cost" if preference < 1.0 else ""
        raise TrainingError(
            f"published baselines need at least {MIN_ROWS} queries that every arm answered{priced}, got {len(rows)}; "
            "train a router that takes masked logs"
        )
    return subset(outcomes, rows)


def rewards(outcomes: Outcomes, preference: float) -> Reward:
    """Rewards and labels of whole rows. Where tasks are not known all queries are one task."""
    tasks = np.array(outcomes.tasks if outcomes.tasks is not None else [""] * len(outcomes.query_ids))
    score = _scaled_by_task(outcomes.quality.astype(np.float64), tasks)
    cost = _scaled_by_task(np.nan_to_num(outcomes.cost_usd.astype(np.float64)), tasks)
    reward = preference * score - (1.0 - preference) * cost
    return Reward(score, cost, reward, np.argmax(reward, axis=1))


def _scaled_by_task(values: F64, tasks: NDArray[np.str_]) -> F64:
    scaled = np.zeros_like(values)
    for task in np.unique(tasks):
        rows = tasks == task
        low, high = values[rows].min(), values[rows].max()
        if high > low:
            scaled[rows] = (values[rows] - low) / (high - low)
    return scaled


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a published baseline carries beside its scores: arms, encoder, preference, mean cost and latency.

    `cost_usd`, `latency_s` float32 [M]; `rows` is the number of queries it learned from.
    """

    arms: tuple[str, ...]
    encoder: str
    dim: int
    preference: float
    rows: int
    cost_scale: CostScale
    cost_usd: F32
    latency_s: F32

    @classmethod
    def learned(cls, outcomes: Outcomes, preference: float) -> Self:
        """From whole rows."""
        typical = PriorRouter.fit(outcomes).predict(outcomes.vectors[0])
        place = (outcomes.arms, outcomes.encoder, outcomes.vectors.shape[1], preference, len(outcomes.query_ids))
        return cls(*place, CostScale.learned(outcomes.cost_usd), typical.cost_usd.copy(), typical.latency_s.copy())

    def completed(self, scores: NDArray[Any]) -> Prediction:
        """Scores [n, M] in [0, 1] in the place of qualities."""
        quality = scores.astype(np.float32)
        std = np.sqrt((quality * (1.0 - quality) + 1e-4) / self.rows).astype(np.float32)
        whole = (np.tile(self.cost_usd, (len(quality), 1)), np.tile(self.latency_s, (len(quality), 1)))
        return Prediction(quality, std, *whole)

    def arrays(self) -> dict[str, NDArray[Any]]:
        scale = np.array([self.cost_scale.low, self.cost_scale.high])
        return {"cost_usd": self.cost_usd, "latency_s": self.latency_s, "cost_scale": scale}

    def meta(self, router: str) -> dict[str, Any]:
        return {
            "router": router,
            "arms": list(self.arms),
            "encoder": self.encoder,
            "dim": self.dim,
            "preference": self.preference,
            "rows": self.rows,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        place = (tuple(meta["arms"]), meta["encoder"], int(meta["dim"]), float(meta["preference"]), int(meta["rows"]))
        scale = CostScale(*arrays["cost_scale"].tolist())
        return cls(*place, scale, arrays["cost_usd"], arrays["latency_s"])
