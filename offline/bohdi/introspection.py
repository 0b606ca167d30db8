"""Introspection-Rebirth: which nodes start again because the target has changed there (arXiv 2506.15721).

Asked at the end of a round, before `RoundEnded`. `two_sample`: a node sits one exam for each change of the target, when
its window is filled with rewards after the change and there are as many before it. The exams of a round are one family,
tested together (Benjamini-Hochberg). A node sits at most one exam in `window` rewards, so testing at
false_discovery x window / 100 keeps the false resets of a node below `false_discovery` per 100 rewards. `published`:
every node with a full window is tested at 0.2 at every round, whether or not the target has changed.
"""

from __future__ import annotations

from typing import Final, Literal

from offline.bohdi.events import Reborn
from offline.bohdi.node import Node
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree
from routers.evidence.window_test import Comparison, benjamini_hochberg, published, two_sums

PUBLISHED_THRESHOLD: Final = 0.2
"""p-value below which the published rule resets (its run script; its code's default is 0.1)."""

Tested = list[tuple[Node, Comparison]]


def due_resets(tree: Tree, settings: Settings, at: float = 0.0) -> list[Reborn]:
    """The rebirths that the rewards so far call for; none for `drift: discounted` and `none`. `at`: for the events."""
    if settings.drift == "two_sample":
        tested = exams(tree)
        level = min(settings.false_discovery * settings.window / 100.0, 0.5)
        fired = benjamini_hochberg([comparison.p_value for _, comparison in tested], level)
        return [_reborn(tree, *found, "two_sample", at, level) for found, hit in zip(tested, fired, strict=True) if hit]
    if settings.drift == "published":
        return [
            _reborn(tree, node, comparison, "published", at, None)
            for node, comparison in full_windows(tree)
            if comparison.p_value < PUBLISHED_THRESHOLD
        ]
    return []


def exams(tree: Tree) -> Tested:
    """The nodes whose exam came due in this round, with the two-sample comparison."""
    return [
        (node, two_sums(node.exam.won, node.exam.count, node.exam.older_won, node.exam.older_count))
        for node in tree.nodes()
        if node.exam is not None and node.status == "active"
    ]


def full_windows(tree: Tree) -> Tested:
    """The nodes whose window is full, with the published comparison."""
    return [
        (node, published(node.window, 1.0 + node.epoch_won, 1.0 + node.epoch_n - node.epoch_won))
        for node in tree.nodes()
        if len(node.window) == tree.state.rules.window and node.status == "active"
    ]


def _reborn(
    tree: Tree,
    node: Node,
    comparison: Comparison,
    rule: Literal["published", "two_sample"],
    at: float,
    level: float | None,
) -> Reborn:
    return Reborn(
        at=at,
        round=tree.round,
        node=node.id,
        rule=rule,
        statistic=comparison.statistic,
        p_value=comparison.p_value,
        window=tuple(node.window),
        false_discovery=level,
    )
