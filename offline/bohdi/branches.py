"""DynaBranches: which domain to ask about next, and where to sprout a new one (arXiv 2506.15721, and `rule: ours`).

Both rules walk from the root down and sample at each node. Published: the arm with the largest draw is taken; every
child and the arm that sprouts draw from Beta(1 + won, 1 + lost) of their own, and for the latter to win is to find a
name. Ours: one of the arms with the better draws is taken (`breadth`), since what is looked for is all that is weak
and not only the weakest, and some steps go to any child (`even_share`), so that none is written off. A child's prior
is its parent's mean (kappa rewards strong); the sprouting arm is worth what a sibling's first rewards were, times the
chance that a name is found; it is open only while the questions asked suffice for the leaves there are (progressive
widening), and not during the pause after a failure. Uniform, to compare with: every leaf is as likely, and the
sprouting arm is taken whenever it is open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from offline.bohdi.events import ROOT
from offline.bohdi.leaf_means import posterior_means
from offline.bohdi.node import Node
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree

SPROUT: Final = "sprout"
"""What a walk chooses where a new domain is to be added. No node has this id."""

F64 = NDArray[np.float64]


class DeadEnd(Exception):
    """Nothing can be chosen: no child can be walked through and no domain can be added now. Try in the next round."""


def walk_step(
    tree: Tree,
    node_id: str,
    rng: np.random.Generator,
    settings: Settings,
    under_way: Mapping[str, int] | None = None,
) -> str:
    """The next node of a walk that stands at `node_id`: the id of a child, or SPROUT.

    Parameters
    ----------
    under_way: walks of this round through each node so far, which count as questions asked.

    Raises
    ------
    DeadEnd: everything below is waiting out a pause after failed sprouts. From the root: there is nothing to explore.
    TreeError: there is no such node, or it is a leaf.
    """
    node = tree.node(node_id)
    if settings.rule == "published":
        return published_step(tree, node_id, rng)
    under_way = under_way or {}
    may_sprout = can_sprout(tree, node, settings, under_way)
    children = tree.children(node_id)
    if node.level + 1 < tree.levels:
        children = [child for child in children if child.leaves_below or passable(tree, child, settings, under_way)]
    if not children:
        if not may_sprout:
            raise DeadEnd(_dead_end(tree, node))
        return SPROUT
    if settings.rule == "uniform":
        return SPROUT if may_sprout else _uniform_child(children, rng)
    if settings.even_share and rng.random() < settings.even_share:
        return children[int(rng.integers(len(children)))].id
    mean = tree.mean(node_id, settings.kappa)
    a, b = _posteriors(children, mean, settings.kappa)
    draws = rng.beta(a, b)
    if settings.learning_progress:
        draws = draws + settings.learning_progress * _progress(children, mean, settings.kappa)
    if may_sprout:
        draws = np.append(draws, _sprout_draw(node, mean, rng, settings))
    if settings.traffic and tree.root.traffic:
        # Queries that are near the node and near none of its children call for a new one.
        queries = [child.traffic for child in children] + [node.unmatched] * may_sprout
        draws = draws * _importance(queries, node, settings.traffic)
    best = one_of_the_best(draws, settings.breadth, rng)
    return children[best].id if best < len(children) else SPROUT


def one_of_the_best(draws: F64, breadth: float, rng: np.random.Generator) -> int:
    """The position of one of the largest draws, at random: so large a share of them, but at least the largest."""
    count = math.ceil(breadth * len(draws) - 1e-9)
    if count <= 1:
        return int(draws.argmax())
    return int(draws.argpartition(-count)[len(draws) - 1 - int(rng.integers(count))])


def _uniform_child(children: Sequence[Node], rng: np.random.Generator) -> str:
    """A child by the number of its leaves, so that every leaf is as likely; one without leaves yet counts as one."""
    leaves = np.array([max(child.leaves_below, 1) for child in children], dtype=np.float64)
    return children[int(rng.choice(len(children), p=leaves / leaves.sum()))].id


def published_step(tree: Tree, node_id: str, rng: np.random.Generator) -> str:
    """The published rule: one draw from each child's posterior and one from that of finding a name."""
    node, children = tree.node(node_id), tree.children(node_id)
    a = np.array([child.a for child in children] + [1.0 + node.sprouts])
    b = np.array([child.b for child in children] + [1.0 + node.failed_sprouts])
    best = int(rng.beta(a, b).argmax())
    return children[best].id if best < len(children) else SPROUT


def can_sprout(tree: Tree, node: Node, settings: Settings, under_way: Mapping[str, int]) -> bool:
    """Whether a domain may be added under a node now: widening, evidence for the leaves below, cap and pause."""
    if node.level >= tree.levels or tree.round < node.retry_round:
        return False
    children = len(tree.children(node.id))
    if children == 0:
        return True
    asked = node.n + under_way.get(node.id, 0)
    return (
        children < settings.most_children
        and children < settings.widening * asked**0.5
        and asked >= settings.leaf_questions * (node.leaves_below + 1)
    )


