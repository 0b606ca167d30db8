"""What single events do to a tree, by hand, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from offline.bohdi.events import (
    ROOT,
    AnyEvent,
    Planted,
    Retired,
    RoundEnded,
    Sprouted,
    SproutFailed,
    TrafficMapped,
    node_id,
)
from offline.bohdi.tree import Tree, TreeError
from tests.bohdi.events_at_random import LEAVES, MAINS, PLANTED, SPROUTS, contested, name_of


@pytest.fixture
def tree() -> Tree:
    tree = Tree()
    for event in [PLANTED, *SPROUTS]:
        tree.apply(event)
    return tree


def test_names_and_places(tree: Tree) -> None:
    assert [child.name for child in tree.children(ROOT)] == [name_of(0), name_of(1), name_of(2)]
    assert tree.path_names(LEAVES[4][1]) == (name_of(1), name_of(1))
    assert [leaf.id for leaf in tree.leaves()] == [leaf for _, leaf in LEAVES]
    assert (tree.root.leaves_below, tree.node(MAINS[0]).leaves_below) == (9, 3)
    vector = tree.node(LEAVES[0][1]).vector()
    assert vector is not None
    assert vector.tolist() == [0.5, -1.0]
    assert tree.node(MAINS[0]).vector() is None


def test_names_may_repeat_under_other_parents_and_case_and_spaces_do_not_count() -> None:
    assert node_id("a", "Statistics") != node_id("b", "Statistics")
    assert node_id("a", "Medieval  History ") == node_id("a", "medieval history")


def test_a_contest_moves_every_node_of_its_path_and_the_root(tree: Tree) -> None:
    main, leaf = LEAVES[0]
    tree.apply(contested(1, LEAVES[0], 1.0))
    tree.apply(contested(2, LEAVES[0], 0.25))
    for node in (ROOT, main, leaf):
        found = tree.node(node)
        assert found.won == pytest.approx(1.0 * 0.9 + 0.25)
        assert found.lost == pytest.approx(0.75)
        assert (found.n, found.window, found.epoch_won) == (2, [1.0, 0.25], 1.25)
    assert tree.node(MAINS[1]).n == 0
    assert (tree.node(main).kids_first_n, tree.root.kids_first_won) == (2, 1.25)


def test_an_undecided_contest_is_counted_and_moves_nothing(tree: Tree) -> None:
    tree.apply(contested(1, LEAVES[0], None))
    assert (tree.state.dropped, tree.node(LEAVES[0][1]).dropped, tree.root.n) == (1, 1, 0)


def test_a_domain_that_is_said_again_is_the_same(tree: Tree) -> None:
    tree.apply(Sprouted(at=9.0, node=MAINS[0], parent=ROOT, name="Other words"))
    assert len(tree.nodes()) == 12
    assert tree.node(MAINS[0]).name == name_of(0)


def test_retiring_takes_all_below_out_of_use(tree: Tree) -> None:
    tree.apply(contested(1, LEAVES[0], 1.0))
    for _ in range(2):
        tree.apply(Retired(at=1.0, node=MAINS[0], reason="operator"))
    assert tree.root.leaves_below == 6
    assert all(leaf.parent != MAINS[0] for leaf in tree.leaves())
    assert tree.children(MAINS[0]) == []
    tree.apply(contested(2, LEAVES[0], 1.0))
    assert tree.node(LEAVES[0][1]).n == 2
    again = Tree.from_bytes(tree.to_bytes())
    assert [child.id for child in again.children(ROOT)] == MAINS[1:]


def test_traffic_is_counted_up_to_the_root(tree: Tree) -> None:
    tree.apply(TrafficMapped(at=0.0, counts={LEAVES[0][1]: 3.0}, unmatched={MAINS[0]: 2.0, ROOT: 1.0}, until=5.0))
    assert (tree.root.traffic, tree.node(MAINS[0]).traffic, tree.node(LEAVES[0][1]).traffic) == (6.0, 5.0, 3.0)
    assert (tree.root.unmatched, tree.node(MAINS[0]).unmatched, tree.state.traffic_until) == (1.0, 2.0, 5.0)


def test_rounds_add_up_their_costs(tree: Tree) -> None:
    tree.apply(RoundEnded(at=0.0, round=1, contests=3, dropped=0, cost_usd=0.5))
    tree.apply(RoundEnded(at=0.0, round=2, contests=3, dropped=0))
    assert (tree.state.cost_usd, tree.state.unpriced_rounds, tree.state.rounds_ended) == (0.5, 1, 2)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (contested(1, (MAINS[0],), 1.0), "a path has 2 domains, got 1"),
        (contested(1, (MAINS[1], LEAVES[0][1]), 1.0), f"leaves the tree at '{LEAVES[0][1]}'"),
        (contested(1, LEAVES[0], 1.5), r"a reward lies in \[0, 1\], got 1.5"),
        (contested(1, LEAVES[0], float("nan")), r"a reward lies in \[0, 1\], got nan"),
        (Sprouted(at=0.0, node="x", parent=LEAVES[0][1], name="Deeper"), "a leaf holds questions, not domains"),
        (Sprouted(at=0.0, node="x", parent="nowhere", name="Lost"), "there is no node 'nowhere'"),
        (SproutFailed(at=0.0, parent="nowhere", reason="known"), "there is no node 'nowhere'"),
        (Retired(at=0.0, node=ROOT, reason="no"), "the root cannot be retired"),
        (TrafficMapped(at=0.0, counts={MAINS[0]: 1.0}, unmatched={"x": 1.0}, until=0.0), "there is no node 'x'"),
        (PLANTED, "begins with `planted`"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(tree: Tree, event: AnyEvent, said: str) -> None:
    before = tree.digest()
    with pytest.raises(TreeError, match=said):
        tree.apply(event)
    assert tree.digest() == before


def test_a_tree_needs_a_level() -> None:
    with pytest.raises(TreeError, match="at least 1 level"):
        Tree().apply(Planted(at=0.0, levels=0, target="t", target_version="0", sources=("a",), seed=0))


@pytest.mark.parametrize("raw", [b"", b"not a tree", b"\x80"[:0] + b"\xc1"])
def test_bytes_that_hold_no_tree_are_refused(raw: Any) -> None:
    with pytest.raises(TreeError, match="fold the log again instead"):
        Tree.from_bytes(raw)
