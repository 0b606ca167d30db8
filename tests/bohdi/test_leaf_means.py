"""The strength of a parent's mean, as siblings show it."""

from __future__ import annotations

import numpy as np
import pytest

from offline.bohdi.leaf_means import STRENGTHS, posterior_means, sibling_strength
from tests.bohdi.events_at_random import LEAVES, MAINS
from tests.bohdi.test_branches import tree_with


def groups(strength: float, count: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wins of groups whose rates are spread about 0.4 as Beta(0.4 s, 0.6 s), their sizes, and the parents' means."""
    rng = np.random.default_rng(seed)
    rates = rng.beta(0.4 * strength, 0.6 * strength, count)
    return rng.binomial(size, rates).astype(float), np.full(count, float(size)), np.full(count, 0.4)


@pytest.mark.parametrize("strength", [5.0, 20.0])
def test_the_strength_of_many_siblings_is_found(strength: float) -> None:
    won, counted, parents = groups(strength, 4000, 30)
    assert sibling_strength(won, counted, counted, parents) == pytest.approx(strength, rel=0.15)


def test_siblings_that_differ_by_chance_alone_are_like_their_parent() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        won = rng.binomial(20, 0.4, 64).astype(float)
        size = np.full(64, 20.0)
        assert sibling_strength(won, size, size, np.full(64, 0.4)) > 100


def test_discounted_rewards_are_not_taken_for_more_than_they_are() -> None:
    rng = np.random.default_rng(0)
    weights = 0.7 ** np.repeat(np.arange(6), 10)
    rewards = rng.random((2000, 60)) < rng.beta(8.0, 12.0, 2000)[:, None]
    found = sibling_strength(
        rewards @ weights, np.full(2000, weights.sum()), np.full(2000, (weights**2).sum()), np.full(2000, 0.4)
    )
    assert found == pytest.approx(20.0, rel=0.2)


def test_without_two_rewards_nothing_is_known() -> None:
    ones = np.ones(5)
    assert sibling_strength(ones, ones, ones, 0.5 * ones) == STRENGTHS[1]
    assert sibling_strength(0 * ones, 0 * ones, 0 * ones, 0.5 * ones) == STRENGTHS[1]


def test_means_by_hand() -> None:
    tree = tree_with({0: [1.0] * 2})
    means = posterior_means(tree)
    # Nothing is known of how siblings differ, so 200 rewards of the parent's mean stand beside the two.
    root = 3 / 4
    main = (2 + 200 * root) / 202
    assert means["root"] == root
    assert means[MAINS[0]] == pytest.approx(main)
    assert means[LEAVES[0][1]] == pytest.approx((2 + 200 * main) / 202)
    assert means[LEAVES[8][1]] == pytest.approx(root)
    assert len(means) == 13
