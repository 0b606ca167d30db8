"""Where users are, the tree is asked about, and where the tree lacks what they ask for, it sprouts."""

from __future__ import annotations

from collections import Counter

import numpy as np

from offline.bohdi.branches import SPROUT, walk_step
from offline.bohdi.events import ROOT, TrafficMapped
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree
from tests.bohdi.grown import LARGE, LEAVES, OTHER, TARGET, episode, path_of, planted

DRAWS = 400
TOPS = [path_of(names)[0] for names in LEAVES]


def steps(traffic: TrafficMapped | None, weight: float) -> Counter[str]:
    """What walks choose at the root of a tree whose domains are all alike."""
    tree = Tree()
    for event in planted():
        tree.apply(event)
    for number in range(80):
        tree.apply(episode(number, number % 4, reward=float(number // 4 % 2)))
    if traffic is not None:
        tree.apply(traffic)
    rules = Settings(
        target=TARGET, sources=(LARGE, OTHER), traffic=weight, leaf_questions=0.0, breadth=0.01, even_share=0.0
    )
    rng = np.random.default_rng(0)
    return Counter(walk_step(tree, ROOT, rng, rules) for _ in range(DRAWS))


def mapped(counts: dict[str, float], unmatched: float = 0.0) -> TrafficMapped:
    return TrafficMapped(at=1.0, counts=counts, unmatched={ROOT: unmatched} if unmatched else {}, until=1.0)


def test_walks_go_where_the_queries_are() -> None:
    history = path_of(LEAVES[2])[-1]
    plain, steered = steps(None, 1.0), steps(mapped({history: 90.0, path_of(LEAVES[0])[-1]: 10.0}), 1.0)
    assert steered[TOPS[2]] > 0.9 * DRAWS > 2 * plain[TOPS[2]]
    assert steps(mapped({history: 90.0}), 0.0) == plain, "without a weight traffic changes nothing"


def test_queries_that_no_child_is_near_call_for_a_new_one() -> None:
    even = {path_of(names)[-1]: 10.0 for names in LEAVES}
    known, unknown = steps(mapped(even), 0.5), steps(mapped(even, unmatched=200.0), 0.5)
    assert unknown[SPROUT] > 2 * known[SPROUT]
    assert unknown[SPROUT] > 0.5 * DRAWS
