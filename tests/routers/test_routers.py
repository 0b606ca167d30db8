"""What holds of every router, and what each of them promises beyond it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.features import FEATURE_SET, NAMES, TAG
from registry.artifacts import ArtifactError, Artifacts
from routers.catalogue import KIND, ROUTERS, load_router
from routers.classic import knn
from routers.classic.cluster import ClusterRouter
from routers.classic.knn import KnnRouter
from routers.prior import PriorRouter
from routers.protocol import Outcomes, Prediction, Router, TrainingError
from routers.rows import subset
from tests.routers.worlds import TOPICS, masked, skills, topic_vectors, world

EVERY = pytest.mark.parametrize("name", list(ROUTERS))
VALUES = [name for name, router in ROUTERS.items() if not getattr(router, "fits_preference", False)]
"""Routers that learn values from masked logs; the published baselines learn labels, and from whole rows alone."""
MASKED = pytest.mark.parametrize("name", VALUES)
LEARNING = pytest.mark.parametrize("name", ["cluster", "ensemble", "knn"])


def equal(first: Prediction, second: Prediction, tolerance: float = 0.0) -> bool:
    return all(np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True) for a, b in zip(first, second, strict=True))


def accuracy(router: Router, seed: int = 99) -> float:
    """Expected quality of the arms that the router chooses, over fresh queries."""
    topics = np.random.default_rng(seed).integers(TOPICS, size=300)
    chosen = router.predict_batch(topic_vectors(topics, seed)).quality.argmax(axis=1)
    return float(skills(len(router.arms))[topics, chosen].mean())


@EVERY
def test_one_query_and_a_batch_predict_the_same_float32_arrays(name: str) -> None:
    outcomes = world()
    router = ROUTERS[name].fit(outcomes)
    batch = router.predict_batch(outcomes.vectors[:7])
    for row in range(7):
        one = router.predict(outcomes.vectors[row])
        assert all(column.dtype == np.float32 and column.shape == (5,) for column in one)
        assert equal(one, Prediction(*(column[row] for column in batch)), 1e-5)
    assert batch.quality.min() >= 0
    assert batch.quality.max() <= 1
    assert batch.quality_std.min() > 0
    assert np.all(np.isnan(batch.latency_s))
    assert np.all(batch.cost_usd > 0)
    assert router.predict_batch(outcomes.vectors[:0]).quality.shape == (0, 5)


@EVERY
def test_what_is_stored_and_loaded_predicts_the_same(name: str, tmp_path: Path) -> None:
    outcomes = world()
    router = ROUTERS[name].fit(outcomes)
    store = Artifacts(tmp_path)
    version = store.publish(KIND, name, router.arrays(), router.meta()).version
    loaded = load_router(store.load(KIND, version), outcomes.encoder)
    assert (loaded.arms, loaded.encoder, loaded.dim) == (router.arms, router.encoder, router.dim)
    assert loaded.cost_scale == router.cost_scale
    assert equal(loaded.predict_batch(outcomes.vectors), router.predict_batch(outcomes.vectors))
    assert store.publish(KIND, name, loaded.arrays(), loaded.meta()).version == version


@EVERY
def test_a_router_whose_meta_names_no_feature_set_reads_no_feature_blocks(name: str) -> None:
    bare = world()
    blocks = np.random.default_rng(5).uniform(size=(len(bare.query_ids), len(NAMES))).astype(np.float32)
    blocks[:, TAG] = 0.0
    for outcomes in (bare, replace(bare, features=blocks, feature_set=FEATURE_SET)):
        router = ROUTERS[name].fit(outcomes)
        if router.meta().get("feature_set") is None:
            assert equal(router.predict_batch(bare.vectors, blocks), router.predict_batch(bare.vectors))
        else:
            assert outcomes.features is not None


@MASKED
def test_the_order_of_the_rows_does_not_matter_and_the_seed_decides_all(name: str) -> None:
    outcomes = masked(world())
    shuffled = subset(outcomes, np.random.default_rng(1).permutation(400))
    first, second = ROUTERS[name].fit(outcomes, seed=3), ROUTERS[name].fit(shuffled, seed=3)
    assert {key: value.tobytes() for key, value in first.arrays().items()} == {
        key: value.tobytes() for key, value in second.arrays().items()
    }
    assert first.meta() == second.meta()


@LEARNING
def test_it_learns_which_arm_is_good_at_what(name: str) -> None:
    router = ROUTERS[name].fit(world())
    assert accuracy(router) > 0.88
    assert accuracy(PriorRouter.fit(world())) < 0.6


@LEARNING
def test_it_learns_from_one_answer_per_query(name: str) -> None:
    assert accuracy(ROUTERS[name].fit(masked(world(rows=2000)))) > 0.85


def test_weights_undo_a_log_that_shows_the_favourite_on_what_it_is_good_at() -> None:
    """The log asked arm 0 nearly only on its own topic: its plain mean is high, its true overall mean 0.34."""
    full = world(rows=6000)
    rng = np.random.default_rng(0)
    topics = full.vectors[:, :TOPICS].argmax(axis=1)
    propensity = np.where(topics == 0, 0.9, 0.1)
    asked = rng.random(6000) < propensity
    quality, propensities = np.full_like(full.quality, np.nan), np.full_like(full.quality, np.nan)
    rows = np.arange(6000)
    other = rng.integers(1, 5, size=6000)
    arm = np.where(asked, 0, other)
    quality[rows, arm] = full.quality[rows, arm]
    propensities[rows, arm] = np.where(asked, propensity, (1 - propensity) / 4)
    logged = replace(full, quality=quality, propensity=propensities)
    plain = np.nanmean(quality[:, 0])
    learned = PriorRouter.fit(logged).predict(full.vectors[0]).quality[0]
    truth = skills(5)[:, 0].mean()
    assert plain > truth + 0.2
    assert learned == pytest.approx(truth, abs=0.05)


@MASKED
def test_the_empty_query_predicts_the_overall_means(name: str) -> None:
    outcomes = world(rows=1000)
    router = ROUTERS[name].fit(outcomes)
    typical = router.predict(np.zeros(32, dtype=np.float32))
    assert typical.quality == pytest.approx(outcomes.quality.mean(axis=0), abs=0.03)
    assert typical.cost_usd == pytest.approx(outcomes.cost_usd.mean(axis=0), rel=0.05)


@LEARNING
def test_costs_follow_the_query_and_unknown_ones_stay_unknown(name: str) -> None:
    outcomes = world(rows=1000)
    cost = outcomes.cost_usd.copy()
    cost[:, 4] = np.nan
    router = ROUTERS[name].fit(replace(outcomes, cost_usd=cost))
    axes = np.eye(TOPICS, 32, dtype=np.float32)
    predicted = router.predict_batch(axes).cost_usd
    assert np.all(np.isnan(predicted[:, 4]))
    assert predicted[3, 0] / predicted[0, 0] == pytest.approx(2.0, rel=0.35)


@MASKED
def test_an_arm_seen_once_is_drawn_to_the_pool_and_uncertain(name: str) -> None:
    outcomes = world()
    quality, propensity = outcomes.quality.copy(), outcomes.propensity.copy()
    quality[1:, 0] = np.nan
    propensity[1:, 0] = np.nan
    quality[0, 0] = 1.0
    predicted = (
        ROUTERS[name].fit(replace(outcomes, quality=quality, propensity=propensity)).predict(outcomes.vectors[0])
    )
    assert predicted.quality[0] < 0.75
    assert predicted.quality_std[0] > predicted.quality_std[4]


def test_without_anything_to_gain_one_cluster_is_the_best_single_arm() -> None:
    rng = np.random.default_rng(0)
    outcomes = world()
    dominant = (rng.random((400, 5)) < np.array([0.9, 0.3, 0.3, 0.3, 0.3])).astype(np.float32)
    router = ClusterRouter.fit(replace(outcomes, quality=dominant))
    assert np.all(router.predict_batch(outcomes.vectors).quality.argmax(axis=1) == 0)
    one = ClusterRouter.fit(outcomes, clusters=1, sharpness=20.0).predict_batch(outcomes.vectors)
    assert np.allclose(one.quality, PriorRouter.fit(outcomes).predict_batch(outcomes.vectors).quality, atol=0.05)
    assert np.ptp(one.quality, axis=0).max() == 0


def test_above_the_flat_limit_a_graph_finds_nearly_the_same_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = world(rows=600)
    flat = KnnRouter.fit(outcomes, neighbours=20)
    monkeypatch.setattr(knn, "FLAT_ROWS", 500)
    graph = KnnRouter.fit(outcomes, neighbours=20)
    assert "graph" in graph.arrays()
    assert "graph" not in flat.arrays()
    difference = flat.predict_batch(outcomes.vectors).quality - graph.predict_batch(outcomes.vectors).quality
    assert np.abs(difference).mean() < 0.01
    again = KnnRouter.from_arrays(graph.arrays(), graph.meta())
    assert equal(again.predict(outcomes.vectors[3]), graph.predict(outcomes.vectors[3]))


def test_a_pool_smaller_than_k_is_no_error() -> None:
    few = subset(world(), np.arange(12))
    assert np.all(np.isfinite(KnnRouter.fit(few).predict(few.vectors[0]).quality))
    assert np.all(np.isfinite(ClusterRouter.fit(few).predict(few.vectors[0]).quality))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quality": np.full((400, 5), 1.5, dtype=np.float32)}, "quality must lie in"),
        ({"quality": np.full((400, 5), np.nan, dtype=np.float32)}, "no cell has a quality"),
        ({"quality": np.zeros((3, 5), dtype=np.float32)}, r"quality must have shape \[400, 5\]"),
        ({"cost_usd": np.full((400, 5), -1.0, dtype=np.float32)}, "cost_usd must lie in"),
        ({"propensity": np.zeros((400, 5), dtype=np.float32)}, "propensity must lie in"),
        ({"propensity": np.full((400, 5), np.nan, dtype=np.float32)}, "no propensity"),
        ({"vectors": np.full((400, 32), np.nan, dtype=np.float32)}, "unit norm"),
        ({"vectors": np.ones((400, 32), dtype=np.float32)}, "unit norm"),
        ({"arms": ("a", "a", "b", "c", "d")}, "an arm twice"),
        ({"query_ids": ("same",) * 400}, "query id twice"),
        ({"query_ids": ()}, "0 queries"),
    ],
)
@EVERY
def test_outcomes_that_break_their_contract_are_refused(name: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        ROUTERS[name].fit(replace(world(), **change))  # type: ignore[arg-type]


@EVERY
def test_an_unknown_setting_is_refused(name: str) -> None:
    with pytest.raises(TrainingError, match="setting"):
        ROUTERS[name].fit(world(), depth=3)


def test_an_artifact_that_does_not_fit_is_refused_with_what_to_do(tmp_path: Path) -> None:
    router, store = PriorRouter.fit(world()), Artifacts(tmp_path)
    arrays, meta = router.arrays(), router.meta()
    other_kind = store.publish("templates", "prior", arrays, meta).version
    unknown = store.publish(KIND, "prior", arrays, meta | {"router": "oracle"}).version
    lacking = store.publish(KIND, "prior", {"quality": arrays["quality"]}, meta).version
    fine = store.publish(KIND, "prior", arrays, meta).version
    older = store.publish(KIND, "prior", arrays, meta | {"feature_set": "fedcba9876543210"}).version
    with pytest.raises(ArtifactError, match=rf"{older} .*blocks fedcba9876543210, this program computes .*; train a"):
        load_router(store.load(KIND, older), router.encoder)
    with pytest.raises(ArtifactError, match="is a templates, expected a router"):
        load_router(store.load("templates", other_kind), router.encoder)
    with pytest.raises(ArtifactError, match=r"this program has .*cluster, knn, prior"):
        load_router(store.load(KIND, unknown), router.encoder)
    with pytest.raises(ArtifactError, match="train it again"):
        load_router(store.load(KIND, lacking), router.encoder)
    with pytest.raises(ArtifactError, match="train a router with this encoder"):
        load_router(store.load(KIND, fine), "ffffffffffffffff")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 6), st.floats(0.0, 0.9))
def test_any_sparse_outcomes_give_finite_predictions_in_range(seed: int, rows: int, arms: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    full = world(rows=rows, arms=arms, seed=seed)
    hidden = rng.random((rows, arms)) < missing
    hidden[0, 0] = False
    outcomes: Outcomes = replace(
        full,
        quality=np.where(hidden, np.nan, rng.random((rows, arms))).astype(np.float32),
        propensity=np.where(hidden, np.nan, rng.uniform(1e-6, 1.0, (rows, arms))).astype(np.float32),
        cost_usd=np.where(rng.random((rows, arms)) < missing, np.nan, full.cost_usd).astype(np.float32),
    )
    for name in VALUES:
        predicted = ROUTERS[name].fit(outcomes, seed=seed).predict_batch(full.vectors)
        assert np.all((predicted.quality >= 0) & (predicted.quality <= 1))
        assert np.all(predicted.quality_std > 0)
        assert not np.any(np.isinf(predicted.cost_usd))
