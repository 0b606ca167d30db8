"""What the forest is worth on queries unlike those it learned from, seen by holding out whole clusters."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.ensemble.bagging import Bagged, Lesson, bagged_forest
from routers.ensemble.forest import COMMON_STRENGTH, OWN_STRENGTH, node_sums, node_values
from routers.ensemble.margin import Trust
from routers.ensemble.novelty import Novelty
from routers.estimators.kmeans import centroids
from routers.protocol import F32

F64 = NDArray[np.float64]
Integers = NDArray[np.intp]

CLUSTERS = 16
FOLDS = 4
TREES_SHARE = 0.25
"""Size of the forests that judge, as a share of the final one."""
LEAST_ROWS = 200
LEAST_STRANGERS = 50
LEAST_CLUSTERS = 3
BELIEFS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Strangers(NamedTuple):
    """Novel queries of held-out clusters: what the forest said of them [n, M], what the arms' means said [n, M], what
    was observed, inverse propensities, and the cluster [n]."""

    predicted: F64
    means: F64
    values: F64
    inverse: F64
    cluster: Integers

    @classmethod
    def held_out(cls, lesson: Lesson, form_width: int, trees: int, min_leaf: int, seed: int) -> Self:
        """Those of the clusters of `lesson`, each fourth of which is held out in turn."""
        n, m = lesson.values.shape
        parts: list[Self] = []
        if n >= LEAST_ROWS:
            placed = Novelty.learned(lesson.rows, form_width, seed).placed(lesson.rows)
            cluster = np.argmax(placed @ centroids(placed, CLUSTERS, seed).T, axis=1)
            count = max(2, round(TREES_SHARE * trees))
            for fold in range(FOLDS):
                out, rest = np.flatnonzero(cluster % FOLDS == fold), np.flatnonzero(cluster % FOLDS != fold)
                if len(out) and len(rest) >= LEAST_ROWS // 2 and np.any(lesson.inverse[rest] > 0):
                    parts.append(cls._of_fold(lesson, form_width, out, rest, cluster, count, min_leaf, seed + fold))
        if not parts:
            blank = np.zeros((0, m))
            return cls(blank, blank, blank, blank, np.zeros(0, dtype=np.intp))
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    @classmethod
    def _of_fold(
        cls,
        lesson: Lesson,
        form_width: int,
        out: Integers,
        rest: Integers,
        cluster: Integers,
        trees: int,
        min_leaf: int,
        seed: int,
    ) -> Self:
        learned = lesson.part(rest)
        novel = out[Novelty.learned(learned.rows, form_width, seed).novel(lesson.rows[out])]
        means = learned.means
        bagged = bagged_forest(learned, trees, min_leaf, seed)
        predicted = _predicted(bagged, learned, means, lesson.rows[novel])
        return cls(
            predicted, np.tile(means, (len(novel), 1)), lesson.values[novel], lesson.inverse[novel], cluster[novel]
        )

    def trust(self, margin: float) -> Trust:
        """The margin of queries like the others, and what was found here for novel ones."""
        if len(self.cluster) < LEAST_STRANGERS or len(np.unique(self.cluster)) < LEAST_CLUSTERS:
            return Trust(margin, 1.0, 0.0)
        errors = [float((self.inverse * (self._blend(b) - self.values) ** 2).sum()) for b in BELIEFS]
        belief = BELIEFS[int(np.argmin(errors))]
        return Trust(margin, belief, self._drift(self._blend(belief)))

    def _blend(self, belief: float) -> F64:
        return belief * self.predicted + (1.0 - belief) * self.means

    def _drift(self, blended: F64) -> float:
        """Variance of the error of a whole cluster's predicted mean."""
        errors, sizes = [], []
        for cluster in np.unique(self.cluster):
            rows = self.cluster == cluster
            weight = self.inverse[rows].sum(axis=0)
            surplus = (self.inverse[rows] * (self.values[rows] - blended[rows])).sum(axis=0)
            errors.append(float(np.mean((surplus / np.maximum(weight, 1.0)) ** 2)))
            sizes.append(float(rows.sum()))
        return float(np.average(errors, weights=sizes))


def _predicted(bagged: Bagged, learned: Lesson, means: F64, rows: F32) -> F64:
    sums = node_sums(bagged.forest, bagged.leaves, learned.values, learned.counts, None)
    values = node_values(bagged.forest, sums, means, COMMON_STRENGTH, OWN_STRENGTH)
    leaves = bagged.forest.leaves_batch(rows)
    total = np.zeros((len(rows), values.shape[1]))
    for tree in range(leaves.shape[1]):
        total += values[leaves[:, tree]]
    mean: F64 = total / leaves.shape[1]
    return mean
