"""The fold, for any history: equal logs give equal trees, however they were written, kept or looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from offline.bohdi.events import AnyEvent, TargetChanged
from offline.bohdi.log import EpisodeLog
from offline.bohdi.node import Node
from offline.bohdi.tree import Tree
from tests.bohdi.events_at_random import histories


def folded(history: Sequence[AnyEvent]) -> Tree:
    tree = Tree()
    for event in history:
        tree.apply(event)
    return tree


@given(histories, st.data())
@settings(max_examples=40, deadline=None)
def test_a_snapshot_at_any_event_and_the_rest_give_the_same_tree(history: list[AnyEvent], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(history)))
    tree = Tree.from_bytes(folded(history[:cut]).to_bytes())
    for event in history[cut:]:
        tree.apply(event)
    assert tree.to_bytes() == folded(history).to_bytes()


@given(histories)
@settings(max_examples=40, deadline=None)
def test_looking_at_a_tree_between_events_changes_nothing(history: list[AnyEvent]) -> None:
    tree = Tree()
    for event in history:
        tree.apply(event)
        for node in [*tree.nodes(), *tree.children("root")]:
            assert tree.mean(node.id) > 0
    assert tree.digest() == folded(history).digest()


@given(histories)
@settings(max_examples=40, deadline=None)
def test_counts_stay_consistent(history: list[AnyEvent]) -> None:
    tree = folded(history)
    window = tree.state.rules.window
    for node in [tree.root, *tree.nodes()]:
        assert node.n >= node.epoch_n >= 0
        assert node.won >= 0
        assert node.lost >= 0
        assert node.won + node.lost <= node.epoch_n + 1e-9
        assert node.squares <= node.won + node.lost + 1e-9
        assert len(node.window) <= max(window, 5)
        assert node.leaves_below == sum(_leaves(tree, child) for child in tree.children(node.id))
    assert tree.root.n == sum(child.n for child in tree.nodes() if child.level == 1)


def _leaves(tree: Tree, node: Node) -> int:
    return 1 if node.level == tree.levels else node.leaves_below


@given(histories)
@settings(max_examples=40, deadline=None)
def test_a_change_of_the_target_is_the_same_whenever_it_is_taken_in(history: list[AnyEvent]) -> None:
    eager = Tree()
    for event in history:
        eager.apply(event)
        if isinstance(event, TargetChanged):
            eager.to_bytes()
    assert eager.digest() == folded(history).digest()


@given(histories, st.lists(st.integers(1, 7), min_size=50, max_size=50))
@settings(max_examples=12, deadline=None)
def test_a_log_gives_the_tree_of_its_events_however_they_were_appended(
    history: list[AnyEvent], sizes: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder) / "log.db", 0
        with EpisodeLog(path) as log:
            for size in sizes:
                log.append(history[start : start + size])
                if size == 7:
                    log.snapshot()
                start += size
            log.append(history[start:])
            kept = [event for _, event in log.events()]
            digest = log.tree().digest()
            assert log.fold().digest() == digest
            log.verify()
            assert log.append(history[1:10]) == 0
        # Events that may come again are appended again; all others are there once, in order.
        assert folded(kept).digest() == digest
        assert EpisodeLog(path).tree().digest() == digest
