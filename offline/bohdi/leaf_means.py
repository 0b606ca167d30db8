"""What each leaf is thought to gain, from all rewards of the tree: empirical Bayes with a strength estimated per level.

A walk has to be cheap and may be bold, so it takes a fixed strength `kappa` for a parent's mean. A training draw spends
much more than a walk, and there the noise of leaves with few rewards is the main enemy: here the strength is estimated
from how much more siblings differ than chance would have it (beta-binomial, by moments). If they do not, every leaf is
thought to be like its parent, and the draw is even.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offline.bohdi.events import ROOT
from offline.bohdi.node import Node
from offline.bohdi.tree import Tree

F64 = NDArray[np.float64]

STRENGTHS = (2.0, 200.0)
"""Least and greatest strength of a parent's mean, in rewards."""
CAUTION = 2.0
"""Standard errors (under chance alone) by which siblings must differ more than chance would have it."""


def posterior_means(tree: Tree) -> dict[str, float]:
    """The mean gain, in (0, 1), of the root and of every node in use, by id."""
    root = tree.root
    means = {ROOT: (1.0 + root.won) / (2.0 + root.won + root.lost)}
    by_level: list[list[Node]] = [[] for _ in range(tree.levels + 1)]
    for node in tree.nodes():
        if node.status == "active":
            by_level[node.level].append(node)
    for nodes in by_level:
        parents = np.array([means[node.parent] for node in nodes])
        won, counted, squares = weights_of(nodes)
        strength = sibling_strength(won, counted, squares, parents)
        shrunk = (won + strength * parents) / (counted + strength)
        means.update(zip((node.id for node in nodes), shrunk.tolist(), strict=True))
    return means


def weights_of(nodes: Sequence[Node]) -> tuple[F64, F64, F64]:
    """Of each node: rewards that count, the sum of all weights, and that of their squares."""
    won = np.array([node.won for node in nodes], dtype=np.float64)
    lost = np.array([node.lost for node in nodes], dtype=np.float64)
    return won, won + lost, np.array([node.squares for node in nodes], dtype=np.float64)


def sibling_strength(won: F64, counted: F64, squares: F64, parents: F64) -> float:
    """The rewards that a parent's mean is worth as a prior, within `STRENGTHS`.

    With weights w that sum to n and rewards of mean m in the parent,
    Var(won) = m (1 - m) (sum w^2 + rho (n^2 - sum w^2)) and rho = 1 / (strength + 1), summed over all nodes; rho is
    taken two standard errors lower, so that a draw follows only differences that are there. Where no node has two
    rewards nothing is known of how siblings differ, and the greatest strength holds.
    """
    chance = parents * (1.0 - parents)
    scale = float((chance * (counted**2 - squares)).sum())
    if scale <= 0.0:
        return STRENGTHS[1]
    spread = chance * squares
    error = float(np.sqrt(2.0 * (spread**2).sum()))
    rho = (float(((won - counted * parents) ** 2 - spread).sum()) - CAUTION * error) / scale
    return float(np.clip(1.0 / rho - 1.0, *STRENGTHS)) if rho > 0.0 else STRENGTHS[1]
