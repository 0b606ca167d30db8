"""Off-policy evaluation: what a policy would have been worth on decisions that another one took and logged.

A logged decision shows the reward of one arm. With rho = target probability / logged propensity of that arm and a model
r^ of rewards,

    IPS     mean(rho r)                                  unbiased, widest
    SNIPS   sum(rho r) / sum(rho)                        nearly unbiased, in the range of the rewards
    DM      mean(sum_a pi(a) r^(a))                      as good as the model, no better
    DR      DM + mean(rho (r - r^))                      unbiased whatever the model is (it never saw these rewards)

and, with rho cut at a cap (clipped) or left out beyond it (switch), the variants that trade a bias for less variance
(Dudik et al. 2011; Swaminathan and Joachims 2015; Wang et al. 2017). All of them need the exact propensity of the drawn
arm, as it was when it was drawn, and a target that stays where the log went: a policy without exploration can only be
judged on what it did itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from routers.evidence.off_policy_intervals import Interval, mean_interval
from routers.protocol import F32

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

MIN_EFFECTIVE = 200
"""Least effective sample size for a verdict."""
MAX_OUTSIDE = 0.01
"""Largest share of the target's choices that may lie where the log never goes; their value would be invented."""
BURST_S = 3600.0
"""Repeats of one query this close to each other (a retry, a loop) are one observation for an interval, not several."""
ESTIMATORS = ("ips", "snips", "dm", "dr", "clipped_ips", "clipped_dr", "switch_dr")


class OffPolicyError(ValueError):
    """The decisions or the target break their contract. Says what was expected, what came and what to do."""


class NotEnoughSupport(OffPolicyError):
    """The log says too little about the target for a verdict.

    `effective` is the effective sample size, `outside` the share of the target's choices that the log never makes,
    `needed` the number of further decisions at this exploration (None if more of the same would not help).
    """

    def __init__(self, message: str, effective: float, outside: float, needed: int | None) -> None:
        super().__init__(message)
        self.effective = effective
        self.outside = outside
        self.needed = needed


@dataclass(frozen=True, slots=True)
class LoggedDecisions:
    """n scored decisions among M arms, one arm each.

    Attributes
    ----------
    vectors: float32 [n, d], unit rows.
    features: float32 [n, F], or None.
    texts: the n texts that were encoded, or None.
    arms: the M arm ids.
    chosen: int [n], the arm that was drawn and answered.
    logging: float64 [n, M], the probability of every arm when it was drawn; its support is what can be judged.
    eligible: bool [n, M], the arms that could have been drawn by some policy.
    reward: float64 [n], quality in [0, 1].
    cost_usd, latency_s: float64 [n], NaN where unknown.
    encoder: hash of the encoder of `vectors`.
    ids: n query ids (content hashes); they repeat where a query does.
    created_at: float64 [n], Unix time.
    feature_set: digest of the definition of `features`; None without them.
    """

    vectors: F32
    features: F32 | None
    texts: tuple[str | None, ...] | None
    arms: tuple[str, ...]
    chosen: Indices
    logging: F64
    eligible: Mask
    reward: F64
    cost_usd: F64
    latency_s: F64
    encoder: str
    ids: tuple[str, ...]
    created_at: F64
    feature_set: str | None = None

    @property
    def propensity(self) -> F64:
        """Float64 [n], in (0, 1]: the probability with which the chosen arm was drawn."""
        drawn: F64 = self.logging[np.arange(len(self.ids)), self.chosen]
        return drawn

    def rows(self, rows: Indices | Mask) -> LoggedDecisions:
        """Some of the decisions, by index or mask."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return replace(
            self,
            vectors=self.vectors[index],
            features=None if self.features is None else self.features[index],
            texts=None if self.texts is None else tuple(self.texts[row] for row in index.tolist()),
            chosen=self.chosen[index],
            logging=self.logging[index],
            eligible=self.eligible[index],
            reward=self.reward[index],
            cost_usd=self.cost_usd[index],
            latency_s=self.latency_s[index],
            ids=tuple(self.ids[row] for row in index.tolist()),
            created_at=self.created_at[index],
        )


class Estimate(msgspec.Struct, frozen=True):
    """An estimated mean with its 95 % interval, from `n` decisions that are worth `effective` of the target's own."""

    name: str
    value: float
    low: float
    high: float
    effective: float
    n: int


