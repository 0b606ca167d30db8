"""The published baselines: their labels by hand, their whole rows, and their arithmetic against the libraries'."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from routers.catalogue import ROUTERS
from routers.neural.early_stopping import torch_module
from routers.protocol import Outcomes, TrainingError
from routers.published.bert import PublishedBertRouter
from routers.published.graphrouter import PublishedGraphRouter, _Graph
from routers.published.labels import rewards, whole_rows
from routers.published.mlp import PublishedMlpRouter
from routers.rows import subset
from tests.routers.worlds import TOPICS, skills, topic_vectors, world

PUBLISHED = [name for name, router in ROUTERS.items() if getattr(router, "fits_preference", False)]
EVERY = pytest.mark.parametrize("name", PUBLISHED)
QUICK: dict[str, dict[str, Any]] = {"published-bert": {"layers": 1, "width": 32, "tokens": 32, "steps": 5}}


def hand() -> Outcomes:
    """Four queries of two tasks, three arms; in the second task all costs are equal."""
    made = subset(world(rows=60, arms=3), np.arange(4))
    return replace(
        made,
        quality=np.array([[0.2, 0.6, 0.6], [1.0, 0.2, 0.2], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=np.float32),
        cost_usd=np.array([[1.0, 5.0, 2.0], [1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0]], dtype=np.float32),
        tasks=("a", "a", "b", "b"),
    )


def test_labels_by_hand() -> None:
    quality_first = rewards(hand(), 1.0)
    assert quality_first.score == pytest.approx(np.array([[0, 0.5, 0.5], [1, 0, 0], [0, 0, 0], [1, 1, 0]]), abs=1e-6)
    assert quality_first.cost == pytest.approx(np.array([[0, 1, 0.25], [0, 0.5, 0.25], [0, 0, 0], [0, 0, 0]]))
    # Ties go to the first arm: of the two best in the first and the last query, and of all in the third.
    assert quality_first.label.tolist() == [1, 0, 0, 0]
    balanced = rewards(hand(), 0.5)
    assert balanced.reward[0] == pytest.approx([0.0, -0.25, 0.125], abs=1e-6)
    assert balanced.label.tolist() == [2, 0, 0, 0]
    assert rewards(hand(), 0.2).label.tolist() == [0, 0, 0, 0]
    assert rewards(replace(hand(), tasks=None), 1.0).score[3] == pytest.approx([0.5, 0.5, 0.0])


@EVERY
def test_only_whole_rows_are_read_and_fewer_than_fifty_are_refused(name: str) -> None:
    outcomes = world(rows=120)
    quality = outcomes.quality.copy()
    quality[:40, 2] = np.nan
    holed = replace(outcomes, quality=quality)
    first = ROUTERS[name].fit(holed, **QUICK.get(name, {}))
    second = ROUTERS[name].fit(subset(outcomes, np.arange(40, 120)), **QUICK.get(name, {}))
    assert {key: a.tobytes() for key, a in first.arrays().items()} == {
        key: a.tobytes() for key, a in second.arrays().items()
    }
    quality[:71, 2] = np.nan
    with pytest.raises(TrainingError, match="at least 50 queries that every arm answered, got 49"):
        ROUTERS[name].fit(replace(outcomes, quality=quality))


@EVERY
def test_the_order_of_the_rows_does_not_matter(name: str) -> None:
    outcomes = world(rows=80)
    shuffled = subset(outcomes, np.random.default_rng(1).permutation(80))
    first, second = (ROUTERS[name].fit(rows, seed=3, **QUICK.get(name, {})) for rows in (outcomes, shuffled))
    assert {key: a.tobytes() for key, a in first.arrays().items()} == {
        key: a.tobytes() for key, a in second.arrays().items()
    }


@EVERY
def test_preferences_that_weigh_cost_need_one(name: str) -> None:
    outcomes = world(rows=80)
    with pytest.raises(TrainingError, match="with a known cost, got 0"):
        ROUTERS[name].fit(replace(outcomes, cost_usd=np.full_like(outcomes.cost_usd, np.nan)), preference=0.5)
    with pytest.raises(TrainingError, match="preference must lie in"):
        ROUTERS[name].fit(outcomes, preference=1.5)


@pytest.mark.parametrize("name", ["published-mlp", pytest.param("published-graphrouter", marks=pytest.mark.slow)])
def test_where_one_arm_is_always_best_it_is_found(name: str) -> None:
    outcomes = world(rows=100)
    quality = np.tile(np.array([0.1, 0.2, 0.9, 0.3, 0.4], dtype=np.float32), (100, 1))
    # At the published step size 70 steps hardly move the graph from where it starts.
    settings = {"steps": 2000, "maskings": 1} if name == "published-graphrouter" else {}
    router = ROUTERS[name].fit(replace(outcomes, quality=quality), **settings)
    assert set(router.predict_batch(outcomes.vectors).quality.argmax(axis=1).tolist()) == {2}


def test_labels_by_index_starve_the_arm_that_stands_last() -> None:
    """The defect that these rulers show: two equal arms, and the second never gets a label."""
    rng = np.random.default_rng(0)
    outcomes = world(rows=300, arms=2)
    same = np.repeat((rng.random((300, 1)) < 0.6).astype(np.float32), 2, axis=1)
    router = PublishedMlpRouter.fit(replace(outcomes, quality=same))
    prediction = router.predict_batch(outcomes.vectors)
    assert np.all(prediction.quality[:, 0] > prediction.quality[:, 1])


def test_networks_in_numpy_are_scikit_learns() -> None:
    from sklearn.neural_network import MLPRegressor

    outcomes = whole_rows(world(rows=150), 1.0)
    router = PublishedMlpRouter.fit(outcomes, hidden=4)
    label = rewards(outcomes, 1.0).label
    network = MLPRegressor(
        hidden_layer_sizes=(4,), learning_rate_init=1e-3, alpha=0.01, early_stopping=True, max_iter=500, random_state=0
    )
    network.fit(outcomes.vectors, (label == 1).astype(np.float32))
    raw = network.predict(outcomes.vectors)
    expected = 1.0 / (1.0 + np.exp(-4.0 * (raw - 0.5)))
    assert router.predict_batch(outcomes.vectors).quality[:, 1] == pytest.approx(expected, abs=1e-4)


def test_it_learns_where_labels_have_no_ties() -> None:
    outcomes = world(rows=600)
    topics = outcomes.vectors[:, :TOPICS].argmax(axis=1)
    router = PublishedMlpRouter.fit(replace(outcomes, quality=skills(5)[topics].astype(np.float32)))
    fresh = np.random.default_rng(9).integers(TOPICS, size=200)
    chosen = router.predict_batch(topic_vectors(fresh, 9)).quality.argmax(axis=1)
    assert skills(5)[fresh, chosen].mean() > 0.85


def test_summed_messages_are_those_of_an_edge_at_a_time() -> None:
    torch = torch_module()
    outcomes = whole_rows(world(rows=60, arms=3, tasks=True), 1.0)
    graph = _Graph(outcomes, rewards(outcomes, 1.0), 0)
    visible = (torch.rand(graph.target.shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    with torch.no_grad():
        queries, nodes = graph._nodes(visible, training=False)
        own, functional = graph.parameters, torch.nn.functional
        at, arms = queries, own["arm"]
        for layer in range(2):
            after = arms.clone()
            for query, arm in visible.nonzero().tolist():
                attributes = functional.leaky_relu(graph.edges[query, arm] @ own["edge"] + own["edge_bias"])
                after[arm] += at[query] @ own[f"message{layer}"] + attributes @ own[f"attribute{layer}"]
                after[arm] += own[f"bias{layer}"]
            # Fresh batch normalisation divides by sqrt(1 + epsilon).
            at, arms = at / (1 + 1e-5) ** 0.5, after / (1 + 1e-5) ** 0.5
            if layer == 0:
                at, arms = functional.leaky_relu(at), functional.leaky_relu(arms)
    assert nodes.numpy() == pytest.approx(arms.numpy(), abs=1e-3)


def test_the_compiled_graph_scores_as_the_graph_does() -> None:
    outcomes = whole_rows(world(rows=60, arms=3, tasks=True), 1.0)
    router = PublishedGraphRouter.fit(outcomes, steps=2, maskings=2)
    graph = _Graph(outcomes, rewards(outcomes, 1.0), 0)
    graph.descend(2, 2)
    torch = torch_module()
    with torch.no_grad():
        queries, nodes = graph._nodes(torch.ones_like(graph.target), training=False)
    expected = torch.sigmoid((queries @ nodes.T) / 16).numpy()
    assert router.predict_batch(outcomes.vectors).quality == pytest.approx(expected, abs=1e-4)


def test_pairs_are_scored_by_the_cosine_of_logits_and_no_text_by_nothing() -> None:
    outcomes = world(rows=80)
    router = PublishedBertRouter.fit(outcomes, **QUICK["published-bert"])
    prediction = router.predict_batch(outcomes.vectors[:3], None, ["arm-2", "solve the matrix", None])
    assert prediction.quality[0, 2] == pytest.approx(1.0, abs=1e-5)
    assert np.all(prediction.quality[2] == 0.5)
    one = router.predict(outcomes.vectors[1], None, "solve the matrix")
    assert one.quality == pytest.approx(prediction.quality[1], abs=1e-5)
    with pytest.raises(TrainingError, match="log query texts"):
        PublishedBertRouter.fit(replace(outcomes, texts=None))
