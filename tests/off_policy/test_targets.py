from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.routing.off_policy import decisions_from_outcomes
from routers.cost_scale import CostScale
from routers.evidence.off_policy import outside_support
from routers.evidence.off_policy_targets import greedy_among, most_likely, target_probabilities
from routers.policy.decide import decide
from routers.prior import PriorRouter
from routers.protocol import Prediction
from tests.off_policy.logs import log_of
from tests.routers.worlds import world

LOG = log_of([0, 1, 2], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]], [1.0, 1.0, 1.0])


def constant(
    quality: Sequence[float], cost: Sequence[float] | None = None, arms: Sequence[str] = ("arm-0", "arm-1", "arm-2")
) -> PriorRouter:
    """A router that predicts the same for every query."""
    columns = [list(quality), [0.1] * len(quality), list(cost or [0.01] * len(quality)), [np.nan] * len(quality)]
    prediction = Prediction(*(np.array(column, dtype=np.float32) for column in columns))
    return PriorRouter(tuple(arms), "0123456789abcdef", CostScale(0.0, 0.02), prediction)


level = st.sampled_from([0.0, 0.25, 0.5, 1.0])
amount = st.sampled_from([float("nan"), 0.0, 0.005, 0.01, 0.03])


@given(st.data(), st.integers(2, 6), level)
def test_the_choice_is_the_one_that_the_policy_takes(data: st.DataObject, arms: int, preference: float) -> None:
    columns = [data.draw(st.lists(kind, min_size=arms, max_size=arms)) for kind in (level, level, amount, amount)]
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=arms, max_size=arms).filter(any)))
    prediction = Prediction(*(np.array(column, dtype=np.float32) for column in columns))
    chosen = decide(prediction, allowed, preference, 0.0, CostScale(0.0, 0.02), 0.5).chosen
    batch = Prediction(*(column[None] for column in prediction))
    assert greedy_among(batch, allowed[None], preference, CostScale(0.0, 0.02)).tolist() == [chosen]


def test_probabilities_are_the_greedy_arm_and_the_share_of_exploration() -> None:
    target = target_probabilities(constant([0.1, 0.9, 0.5]), LOG)
    np.testing.assert_array_equal(target, [[0.0, 1.0, 0.0]] * 3)
    eligible = np.array([[True, True, True], [True, False, True], [False, False, True]])
    log = replace(LOG, eligible=eligible)
    target = target_probabilities(constant([0.1, 0.9, 0.5]), log, exploration=0.3)
    np.testing.assert_allclose(target, [[0.1, 0.8, 0.1], [0.15, 0.0, 0.85], [0.0, 0.0, 1.0]])


def test_a_preference_and_a_price_of_money_weigh_cost() -> None:
    router = constant([0.6, 0.9, 0.5], [0.001, 0.02, 0.001])
    assert target_probabilities(router, LOG, 1.0).argmax(axis=1).tolist() == [1, 1, 1]
    assert target_probabilities(router, LOG, 0.2).argmax(axis=1).tolist() == [0, 0, 0]
    assert target_probabilities(router, LOG, None, usd_weight=1.0).argmax(axis=1).tolist() == [1, 1, 1]
    assert target_probabilities(router, LOG, None, usd_weight=100.0).argmax(axis=1).tolist() == [0, 0, 0]
    assert target_probabilities(router, LOG, 0.2, cost_scale=CostScale(0.0, 100.0)).argmax(axis=1).tolist() == [1, 1, 1]


def test_an_arm_that_the_log_does_not_know_takes_its_share_away() -> None:
    router = constant([0.1, 0.9, 0.95], arms=("arm-0", "arm-1", "new"))
    target = target_probabilities(router, LOG)
    assert target.sum() == 0.0
    assert outside_support(LOG, target) == 1.0
    worse = constant([0.1, 0.9, 0.2], arms=("arm-0", "arm-1", "new"))
    np.testing.assert_array_equal(target_probabilities(worse, LOG), [[0.0, 1.0, 0.0]] * 3)
    # A router of none of the eligible arms would choose none of them.
    assert target_probabilities(constant([0.5], arms=("other",)), LOG).sum() == 0.0


def test_the_log_without_its_exploration_is_its_most_likely_arm() -> None:
    np.testing.assert_array_equal(most_likely(LOG), np.eye(3))


def test_on_whole_outcomes_the_target_has_the_value_of_its_choices() -> None:
    outcomes = world(rows=200)
    log = decisions_from_outcomes(outcomes, np.full(outcomes.quality.shape, 0.2))
    router = PriorRouter.fit(outcomes)
    target = target_probabilities(router, log)
    best = int(outcomes.quality.mean(axis=0).argmax())
    assert (target * outcomes.quality).sum(axis=1).mean() == pytest.approx(outcomes.quality[:, best].mean())