def check_decisions(decisions: LoggedDecisions) -> None:
    """Raise OffPolicyError if the decisions break their own contract."""
    n, m = len(decisions.ids), len(decisions.arms)
    if n == 0:
        raise OffPolicyError("no decision is left to judge by; log decisions with exploration, and score their answers")
    shapes: dict[str, tuple[int, ...]] = {"chosen": (n,), "logging": (n, m), "eligible": (n, m)}
    shapes |= dict.fromkeys(("reward", "cost_usd", "latency_s", "created_at"), (n,))
    for name, shape in shapes.items():
        if getattr(decisions, name).shape != shape:
            raise OffPolicyError(f"{name} must have shape {shape}, got {getattr(decisions, name).shape}")
    if len(decisions.vectors) != n:
        raise OffPolicyError(f"vectors must be {n}, one for each decision, got {len(decisions.vectors)}")
    if not np.all((decisions.chosen >= 0) & (decisions.chosen < m)):
        raise OffPolicyError(
            f"chosen must be indices of {m} arms, got {decisions.chosen.min()}..{decisions.chosen.max()}"
        )
    _check_probabilities("logging", decisions.logging)
    propensity = decisions.propensity
    if not np.all(propensity > 0.0):
        bad = propensity[~(propensity > 0.0)]
        raise OffPolicyError(
            f"{len(bad)} decisions have no propensity in (0, 1] (the first is {bad[0]}); leave them out: what was "
            "drawn with an unknown probability cannot be weighted"
        )
    if not np.all((decisions.reward >= 0.0) & (decisions.reward <= 1.0)):
        raise OffPolicyError("reward must lie in [0, 1] and be known for every decision; leave out what is not scored")
    if np.any((decisions.logging > 0.0) & ~decisions.eligible):
        raise OffPolicyError("an arm that is not eligible has a positive logged probability; correct `eligible`")


def check_target(decisions: LoggedDecisions, target: F64) -> None:
    """Raise OffPolicyError unless `target` is [n, M] probabilities, 0 outside `eligible`, at most 1 per decision.

    What a row lacks to 1 is the target's probability of an arm that the log does not know.
    """
    if target.shape != decisions.logging.shape:
        raise OffPolicyError(f"a target must have shape {decisions.logging.shape}, got {target.shape}")
    _check_probabilities("a target", target)
    if np.any((target > 0.0) & ~decisions.eligible):
        raise OffPolicyError("a target gives a chance to an arm that was not eligible; mask it by `eligible`")


def _check_probabilities(what: str, matrix: F64) -> None:
    if not np.all((matrix >= 0.0) & (matrix <= 1.0 + 1e-9)):
        raise OffPolicyError(f"{what} must hold probabilities in [0, 1], got {matrix.min()}..{matrix.max()}")
    total = float(matrix.sum(axis=1).max(initial=0.0))
    if total > 1.0 + 1e-6:
        raise OffPolicyError(f"{what} must add up to at most 1 per decision, got {total}")


def importance(decisions: LoggedDecisions, target: F64) -> F64:
    """rho [n]: how much more often the target takes the logged arm than the log did."""
    rho: F64 = target[np.arange(len(target)), decisions.chosen] / decisions.propensity
    return rho


def effective_size(rho: F64) -> float:
    """(sum rho)^2 / sum rho^2, the number of equally weighted decisions behind an estimate; 0 if no weight is left."""
    squares = float(np.square(rho).sum())
    return float(rho.sum()) ** 2 / squares if squares > 0.0 else 0.0


def outside_support(decisions: LoggedDecisions, target: F64) -> float:
    """Share of the target's choices that the log never makes, in [0, 1]."""
    inside = np.where(decisions.logging > 0.0, target, 0.0).sum(axis=1)
    return float(np.clip(1.0 - inside, 0.0, 1.0).mean())


def require_support(decisions: LoggedDecisions, target: F64, who: str = "the target") -> float:
    """The effective sample size, if it and the support are enough for a verdict.

    Raises
    ------
    NotEnoughSupport: says what is missing, and how many more decisions at this exploration would give it.
    """
    outside, effective = outside_support(decisions, target), effective_size(importance(decisions, target))
    if outside > MAX_OUTSIDE:
        raise NotEnoughSupport(
            f"{who} would choose in {outside:.1%} of the decisions an arm that the log never tries there (at most "
            f"{MAX_OUTSIDE:.0%}); set `exploration` in the route, so that every arm is tried",
            effective,
            outside,
            None,
        )
    if effective < MIN_EFFECTIVE:
        needed = further_decisions(len(decisions.ids), effective)
        more = "set `exploration` in the route" if needed is None else f"about {needed:,} more at this exploration"
        raise NotEnoughSupport(
            f"{len(decisions.ids):,} decisions are worth {effective:.0f} of {who}'s own, at least {MIN_EFFECTIVE} are "
            f"needed: {more}",
            effective,
            outside,
            needed,
        )
    return effective


