from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.routing.scenario_rewards import SCENARIOS, RewardScale
from routers.protocol import Outcomes
from routers.rows import subset


def pool() -> Outcomes:
    """Two tasks of two queries, two arms. Task a: quality 0 to 1, cost 1 to 3; task b: always .5, cost 2 to 6."""
    return Outcomes(
        vectors=np.eye(4, dtype=np.float32),
        arms=("small", "large"),
        quality=np.array([[0.0, 1.0], [0.5, 1.0], [0.5, 0.5], [0.5, 0.5]], dtype=np.float32),
        cost_usd=np.array([[1.0, 3.0], [1.0, 2.0], [2.0, 6.0], [2.0, 4.0]], dtype=np.float32),
        latency_s=np.full((4, 2), np.nan, dtype=np.float32),
        propensity=np.ones((4, 2), dtype=np.float32),
        encoder="0123456789abcdef",
        query_ids=("1", "2", "3", "4"),
        tasks=("a", "a", "b", "b"),
    )


def test_rewards_by_hand() -> None:
    outcomes = pool()
    scale = RewardScale.learned(outcomes)
    assert scale.rewards(outcomes, *SCENARIOS["performance"]).tolist() == [[0, 1], [0.5, 1], [0, 0], [0, 0]]
    balanced = scale.rewards(outcomes, *SCENARIOS["balanced"])
    assert balanced.ravel().tolist() == pytest.approx([0, 0, 0.25, 0.25, 0, -0.5, 0, -0.25])
    cost_first = scale.rewards(outcomes, *SCENARIOS["cost"])
    assert cost_first.ravel().tolist() == pytest.approx([0, -0.6, 0.1, -0.2, 0, -0.8, 0, -0.4])


def test_where_all_are_equal_the_normalised_figure_is_zero_and_not_nan() -> None:
    outcomes = replace(pool(), quality=np.full((4, 2), 0.7, dtype=np.float32))
    assert not RewardScale.learned(outcomes).rewards(outcomes, 1.0, 0.0).any()


def test_the_normaliser_comes_from_training_alone() -> None:
    outcomes = pool()
    training, test = subset(outcomes, np.array([1])), subset(outcomes, np.array([0]))
    # Training knows of task a only costs 1 to 2 and qualities .5 to 1; the test's 3 and 0 lie beyond.
    found = RewardScale.learned(training).rewards(test, 0.5, 0.5)
    assert found.ravel().tolist() == pytest.approx([-0.5, -0.5])


def test_a_task_that_training_did_not_hold_takes_the_range_of_all() -> None:
    outcomes = pool()
    scale = RewardScale.learned(subset(outcomes, np.array([0, 1])))
    assert scale.rewards(subset(outcomes, np.array([2])), 1.0, 0.0).tolist() == [[0.5, 0.5]]
    assert scale.rewards(subset(outcomes, np.array([2])), 0.0, 1.0).ravel().tolist() == pytest.approx([-0.5, -2.5])


def test_an_unknown_cost_gives_no_reward_that_weighs_cost() -> None:
    outcomes = replace(pool(), cost_usd=np.full((4, 2), np.nan, dtype=np.float32))
    scale = RewardScale.learned(outcomes)
    assert np.all(np.isfinite(scale.rewards(outcomes, 1.0, 0.0)))
    assert np.all(np.isnan(scale.rewards(outcomes, 0.5, 0.5)))
