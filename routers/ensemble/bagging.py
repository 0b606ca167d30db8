"""A forest grown on random parts of what is to be learned, so that the rest can judge it."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.ensemble.forest import COMMON_STRENGTH, OWN_STRENGTH, Forest, grown, node_sums, node_values
from routers.estimators.shrinkage import group_sums, quality_means
from routers.protocol import F32

F64 = NDArray[np.float64]
Integers = NDArray[np.intp]

MAX_FEATURES = 0.3
IN_BAG = 0.7
"""Share of the rows that a tree is grown on; the rest judges it."""
MAX_IN_BAG = 20_000


class Lesson(NamedTuple):
    """What is learned from: `rows` [N, W] of inputs, `targets` [N, K] of the trees, and [N, M] each: `values` (0 where
    not observed), `counts` (weights that average 1 over an arm's observations) and `inverse` propensities."""

    rows: F32
    targets: F64
    values: F64
    counts: F64
    inverse: F64

    @property
    def means(self) -> F64:
        """Mean quality of every arm, [M], drawn to the pool's."""
        one_group = np.zeros(len(self.rows), dtype=np.intp)
        quality = np.where(self.counts > 0, self.values, np.nan).astype(np.float32)
        found: F64 = quality_means(group_sums(quality, self.inverse.astype(np.float32), one_group, 1)).cells[0]
        return found

    def part(self, rows: Integers) -> Self:
        return type(self)(self.rows[rows], self.targets[rows], self.values[rows], self.counts[rows], self.inverse[rows])


class Bagged(NamedTuple):
    """A forest, the leaves [N, T] of the rows it was grown on, and which trees have seen which rows, bool [N, T]."""

    forest: Forest
    leaves: Integers
    used: NDArray[np.bool_]


def bagged_forest(lesson: Lesson, trees: int, min_leaf: int, seed: int) -> Bagged:
    """Trees on random parts of the rows; a leaf has `min_leaf` rows in which every arm was observed, or their worth."""
    n, rng = len(lesson.rows), np.random.default_rng(seed)
    bag = max(1, min(MAX_IN_BAG, round(IN_BAG * n)))
    samples = [np.sort(rng.choice(n, bag, replace=False)) for _ in range(trees)]
    leaf_rows = int(np.ceil(min_leaf / np.mean(lesson.counts > 0)))
    forest = grown(lesson.rows, lesson.targets, samples, max(1, min(leaf_rows, bag // 4)), MAX_FEATURES, seed)
    used = np.zeros((n, trees), dtype=bool)
    for tree, sample in enumerate(samples):
        used[sample, tree] = True
    return Bagged(forest, forest.leaves_batch(lesson.rows), used)


def out_of_bag(bagged: Bagged, lesson: Lesson, means: F64) -> F64:
    """Predicted quality [N, M] of every row by the trees that have not seen it; NaN where all have."""
    sums = node_sums(bagged.forest, bagged.leaves, lesson.values, lesson.counts, bagged.used)
    values = node_values(bagged.forest, sums, means, COMMON_STRENGTH, OWN_STRENGTH)
    total, count = np.zeros_like(lesson.values), np.zeros((len(lesson.values), 1))
    for tree in range(bagged.leaves.shape[1]):
        free = ~bagged.used[:, tree]
        total[free] += values[bagged.leaves[free, tree]]
        count[free] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