def further_decisions(n: int, effective: float) -> int | None:
    """How many more decisions like these bring the effective size to the least; None if none ever would."""
    return max(0, ceil(n * MIN_EFFECTIVE / effective) - n) if effective > 0.0 else None


def bursts(decisions: LoggedDecisions) -> Indices:
    """The group [n] of each decision: repeats of a query within `BURST_S` of the one before are one group."""
    names = np.unique(np.array(decisions.ids), return_inverse=True)[1]
    order = np.lexsort((decisions.created_at, names))
    named, at = names[order], decisions.created_at[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (named[1:] != named[:-1]) | (at[1:] - at[:-1] > BURST_S)
    groups = np.empty(len(order), dtype=np.intp)
    groups[order] = np.cumsum(starts) - 1
    return groups


def terms(
    name: str,
    decisions: LoggedDecisions,
    target: F64,
    values: F64 | None = None,
    predicted: F64 | None = None,
    cap: float | None = None,
) -> F64:
    """What each decision contributes to an estimate, float64 [n]; the estimate is their mean.

    Parameters
    ----------
    name: one of ESTIMATORS. SNIPS is linearised around its value, so that its terms have its mean and its variance.
    values: [n], what is averaged; the reward if left out, else cost or latency.
    predicted: [n, M], a model of `values` that never saw the values of its own row (all but ips, snips need it).
    cap: largest rho for the clipped and switch variants; sqrt(n) if left out (Ionides 2008).
    """
    values = decisions.reward if values is None else values
    rho = importance(decisions, target)
    cut = sqrt(len(rho)) if cap is None else cap
    if name == "ips":
        return rho * values
    if name == "clipped_ips":
        return np.minimum(rho, cut) * values
    if name == "snips":
        if not rho.sum() > 0.0:
            raise NotEnoughSupport(
                "the target never agrees with the log, so there is nothing to average", 0.0, 1.0, None
            )
        value = float((rho * values).sum() / rho.sum())
        return np.asarray(value + rho * (values - value) / rho.mean())
    if name not in ESTIMATORS:
        raise OffPolicyError(f"no estimator is called {name!r}; there are {', '.join(ESTIMATORS)}")
    if predicted is None or predicted.shape != target.shape:
        raise OffPolicyError(
            f"{name} needs predicted rewards of shape {target.shape}; see routers.evidence.off_policy_rewards"
        )
    base: F64 = (target * predicted).sum(axis=1)
    if name == "dm":
        return base
    if name == "clipped_dr":
        rho = np.minimum(rho, cut)
    elif name == "switch_dr":
        rho = np.where(rho <= cut, rho, 0.0)
    return base + rho * (values - predicted[np.arange(len(rho)), decisions.chosen])


def estimate(
    name: str,
    decisions: LoggedDecisions,
    target: F64,
    values: F64 | None = None,
    predicted: F64 | None = None,
    *,
    cap: float | None = None,
    groups: Indices | None = None,
) -> Estimate:
    """One estimate with its 95 % interval; parameters as for `terms`, and `groups` [n] of decisions that belong
    together (`bursts` if left out).

    Raises
    ------
    OffPolicyError: the decisions or the target break their contract.
    """
    check_decisions(decisions)
    check_target(decisions, target)
    each = terms(name, decisions, target, values, predicted, cap)
    effective = effective_size(importance(decisions, target))
    return _estimated(name, each, bursts(decisions) if groups is None else groups, effective)


def compare(
    decisions: LoggedDecisions,
    candidate: F64,
    champion: F64,
    predicted: F64,
    values: F64 | None = None,
    *,
    groups: Indices | None = None,
) -> Estimate:
    """By how much the candidate's value exceeds the champion's: doubly robust, paired on the same decisions.

    `candidate` and `champion` are targets [n, M]; `effective` is the smaller of their effective sample sizes. Raises
    OffPolicyError.
    """
    check_decisions(decisions)
    for target in (candidate, champion):
        check_target(decisions, target)
    first = terms("dr", decisions, candidate, values, predicted)
    second = terms("dr", decisions, champion, values, predicted)
    effective = min(effective_size(importance(decisions, target)) for target in (candidate, champion))
    return _estimated("dr difference", first - second, bursts(decisions) if groups is None else groups, effective)


def _estimated(name: str, each: F64, groups: Indices, effective: float) -> Estimate:
    interval: Interval = mean_interval(each, groups)
    return Estimate(name, interval.mean, interval.low, interval.high, effective, len(each))


def columns(arms: Sequence[str], of: Sequence[str]) -> NDArray[Any]:
    """The column in `of` of each of the `arms`, -1 where it is not there."""
    place = {arm: index for index, arm in enumerate(of)}
    return np.array([place.get(arm, -1) for arm in arms], dtype=np.intp)
