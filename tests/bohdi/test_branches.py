"""Which arm a walk takes and which leaves a draw holds: frequencies, limits and dead ends."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from offline.bohdi.branches import (
    SPROUT,
    DeadEnd,
    can_sprout,
    draw_leaves,
    one_of_the_best,
    published_step,
    walk_step,
)
from offline.bohdi.events import ROOT, Retired, RoundBegan, Sprouted, SproutFailed, TrafficMapped
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree, TreeError
from tests.bohdi.events_at_random import LEAVES, MAINS, PLANTED, SPROUTS, contested

NONE = 1e9
"""`leaf_questions` with which nothing sprouts."""


def settings(**changed: Any) -> Settings:
    return Settings(**{"target": "t", "sources": ("a",), "even_share": 0.0, **changed})


def tree_with(rewards: dict[int, list[float]]) -> Tree:
    """The tree of three domains with three leaves each, and rewards by the position of the leaf."""
    tree = Tree()
    for event in [PLANTED, *SPROUTS]:
        tree.apply(event)
    tree.state.rules = settings(drift="none").fold_rules()
    step = 0
    for leaf, values in rewards.items():
        for value in values:
            tree.apply(contested(step, LEAVES[leaf], value))
            step += 1
    return tree


def began(tree: Tree, round: int) -> None:
    tree.apply(RoundBegan(at=0.0, round=round, leader="a", paths=1, seed=0, target_version="0", prompts_version="1"))


def steps(tree: Tree, node: str, count: int, chosen: Settings) -> Counter[str]:
    rng = np.random.default_rng(0)
    return Counter(walk_step(tree, node, rng, chosen) for _ in range(count))


def test_the_best_arm_is_taken_as_often_as_its_draw_is_the_largest() -> None:
    tree = tree_with({0: [1.0] * 6 + [0.0] * 2, 3: [1.0] * 3 + [0.0] * 5})
    found = steps(tree, ROOT, 4000, settings(leaf_questions=NONE, breadth=0.01))
    rng, mean = np.random.default_rng(1), 10 / 18
    a = np.array([6.0, 3.0, 0.0]) + 1 + 4 * mean
    b = np.array([2.0, 5.0, 0.0]) + 1 + 4 * (1 - mean)
    wins = np.bincount(rng.beta(a, b, (40_000, 3)).argmax(axis=1), minlength=3) / 40_000
    assert [found[main] / 4000 for main in MAINS] == pytest.approx(wins.tolist(), abs=0.03)


def test_with_more_breadth_one_of_the_better_draws_is_taken() -> None:
    rng = np.random.default_rng(0)
    draws = np.array([0.1, 0.9, 0.5, 0.7])
    assert Counter(one_of_the_best(draws, 0.5, rng) for _ in range(400)).keys() == {1, 3}
    assert {one_of_the_best(draws, 0.25, rng) for _ in range(50)} == {1}
    assert {one_of_the_best(draws, 1.0, rng) for _ in range(200)} == {0, 1, 2, 3}
    assert one_of_the_best(np.array([0.3]), 0.5, rng) == 0


def test_a_leaf_without_rewards_borrows_from_its_parent() -> None:
    weak, strong = tree_with({0: [1.0] * 30}), tree_with({0: [0.0] * 30})
    assert weak.mean(LEAVES[1][1]) > 0.7 > 0.3 > strong.mean(LEAVES[1][1])
    parent = weak.mean(MAINS[0])
    assert weak.prior(LEAVES[1][1]) == pytest.approx((1 + 4 * parent, 1 + 4 * (1 - parent)))
    assert weak.posterior(LEAVES[0][1], kappa=0.0) == pytest.approx((31.0, 1.0))


def test_a_node_sprouts_only_as_far_as_its_questions_go() -> None:
    tree = tree_with({leaf: [1.0] * 2 for leaf in range(9)})
    # 18 questions and 9 leaves: 4.2 children are allowed, and ten leaves need 20 questions.
    assert not can_sprout(tree, tree.root, settings(leaf_questions=2.0), {})
    assert can_sprout(tree, tree.root, settings(leaf_questions=2.0), {ROOT: 2})
    assert can_sprout(tree, tree.root, settings(leaf_questions=1.0), {})
    assert not can_sprout(tree, tree.root, settings(leaf_questions=1.0, widening=0.7), {})
    assert not can_sprout(tree, tree.root, settings(leaf_questions=1.0, most_children=3), {})
    assert not can_sprout(tree, tree.node(LEAVES[0][1]), settings(leaf_questions=0.0), {})


def test_a_domain_without_children_is_given_one_at_once() -> None:
    tree = Tree()
    tree.apply(PLANTED)
    assert steps(tree, ROOT, 5, settings()) == {SPROUT: 5}


def test_failed_sprouts_pause_their_arm_and_nothing_else() -> None:
    tree = tree_with({0: [1.0] * 30})
    able = settings(leaf_questions=1.0, breadth=1.0)
    began(tree, 1)
    assert steps(tree, MAINS[0], 200, able)[SPROUT] > 10
    before = tree.mean(MAINS[0]), tree.mean(ROOT)
    tree.apply(SproutFailed(at=0.0, round=1, parent=MAINS[0], reason="known"))
    began(tree, 2)
    assert steps(tree, MAINS[0], 200, able)[SPROUT] > 10
    pauses = []
    for _ in range(3):
        tree.apply(SproutFailed(at=0.0, round=tree.round, parent=MAINS[0], reason="known"))
        # The other walks of the round fail as well, and that is no second failure.
        tree.apply(SproutFailed(at=0.0, round=tree.round, parent=MAINS[0], reason="known"))
        pauses.append(tree.node(MAINS[0]).retry_round - tree.round)
        assert steps(tree, MAINS[0], 200, able)[SPROUT] == 0
        began(tree, tree.node(MAINS[0]).retry_round)
    assert pauses == [2, 4, 8]
    assert (tree.mean(MAINS[0]), tree.mean(ROOT)) == before
    tree.apply(Sprouted(at=0.0, round=tree.round, node="new", parent=MAINS[0], name="New"))
    assert (tree.node(MAINS[0]).barren, tree.node(MAINS[0]).retry_round) == (0, 0)


def test_a_domain_in_which_nothing_can_be_named_is_walked_past() -> None:
    tree = Tree()
    for event in [PLANTED, *SPROUTS[:2]]:
        tree.apply(event)
    began(tree, 1)
    tree.apply(SproutFailed(at=0.0, round=1, parent=MAINS[0], reason="invalid"))
    quiet = settings(most_children=2)
    assert steps(tree, ROOT, 50, quiet) == {MAINS[1]: 50}
    with pytest.raises(DeadEnd, match="below Domain 0 in round 1: sprouts failed, the next try is in round 2"):
        walk_step(tree, MAINS[0], np.random.default_rng(0), quiet)
    tree.apply(SproutFailed(at=0.0, round=1, parent=MAINS[1], reason="invalid"))
    with pytest.raises(DeadEnd, match="below the root"):
        walk_step(tree, ROOT, np.random.default_rng(0), quiet)


def test_a_new_domain_is_worth_what_its_siblings_were() -> None:
    able = settings(leaf_questions=0.0, widening=9.0, breadth=0.01)
    rich = tree_with({leaf: [1.0] * 20 + [0.0] * 40 for leaf in range(3)})
    poor = tree_with({leaf: [0.0] * 40 + [1.0] * 20 for leaf in range(3)})
    # The same rewards in all, but the first ones of rich were won and those of poor were lost.
    assert rich.node(MAINS[0]).won == poor.node(MAINS[0]).won
    assert steps(rich, MAINS[0], 500, able)[SPROUT] > 300 > 50 > steps(poor, MAINS[0], 500, able)[SPROUT]


def test_the_published_rule_values_sprouting_by_the_names_found() -> None:
    tree = tree_with({0: [1.0] * 5, 3: [0.0] * 5})
    rng = np.random.default_rng(0)
    found = Counter(published_step(tree, ROOT, rng) for _ in range(4000))
    # Beta(6, 1), Beta(1, 6), Beta(1, 1) of the third domain, and Beta(1 + 3, 1) of sprouting.
    draws = np.random.default_rng(1).beta([6.0, 1.0, 1.0, 4.0], [1.0, 6.0, 1.0, 1.0], (40_000, 4)).argmax(axis=1)
    expected = (np.bincount(draws, minlength=4) / 40_000).tolist()
    assert [found[arm] / 4000 for arm in (*MAINS, SPROUT)] == pytest.approx(expected, abs=0.03)
    assert steps(tree, ROOT, 50, settings(rule="published")).keys() <= {*MAINS, SPROUT}


def test_uniform_walks_take_every_leaf_as_often() -> None:
    tree = tree_with({0: [1.0] * 30})
    tree.apply(Retired(at=0.0, node=LEAVES[8][1], reason="test"))
    tree.apply(Retired(at=0.0, node=LEAVES[7][1], reason="test"))
    found = steps(tree, ROOT, 3500, settings(rule="uniform", leaf_questions=NONE))
    assert [found[main] / 3500 for main in MAINS] == pytest.approx([3 / 7, 3 / 7, 1 / 7], abs=0.03)


def test_traffic_draws_walks_and_training_to_where_the_users_ask() -> None:
    tree = tree_with({leaf: [1.0, 0.0] * 4 for leaf in range(9)})
    tree.apply(TrafficMapped(at=0.0, counts={LEAVES[3][1]: 90.0, LEAVES[0][1]: 10.0}, unmatched={}, until=1.0))
    steered = settings(leaf_questions=NONE, traffic=1.0, breadth=0.01)
    assert steps(tree, ROOT, 300, steered)[MAINS[1]] > 280
    drawn = Counter(draw_leaves(tree, 100, np.random.default_rng(0), steered))
    assert (drawn[LEAVES[3][1]], drawn[LEAVES[0][1]]) == pytest.approx((90, 10), abs=1)


def test_a_draw_gives_each_leaf_its_share_and_follows_only_differences_that_are_there() -> None:
    rng = np.random.default_rng(0)
    alike = tree_with({leaf: [1.0, 0.0] * 10 for leaf in range(9)})
    assert sorted(Counter(draw_leaves(alike, 90, rng, settings())).values()) == [10] * 9
    apart = tree_with({leaf: [float(leaf < 3)] * 20 for leaf in range(9)})
    drawn = Counter(draw_leaves(apart, 900, rng, settings()))
    weak = sum(drawn[leaf] for _, leaf in LEAVES[:3])
    assert weak > 850
    assert sorted(Counter(draw_leaves(apart, 90, rng, settings(draw_power=0.0))).values()) == [10] * 9
    assert draw_leaves(apart, 50, np.random.default_rng(3), settings()) == draw_leaves(
        apart, 50, np.random.default_rng(3), settings()
    )


def test_the_published_draw_walks_among_what_was_asked_about() -> None:
    tree = tree_with({0: [1.0] * 9, 4: [0.0] * 9})
    drawn = Counter(draw_leaves(tree, 400, np.random.default_rng(0), settings(rule="published")))
    assert drawn.keys() <= {LEAVES[0][1], LEAVES[4][1]}
    wins = float(stats.beta(1, 10).expect(lambda x: x**10))
    assert drawn[LEAVES[4][1]] / 400 == pytest.approx(wins, abs=0.02)


def test_a_draw_without_data_says_what_to_do() -> None:
    with pytest.raises(DeadEnd, match="run a round before a training draw"):
        draw_leaves(tree_with({}), 5, np.random.default_rng(0), settings())
    tree = tree_with({0: [1.0]})
    tree.apply(Retired(at=0.0, node=MAINS[0], reason="test"))
    for rule in ("ours", "published"):
        with pytest.raises(DeadEnd, match="retired"):
            draw_leaves(tree, 5, np.random.default_rng(0), settings(rule=rule))


def test_a_walk_from_a_node_that_is_not_there_is_refused() -> None:
    with pytest.raises(TreeError, match="there is no node 'nowhere' in this tree of 13 nodes"):
        walk_step(tree_with({}), "nowhere", np.random.default_rng(0), settings())
