"""Is what counts in a decision weighed exactly, and are propensities exact under affinity, load, budgets and floors?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.arms import Arm, Model, Prices
from routers.cost_scale import CostScale
from routers.policy.affinity import Turn
from routers.policy.decide import NoEligibleArm
from routers.protocol import Prediction
from service.backends.load import Quantiles
from service.budgets import OVER_DAY
from service.weighing import NOT_CHEAPEST, Weighing

ARMS = tuple(
    Arm(name, Model(name, (), prices=Prices(price, 4 * price, cached_input_per_1m=price / 10)), "direct")
    for name, price in (("small", 0.1), ("middle", 1.0), ("large", 10.0), ("huge", 30.0))
)


SCALE = CostScale(0.0, 0.02)


@dataclass(frozen=True)
class Lineup:
    cost_scale: CostScale = SCALE


@dataclass(frozen=True)
class Served:
    """What a decision reads of the snapshot that serves."""

    arms: tuple[Arm, ...] = ARMS
    arm_ids: tuple[str, ...] = tuple(arm.id for arm in ARMS)
    lineup: Lineup = Lineup()


SERVED: Any = Served()


def predicted(quality: list[float], cost: list[float], latency: list[float] | None = None) -> Prediction:
    columns = (quality, [0.1] * len(quality), cost, latency or [math.nan] * len(quality))
    return Prediction(*(np.array(column, dtype=np.float32) for column in columns))


FOUR = predicted([0.3, 0.6, 0.8, 0.9], [0.0002, 0.002, 0.01, 0.02], [0.5, 1.0, 2.0, 4.0])
UNIT = st.floats(0, 1)
QUANTILES = st.none() | st.builds(lambda low, more: Quantiles(low, low + more), st.floats(0, 5), st.floats(0, 5))
WEIGHINGS = st.builds(
    Weighing,
    preference=UNIT,
    exploration=UNIT,
    lambda_per_usd=st.none() | st.floats(0, 200),
    floor=UNIT,
    latency_weight=st.floats(0, 0.1),
    load_weight=st.floats(0, 1),
    live=st.none() | st.lists(QUANTILES, min_size=4, max_size=4),
    uses=st.none() | st.lists(st.none() | st.floats(0, 3), min_size=4, max_size=4),
    turn=st.none() | st.builds(Turn, st.sampled_from([*SERVED.arm_ids, "gone"]), st.integers(0, 200_000)),
    follows=st.booleans(),
    shadow_per_usd=st.floats(0, 200),
    deadline_s=st.none() | st.floats(4.5, 20),
)


@settings(deadline=None, max_examples=60)
@given(WEIGHINGS)
def test_propensities_are_exact_whatever_counts(weighing: Weighing) -> None:
    steps, share = 499, np.zeros(4)
    for step in range(steps):
        choice = weighing.choose(SERVED, FOUR, range(4), step / steps)
        share[choice.chosen] += 1 / steps
    assert share == pytest.approx(choice.propensity, abs=2.5 / steps)
    assert math.isclose(sum(choice.propensity), 1.0)
    if not choice.eliminated:
        least = min(max(weighing.exploration / 4, weighing.floor), 0.25)
        assert min(choice.propensity) >= least - 1e-9


@given(WEIGHINGS)
def test_a_follow_up_never_falls_to_a_lesser_arm(weighing: Weighing) -> None:
    choice = weighing.choose(SERVED, FOUR, range(4), 0.999999)
    turn = weighing.turn
    if weighing.follows and turn is not None and turn.arm in SERVED.arm_ids and not choice.explored:
        stays = SERVED.arm_ids.index(turn.arm)
        assert stays in choice.eliminated or FOUR.quality[choice.chosen] >= FOUR.quality[stays]


def test_the_price_of_a_switch_by_hand() -> None:
    turn = Turn("middle", 10_000)
    money = Weighing(1.0, 0.0, lambda_per_usd=10.0, turn=turn).choose(SERVED, FOUR, range(4), 0.5)
    # To large: 10,000 tokens at 9 USD per million less of a discount, ten qualities a USD, and the margin.
    assert money.utility[2] == pytest.approx(0.8 - 0.1 - 0.9 - 0.01, abs=1e-6)
    assert money.utility[1] == pytest.approx(0.6 - 0.02, abs=1e-6)
    shares = Weighing(0.5, 0.0, turn=turn).choose(SERVED, FOUR, range(4), 0.5)
    # The prefix would cost 0.09 USD, more than the whole scale of 0.02: the weight of cost is the most it takes.
    assert shares.utility[2] == pytest.approx(0.4 - 0.25 - 0.5 - 0.01, abs=1e-6)


def test_a_deadline_goes_by_the_tail_and_by_the_median_if_nothing_else_is_left() -> None:
    live = [Quantiles(0.6, 3.0), Quantiles(0.9, 1.5), None, Quantiles(1.0, 9.0)]
    tail = Weighing(1.0, 0.0, deadline_s=2.5, live=live).choose(SERVED, FOUR, range(4), 0.5)
    assert set(tail.order) == {1, 2}
    median = Weighing(1.0, 0.0, deadline_s=0.7, live=live).choose(SERVED, FOUR, range(4), 0.5)
    assert median.order == (0,)
    with pytest.raises(NoEligibleArm):
        Weighing(1.0, 0.0, deadline_s=0.1, live=live).choose(SERVED, FOUR, range(4), 0.5)


def test_what_is_left_of_a_budget_decides_who_may_answer() -> None:
    tight = Weighing(1.0, 0.0, left_usd=0.005).choose(SERVED, FOUR, range(4), 0.5)
    assert tight.order == (1, 0)
    assert tight.eliminated == {2: OVER_DAY, 3: OVER_DAY}
    with pytest.raises(NoEligibleArm) as caught:
        Weighing(1.0, 0.0, left_usd=0.0).choose(SERVED, FOUR, range(4), 0.5)
    assert set(caught.value.eliminated) == {0, 1, 2, 3}
    cheapest = Weighing(1.0, 0.0, left_usd=0.0, cheapest=True).choose(SERVED, FOUR, [1, 2, 3], 0.5)
    assert cheapest.order == (1,)
    assert cheapest.eliminated == {2: NOT_CHEAPEST, 3: NOT_CHEAPEST}
    unknown = predicted([0.3, 0.6, 0.8, 0.9], [0.0002, math.nan, 0.01, 0.02])
    assert 1 in Weighing(1.0, 0.0, left_usd=0.015).choose(SERVED, unknown, range(4), 0.5).eliminated
