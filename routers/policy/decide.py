"""From predictions to a decision. Pure functions: the same arguments, the same choice, so that any decision can be
replayed.

    utility = preference * quality - (1 - preference) * cost,      cost in [0, 1] by the router's `CostScale`
    utility = quality - lambda * cost in USD                       where a price of money is given (`Terms`)

`Terms` add what else counts: the shadow price of a budget, prices of latency, load and a change of model, a floor under
the propensities. Greedy is the eligible arm of highest utility; ties go to the lower expected cost, then to the lower
expected latency, then to the order of the arms. With probability `exploration` the arm is instead drawn uniformly from
the eligible ones, so the propensity of an arm is exactly (1 - exploration) * [it is the greedy one] + exploration /
number of eligible arms. A floor f under the propensities of n eligible arms makes the exploration at least n * f (at
most 1).

An arm whose cost is not known counts as the dearest of the eligible arms whose cost is known: not knowing must not win
it the choice. If no cost is known at all, cost plays no part. Under a cost limit an arm of unknown cost is not eligible
(it cannot be shown to keep the limit); under a deadline an arm of unknown latency is (the call itself is cut at the
deadline).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.cost_scale import CostScale
from routers.protocol import Prediction
from traffic.records import Candidate

PRESETS: Mapping[str, float] = {"performance": 1.0, "balanced": 0.5, "cost": 0.2}
"""Weight of quality of each named preference (FusionFactory)."""

OVER_BUDGET = "expected cost over max_cost_usd"
COST_UNKNOWN = "cost unknown, so max_cost_usd cannot be kept"
TOO_SLOW = "expected latency over the deadline"


class Terms(NamedTuple):
    """What a decision weighs beside preference, quality and cost. The default weighs nothing more.

    Attributes
    ----------
    lambda_per_usd: quality that one USD is worth; with it utility is quality - lambda * cost and `preference` has no
        part.
    shadow_per_usd: what a budget asks on top, in the same unit (it is scaled by the weight of quality).
    penalty: a price per arm, in utility, M entries; None if there is none.
    floor: least propensity of every eligible arm, in [0, 1]; as much of it as the number of arms allows.
    follows: the arm that a follow-up goes back to: no arm of lower predicted quality is ranked before it.
    """

    lambda_per_usd: float | None = None
    shadow_per_usd: float = 0.0
    penalty: Sequence[float] | None = None
    floor: float = 0.0
    follows: int | None = None


PLAIN = Terms()

Eligible = Sequence[int] | NDArray[np.bool_] | NDArray[np.integer[Any]]


class Choice(NamedTuple):
    """A decision over M arms, by index.

    `order` is the way to go down when arms fail: the chosen arm, then the other eligible ones by falling utility.
    `propensity` (exact; 0.0 if not eligible) and `utility` (NaN if not eligible) have M entries. `explored` says that
    the arm was drawn instead of being the greedy one's turn. `eliminated` names why an arm fell to a limit given to
    `decide`.
    """

    chosen: int
    order: tuple[int, ...]
    propensity: tuple[float, ...]
    utility: tuple[float, ...]
    explored: bool
    eliminated: dict[int, str]
    exploration: float = 0.0
    """Probability of a draw as it was: that asked for, or more where the floor asks for more."""


class NoEligibleArm(ValueError):
    """No arm is left to choose from. `eliminated` holds the reason of every arm that a limit of the request removed."""

    def __init__(self, eliminated: dict[int, str]) -> None:
        super().__init__("no eligible arm is left; relax the limits of the request or allow more arms")
        self.eliminated = eliminated


def decide(
    prediction: Prediction,
    eligible: Eligible,
    preference: float,
    exploration: float,
    cost_scale: CostScale,
    draw: float,
    max_cost_usd: float | None = None,
    deadline_s: float | None = None,
    terms: Terms = PLAIN,
) -> Choice:
    """Choose an arm.

    Parameters
    ----------
    prediction: of M arms.
    eligible: the indices of the arms that may answer, or a bool mask of length M.
    preference: weight of quality in [0, 1].
    exploration: probability in [0, 1] of a uniform draw.
    draw: a uniform number in [0, 1), the only randomness; the same number gives the same choice.
    max_cost_usd, deadline_s: hard limits on expected cost and latency.
    terms: what else counts.

    Raises
    ------
    NoEligibleArm: nothing is eligible, or nothing within the limits.
    """
    quality, costs, latencies = prediction.quality.tolist(), prediction.cost_usd.tolist(), prediction.latency_s.tolist()
    allowed = _indices(eligible)
    eliminated: dict[int, str] = {}
    if max_cost_usd is not None or deadline_s is not None:
        eliminated = _over_limits(allowed, costs, latencies, max_cost_usd, deadline_s)
        allowed = [arm for arm in allowed if arm not in eliminated]
    if not allowed:
        raise NoEligibleArm(eliminated)
    if terms.lambda_per_usd is None:
        weight, cost_weight, places = preference, 1.0 - preference, cost_scale.places(costs)
    else:
        weight, cost_weight, places = 1.0, terms.lambda_per_usd, costs
    utility = _utilities(allowed, quality, places, weight, cost_weight)
    if terms is not PLAIN:
        _charge(utility, allowed, costs, weight, terms)
    ranking = _ranked(allowed, utility, costs, latencies)
    if terms.follows is not None:
        ranking = without_downgrade(ranking, quality, terms.follows)
    return drawn(ranking, allowed, utility, exploration, draw, terms.floor, eliminated)


def drawn(
    ranking: list[int],
    allowed: list[int],
    utility: Sequence[float],
    exploration: float,
    draw: float,
    floor: float,
    eliminated: dict[int, str],
) -> Choice:
    """The choice of a ranking of the `allowed` arms, with exploration on top; see `decide`."""
    share = exploration / len(allowed)
    if floor > share:
        share = min(floor, 1.0 / len(allowed))
        exploration = share * len(allowed)
    propensity = [share if len(allowed) == len(utility) else 0.0] * len(utility)
    if len(allowed) < len(utility):
        for arm in allowed:
            propensity[arm] = share
    chosen = ranking[0]
    propensity[chosen] = 1.0 - exploration + share
    explored = draw < exploration
    if explored:
        chosen = allowed[min(int(draw / share), len(allowed) - 1)]
        ranking.remove(chosen)
        ranking.insert(0, chosen)
    return Choice(chosen, tuple(ranking), tuple(propensity), tuple(utility), explored, eliminated, exploration)


def without_downgrade(ranking: list[int], quality: Sequence[float], follows: int) -> list[int]:
    """The ranking with the arms of lower quality than that of `follows` moved behind it; as it is without that arm."""
    if follows not in ranking:
        return ranking
    at = ranking.index(follows)
    ahead = ranking[:at]
    better = [arm for arm in ahead if quality[arm] >= quality[follows]]
    return [*better, follows, *(arm for arm in ahead if quality[arm] < quality[follows]), *ranking[at + 1 :]]


def _utilities(
    allowed: list[int], quality: list[float], places: list[float], weight: float, cost_weight: float
) -> list[float]:
    """Quality and cost, weighed, of the allowed arms; NaN of the others. An unknown cost is the dearest known one."""
    if len(allowed) == len(quality) and not any(map(isnan, places)):
        return [weight * good - cost_weight * dear for good, dear in zip(quality, places, strict=True)]
    # x == x is false of NaN alone, and much cheaper than a call.
    unknown = max((places[arm] for arm in allowed if places[arm] == places[arm]), default=0.0)
    utility = [nan] * len(quality)
    for arm in allowed:
        place = places[arm]
        utility[arm] = weight * quality[arm] - cost_weight * (place if place == place else unknown)
    return utility


def _charge(utility: list[float], allowed: list[int], costs: list[float], weight: float, terms: Terms) -> None:
    """Take the prices of the terms off the utilities. An unknown cost counts as the dearest known one."""
    shadow = weight * terms.shadow_per_usd
    if shadow > 0.0:
        dearest = max((costs[arm] for arm in allowed if costs[arm] == costs[arm]), default=0.0)
        for arm in allowed:
            cost = costs[arm]
            utility[arm] -= shadow * (cost if cost == cost else dearest)
    if terms.penalty is not None:
        for arm in allowed:
            utility[arm] -= terms.penalty[arm]


def _ranked(allowed: list[int], utility: list[float], costs: list[float], latencies: list[float]) -> list[int]:
    ranking = sorted(allowed, key=utility.__getitem__, reverse=True)
    if len(set(map(utility.__getitem__, ranking))) == len(ranking):
        return ranking

    def key(arm: int) -> tuple[float, float, float, int]:
        cost, latency = costs[arm], latencies[arm]
        return -utility[arm], cost if cost == cost else _LAST, latency if latency == latency else _LAST, arm

    return sorted(allowed, key=key)


_LAST = float("inf")


def _indices(eligible: Eligible) -> list[int]:
    if isinstance(eligible, np.ndarray):
        indices: list[int] = (np.flatnonzero(eligible) if eligible.dtype == np.bool_ else eligible).tolist()
        return indices
    return list(eligible)


def _over_limits(
    allowed: list[int],
    costs: list[float],
    latencies: list[float],
    max_cost_usd: float | None,
    deadline_s: float | None,
) -> dict[int, str]:
    eliminated = {}
    for arm in allowed:
        if max_cost_usd is not None and costs[arm] != costs[arm]:
            eliminated[arm] = COST_UNKNOWN
        elif max_cost_usd is not None and costs[arm] > max_cost_usd:
            eliminated[arm] = OVER_BUDGET
        elif deadline_s is not None and latencies[arm] > deadline_s:
            eliminated[arm] = TOO_SLOW
    return eliminated


def greedy_batch(prediction: Prediction, preference: float, cost_scale: CostScale) -> NDArray[np.intp]:
    """The greedy arm of each of n queries when all arms are eligible, as `decide` would choose it; for evaluation.

    `prediction` holds [n, M] arrays. Returns int [n].
    """
    costs = prediction.cost_usd.astype(np.float64)
    known = ~np.isnan(costs)
    dearest = np.max(np.where(known, costs, -np.inf), axis=1, keepdims=True)
    dearest = np.where(np.isfinite(dearest), dearest, 0.0)
    place = cost_scale.positions(np.where(known, costs, dearest))
    utility = preference * prediction.quality.astype(np.float64) - (1.0 - preference) * place
    latencies = np.where(np.isnan(prediction.latency_s), np.inf, prediction.latency_s)
    arms = np.broadcast_to(np.arange(costs.shape[1]), costs.shape)
    ranking = np.lexsort((arms, latencies, np.where(known, costs, np.inf), -utility), axis=1)
    return ranking[:, 0]


def explain(
    choice: Choice,
    prediction: Prediction,
    arms: Sequence[str],
    eliminated: Mapping[int, str],
    chances: Mapping[str, float] | None = None,
) -> tuple[Candidate, ...]:
    """The candidates of a decision as they are logged and shown: the order of `choice`, then the eliminated arms.

    `arms` are the M arm ids; `eliminated` the reasons of arms that the caller's own filters removed, by index. What was
    not predicted is None. `chances` are the propensities by id, where they are not those of `choice`.
    """
    order = choice.order
    columns = [_or_none(column.tolist()) for column in prediction]
    ids = list(map(arms.__getitem__, order))
    # By position: a dozen candidates a request are worth it.
    shown = tuple(
        map(
            Candidate,
            ids,
            *(map(column.__getitem__, order) for column in columns),
            map(choice.utility.__getitem__, order),
            map(choice.propensity.__getitem__, order) if chances is None else map(chances.__getitem__, ids),
        )
    )
    if len(shown) == len(arms):
        return shown
    chosen_from = set(order)
    left = [arm for arm in range(len(arms)) if arm not in chosen_from]
    quality, std, cost, latency = columns
    return shown + tuple(
        Candidate(
            arms[arm], quality[arm], std[arm], cost[arm], latency[arm],
            eliminated=choice.eliminated.get(arm) or eliminated.get(arm, "not eligible"),
        )
        for arm in left
    )  # fmt: skip


def _or_none(numbers: list[float]) -> list[float | None]:
    """NaN, of which a sum is NaN too, as None."""
    total = sum(numbers)
    return list(numbers) if total == total else [None if x != x else x for x in numbers]