def passable(tree: Tree, node: Node, settings: Settings, under_way: Mapping[str, int]) -> bool:
    """Whether a walk that enters a node can reach a leaf, which may be one that it adds."""
    if node.level == tree.levels or node.leaves_below:
        return True
    if can_sprout(tree, node, settings, under_way):
        return True
    return any(passable(tree, child, settings, under_way) for child in tree.children(node.id))


def draw_leaves(tree: Tree, count: int, rng: np.random.Generator, settings: Settings) -> list[str]:
    """The leaves of a training draw, with repetition: ids of leaves that have been asked about.

    Published: for each sample a walk as in `published_step`, without the sprouting arm. Ours: every leaf gets a share
    in proportion to its posterior mean (see `leaf_means`) to the power of `draw_power`, rounded at random; so all that
    is weak is trained, and not only the weakest.

    Raises
    ------
    DeadEnd: no leaf has been asked about.
    """
    if not tree.root.n:
        raise DeadEnd("no question has been asked yet: run a round before a training draw")
    if settings.rule == "published":
        return [_published_leaf(tree, rng) for _ in range(count)]
    leaves = [leaf for leaf in tree.leaves() if leaf.n]
    if not leaves:
        raise DeadEnd("every leaf that was asked about has been retired: run a round before a training draw")
    power = 0.0 if settings.rule == "uniform" else settings.draw_power
    weights = _leaf_weights(tree, leaves, power, settings.traffic)
    chosen = _systematic(weights / weights.sum(), count, rng)
    rng.shuffle(chosen)
    return [leaves[position].id for position in chosen]


def _leaf_weights(tree: Tree, leaves: Sequence[Node], power: float, traffic: float) -> F64:
    means = posterior_means(tree)
    weights = np.array([means[leaf.id] for leaf in leaves]) ** power
    if traffic and tree.root.traffic:
        share = np.array([leaf.traffic for leaf in leaves]) / tree.root.traffic
        weights = weights * (1.0 - traffic + traffic * share * len(leaves))
    positive: F64 = np.maximum(weights, 1e-12)
    return positive


def _systematic(shares: F64, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """`count` positions of which each comes its share times, up to one more or less (systematic sampling)."""
    edges = np.cumsum(shares)
    points = (np.arange(count) + rng.random()) / count * edges[-1]
    places: NDArray[np.intp] = np.searchsorted(edges[:-1], points, side="right")
    return places


def _published_leaf(tree: Tree, rng: np.random.Generator) -> str:
    node = tree.root
    while node.level < tree.levels:
        children = [child for child in tree.children(node.id) if child.n]
        if not children:
            raise DeadEnd(f"nothing below {node.name or ROOT!r} has been asked about, or all of it was retired")
        draws = rng.beta([child.a for child in children], [child.b for child in children])
        node = children[int(draws.argmax())]
    return node.id


def _posteriors(children: Sequence[Node], mean: float, kappa: float) -> tuple[F64, F64]:
    a = np.array([child.won for child in children])
    b = np.array([child.lost for child in children])
    return a + (1.0 + kappa * mean), b + (1.0 + kappa * (1.0 - mean))


def _sprout_draw(node: Node, mean: float, rng: np.random.Generator, settings: Settings) -> float:
    """What a new child may be worth: as spread about its siblings' first rewards as one sibling is."""
    strength = settings.kappa
    first = (node.kids_first_won + strength * mean) / (node.kids_first_n + strength) if node.kids_first_n else mean
    value = rng.beta(1.0 + strength * first, 1.0 + strength * (1.0 - first))
    return float(value * rng.beta(1.0 + node.sprouts, 1.0 + node.barren))


def _progress(children: Sequence[Node], mean: float, kappa: float) -> F64:
    """How far the last training moved each child's mean; 0 where nothing was asked since."""
    a, b = _posteriors(children, mean, kappa)
    now = a / (a + b)
    won = np.array([child.before_change[0] for child in children])
    lost = np.array([child.before_change[1] for child in children])
    before = (won + 1.0 + kappa * mean) / (won + lost + 2.0 + kappa)
    asked = np.array([child.n_version > 0 for child in children])
    return np.where(asked, np.abs(now - before), 0.0)


def _importance(queries: Sequence[float], node: Node, weight: float) -> F64:
    """Factors of mean 1, if each query is one of these arms', that grow with the users' queries of an arm."""
    shares = np.array(queries) / max(node.traffic, 1e-9)
    return 1.0 - weight + weight * shares * len(queries)


def _dead_end(tree: Tree, node: Node) -> str:
    place = " > ".join(tree.path_names(node.id)) or "the root"
    return f"nothing can be asked below {place} in round {tree.round}: sprouts failed, the next try is in round " + (
        f"{node.retry_round}" if node.retry_round else "unknown"
    )
