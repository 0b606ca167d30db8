"""When a node sits its exam, what fires together, and what a rebirth leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offline.bohdi.events import ROOT, Planted, Reborn, RoundEnded, Sprouted, TargetChanged, node_id
from offline.bohdi.introspection import due_resets, exams
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree, Weighed
from routers.evidence.window_test import published, two_sums


def settings(**changed: Any) -> Settings:
    return Settings(**{"target": "t", "sources": ("a",), "levels": 1, "window": 10, "discount": 1.0, **changed})


def tree_of(nodes: int, chosen: Settings) -> tuple[Tree, list[str]]:
    tree = Tree()
    tree.apply(
        Planted(at=0, levels=1, target="t", target_version="0", sources=("a",), seed=0, rules=chosen.fold_rules())
    )
    ids = [node_id(ROOT, str(number)) for number in range(nodes)]
    for number, node in enumerate(ids):
        tree.apply(Sprouted(at=0, node=node, parent=ROOT, name=str(number)))
    return tree, ids


def weigh(tree: Tree, node: str, rewards: list[float]) -> None:
    for reward in rewards:
        tree.apply(Weighed(at=0, path=(node,), reward=reward))


def change(tree: Tree, version: str) -> None:
    tree.apply(TargetChanged(at=0, version=version))


def end(tree: Tree) -> None:
    tree.apply(RoundEnded(at=0, round=1, contests=1, dropped=0))


def test_nothing_is_tested_while_the_target_has_not_changed() -> None:
    tree, (node,) = tree_of(1, settings())
    weigh(tree, node, [1.0] * 40 + [0.0] * 40)
    change(tree, "0")
    weigh(tree, node, [0.0] * 20)
    assert exams(tree) == []
    assert due_resets(tree, settings()) == []


def test_an_exam_is_due_with_a_full_window_after_the_change_and_once() -> None:
    tree, (node,) = tree_of(1, settings())
    weigh(tree, node, [1.0] * 20)
    change(tree, "1")
    weigh(tree, node, [0.0] * 9)
    assert exams(tree) == []
    weigh(tree, node, [0.0])
    ((examined, found),) = exams(tree)
    assert examined.id == node
    assert found == two_sums(0.0, 10, 20.0, 20)
    # More rewards in the same round do not change what is examined.
    weigh(tree, node, [1.0] * 5)
    assert exams(tree)[0][1] == found
    (event,) = due_resets(tree, settings(), at=7.0)
    assert (event.at, event.node, event.rule, event.p_value) == (7.0, node, "two_sample", found.p_value)
    end(tree)
    assert exams(tree) == []
    weigh(tree, node, [0.0] * 30)
    assert exams(tree) == []


def test_an_exam_that_spans_several_changes_covers_them_all() -> None:
    tree, (node,) = tree_of(1, settings())
    weigh(tree, node, [1.0] * 15)
    for version in ("1", "2", "3"):
        change(tree, version)
        weigh(tree, node, [0.0] * 4)
        end(tree)
    # Ten rewards after the first change came in the third round; that exam was not taken up and is gone.
    assert exams(tree) == []
    change(tree, "4")
    weigh(tree, node, [0.0] * 10)
    assert exams(tree)[0][1] == two_sums(0.0, 10, 15.0, 27)


def test_too_few_rewards_before_the_change_are_no_sample() -> None:
    tree, (node,) = tree_of(1, settings())
    weigh(tree, node, [1.0] * 9)
    change(tree, "1")
    weigh(tree, node, [0.0] * 10)
    assert exams(tree) == []


def test_the_exams_of_a_round_are_one_family() -> None:
    tree, nodes = tree_of(12, settings())
    for node in nodes:
        weigh(tree, node, [1.0, 0.0] * 20)
    change(tree, "1")
    weigh(tree, nodes[0], [0.0] * 10)
    alone = due_resets(tree, settings())
    assert [event.node for event in alone] == [nodes[0]]
    assert alone[0].false_discovery == pytest.approx(0.005)
    for node in nodes[1:]:
        weigh(tree, node, [1.0, 0.0] * 5)
    # p = 0.004 is below 0.005, but not below 0.005 / 12.
    assert due_resets(tree, settings()) == []
    assert len(due_resets(tree, settings(false_discovery=0.8))) == 1


def test_a_rebirth_starts_again_from_the_window() -> None:
    tree, (node,) = tree_of(1, settings())
    weigh(tree, node, [1.0] * 50)
    change(tree, "1")
    weigh(tree, node, [0.0] * 8 + [1.0] * 2)
    (event,) = due_resets(tree, settings())
    tree.apply(event)
    reborn = tree.node(node)
    assert event.window == (0.0,) * 8 + (1.0,) * 2
    assert (reborn.won, reborn.lost, reborn.n, reborn.epoch, reborn.epoch_n) == (2.0, 8.0, 60, 1, 10)
    assert (reborn.a, reborn.b) == (3.0, 9.0)
    assert due_resets(tree, settings()) == []


def test_the_published_rule_tests_every_full_window_at_its_threshold() -> None:
    chosen = settings(drift="published", window=20)
    tree, (changed, same, young) = tree_of(3, chosen)
    weigh(tree, changed, [1.0] * 40 + [0.0] * 6 + [1.0] * 14)
    weigh(tree, same, [1.0, 0.0] * 30)
    weigh(tree, young, [0.0] * 19)
    (event,) = due_resets(tree, chosen)
    expected = published([0.0] * 6 + [1.0] * 14, 55.0, 7.0)
    assert (event.node, event.rule, event.false_discovery) == (changed, "published", None)
    assert (event.statistic, event.p_value) == (expected.statistic, expected.p_value)
    tree.apply(event)
    assert (tree.node(changed).won, tree.node(changed).lost) == (14.0, 6.0)


@pytest.mark.parametrize("drift", ["discounted", "none"])
def test_other_ways_of_forgetting_have_no_resets(drift: str) -> None:
    tree, (node,) = tree_of(1, settings(drift=drift))
    weigh(tree, node, [1.0] * 40)
    change(tree, "1")
    weigh(tree, node, [0.0] * 40)
    assert due_resets(tree, settings(drift=drift)) == []


def test_a_discounted_posterior_forgets_old_rewards() -> None:
    tree, (node,) = tree_of(1, settings(drift="discounted", discount=0.5))
    weigh(tree, node, [1.0, 1.0, 0.0])
    assert (tree.node(node).won, tree.node(node).lost) == (0.75, 1.0)


def test_a_change_of_the_target_carries_a_part_over() -> None:
    tree, (node,) = tree_of(1, settings(carry=0.5))
    weigh(tree, node, [1.0] * 4)
    change(tree, "1")
    change(tree, "1")
    found = tree.node(node)
    assert (found.won, found.squares, found.before_change, found.n_version) == (2.0, 1.0, (4.0, 0.0), 0)
    weigh(tree, node, [0.0])
    assert (tree.node(node).lost, tree.node(node).n_version) == (1.0, 1)


def test_retired_nodes_are_not_tested_and_resets_name_their_round() -> None:
    tree, (node,) = tree_of(1, settings())
    weigh(tree, node, np.ones(20).tolist())
    change(tree, "1")
    weigh(tree, node, [0.0] * 10)
    assert isinstance(due_resets(tree, settings())[0], Reborn)
    tree.node(node).status = "retired"
    assert due_resets(tree, settings()) == []
