from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.routing.off_policy import decisions_from_outcomes
from routers.classic.cluster import ClusterRouter
from routers.evidence.off_policy import LoggedDecisions, OffPolicyError
from routers.evidence.off_policy_rewards import Moments, as_outcomes, cross_fitted, drawn_toward, fold_of, principal
from tests.off_policy.logs import log_of
from tests.routers.worlds import skills, world


def uniform_log(rows: int = 3000, seed: int = 0) -> LoggedDecisions:
    outcomes = world(rows=rows, seed=seed)
    return decisions_from_outcomes(outcomes, np.full(outcomes.quality.shape, 0.2), seed)


def test_no_decision_is_predicted_by_a_model_that_saw_its_query() -> None:
    log = uniform_log(400)
    log = replace(log, ids=tuple(f"query-{i % 300}" for i in range(400)), vectors=log.vectors[np.arange(400) % 300])
    before, fold = cross_fitted(log), fold_of(log)
    assert fold[0] == fold[300]
    other = log.reward.copy()
    other[fold == fold[0]] = 1.0 - other[fold == fold[0]]
    after = cross_fitted(replace(log, reward=other))
    same = np.abs(before - after).max(axis=1) < 1e-9
    assert same[fold == fold[0]].all()
    assert not same[fold != fold[0]].any()


@pytest.mark.parametrize("router", [None, ClusterRouter])
def test_predictions_find_what_each_arm_is_good_at(router: type[ClusterRouter] | None) -> None:
    log = uniform_log()
    predicted = cross_fitted(log, router=router)
    topic = log.vectors[:, :4].argmax(axis=1)
    assert predicted.shape == (3000, 5)
    assert np.abs(predicted - skills(5)[topic]).mean() < 0.12
    assert predicted.min() >= 0.0
    assert predicted.max() <= 1.0


def test_predictions_depend_neither_on_the_order_of_decisions_nor_on_the_clock() -> None:
    log = uniform_log(500)
    order = np.random.default_rng(5).permutation(500)
    np.testing.assert_allclose(cross_fitted(log.rows(order)), cross_fitted(log)[order], atol=1e-3)


def test_costs_are_predicted_too_and_not_by_a_router() -> None:
    log = uniform_log()
    predicted = cross_fitted(log, log.cost_usd)
    assert predicted.mean(axis=0) == pytest.approx([0.00125 * k for k in range(1, 6)], rel=0.1)
    with pytest.raises(OffPolicyError, match="a router predicts rewards"):
        cross_fitted(log, log.cost_usd, ClusterRouter)


def test_an_arm_that_was_never_drawn_is_predicted_like_all_arms_together() -> None:
    log = uniform_log()
    seen = log.rows(log.chosen != 2)
    predicted = cross_fitted(seen)
    assert predicted[:, 2].mean() == pytest.approx(seen.reward.mean(), abs=0.05)


def test_one_query_is_too_few_to_leave_some_out() -> None:
    log = log_of([0, 1], [[0.5, 0.5]] * 2, [1.0, 0.0], ids=("a", "a"))
    with pytest.raises(OffPolicyError, match="1 different queries are too few"):
        cross_fitted(log)


def test_ridge_moments_add_up_and_shrink_toward_where_they_start() -> None:
    rng = np.random.default_rng(0)
    x, y = np.hstack([rng.standard_normal((2000, 3)), np.ones((2000, 1))]), rng.standard_normal(2000)
    y += x @ np.array([1.0, -2.0, 0.0, 0.5])
    whole, half = Moments.of(x, y), Moments.of(x[:700], y[:700])
    rest = whole - half
    np.testing.assert_allclose(rest.gram, Moments.of(x[700:], y[700:]).gram)
    assert rest.count == 1300
    found = drawn_toward(whole, np.zeros(4))
    assert found == pytest.approx([1.0, -2.0, 0.0, 0.5], abs=0.1)
    few = Moments.of(x[:1], y[:1])
    start = np.array([9.0, 9.0, 9.0, 9.0])
    assert np.linalg.norm(drawn_toward(few, start) - start) < np.linalg.norm(drawn_toward(whole, start) - start)


def test_principal_components_keep_distances_and_are_few() -> None:
    vectors = world(rows=200).vectors
    kept = principal(vectors, 4)
    assert kept.shape == (200, 4)
    assert principal(vectors).shape == (200, 32)
    np.testing.assert_allclose(principal(vectors) @ principal(vectors).T, _centred_products(vectors), atol=1e-5)


def _centred_products(
    vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    centred = vectors - vectors.mean(axis=0)
    return np.asarray(centred @ centred.T)


def test_repeats_become_one_row_of_means() -> None:
    log = log_of([0, 0, 1], [[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]], [1.0, 0.0, 1.0], ids=("a", "a", "b"))
    outcomes = as_outcomes(log)
    assert outcomes.query_ids == ("a", "b")
    np.testing.assert_array_equal(outcomes.quality, [[0.5, np.nan], [np.nan, 1.0]])
    np.testing.assert_array_equal(outcomes.propensity, [[0.375, np.nan], [np.nan, 0.5]])
    assert np.isnan(outcomes.cost_usd).all()
