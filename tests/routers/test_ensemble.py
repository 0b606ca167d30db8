"""What the ensemble promises beyond every router: it uses the form, knows strangers, and never gambles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from encoders.features import FEATURE_SET, NAMES, TAG
from routers.ensemble.forest import Forest, node_sums, node_values, walker
from routers.ensemble.margin import chosen_edge, chosen_margin, gained, guarded
from routers.ensemble.novelty import Novelty
from routers.ensemble.router import EnsembleRouter
from routers.ensemble.tags import Tags
from routers.protocol import F32, Outcomes, TrainingError
from tests.routers.worlds import world

STUMP = Forest(
    feature=np.array([1, 0, 0], dtype=np.intp),
    threshold=np.array([0.5, 0.0, 0.0], dtype=np.float32),
    child=np.array([1, 2, 1, 1, 2, 2], dtype=np.intp),
    roots=np.array([0], dtype=np.intp),
    depth=1,
)
"""One tree that asks whether input 1 is greater than a half: no leads to node 1, yes to node 2."""


def with_form(outcomes: Outcomes, seed: int = 0) -> tuple[Outcomes, F32]:
    """The world with arms whose quality hangs on one cue of the form alone; and the features."""
    rng = np.random.default_rng(seed)
    n, m = outcomes.quality.shape
    features = rng.standard_normal((n, len(NAMES))).astype(np.float32)
    features[:, TAG] = 0
    long = features[:, 0] > 0
    truth = np.full((n, m), 0.3)
    truth[long, 0], truth[~long, 1] = 0.9, 0.9
    quality = (rng.random((n, m)) < truth).astype(np.float32)
    return replace(outcomes, quality=quality, features=features, feature_set=FEATURE_SET), features


def test_a_query_goes_left_or_right_alone_and_in_a_batch() -> None:
    rows = np.array([[9, 0.4], [0, 0.6], [0, 0.5]], dtype=np.float32)
    assert STUMP.leaves_batch(rows)[:, 0].tolist() == [1, 2, 1]
    assert [walker(STUMP)(row)[0] for row in rows] == [1, 2, 1]


def test_node_values_are_shrunk_toward_the_parent_by_hand() -> None:
    """Two arms; in leaf 1 four observations of arm 0 at 1.0 and none of arm 1; in leaf 2 none of either."""
    leaves = np.ones((4, 1), dtype=np.intp)
    values, weights = np.tile([1.0, 0.0], (4, 1)), np.tile([1.0, 0.0], (4, 1))
    sums = node_sums(STUMP, leaves, values, weights, None)
    assert sums.weight.tolist() == [[4, 0], [4, 0], [0, 0]]
    told = node_values(STUMP, sums, np.array([0.5, 0.5]), common=4.0, own=4.0)
    shared = 2.0 / (4.0 + 4.0)
    assert told[1] == pytest.approx([0.5 + shared + (2.0 - shared * 4.0) / 8.0, 0.5 + shared])
    assert told[2] == pytest.approx([0.5, 0.5])


def test_the_margin_reduces_an_advantage_and_leaves_the_rest() -> None:
    quality = np.array([0.5, 0.58, 0.52, 0.3], dtype=np.float32)
    assert guarded(quality, 0, 0.0) == pytest.approx(quality)
    assert guarded(quality, 0, 0.05) == pytest.approx([0.5, 0.53, 0.4999, 0.3])
    assert guarded(quality, 0, np.inf) == pytest.approx([0.5, 0.4999, 0.4999, 0.3])
    batch = guarded(np.stack([quality, quality]), 0, np.array([[0.0], [np.inf]], dtype=np.float32))
    assert batch[0] == pytest.approx(quality)
    assert batch[1].argmax() == 0


def test_a_margin_is_chosen_by_what_the_choices_were_worth() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    ahead = rng.uniform(-0.1, 0.1, n)
    predicted = np.stack([np.full(n, 0.5), 0.5 + ahead], axis=1)
    ones = np.ones((n, 2))
    true = np.stack([np.full(n, 0.5), 0.5 + ahead], axis=1)
    assert chosen_margin(predicted, true, ones, 0) == 0.0
    only_far = np.stack([np.full(n, 0.5), np.where(ahead > 0.05, 0.6, 0.3)], axis=1)
    assert chosen_margin(predicted, only_far, ones, 0) == 0.05
    assert chosen_margin(predicted, 1.0 - true, ones, 0) == np.inf
    assert chosen_margin(predicted[:0], true[:0], ones[:0], 0) == np.inf


def test_the_edge_is_below_the_queries_on_which_something_was_gained() -> None:
    nearness = np.linspace(0.0, 1.0, 1000)
    gains = np.where(nearness < 0.25, -0.1, 0.1)
    assert chosen_edge(gains, nearness, least=0.02) == pytest.approx(0.5)
    assert chosen_edge(np.where(nearness < 0.25, 0.0, 0.1), nearness, least=0.02) == pytest.approx(0.2)
    assert chosen_edge(np.abs(gains), nearness, least=0.02) == 0.02
    assert chosen_edge(-np.abs(gains), nearness, least=0.9) == 0.9
    assert chosen_edge(gains[:50], nearness[:50], least=0.02) == 0.02


def test_a_gain_is_doubly_robust_by_hand() -> None:
    """Arm 1 is predicted best of all three queries; observed were arm 1 (drawn half of the time), arm 0, and both."""
    unseen = np.array([[0.5, 0.7], [0.5, 0.7], [0.5, 0.7]])
    values = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    inverse = np.array([[0.0, 2.0], [2.0, 0.0], [1.0, 1.0]])
    assert gained(unseen, values, inverse, 0, 0.0) == pytest.approx([1.3 - 0.5, 0.7 - 1.5, -1.0])
    assert gained(unseen, values, inverse, 0, 0.3) == pytest.approx([0.0, 0.0, 0.0])


def test_below_the_edge_the_best_single_arm_is_chosen_and_the_rest_is_as_it_was() -> None:
    outcomes, features = with_form(world(rows=1500))
    router = EnsembleRouter.fit(outcomes, trees=20)
    near = router.novelty.nearest(router.inputs.many(outcomes.vectors, features))
    edge = float(np.median(near))
    cautious = EnsembleRouter.from_arrays(router.arrays(), router.meta())
    assert cautious.trust == router.trust
    parts = (router.inputs, router.forest, router.table, router.overall, router.spread, router.single, router.novelty)
    trust = router.trust._replace(edge=edge)
    cautious = EnsembleRouter(router.arms, router.encoder, router.cost_scale, *parts, trust, router.tags)
    told, before = (made.predict_batch(outcomes.vectors, features) for made in (cautious, router))
    assert np.all(told.quality[near < edge].argmax(axis=1) == router.single)
    assert told.quality[near >= edge] == pytest.approx(before.quality[near >= edge])
    assert told.quality_std == pytest.approx(before.quality_std)
    far = int(np.argmin(np.where(near < router.novelty.least, np.inf, near)))
    assert cautious.predict(outcomes.vectors[far], features[far]).quality.argmax() == router.single


def test_about_one_in_twenty_of_fresh_queries_and_all_strangers_are_novel() -> None:
    rng = np.random.default_rng(0)

    def near(axis: int, count: int) -> F32:
        rows = 0.3 * rng.standard_normal((count, 20))
        rows[:, axis * 4 : axis * 4 + 4] += 5.0
        return rows.astype(np.float32)

    novelty = Novelty.learned(np.concatenate([near(0, 500), near(1, 500)])[rng.permutation(1000)], 5, seed=0)
    assert novelty.novel(np.concatenate([near(0, 500), near(1, 500)])).mean() == pytest.approx(0.05, abs=0.04)
    assert novelty.novel(near(4, 200)).mean() > 0.95


def test_it_learns_from_the_form_where_the_vector_says_nothing() -> None:
    outcomes, _ = with_form(world(rows=1500))
    router = EnsembleRouter.fit(outcomes, trees=20)
    fresh, features = with_form(world(rows=400, seed=7), seed=8)
    chosen = router.predict_batch(fresh.vectors, features).quality.argmax(axis=1)
    assert np.mean(chosen == np.where(features[:, 0] > 0, 0, 1)) > 0.85
    one = router.predict(fresh.vectors[0], features[0])
    assert one.quality == pytest.approx(router.predict_batch(fresh.vectors[:1], features[:1]).quality[0], abs=1e-5)


def test_without_the_block_it_falls_back_to_typical_queries() -> None:
    outcomes, _ = with_form(world(rows=800))
    router = EnsembleRouter.fit(outcomes, trees=10)
    told = router.predict_batch(outcomes.vectors[:50])
    assert np.all(np.isfinite(told.quality))
    assert router.meta()["feature_set"] == FEATURE_SET
    assert EnsembleRouter.fit(world(), trees=4).meta()["feature_set"] is None


def test_where_one_arm_is_best_everywhere_it_is_always_chosen() -> None:
    rng = np.random.default_rng(0)
    outcomes = world(rows=1000)
    dominant = (rng.random((1000, 5)) < np.array([0.9, 0.5, 0.5, 0.5, 0.5])).astype(np.float32)
    router = EnsembleRouter.fit(replace(outcomes, quality=dominant), trees=20)
    assert np.all(router.predict_batch(world(rows=300, seed=5).vectors).quality.argmax(axis=1) == 0)


def test_twin_arms_are_predicted_alike() -> None:
    outcomes = world(rows=600)
    twin = outcomes.quality.copy()
    twin[:, 1] = twin[:, 0]
    told = EnsembleRouter.fit(replace(outcomes, quality=twin), trees=10).predict_batch(outcomes.vectors).quality
    assert told[:, 0] == pytest.approx(told[:, 1], abs=2e-4)


def test_an_infinite_margin_survives_storage() -> None:
    same = np.zeros((100, 5), dtype=np.float32)
    router = EnsembleRouter.fit(replace(world(rows=100), quality=same), trees=4)
    again = EnsembleRouter.from_arrays(router.arrays(), router.meta())
    assert again.trust == router.trust
    assert again.trust.margin == np.inf


@pytest.mark.parametrize("settings", [{"trees": 1}, {"min_leaf": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(TrainingError, match="must be at least"):
        EnsembleRouter.fit(world(), **settings)


def test_a_tag_moves_what_the_forest_has_not_understood_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.array([0.0, 5.0, 9.0, 7.0], dtype=np.float32), [400, 400, 400, 10])
    errors = 0.1 * rng.standard_normal((1210, 2))
    errors[codes == 5.0, 0] += 0.3
    errors[codes == 9.0, 0] -= 0.3
    tags = Tags.learned(codes, errors, np.ones((1210, 2)))
    assert tags.codes.tolist() == [5.0, 9.0]
    assert tags.moves == pytest.approx(np.array([[0.3, 0.0], [-0.3, 0.0]]), abs=0.03)
    told = tags.moved(np.full((3, 2), 0.5), np.array([5.0, 7.0, 0.0], dtype=np.float32))
    assert told[0] == pytest.approx([0.8, 0.5], abs=0.03)
    assert told[1:] == pytest.approx(np.full((2, 2), 0.5))
    assert np.abs(Tags.learned(codes, 0.1 * rng.standard_normal((1210, 2)), np.ones((1210, 2))).moves).max() < 0.01


def test_a_query_that_carries_a_tag_is_answered_by_who_is_good_at_the_tag() -> None:
    """The tag decides alone; neither the vector nor the form knows it."""
    outcomes, features = with_form(world(rows=1200))
    rng = np.random.default_rng(3)
    tagged = rng.integers(1, 3, size=1200)
    features[:, TAG] = tagged
    truth = np.where(tagged[:, None] == 1, [0.9, 0.2, 0.3, 0.3, 0.3], [0.2, 0.9, 0.3, 0.3, 0.3])
    quality = (rng.random((1200, 5)) < truth).astype(np.float32)
    router = EnsembleRouter.fit(replace(outcomes, quality=quality, features=features), trees=12)
    told = router.predict_batch(outcomes.vectors[:200], features[:200])
    assert np.mean(told.quality.argmax(axis=1) == tagged[:200] - 1) > 0.95
    one = router.predict(outcomes.vectors[3], features[3])
    assert one.quality == pytest.approx(told.quality[3], abs=1e-5)
    again = EnsembleRouter.from_arrays(router.arrays(), router.meta())
    assert np.array_equal(again.predict_batch(outcomes.vectors[:200], features[:200]).quality, told.quality)
