"""The choice of probes, and the router that they give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry.artifacts import Artifacts
from routers.catalogue import KIND, load_router
from routers.classic.cluster import ClusterRouter
from routers.classic.knn import KnnRouter
from routers.onboarding.onboarded import OnboardedRouter, ProbeResults, add_arm, lengthening, of_arms
from routers.onboarding.probes import SPREAD, choose_probes, expected
from routers.prior import PriorRouter
from routers.protocol import Outcomes, Prediction, Router, TrainingError
from routers.rows import subset
from tests.routers.worlds import masked, world


def without(outcomes: Outcomes, arm: int) -> Outcomes:
    return of_arms(outcomes, np.array([i for i in range(len(outcomes.arms)) if i != arm]))


def on(outcomes: Outcomes, rows: NDArray[np.intp], arm: int) -> ProbeResults:
    return ProbeResults(outcomes.quality[rows, arm], outcomes.cost_usd[rows, arm], outcomes.latency_s[rows, arm])


def taken_in(outcomes: Outcomes, arm: int, count: int = 64) -> OnboardedRouter:
    known = without(outcomes, arm)
    base = ClusterRouter.fit(known)
    rows = choose_probes(known, base, count)
    return add_arm(base, outcomes.arms[arm], known, rows, on(outcomes, rows, arm))


def test_expectations_are_those_computed_by_hand() -> None:
    """Two arms, predicted .5 and .5 everywhere; they are right together on query 0 and wrong together on query 1."""
    full = world(rows=4, arms=2)
    quality = np.array([[1, 1], [0, 0], [1, np.nan], [np.nan, np.nan]], dtype=np.float32)
    outcomes = replace(full, quality=quality)
    half = np.full(2, 0.5, dtype=np.float32)
    router = PriorRouter(
        outcomes.arms, outcomes.encoder, PriorRouter.fit(full).cost_scale, Prediction(half, half, half, half)
    )
    found = expected(outcomes, router)
    # Residuals are +-.5: variance .25, covariance of the two arms' on one query (.25 + .25) / 2 = .25: nothing is luck.
    # With n arms seen, n t / (s + (n - 1) t) = 1 for n = 1 and 2: a further arm is expected to be off as much.
    assert found.mean == pytest.approx([1.0, 0.0, 1.0, 0.5])
    assert found.spread == pytest.approx(SPREAD * np.array([0.04, 0.04, 0.04, 0.25]))
    assert found.profile == pytest.approx(np.zeros((4, 2)))


def test_an_arm_that_differs_gives_a_profile_and_luck_is_not_shared() -> None:
    full = world(rows=2, arms=2)
    outcomes = replace(full, quality=np.array([[1, 0], [0, 1]], dtype=np.float32))
    half = np.full(2, 0.5, dtype=np.float32)
    router = PriorRouter(
        outcomes.arms, outcomes.encoder, PriorRouter.fit(full).cost_scale, Prediction(half, half, half, half)
    )
    found = expected(outcomes, router)
    assert found.mean == pytest.approx([0.5, 0.5])
    assert found.profile == pytest.approx(0.4 * np.array([[0.5, -0.5], [-0.5, 0.5]]))


@pytest.mark.parametrize("outcomes", [world(), masked(world())], ids=["all answers", "one answer per query"])
def test_the_choice_does_not_depend_on_the_order_of_the_rows(outcomes: Outcomes) -> None:
    router = ClusterRouter.fit(outcomes)
    chosen = choose_probes(outcomes, router, 40, seed=3)
    order = np.random.default_rng(5).permutation(len(outcomes.query_ids))
    shuffled = subset(outcomes, order)
    again = choose_probes(shuffled, router, 40, seed=3)
    assert len(set(chosen.tolist())) == 40
    assert {outcomes.query_ids[i] for i in chosen} == {shuffled.query_ids[i] for i in again}
    assert np.array_equal(chosen, choose_probes(outcomes, router, 40, seed=3))
    assert not np.array_equal(chosen, choose_probes(outcomes, router, 40, seed=4))


def test_queries_on_which_all_arms_agree_are_rarely_asked() -> None:
    outcomes = world(rows=600)
    agreed = np.arange(600) < 300
    quality = np.where(agreed[:, None], 1.0, outcomes.quality).astype(np.float32)
    outcomes = replace(outcomes, quality=quality)
    chosen = choose_probes(outcomes, PriorRouter.fit(outcomes), 60)
    assert agreed[chosen].sum() < 25
    assert agreed[chosen].sum() > 5


def test_every_topic_is_asked() -> None:
    outcomes = world(rows=800)
    chosen = choose_probes(outcomes, ClusterRouter.fit(outcomes), 40)
    topics = outcomes.vectors[chosen][:, :4].argmax(axis=1)
    assert np.bincount(topics, minlength=4).min() >= 5


def test_only_queries_that_may_be_asked_are_chosen() -> None:
    outcomes = world()
    among = np.zeros(400, dtype=bool)
    among[7:30] = True
    router = ClusterRouter.fit(outcomes)
    assert choose_probes(outcomes, router, 64, among=among).tolist() == list(range(7, 30))
    assert set(choose_probes(outcomes, router, 10, among=among).tolist()) <= set(range(7, 30))
    with pytest.raises(TrainingError, match="no query can be asked"):
        choose_probes(outcomes, router, 64, among=np.zeros(400, dtype=bool))
    with pytest.raises(TrainingError, match="at least one probe"):
        choose_probes(outcomes, router, 0)
    with pytest.raises(TrainingError, match="encode them with the router's encoder"):
        choose_probes(replace(outcomes, encoder="f" * 16), router, 10)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 120), st.integers(1, 80), st.integers(1, 5))
def test_any_pool_gives_so_many_different_probes(seed: int, rows: int, count: int, arms: int) -> None:
    outcomes = world(rows=rows, arms=arms, seed=seed)
    chosen = choose_probes(outcomes, PriorRouter.fit(outcomes), count, seed)
    assert len(set(chosen.tolist())) == min(count, rows) == len(chosen)


def test_the_new_arm_is_chosen_where_it_is_good() -> None:
    """Arm 1 is good at topic 1, like no other arm; 64 answers are enough to send it most of these queries."""
    outcomes = world(rows=1200)
    router = taken_in(outcomes, 1)
    assert router.arms == ("arm-0", "arm-2", "arm-3", "arm-4", "arm-1")
    fresh = world(rows=400, seed=9)
    predicted = router.predict_batch(fresh.vectors)
    topics = fresh.vectors[:, :4].argmax(axis=1)
    chosen = predicted.quality.argmax(axis=1) == 4
    assert chosen[topics == 1].mean() > 0.8
    assert chosen[topics != 1].mean() < 0.1
    assert np.all((predicted.quality_std > 0) & np.isfinite(predicted.quality_std))


def test_the_known_arms_are_predicted_as_before() -> None:
    outcomes = world()
    router = taken_in(outcomes, 2)
    before = router.base.predict_batch(outcomes.vectors[:9])
    after = router.predict_batch(outcomes.vectors[:9])
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old, new[:, :4], equal_nan=True)
    one = router.predict(outcomes.vectors[3])
    assert np.allclose(one.quality, after.quality[3], atol=1e-6)


def test_more_probes_make_it_surer_of_a_twin_of_a_known_arm() -> None:
    outcomes = world(rows=1200)
    router = ClusterRouter.fit(outcomes)
    stds, errors = [], []
    for count in (16, 64, 256):
        rows = choose_probes(outcomes, router, count)
        found = add_arm(router, "twin", outcomes, rows, on(outcomes, rows, 2)).predict_batch(outcomes.vectors)
        stds.append(float(found.quality_std[:, 5].mean()))
        errors.append(float(np.abs(found.quality[:, 5] - found.quality[:, 2]).mean()))
    assert stds == sorted(stds, reverse=True)
    assert errors[2] < errors[0] < 0.08


def test_a_failed_call_is_missing_and_not_a_wrong_answer() -> None:
    outcomes = world(rows=800)
    known = without(outcomes, 4)
    base = ClusterRouter.fit(known)
    rows = choose_probes(known, base, 100)
    all_right = np.ones(100)
    half = np.where(np.arange(100) % 2 == 0, np.nan, 1.0)
    nothing = np.full(100, np.nan)
    sure = add_arm(base, "new", known, rows, ProbeResults(all_right, nothing, nothing)).predict_batch(known.vectors)
    missing = add_arm(base, "new", known, rows, ProbeResults(half, nothing, nothing)).predict_batch(known.vectors)
    wrong = add_arm(base, "new", known, rows, ProbeResults(np.nan_to_num(half), nothing, nothing))
    assert missing.quality[:, 4].mean() > wrong.predict_batch(known.vectors).quality[:, 4].mean() + 0.15
    assert missing.quality[:, 4].mean() < sure.quality[:, 4].mean()
    assert np.all(np.isnan(sure.cost_usd[:, 4]))
    assert np.all(np.isnan(sure.latency_s[:, 4]))


def test_cost_follows_what_the_known_arms_cost_there() -> None:
    outcomes = world(rows=1500)
    predicted = taken_in(outcomes, 4).predict_batch(np.eye(4, 32, dtype=np.float32)).cost_usd
    assert predicted[3, 4] / predicted[0, 4] == pytest.approx(2.0, rel=0.2)
    assert predicted[:3, 4] == pytest.approx(np.full(3, 5e-3), rel=0.15)
    assert lengthening(np.array([[2.0, 4.0]], dtype=np.float32), np.array([1.0, 1.0], dtype=np.float32)).tolist() == [
        3.0
    ]
    unknown = np.full(2, np.nan, dtype=np.float32)
    assert lengthening(np.array([[np.nan, np.nan]], dtype=np.float32), unknown).tolist() == [1.0]


@pytest.mark.parametrize("kind", [ClusterRouter, KnnRouter, PriorRouter])
def test_it_stores_and_loads_over_any_base(kind: type[Router], tmp_path: Path) -> None:
    outcomes = world(rows=500)
    known = without(without(outcomes, 4), 3)
    base = kind.fit(known)
    rows = choose_probes(known, base, 30)
    router = add_arm(base, "arm-3", known, rows, on(outcomes, rows, 3))
    router = add_arm(router, "arm-4", known, rows, on(outcomes, rows, 4))
    assert router.arms == outcomes.arms
    store = Artifacts(tmp_path)
    version = store.publish(KIND, router.name, router.arrays(), router.meta()).version
    loaded = load_router(store.load(KIND, version), outcomes.encoder)
    for old, new in zip(router.predict_batch(outcomes.vectors), loaded.predict_batch(outcomes.vectors), strict=True):
        assert np.array_equal(old, new, equal_nan=True)
    other = add_arm(
        add_arm(base, "arm-4", known, rows, on(outcomes, rows, 4)), "arm-3", known, rows, on(outcomes, rows, 3)
    )
    assert np.array_equal(
        router.predict_batch(outcomes.vectors).quality,
        other.predict_batch(outcomes.vectors).quality[:, [0, 1, 2, 4, 3]],
    )


def test_fitting_takes_in_the_arms_with_few_answers() -> None:
    outcomes = world(rows=600)
    quality = outcomes.quality.copy()
    quality[30:, 1] = np.nan
    router = OnboardedRouter.fit(replace(outcomes, quality=quality))
    assert router.arms == outcomes.arms
    assert [arm.arm for arm in router.new] == ["arm-1"]
    assert router.base.arms == ("arm-0", "arm-2", "arm-3", "arm-4")
    assert OnboardedRouter.fit(outcomes).new == ()
    with pytest.raises(TrainingError, match="setting base must be one of"):
        OnboardedRouter.fit(outcomes, base="onboarded")


def test_bad_input_is_refused_with_what_to_do() -> None:
    outcomes = world()
    base = ClusterRouter.fit(outcomes)
    rows = np.arange(20)
    nothing = np.full(20, np.nan)
    with pytest.raises(TrainingError, match="knows arm-1 already"):
        add_arm(base, "arm-1", outcomes, rows, ProbeResults(np.ones(20), nothing, nothing))
    few = np.where(np.arange(20) < 7, 1.0, np.nan)
    with pytest.raises(TrainingError, match="at least 8 are needed"):
        add_arm(base, "new", outcomes, rows, ProbeResults(few, nothing, nothing))
    with pytest.raises(TrainingError, match=r"must lie in \[0, 1\]"):
        add_arm(base, "new", outcomes, rows, ProbeResults(np.full(20, 2.0), nothing, nothing))
    with pytest.raises(TrainingError, match="one result each"):
        add_arm(base, "new", outcomes, rows, ProbeResults(np.ones(3), nothing, nothing))
    with pytest.raises(TrainingError, match="encoder"):
        add_arm(base, "new", replace(outcomes, encoder="f" * 16), rows, ProbeResults(np.ones(20), nothing, nothing))
