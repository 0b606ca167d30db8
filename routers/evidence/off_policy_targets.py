"""What a router would have done: its probabilities on logged decisions, by the policy's own rules."""

from __future__ import annotations

import numpy as np

from routers.cost_scale import CostScale
from routers.evidence.off_policy import F64, Indices, LoggedDecisions, Mask, columns
from routers.protocol import Prediction, Router


def target_probabilities(
    router: Router,
    decisions: LoggedDecisions,
    preference: float | None = 1.0,
    *,
    usd_weight: float = 0.0,
    exploration: float = 0.0,
    cost_scale: CostScale | None = None,
) -> F64:
    """The probability of every arm under the router, float64 [n, M], 0 outside of `eligible`.

    Parameters
    ----------
    preference: weight of quality in [0, 1]; None: maximise quality - `usd_weight` * cost in USD instead.
    exploration: share of uniform draws among the eligible arms.
    cost_scale: in place of the router's own, to compare two routers on one.

    Arms of the router that no decision of the log knows take part: where one of them would win, the row adds up to less
    than 1 (its value is unknown). An arm that the router does not know is never taken.
    """
    prediction = router.predict_batch(decisions.vectors, decisions.features, decisions.texts)
    place = columns(router.arms, decisions.arms)
    allowed = np.ones(prediction.quality.shape, dtype=bool)
    allowed[:, place >= 0] = decisions.eligible[:, place[place >= 0]]
    scale = router.cost_scale if cost_scale is None else cost_scale
    greedy = greedy_among(prediction, allowed, preference, scale, usd_weight)
    n, m = decisions.logging.shape
    wanted = np.where(allowed.any(axis=1), place[greedy], -1)
    target = exploration * decisions.eligible / np.maximum(decisions.eligible.sum(axis=1, keepdims=True), 1)
    inside = np.flatnonzero(wanted >= 0)
    target[inside, wanted[inside]] += 1.0 - exploration
    return np.asarray(target, dtype=np.float64).reshape(n, m)


def greedy_among(
    prediction: Prediction, allowed: Mask, preference: float | None, cost_scale: CostScale, usd_weight: float = 0.0
) -> Indices:
    """The best allowed arm of each row, int [n], as `routers.policy.decide` chooses it; ties go to the lower
    cost, then the lower latency, then the order of the arms.

    An unknown cost counts as the dearest known one among the allowed arms.
    """
    costs = prediction.cost_usd.astype(np.float64)
    known = ~np.isnan(costs) & allowed
    dearest = np.max(np.where(known, costs, -np.inf), axis=1, keepdims=True)
    filled = np.where(np.isnan(costs), np.where(np.isfinite(dearest), dearest, 0.0), costs)
    quality = prediction.quality.astype(np.float64)
    if preference is None:
        utility = quality - usd_weight * filled
    else:
        none_known = ~np.isfinite(dearest)
        utility = preference * quality - (1.0 - preference) * np.where(none_known, 0.0, cost_scale.positions(filled))
    latencies = np.where(np.isnan(prediction.latency_s), np.inf, prediction.latency_s)
    arms = np.broadcast_to(np.arange(costs.shape[1]), costs.shape)
    lowest = np.where(np.isnan(costs), np.inf, costs)
    ranking = np.lexsort((arms, latencies, lowest, -utility, ~allowed), axis=1)
    return np.asarray(ranking[:, 0], dtype=np.intp)


def most_likely(decisions: LoggedDecisions) -> F64:
    """The arm that was most likely when the decision was taken, with probability 1: the log without exploration."""
    target = np.zeros_like(decisions.logging)
    target[np.arange(len(target)), decisions.logging.argmax(axis=1)] = 1.0
    return target
