from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routers.cost_scale import CostScale
from routers.policy.decide import (
    COST_UNKNOWN,
    OVER_BUDGET,
    TOO_SLOW,
    NoEligibleArm,
    Terms,
    decide,
    explain,
    greedy_batch,
)
from routers.protocol import Prediction

SCALE = CostScale(0.0, 1.0)
UNIT = st.floats(0, 1, width=32)
MAYBE = st.one_of(UNIT, st.just(math.nan))


def predicted(quality: list[float], cost: list[float], latency: list[float] | None = None) -> Prediction:
    latency = [math.nan] * len(quality) if latency is None else latency
    return Prediction(*(np.array(x, dtype=np.float32) for x in (quality, [0.1] * len(quality), cost, latency)))


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    arms = draw(st.integers(1, 8))
    columns = [draw(st.lists(kind, min_size=arms, max_size=arms)) for kind in (UNIT, MAYBE, MAYBE)]
    return predicted(*columns)


def test_the_preference_weighs_quality_against_cost() -> None:
    two = predicted([0.9, 0.6], [1.0, 0.1])
    assert decide(two, [0, 1], 1.0, 0.0, SCALE, 0.5).chosen == 0
    assert decide(two, [0, 1], 0.5, 0.0, SCALE, 0.5).chosen == 1
    choice = decide(two, [0, 1], 0.5, 0.0, SCALE, 0.5)
    assert choice.utility == pytest.approx((0.5 * 0.9 - 0.5 * 1.0, 0.5 * 0.6 - 0.5 * 0.1))
    assert choice.order == (1, 0)
    assert choice.propensity == (0.0, 1.0)
    assert not choice.explored


def test_ties_go_to_lower_cost_then_lower_latency_then_the_first_arm() -> None:
    assert decide(predicted([0.5, 0.5, 0.5], [0.3, 0.2, math.nan]), [0, 1, 2], 1.0, 0.0, SCALE, 0.5).order == (1, 0, 2)
    tied = predicted([0.5, 0.5, 0.5], [0.2, 0.2, 0.2], [math.nan, 3.0, 2.0])
    assert decide(tied, [0, 1, 2], 0.5, 0.0, SCALE, 0.5).order == (2, 1, 0)
    assert decide(predicted([0.5, 0.5], [0.2, 0.2]), [1, 0], 0.5, 0.0, SCALE, 0.5).order == (0, 1)


def test_an_unknown_cost_counts_as_the_dearest_known_one_and_never_as_free() -> None:
    three = predicted([0.5, 0.5, 0.5], [0.2, 0.8, math.nan])
    choice = decide(three, [0, 1, 2], 0.5, 0.0, SCALE, 0.5)
    assert choice.order == (0, 1, 2)
    assert choice.utility[2] == choice.utility[1]
    nothing_known = decide(predicted([0.4, 0.5], [math.nan, math.nan]), [0, 1], 0.1, 0.0, SCALE, 0.5)
    assert nothing_known.chosen == 1


def test_limits_remove_arms_and_name_the_reason() -> None:
    four = predicted([0.9, 0.8, 0.7, 0.6], [0.5, 0.1, math.nan, 0.1], [1.0, 9.0, 1.0, math.nan])
    choice = decide(four, [0, 1, 2, 3], 1.0, 0.0, SCALE, 0.5, max_cost_usd=0.2, deadline_s=2.0)
    assert choice.order == (3,)
    assert choice.eliminated == {0: OVER_BUDGET, 1: TOO_SLOW, 2: COST_UNKNOWN}
    with pytest.raises(NoEligibleArm) as caught:
        decide(four, [0, 1], 1.0, 0.0, SCALE, 0.5, max_cost_usd=0.01)
    assert caught.value.eliminated == {0: OVER_BUDGET, 1: OVER_BUDGET}
    with pytest.raises(NoEligibleArm):
        decide(four, [], 1.0, 0.0, SCALE, 0.5)


