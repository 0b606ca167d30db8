from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from routers.cost_scale import CostScale
from routers.policy.decide import Terms, decide
from routers.policy.pacer import DAY_S, Pacer, cumulative
from routers.protocol import Prediction

Arms = NDArray[np.intp]
SHAPE = (1, 1, 1, 1, 1, 1, 2, 4, 9, 14, 15, 13, 8, 12, 14, 14, 12, 8, 5, 4, 3, 2, 1, 1)
COSTS = np.array([0.0002, 0.002, 0.02])
REQUESTS = 20_000


class Day:
    """Requests with a bursty shape: the hours of an office, and a burst of a tenth of the day within ten minutes."""

    def __init__(self, seed: int, requests: int = REQUESTS) -> None:
        rng = np.random.default_rng(seed)
        hours = rng.choice(24, size=requests, p=np.array(SHAPE) / sum(SHAPE))
        seconds = (hours + rng.random(requests)) * 3600
        burst = rng.random(requests) < 0.1
        seconds[burst] = 10.5 * 3600 + 600 * rng.random(int(burst.sum()))
        self.times = np.sort(seconds)
        # How much a dearer arm helps differs by query: that is what a price of money can use.
        difficulty = rng.beta(0.6, 1.2, requests)[:, None]
        self.quality = np.clip(0.95 - difficulty * np.array([0.6, 0.35, 0.1]), 0, 1)
        self.cost = COSTS * rng.lognormal(0.0, 0.4, (requests, 1))
        self.real = self.cost * rng.lognormal(-0.045, 0.3, (requests, 3))

    def value(self, arms: Arms) -> tuple[float, float]:
        """Mean quality and USD of the choice of an arm per request."""
        rows = np.arange(len(arms))
        return float(self.quality[rows, arms].mean()), float(self.real[rows, arms].sum())

    def paced(self, pacer: Pacer, day: int = 0) -> tuple[Arms, float]:
        """The arms that the policy chose, -1 where nothing was left, and the USD that they cost."""
        arms, spent = np.zeros(len(self.times), dtype=np.intp), 0.0
        scale = CostScale(0.0, 0.03)
        for row, second in enumerate(self.times):
            now = day * DAY_S + float(second)
            cost = self.cost[row]
            left = pacer.left(now)
            affordable = [arm for arm in range(3) if cost[arm] <= left]
            if not affordable:
                arms[row] = -1
                continue
            prediction = Prediction(self.quality[row], np.zeros(3), cost, np.full(3, np.nan))  # type: ignore[arg-type]
            terms = Terms(lambda_per_usd=0.0, shadow_per_usd=pacer.price(now))
            chosen = decide(prediction, affordable, 1.0, 0.0, scale, 0.5, terms=terms).chosen
            pacer.reserve(float(cost[chosen]), float(cost.max() - cost.min()), now)
            pacer.settle(float(cost[chosen]), float(self.real[row, chosen]), now)
            arms[row], spent = chosen, spent + float(self.real[row, chosen])
        return arms, spent


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.15, 0.4, 0.7])
@pytest.mark.parametrize("shape", [None, SHAPE], ids=["learned", "declared"])
def test_a_bursty_day_spends_its_budget_and_buys_more_quality_with_it(
    seed: int, share: float, shape: tuple[float, ...] | None
) -> None:
    """Against: the best arm until the money is gone and then the cheap one, and a constant share of the best arm."""
    day = Day(seed)
    best, cheap = np.full(REQUESTS, 2), np.zeros(REQUESTS, dtype=np.intp)
    (best_quality, best_usd), (cheap_quality, cheap_usd) = day.value(best), day.value(cheap)
    budget = cheap_usd + share * (best_usd - cheap_usd)
    pacer = Pacer(budget, shape)
    if shape is None:
        Day(seed + 100).paced(pacer)
    arms, spent = day.paced(pacer, day=1)
    assert 0.95 * budget <= spent <= budget + float(day.real.max())
    assert np.mean(arms < 0) < 0.005
    quality = float(np.mean(np.where(arms < 0, 0.0, day.quality[np.arange(REQUESTS), np.maximum(arms, 0)])))
    gone = int(np.searchsorted(np.cumsum(day.real[:, 2]) + (cheap_usd - np.cumsum(day.real[:, 0])), budget))
    noon, _ = day.value(np.where(np.arange(REQUESTS) < gone, 2, 0))
    split = cheap_quality + share * (best_quality - cheap_quality)
    assert quality > noon + 0.01
    assert quality > split + 0.01
    after_noon = day.times > 12 * 3600
    assert np.mean(arms[after_noon] > 0) > 0.5 * np.mean(arms[~after_noon] > 0)


