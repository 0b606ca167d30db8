"""What one decision weighs beside the prediction, as it was when the request came.

Taken down once per request, so that a router in shadow, which decides after the answer, weighs the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from registry.config import RouteConfig
from routers.cost_scale import CostScale
from routers.policy.affinity import Turn, switch_prices
from routers.policy.decide import PLAIN, Choice, NoEligibleArm, Terms, decide
from routers.protocol import Prediction
from service.backends.load import Load, Quantiles, saturation
from service.budgets import OVER_DAY, Bill
from service.routing_options import RoutingOptions
from service.serving import Serving, Target

NOT_CHEAPEST = "the day's budget is used up, so only the cheapest arm answers"


class Weighing(msgspec.Struct, frozen=True):
    """All that counts in one decision. Latencies are in seconds; `live` and `uses` have one entry per arm.

    `turn` is the conversation's last turn and `follows` says that this one goes back to it. `lambda_per_usd` None means
    that `preference` weighs cost. `shadow_per_usd` and `left_usd` come from the budgets.
    """

    preference: float
    exploration: float
    lambda_per_usd: float | None = None
    floor: float = 0.0
    max_cost_usd: float | None = None
    deadline_s: float | None = None
    latency_weight: float = 0.0
    load_weight: float = 0.0
    live: Sequence[Quantiles | None] | None = None
    uses: Sequence[float | None] | None = None
    turn: Turn | None = None
    follows: bool = False
    shadow_per_usd: float = 0.0
    left_usd: float = math.inf
    cheapest: bool = False

    def choose(self, serving: Serving, prediction: Prediction, allowed: Sequence[int], draw: float) -> Choice:
        """Decide. Raises NoEligibleArm."""
        if self.left_usd < math.inf:
            allowed, over = self._within_budget(prediction, allowed)
        else:
            over = {}
        terms = self._terms(serving, prediction)
        try:
            choice = self._decided(serving, prediction, allowed, draw, terms)
        except NoEligibleArm as none_left:
            none_left.eliminated.update(over)
            raise
        return choice._replace(eliminated={**choice.eliminated, **over}) if over else choice

    def value_usd(self, scale: CostScale) -> float:
        """USD that one unit of quality is worth in this decision; infinite where money has no price."""
        if self.lambda_per_usd is not None:
            per_usd = self.lambda_per_usd + self.shadow_per_usd
        elif self.preference > 0.0:
            per_usd = (1.0 - self.preference) / (self.preference * (scale.high - scale.low)) + self.shadow_per_usd
        else:
            return 0.0
        return math.inf if per_usd <= 0.0 else 1.0 / per_usd

    def _decided(
        self, serving: Serving, prediction: Prediction, allowed: Sequence[int], draw: float, terms: Terms
    ) -> Choice:
        """By the 95th percentile of live latencies where there is a deadline; by the median if that leaves nothing."""
        scale = serving.lineup.cost_scale
        if self.deadline_s is None or self.live is None:
            return decide(
                prediction, allowed, self.preference, self.exploration, scale, draw, self.max_cost_usd,
                self.deadline_s, terms,
            )  # fmt: skip
        for quantile in (1, 0):
            expected = _slower(prediction, [None if q is None else q[quantile] for q in self.live])
            try:
                return decide(
                    expected, allowed, self.preference, self.exploration, scale, draw, self.max_cost_usd,
                    self.deadline_s, terms,
                )  # fmt: skip
            except NoEligibleArm:
                if quantile == 0:
                    raise
        raise AssertionError

    def _within_budget(self, prediction: Prediction, allowed: Sequence[int]) -> tuple[list[int], dict[int, str]]:
        """The arms that what is left of the budget pays for; once it is spent the cheapest one, if that is the rule.

        An arm of unknown cost counts as the dearest known one.
        """
        costs = prediction.cost_usd.tolist()
        dearest = max((costs[arm] for arm in allowed if costs[arm] == costs[arm]), default=0.0)
        price = {arm: costs[arm] if costs[arm] == costs[arm] else dearest for arm in allowed}
        paid = [arm for arm in allowed if price[arm] <= self.left_usd and self.left_usd > 0.0]
        if paid or not self.cheapest:
            return paid, {arm: OVER_DAY for arm in allowed if arm not in paid}
        kept = min(allowed, key=lambda arm: (costs[arm] != costs[arm], price[arm]))
        return [kept], {arm: NOT_CHEAPEST for arm in allowed if arm != kept}

    def _terms(self, serving: Serving, prediction: Prediction) -> Terms:
        prices = self.latency_weight or self.shadow_per_usd or self.floor
        if self.turn is None and self.lambda_per_usd is None and self.uses is None and not prices:
            return PLAIN
        penalty = self._penalty(serving, prediction)
        follows = None
        if self.follows and self.turn is not None and self.turn.arm in serving.arm_ids:
            follows = serving.arm_ids.index(self.turn.arm)
        return Terms(self.lambda_per_usd, self.shadow_per_usd, penalty, self.floor, follows)

    def _penalty(self, serving: Serving, prediction: Prediction) -> list[float] | None:
        """The prices of latency, load and a change of arm together; None if nothing has one."""
        parts: list[list[float]] = []
        if self.latency_weight > 0.0:
            medians = [None if q is None else q.p50 for q in self.live or [None] * len(serving.arms)]
            latencies = _slower(prediction, medians).latency_s.tolist()
            slowest = max((latency for latency in latencies if latency == latency), default=0.0)
            parts.append([self.latency_weight * (x if x == x else slowest) for x in latencies])
        if self.uses is not None and self.load_weight > 0.0:
            parts.append([0.0 if use is None else self.load_weight * saturation(use) for use in self.uses])
        if self.turn is not None and self.turn.arm in serving.arm_ids:
            parts.append(self._switching(serving, self.turn))
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else [sum(prices) for prices in zip(*parts, strict=True)]

    def _switching(self, serving: Serving, turn: Turn) -> list[float]:
        stays = serving.arm_ids.index(turn.arm)
        if self.lambda_per_usd is not None:
            per_usd = self.lambda_per_usd + self.shadow_per_usd
            return switch_prices(serving.arms, stays, turn.prefix_tokens, per_usd)
        scale, cost_weight = serving.lineup.cost_scale, 1.0 - self.preference
        per_usd = cost_weight / (scale.high - scale.low) + self.preference * self.shadow_per_usd
        return switch_prices(serving.arms, stays, turn.prefix_tokens, per_usd, most=cost_weight)


def weighing(
    target: Target, options: RoutingOptions, load: Load, serving: Serving, bill: Bill | None, turn: Turn | None,
    *, follows: bool, stream: bool,
) -> Weighing:  # fmt: skip
    """Take down what counts now. What the request says goes before the route's config."""
    route = target.route or RouteConfig()
    preference, price = wish(target, options)
    deadline_s = None if options.deadline_ms is None else options.deadline_ms / 1e3
    timed = deadline_s is not None or route.latency_weight > 0.0 or options.explain
    found = Weighing(
        preference, route.exploration if options.exploration is None else options.exploration, price,
        route.exploration_floor, options.max_cost_usd, deadline_s, route.latency_weight, route.load_weight,
        live=load.latencies(serving.arms, stream=stream) if timed else None,
        uses=[load.use(arm) for arm in serving.arms] if serving.pool.counts_load and route.load_weight else None,
        turn=turn, follows=follows and turn is not None and turn.wish == (preference, price),
    )  # fmt: skip
    if bill is None:
        return found
    return replace(found, shadow_per_usd=bill.shadow_per_usd(), left_usd=bill.left_usd(), cheapest=bill.cheapest)


def wish(target: Target, options: RoutingOptions) -> tuple[float, float | None]:
    """The preference, and the price of money that takes its place if it is not None."""
    if options.preference is not None:
        return options.preference, None
    if options.lambda_per_usd is not None:
        return target.preference, options.lambda_per_usd
    preset = ":" in target.name
    return target.preference, None if preset or target.route is None else target.route.lambda_per_usd


def _slower(prediction: Prediction, live: Sequence[float | None]) -> Prediction:
    """The prediction with the larger of the predicted and the live latency of each arm."""
    seen = np.array([math.nan if value is None else value for value in live], dtype=np.float32)
    return prediction._replace(latency_s=np.fmax(prediction.latency_s, seen))