def test_a_mask_means_the_same_as_its_indices() -> None:
    three = predicted([0.1, 0.9, 0.5], [0.1, 0.1, 0.1])
    mask = np.array([True, False, True])
    assert decide(three, mask, 1.0, 0.1, SCALE, 0.05) == decide(three, [0, 2], 1.0, 0.1, SCALE, 0.05)
    assert decide(three, np.array([0, 2]), 1.0, 0.1, SCALE, 0.05) == decide(three, [0, 2], 1.0, 0.1, SCALE, 0.05)


@given(predictions(), UNIT, UNIT, st.floats(0, 1, exclude_max=True), st.data())
def test_a_decision_is_a_ranking_of_the_eligible_arms_with_propensities_that_sum_to_one(
    prediction: Prediction, preference: float, exploration: float, draw: float, data: st.DataObject
) -> None:
    arms = list(range(len(prediction.quality)))
    eligible = data.draw(st.lists(st.sampled_from(arms), min_size=1, unique=True))
    choice = decide(prediction, eligible, preference, exploration, SCALE, draw)
    assert sorted(choice.order) == sorted(eligible)
    assert choice.order[0] == choice.chosen
    assert choice.explored == (draw < exploration)
    assert math.isclose(sum(choice.propensity), 1.0)
    assert choice.propensity[choice.chosen] > 0
    assert all(choice.propensity[arm] == 0.0 and math.isnan(choice.utility[arm]) for arm in arms if arm not in eligible)
    others = [choice.utility[arm] for arm in choice.order[1:]]
    assert others == sorted(others, reverse=True)
    assert decide(prediction, eligible, preference, exploration, SCALE, draw) == choice


@settings(deadline=None, max_examples=50)
@given(predictions(), UNIT, st.floats(0.0078125, 1, width=32))
def test_the_share_of_draws_that_choose_an_arm_is_its_logged_propensity(
    prediction: Prediction, preference: float, exploration: float
) -> None:
    arms, steps = len(prediction.quality), 499
    share = np.zeros(arms)
    for step in range(steps):
        choice = decide(prediction, range(arms), preference, exploration, SCALE, step / steps)
        share[choice.chosen] += 1 / steps
    assert share == pytest.approx(choice.propensity, abs=2.5 / steps)


@given(st.lists(predictions(), min_size=1, max_size=4), UNIT)
def test_the_batch_for_evaluation_chooses_as_decide_does(batch: list[Prediction], preference: float) -> None:
    arms = min(len(prediction.quality) for prediction in batch)
    cut = [Prediction(*(column[:arms] for column in prediction)) for prediction in batch]
    stacked = Prediction(*(np.stack(columns) for columns in zip(*cut, strict=True)))
    single = [decide(prediction, range(arms), preference, 0.0, SCALE, 0.5).chosen for prediction in cut]
    assert greedy_batch(stacked, preference, SCALE).tolist() == single


def test_the_explanation_lists_the_ranking_first_and_names_why_others_fell() -> None:
    three = predicted([0.9, 0.8, 0.7], [0.5, math.nan, 0.1])
    choice = decide(three, [0, 2], 1.0, 0.0, SCALE, 0.5, max_cost_usd=0.2)
    first, *rest = explain(choice, three, ["a", "b", "c"], {1: "no tools"})
    assert (first.arm, first.propensity, first.eliminated) == ("c", 1.0, None)
    assert first.utility == pytest.approx(0.7)
    assert [(candidate.arm, candidate.eliminated) for candidate in rest] == [("a", OVER_BUDGET), ("b", "no tools")]
    assert rest[1].cost_usd is None
    assert rest[1].utility is None
    assert rest[0].latency_s is None


@given(st.lists(st.floats(0, 10), min_size=2, max_size=30), st.lists(MAYBE, min_size=1, max_size=6))
def test_the_cost_scale_is_monotone_bounded_and_alike_in_both_forms(training: list[float], costs: list[float]) -> None:
    scale = CostScale.learned(np.array(training))
    assert 0 <= scale.low < scale.high
    plain, vector = scale.places(costs), scale.positions(np.array(costs))
    assert vector == pytest.approx(np.array(plain), nan_ok=True)
    known = [scale.places([cost])[0] for cost in sorted(cost for cost in costs if not math.isnan(cost))]
    assert known == sorted(known)
    assert all(0 <= place <= 1 for place in known)
    assert CostScale.from_meta(scale.to_meta()) == scale