def test_an_ample_budget_does_not_touch_the_choice() -> None:
    day = Day(3, 2_000)
    arms, spent = day.paced(Pacer(1e6))
    assert set(arms.tolist()) == {2}
    assert spent == pytest.approx(day.value(np.full(2_000, 2))[1])


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0.001, 5.0),
    st.lists(st.tuples(st.floats(0, DAY_S - 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_the_budget_is_never_exceeded_by_more_than_one_request(
    budget: float, requests: list[tuple[float, float, float]]
) -> None:
    """Whatever was expected of the costs: a request is let in only while something is left."""
    pacer = Pacer(budget)
    spent = largest = 0.0
    for second, expected, real in sorted(requests):
        if pacer.left(second) <= 0:
            continue
        pacer.reserve(expected, expected, second)
        pacer.settle(expected, real, second)
        spent, largest = spent + real, max(largest, real)
        assert pacer.lambda_per_usd >= 0
    assert spent <= budget + largest
    assert pacer.spent_usd == pytest.approx(spent)
    assert pacer.reserved_usd == pytest.approx(0.0)


def test_requests_under_way_cannot_spend_the_same_money() -> None:
    pacer = Pacer(1.0)
    admitted = 0
    while pacer.left(10.0) >= 0.3:
        pacer.reserve(0.3, 0.0, 10.0)
        admitted += 1
    assert admitted == 3
    for _ in range(3):
        pacer.settle(0.3, 0.2, 20.0)
    assert pacer.left(20.0) == pytest.approx(0.4)


def test_the_dual_step_by_hand() -> None:
    pacer = Pacer(24.0, (1.0,) * 24)
    pacer.turn(0.0)
    pacer.reserve(0.5, 2.0, 0.0)
    # One hour of an even day is allowed 24 / 24 = 1 USD; 1.5 USD were spent: 15 * 0.5 / (24 * 2).
    pacer.settle(0.5, 1.5, 3600.0)
    assert pacer.lambda_per_usd == pytest.approx(15 * 0.5 / 48)
    # A quiet hour is allowed (24 - 1.5) / 23 USD, which brings the price down to nothing.
    assert pacer.price(7200.0) == 0.0


def test_a_day_that_ends_gives_its_budget_back_and_keeps_its_price() -> None:
    pacer = Pacer(1.0)
    pacer.reserve(0.6, 0.5, DAY_S - 10)
    pacer.settle(0.6, 0.9, DAY_S - 10)
    price = pacer.lambda_per_usd
    assert pacer.left(DAY_S - 5) == pytest.approx(0.1)
    assert pacer.left(DAY_S + 5) == pytest.approx(1.0)
    assert pacer.lambda_per_usd == price > 0
    assert pacer.learned[23] > 0


def test_the_state_outlives_the_process() -> None:
    pacer = Pacer(1.0)
    pacer.reserve(0.2, 0.5, 3600.0)
    pacer.settle(0.2, 0.3, 3600.0)
    pacer.reserve(0.2, 0.5, 3600.0)
    text = json.dumps(pacer.state())
    fresh = Pacer(1.0)
    fresh.restore(json.loads(text))
    assert fresh.left(3600.0) == pytest.approx(0.7)
    assert fresh.lambda_per_usd == pacer.lambda_per_usd
    with pytest.raises((KeyError, TypeError, ValueError)):
        fresh.restore({"day": 1, "requests": [1.0], "learned": []})


@given(st.lists(st.floats(0.01, 10), min_size=24, max_size=24), st.floats(0, DAY_S), st.floats(0, DAY_S))
def test_the_shape_is_a_distribution_function(shape: list[float], first: float, second: float) -> None:
    assert cumulative(shape, 0.0) == 0.0
    assert cumulative(shape, DAY_S) == pytest.approx(1.0)
    low, high = sorted((first, second))
    assert cumulative(shape, low) <= cumulative(shape, high) + 1e-12
