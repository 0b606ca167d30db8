"""What the classic routers promise beyond what holds of every router."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from encoders.features import FEATURE_SET, query_features
from routers.catalogue import ROUTERS
from routers.classic.elo import EloRouter, monotone, ratings
from routers.classic.gbm import Bins, boosted
from routers.classic.irt import IrtRouter
from routers.classic.matrix_factorisation import MatrixFactorisationRouter
from routers.classic.regression import Lesson
from routers.classic.ridge import RidgeRouter
from routers.estimators.least_squares import Normal, is_shared, normal, slopes, solve, within
from routers.estimators.pairs import Pairs, compared
from routers.protocol import Outcomes, Router, TrainingError
from routers.rows import subset
from tests.routers.worlds import TOPICS, masked, skills, topic_vectors, world

REGRESSIONS = ("ridge", "irt", "svr", "gbm", "mf")
EACH = pytest.mark.parametrize("name", REGRESSIONS)
CLASSIC = pytest.mark.parametrize("name", [*REGRESSIONS, "elo"])
RULERS = pytest.mark.parametrize("name", ["published-knn", "published-svm"])


def accuracy(router: Router, arms: int = 5) -> float:
    topics = np.random.default_rng(99).integers(TOPICS, size=300)
    chosen = router.predict_batch(topic_vectors(topics, 99)).quality.argmax(axis=1)
    return float(skills(arms)[topics, chosen].mean())


@EACH
def test_it_recovers_who_is_good_at_what_and_by_how_much(name: str) -> None:
    router = ROUTERS[name].fit(world(rows=800))
    assert accuracy(router) > 0.88
    topics = np.random.default_rng(5).integers(TOPICS, size=400)
    error = router.predict_batch(topic_vectors(topics, 5)).quality - skills(5)[topics]
    assert np.abs(error).mean() < 0.12
    assert np.abs(error.mean(axis=0)).max() < 0.06


@EACH
def test_one_answer_per_query_is_enough(name: str) -> None:
    assert accuracy(ROUTERS[name].fit(masked(world(rows=2500)))) > 0.8


@CLASSIC
def test_what_a_masked_cell_holds_does_not_matter(name: str) -> None:
    outcomes = masked(world(rows=200))
    hidden = np.isnan(outcomes.quality)
    other = replace(outcomes, propensity=np.where(hidden, 0.37, outcomes.propensity).astype(np.float32))
    first, second = ROUTERS[name].fit(outcomes).arrays(), ROUTERS[name].fit(other).arrays()
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


@pytest.mark.parametrize("name", ["ridge", "svr", "gbm", "elo"])
def test_duplicated_arms_get_equal_predictions(name: str) -> None:
    outcomes = world(rows=300, arms=3)

    columns = np.array([0, 1, 2, 0])
    doubled = replace(
        outcomes,
        arms=("a", "b", "c", "a again"),
        quality=outcomes.quality[:, columns],
        cost_usd=outcomes.cost_usd[:, columns],
        latency_s=outcomes.latency_s[:, columns],
        propensity=outcomes.propensity[:, columns],
    )
    predicted = ROUTERS[name].fit(doubled)
    quality = predicted.predict_batch(outcomes.vectors).quality
    assert np.abs(quality[:, 0] - quality[:, 3]).max() < 1e-4


@EACH
def test_features_tell_what_vectors_do_not(name: str) -> None:
    """Arm 0 is right on long queries and arm 1 on short ones; the vectors are noise."""
    rng = np.random.default_rng(0)
    long = rng.random(500) < 0.5
    vectors = rng.standard_normal((500, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = np.stack([long, ~long], axis=1).astype(np.float32)
    quality = np.where(rng.random(quality.shape) < 0.1, 1 - quality, quality)
    features = np.stack([query_features("word " * (400 if is_long else 8)) for is_long in long])
    full = world(rows=500, arms=2)
    outcomes = replace(
        full, vectors=vectors.astype(np.float32), quality=quality, features=features, feature_set=FEATURE_SET
    )
    router = ROUTERS[name].fit(subset(outcomes, np.arange(400)))
    chosen = router.predict_batch(outcomes.vectors[400:], features[400:]).quality.argmax(axis=1)
    assert np.mean(chosen == np.where(long[400:], 0, 1)) > 0.95
    unaware = router.predict_batch(outcomes.vectors[400:]).quality
    assert np.all(np.isfinite(unaware))
    assert router.meta()["feature_set"] == FEATURE_SET


@EACH
def test_noise_is_left_alone(name: str) -> None:
    rng = np.random.default_rng(1)
    quality = (rng.random((600, 5)) < np.array([0.8, 0.5, 0.5, 0.4, 0.3])).astype(np.float32)
    outcomes = replace(world(rows=600), quality=quality)
    predicted = ROUTERS[name].fit(outcomes).predict_batch(outcomes.vectors).quality
    assert np.all(predicted.argmax(axis=1) == 0)
    assert np.abs(predicted.mean(axis=0) - quality.mean(axis=0)).max() < 0.03


def test_ridge_by_hand() -> None:
    """One arm, z = (-1, 0, 1), y = (0, 1, 2), strength 2: slope = 2 / (2 + 2)."""
    z, y = np.array([[-1.0], [0.0], [1.0]]), np.array([[0.0], [1.0], [2.0]])
    once = np.ones_like(y)
    statistics = within(normal(z, y, once, is_shared(once)), z, y, once)
    assert solve(statistics, 2.0) == pytest.approx(np.array([[0.5]]))
    assert solve(statistics, 2.0, np.array([1.0])) == pytest.approx(np.array([[1.0]]))


def test_a_shared_factorisation_is_the_same_as_one_per_arm() -> None:
    rng = np.random.default_rng(0)
    z, y, once = rng.standard_normal((50, 4)), rng.standard_normal((50, 3)), np.ones((50, 3))
    shared, apart = normal(z, y, once, shared=True), normal(z, y, once, shared=False)
    assert len(shared.gram) == 1
    assert solve(shared, 3.0) == pytest.approx(solve(apart, 3.0))
    assert slopes(shared, 3.0, 10.0, 5.0) == pytest.approx(slopes(apart, 3.0, 10.0, 5.0))
    assert np.all(slopes(shared, 3.0, np.inf, np.inf) == 0)
    rest = Normal(*shared).minus(normal(z[:10], y[:10], once[:10], shared=True))
    assert solve(rest, 3.0) == pytest.approx(solve(normal(z[10:], y[10:], once[10:], shared=True), 3.0))


def test_the_settings_of_ridge_are_kept_and_validated() -> None:
    assert RidgeRouter.fit(world(), common=7.0, own=9).settings == {"common": 7.0, "own": 9.0}
    with pytest.raises(TrainingError, match="positive number"):
        RidgeRouter.fit(world(), own=-1.0)


def test_trees_predict_what_scikit_learn_does() -> None:
    """One tree at rate 1 on a step: its leaves hold the shrunk means of both sides, at the place of the step."""
    z = np.linspace(-1.0, 1.0, 200)[:, None]
    target = np.where(z[:, 0] > 0.1, 1.0, 0.0)
    trees = boosted(Bins.of(z), target, np.ones(200), 30, 0.5, seed=0)
    fitted = trees.values(z.astype(np.float32)).sum(axis=1)
    assert np.abs(fitted - target).mean() < 0.05
    assert trees.values(z[7].astype(np.float32)) == pytest.approx(trees.values(z.astype(np.float32))[7])
    away = np.abs(z[:, 0] - 0.1) > 0.05
    assert np.abs(fitted - target)[away].max() < 0.1


def test_pairs_drop_ties_and_weigh_what_was_rarely_asked() -> None:
    base = subset(world(rows=4, arms=3), np.arange(2))
    quality = np.array([[1.0, 0.5, 0.5], [0.0, 1.0, np.nan]], dtype=np.float32)
    propensity = np.array([[1.0, 0.5, 1.0], [1.0, 1.0, np.nan]], dtype=np.float32)
    outcomes = replace(base, quality=quality, propensity=propensity, query_ids=("a", "b"))
    pairs = compared(Lesson.of(outcomes, 2), np.random.default_rng(0))
    found = set(zip(pairs.row.tolist(), pairs.winner.tolist(), pairs.loser.tolist(), strict=True))
    assert found == {(0, 0, 1), (0, 0, 2), (1, 1, 0)}
    weight = {(row, loser): w for row, _, loser, w in zip(*(column.tolist() for column in pairs), strict=True)}
    # Arm 1 weighs 2 and 1, together (2 + 1)^2 / (2^2 + 1^2) = 1.8 observations: 1.2 and 0.6; the other cells weigh 1.
    assert weight[0, 1] == pytest.approx(1.2 * weight[0, 2])
    assert weight[1, 0] == pytest.approx(0.6 * weight[0, 2])
    assert np.mean(pairs.weight) == pytest.approx(1.0)


def test_single_answers_are_compared_with_those_of_other_arms_to_similar_queries() -> None:
    outcomes = masked(world(rows=300))
    pairs = compared(Lesson.of(outcomes, 8), np.random.default_rng(0))
    assert len(pairs.row) > 300
    assert np.all(pairs.winner != pairs.loser)


def test_ratings_by_hand() -> None:
    """Arm 0 won 3 of 3 against arm 1; with two draws odds are 4 : 1, so 400 log10(4) points apart."""
    three = np.zeros(3, dtype=np.intp)
    found = ratings(Pairs(three, three, three + 1, np.ones(3)), 2)
    assert found[0] - found[1] == pytest.approx(400 * np.log10(4.0))
    assert found.mean() == pytest.approx(1000.0)


def test_qualities_keep_the_order_of_ratings() -> None:
    mean, rating = np.array([0.5, 0.4, 0.9]), np.array([900.0, 1000.0, 1100.0])
    assert monotone(mean, rating, np.ones(3)) == pytest.approx([0.45, 0.45, 0.9], abs=1e-5)
    router = EloRouter.fit(world(rows=600))
    assert router.win_probability("arm-4", "arm-0") + router.win_probability("arm-0", "arm-4") == pytest.approx(1.0)
    assert np.array_equal(np.argsort(router.own["rating"]), np.argsort(router.own["level"]))


def test_win_probabilities_follow_the_query() -> None:
    router = MatrixFactorisationRouter.fit(world(rows=800))
    axes = np.eye(TOPICS, 32, dtype=np.float32)
    wins = router.win_probability(axes, "arm-0", "arm-1")
    assert wins[0] > 0.8
    assert wins[1] < 0.2
    assert wins + router.win_probability(axes, "arm-1", "arm-0") == pytest.approx(np.ones(TOPICS))


def test_an_ability_is_learned_from_a_few_answers() -> None:
    """A new arm with the skill of arm 2 is told from 40 answers; its doubt shrinks."""
    outcomes = world(rows=1500)
    router = IrtRouter.fit(outcomes)
    topics = np.random.default_rng(3).integers(TOPICS, size=40)
    vectors = topic_vectors(topics, 3)
    scores = (np.random.default_rng(4).random(40) < skills(5)[topics, 2]).astype(np.float32)
    learned = router.ability(vectors, scores)
    prior = router.ability_prior()
    assert np.trace(learned.covariance) < np.trace(prior.covariance)
    axes = np.eye(TOPICS, 32, dtype=np.float32)
    assert int(np.argmax(router.quality_of(learned, axes))) == 2
    nothing = router.ability(vectors[:0], scores[:0])
    assert nothing.mean == pytest.approx(prior.mean)
    assert nothing.covariance == pytest.approx(prior.covariance)


def test_information_falls_with_what_is_known() -> None:
    router = IrtRouter.fit(world(rows=800))
    vectors = topic_vectors(np.arange(TOPICS), 3)
    before = router.information(vectors)
    known = router.ability(np.repeat(vectors, 10, axis=0), np.ones(40, dtype=np.float32))
    assert before.shape == (TOPICS,)
    assert np.all(before > 0)
    assert router.information(vectors, about=known).sum() < before.sum()


@RULERS
def test_the_published_rulers_learn_labels_and_only_from_whole_rows(name: str) -> None:
    outcomes = world(rows=300)
    arms = np.eye(5, dtype=np.float32)[outcomes.vectors[:, :TOPICS].argmax(axis=1)]
    clear = replace(outcomes, quality=arms)
    predicted = ROUTERS[name].fit(clear).predict_batch(clear.vectors)
    assert np.mean(predicted.quality.argmax(axis=1) == arms.argmax(axis=1)) > 0.95
    with pytest.raises(TrainingError, match="at least 50"):
        ROUTERS[name].fit(masked(outcomes))


@RULERS
def test_the_argmax_defect_is_there(name: str) -> None:
    """All arms are right on everything, but only the first ever is the label."""
    outcomes = world(rows=120)
    router = ROUTERS[name].fit(replace(outcomes, quality=np.ones_like(outcomes.quality)))
    quality = router.predict_batch(outcomes.vectors).quality
    assert np.all(quality.argmax(axis=1) == 0)
    assert quality[:, 0].min() > quality[:, 1:].max() + 0.5


@RULERS
def test_the_published_rulers_pay_attention_to_cost_when_told(name: str) -> None:
    outcomes: Outcomes = replace(world(rows=200), quality=np.ones((200, 5), dtype=np.float32))
    dear = outcomes.cost_usd[:, ::-1].copy()
    chosen = ROUTERS[name].fit(replace(outcomes, cost_usd=dear), preference=0.2).predict_batch(outcomes.vectors)
    assert np.all(chosen.quality.argmax(axis=1) == 4)


def test_the_published_shares_by_hand() -> None:
    """Sixty equal queries, of which forty have label 0: of all 50 neighbours at least thirty do."""
    outcomes = subset(world(rows=60, arms=2), np.arange(60))
    quality = np.zeros((60, 2), dtype=np.float32)
    quality[:40, 0], quality[40:, 1] = 1.0, 1.0
    vectors = np.tile(outcomes.vectors[:1], (60, 1))
    router = ROUTERS["published-knn"].fit(replace(outcomes, vectors=vectors, quality=quality))
    found = router.predict(vectors[0]).quality
    assert found.sum() == pytest.approx(1.0)
    assert 0.6 <= found[0] <= 0.8
    assert router.predict(np.zeros(32, dtype=np.float32)).quality[0] == pytest.approx(2 / 3)
