"""P2: what a tree looks like after 20 loops of 90 questions, when sources name domains by habit.

Under every parent the sources have a pool of names and say the common ones more often (Zipf); 15 proposals are made per
sprout, known names are dropped and the most frequent of the rest is taken. The chance that a source beats the target
falls from 0.85 to 0.47 over the loops. Both rules see the rewards of a round of 30 paths when it is over. The published
rule is given its intention, not its faults: a tenth failed sprout ends the path and harms no domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np

from benchmarks.bohdi_lab.planted import Path, Row, begin_round, change_target, end_round, planted, settings_of, weigh
from offline.bohdi.branches import SPROUT, DeadEnd, walk_step
from offline.bohdi.events import ROOT, Sprouted, SproutFailed, node_id
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree

POOLS = {"pool 25, 20, 20": (25, 20, 20), "pool 60, 60, 60": (60, 60, 60)}
RULES = {
    "published": {"rule": "published", "drift": "published", "window": 20},
    "ours": {},
}
LOOPS = 20
ROUNDS = 3
PATHS = 30
PROPOSALS = 15
MOST_TRIES = 10
START, END = 0.85, 0.47
INFORMATIVE = 6
"""Rewards with which a leaf's own data outweigh a prior of kappa + 2 = 6 rewards."""


def grown(settings: Settings, pool: Sequence[int], seed: int, loops: int = LOOPS) -> Tree:
    """The tree after so many loops of 90 questions."""
    rng = np.random.default_rng(seed)
    tree, _ = planted(settings, (0,) * len(pool))
    for loop, gain in enumerate(np.linspace(START, END, loops)):
        if loop:
            change_target(tree)
        for _ in range(ROUNDS):
            begin_round(tree, settings, PATHS)
            under_way: Counter[str] = Counter()
            paths = [_walk(tree, settings, pool, under_way, rng) for _ in range(PATHS)]
            for path in paths:
                if path:
                    weigh(tree, path, float(rng.random() < gain))
            end_round(tree, settings)
    return tree


def _walk(
    tree: Tree, settings: Settings, pool: Sequence[int], under_way: Counter[str], rng: np.random.Generator
) -> Path:
    """A path to a leaf; empty if it was given up."""
    path: Path = ()
    tries = 0
    while len(path) < tree.levels:
        place = path[-1] if path else ROOT
        try:
            step = walk_step(tree, place, rng, settings, under_way)
        except DeadEnd:
            return ()
        if step == SPROUT:
            name = _proposed(tree, place, pool[len(path)], rng)
            if name is None:
                tree.apply(SproutFailed(at=0.0, round=tree.round, parent=place, reason="known"))
                tries += 1
                if tries == MOST_TRIES:
                    return ()
                continue
            step = node_id(place, name)
            tree.apply(Sprouted(at=0.0, round=tree.round, node=step, parent=place, name=name))
        path = (*path, step)
        under_way[place] += 1
    under_way[path[-1]] += 1
    return path


def _proposed(tree: Tree, parent: str, pool: int, rng: np.random.Generator) -> str | None:
    weights = 1.0 / np.arange(1, pool + 1)
    named = Counter(rng.choice(pool, PROPOSALS, p=weights / weights.sum()).tolist())
    known = {int(child.name) for child in tree.children(parent)}
    fresh = [(votes, -position) for position, votes in named.items() if position not in known]
    return str(-max(fresh)[1]) if fresh else None


def measure(seeds: int, loops: int = LOOPS) -> list[Row]:
    """One row for each pool and rule, means over the seeds."""
    return [
        {"what": "growth", "pool": pool, "rule": rule, "seeds": seeds, "loops": loops}
        | _shape([grown(settings_of(**changed), sizes, seed, loops) for seed in range(seeds)])
        for pool, sizes in POOLS.items()
        for rule, changed in RULES.items()
    ]


def _shape(trees: Sequence[Tree]) -> Row:
    def mean_count(level: int) -> float:
        return fmean(sum(node.level == level for node in tree.nodes()) for tree in trees)

    asked = [[leaf.n for leaf in tree.leaves()] for tree in trees]
    return {
        "level 1": mean_count(1),
        "level 2": mean_count(2),
        "leaves": mean_count(3),
        "median questions per leaf": fmean(median(counts) for counts in asked),
        "worst median": min(median(counts) for counts in asked),
        "informative leaves": fmean(fmean(count >= INFORMATIVE for count in counts) for counts in asked),
        "full windows": [
            fmean(
                fmean(len(n.window) == tree.state.rules.window for n in tree.nodes() if n.level == level)
                for tree in trees
            )
            for level in (1, 2, 3)
        ],
    }


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    """The least over both pools for ours; the published rule's beside it."""
    bar = {}
    for rule, suffix in (("ours", ""), ("published", "_published")):
        same = [row for row in rows if row["rule"] == rule]
        bar[f"median_questions_per_leaf{suffix}"] = min(row["median questions per leaf"] for row in same)
        bar[f"informative_leaf_share{suffix}"] = min(row["informative leaves"] for row in same)
    return bar
