"""A forest of extremely randomised trees (Geurts et al., 2006) packed into arrays, with shrunk means in its nodes.

scikit-learn grows the trees; what a node says is learned here, because outcomes are masked and weighted and arms share
what they have in common. From the root down a node's values are its parent's, moved toward the mean of its own
observations as far as their number says (hierarchical shrinkage; Agarwal et al., 2022): the common part of all arms
first, then what sets each arm apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32

F64 = NDArray[np.float64]
Integers = NDArray[np.intp]

MAX_DEPTH = 14
COMMON_STRENGTH = 5.0
"""Observations that the parent counts for in the common part of a node."""
OWN_STRENGTH = 10.0
"""Observations that the parent counts for in what sets an arm apart."""


class Forest(NamedTuple):
    """T trees with S nodes in all.

    Attributes
    ----------
    feature: intp [S], the input that a node asks for; 0 in a leaf.
    threshold: float32 [S], the query goes right where its input is greater.
    child: intp [2 * S], the left and the right child of a node; a leaf is its own.
    roots: intp [T].
    depth: steps after which every query has come to a leaf.
    """

    feature: Integers
    threshold: F32
    child: Integers
    roots: Integers
    depth: int

    def leaves_batch(self, rows: F32) -> Integers:
        """The leaves of many queries, intp [n, T]."""
        node = np.tile(self.roots, (len(rows), 1))
        at = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            node = self.child[2 * node + (rows[at, self.feature[node]] > self.threshold[node])]
        return node


def walker(forest: Forest) -> Callable[[F32], Integers]:
    """A function from one query's inputs to its leaf in every tree, intp [T].

    It counts in sides (left and right of a node), which spares a product on each of the steps.
    """
    feature, threshold = np.repeat(forest.feature, 2).take, np.repeat(forest.threshold, 2).take
    child, start, depth = (2 * forest.child).take, 2 * forest.roots, forest.depth

    def leaves(row: F32) -> Integers:
        side, value = start, row.take
        for _ in range(depth):
            side = child(side + (value(feature(side)) > threshold(side)))
        return side >> 1

    return leaves


class Levels(NamedTuple):
    """The inner nodes by their distance from the root, for sums upward and values downward."""

    parents: tuple[Integers, ...]


def grown(rows: F32, targets: F64, samples: list[Integers], min_leaf: int, max_features: float, seed: int) -> Forest:
    """One tree for each sample of row numbers, grown on the targets [N, K]."""
    from sklearn.tree import ExtraTreeRegressor

    parts = []
    for index, sample in enumerate(samples):
        learner = ExtraTreeRegressor(
            min_samples_leaf=min_leaf,
            max_features=max_features,
            max_depth=MAX_DEPTH,
            random_state=seed * 100_003 + index,
        )
        parts.append(learner.fit(rows[sample], targets[sample]).tree_)
    return _packed(parts)


def _packed(trees: list[Any]) -> Forest:
    feature, threshold, child, roots, start = [], [], [], [], 0
    for tree in trees:
        own = np.arange(tree.node_count)
        inner = tree.children_left >= 0
        left, right = (np.where(inner, side, own) + start for side in (tree.children_left, tree.children_right))
        feature.append(np.where(inner, tree.feature, 0))
        threshold.append(np.where(inner, tree.threshold, 0.0))
        child.append(np.stack([left, right], axis=1).ravel())
        roots.append(start)
        start += tree.node_count
    return Forest(
        np.concatenate(feature).astype(np.intp),
        np.concatenate(threshold).astype(np.float32),
        np.concatenate(child).astype(np.intp),
        np.array(roots, dtype=np.intp),
        max(tree.max_depth for tree in trees),
    )


def levels(forest: Forest) -> Levels:
    """Inner nodes of each level, from the roots down."""
    found, nodes = [], forest.roots
    while len(nodes):
        inner = nodes[forest.child[2 * nodes] != nodes]
        found.append(inner)
        nodes = np.concatenate([forest.child[2 * inner], forest.child[2 * inner + 1]])
    return Levels(tuple(found))


class Sums(NamedTuple):
    """Of every node: sum of weight * value and sum of weight, each [S, M]."""

    value: F64
    weight: F64


def node_sums(forest: Forest, leaves: Integers, values: F64, weights: F64, used: NDArray[np.bool_] | None) -> Sums:
    """Weighted sums over the rows that come through a node; `used` [N, T] limits a tree to some of the rows."""
    both = np.hstack([weights * values, weights])
    total = np.zeros((len(forest.feature), both.shape[1]))
    for tree in range(leaves.shape[1]):
        rows = slice(None) if used is None else used[:, tree]
        own, part = leaves[rows, tree], both[rows]
        order = np.argsort(own, kind="stable")
        nodes, starts = np.unique(own[order], return_index=True)
        total[nodes] = np.add.reduceat(part[order], starts, axis=0)
    for inner in reversed(levels(forest).parents):
        total[inner] = total[forest.child[2 * inner]] + total[forest.child[2 * inner + 1]]
    width = values.shape[1]
    return Sums(total[:, :width], total[:, width:])


def node_values(forest: Forest, sums: Sums, start: F64, common: float, own: float) -> F64:
    """Shrunk values of every node, [S, M]; the roots have `start` [M]."""
    values = np.zeros_like(sums.value)
    values[forest.roots] = start
    for inner in levels(forest).parents:
        for side in (0, 1):
            node = forest.child[2 * inner + side]
            surplus = sums.value[node] - values[inner] * sums.weight[node]
            weight = sums.weight[node]
            shared = surplus.sum(axis=1, keepdims=True) / (weight.sum(axis=1, keepdims=True) + common)
            values[node] = values[inner] + shared + (surplus - shared * weight) / (weight + own)
    return values