def test_costs_that_hardly_differ_do_not_decide() -> None:
    scale = CostScale.learned(np.array([0.01, 0.01000001]))
    first, second = scale.places([0.01, 0.01000001])
    assert abs(first - second) < 1e-3
    with pytest.raises(ValueError, match="version"):
        CostScale.from_meta({"version": 99, "low": 0.0, "high": 1.0})


def test_a_price_of_money_weighs_usd_and_not_their_place() -> None:
    two = predicted([0.9, 0.6], [0.5, 0.1])
    dear, cheap = Terms(lambda_per_usd=0.5), Terms(lambda_per_usd=1.0)
    assert decide(two, [0, 1], 0.0, 0.0, CostScale(0.0, 0.01), 0.5, terms=dear).utility == pytest.approx((0.65, 0.55))
    assert decide(two, [0, 1], 0.0, 0.0, SCALE, 0.5, terms=cheap).utility == pytest.approx((0.4, 0.5))
    unknown = predicted([0.5, 0.5], [0.2, math.nan])
    assert decide(unknown, [0, 1], 0.0, 0.0, SCALE, 0.5, terms=cheap).utility == pytest.approx((0.3, 0.3))


def test_a_budget_a_penalty_and_a_preference_add_up() -> None:
    two = predicted([0.9, 0.6], [0.5, 0.1])
    terms = Terms(shadow_per_usd=2.0, penalty=[0.01, 0.02])
    choice = decide(two, [0, 1], 0.5, 0.0, SCALE, 0.5, terms=terms)
    expected = (0.45 - 0.25 - 0.5 * 2 * 0.5 - 0.01, 0.3 - 0.05 - 0.5 * 2 * 0.1 - 0.02)
    assert choice.utility == pytest.approx(expected)
    money = Terms(lambda_per_usd=1.0, shadow_per_usd=2.0)
    assert decide(two, [0, 1], 0.5, 0.0, SCALE, 0.5, terms=money).utility == pytest.approx((0.9 - 1.5, 0.6 - 0.3))


def test_a_follow_up_is_never_ranked_below_its_quality() -> None:
    four = predicted([0.9, 0.5, 0.95, 0.2], [0.9, 0.0, 0.9, 0.0])
    assert decide(four, range(4), 0.3, 0.0, SCALE, 0.5).chosen == 1
    choice = decide(four, range(4), 0.3, 0.0, SCALE, 0.5, terms=Terms(follows=0))
    assert choice.order == (2, 0, 1, 3)
    assert choice.propensity[2] == 1.0
    assert decide(four, [1, 3], 0.3, 0.0, SCALE, 0.5, terms=Terms(follows=0)).chosen == 1


TERMS = st.builds(
    Terms,
    lambda_per_usd=st.none() | st.floats(0, 100),
    shadow_per_usd=st.floats(0, 100),
    penalty=st.none() | st.lists(st.floats(0, 1), min_size=8, max_size=8),
    floor=st.floats(0, 1),
    follows=st.none() | st.integers(0, 7),
)


@settings(deadline=None, max_examples=60)
@given(predictions(), UNIT, UNIT, TERMS)
def test_propensities_stay_exact_and_floored_whatever_is_weighed(
    prediction: Prediction, preference: float, exploration: float, terms: Terms
) -> None:
    arms, steps = len(prediction.quality), 499
    share = np.zeros(arms)
    for step in range(steps):
        choice = decide(prediction, range(arms), preference, exploration, SCALE, step / steps, terms=terms)
        share[choice.chosen] += 1 / steps
    assert share == pytest.approx(choice.propensity, abs=2.5 / steps)
    assert math.isclose(sum(choice.propensity), 1.0)
    least = max(exploration / arms, min(terms.floor, 1 / arms))
    assert all(propensity >= least - 1e-9 for propensity in choice.propensity)
    assert choice.exploration == pytest.approx(max(exploration, least * arms))
