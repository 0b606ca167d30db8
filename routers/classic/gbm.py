"""Gradient boosting: small regression trees on what the query's vector and feature block say.

    quality(q, m) = level_m + sum of the first K trees of "how hard is it for all"
                            + sum of the first K_own trees of "what does m do better or worse"

The first series of trees is common to all arms (the mean of what they left unexplained on a query), the second is the
arm's own. How many trees of each are used is chosen on a held-out part, none at all among the candidates, and all are
then grown again on everything. Scikit-learn grows them; here they are complete trees of depth 3 laid out as arrays, so
that all trees of all arms are walked together in three steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.classic.regression import (
    Ground,
    Lesson,
    RegressionRouter,
    levels,
    positive,
    require,
    squared_error,
    typical,
)
from routers.estimators.least_squares import F64
from routers.protocol import F32, Outcomes, TrainingError
from routers.rows import positions

RANK = 24
DEPTH = 3
LEAVES = 2**DEPTH
COMMON_TREES, OWN_TREES = 100, 20
COMMON_RATE, OWN_RATE = 0.1, 0.2
"""Learning rates. Own trees are grown once per arm, so they are few and learn fast."""
BINS = 63
MIN_LEAF = 20
LEAF_STRENGTH = 10.0
"""Observations that zero counts for in a leaf."""
STEP = 4
"""Numbers of trees are tried in steps of this."""
HELD_OUT = 0.25
MIN_ROWS = 80
MIN_ANSWERS = 2 * MIN_LEAF
NOMINAL_STRENGTH = 300.0
"""Ridge strength that the standard error is computed with; trees have none."""
BATCH = 256


class Trees(NamedTuple):
    """T complete trees: `feature` and `threshold` [T, LEAVES - 1] in breadth-first order (go right where z exceeds the
    threshold), `leaf` [T, LEAVES]."""

    feature: NDArray[np.int32]
    threshold: F32
    leaf: F32

    @classmethod
    def none(cls) -> Self:
        shape = (0, LEAVES - 1)
        return cls(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros((0, LEAVES), np.float32))

    @classmethod
    def joined(cls, parts: Sequence[Trees]) -> Trees:
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) if parts else cls.none()

    def first(self, count: int) -> Trees:
        return Trees(self.feature[:count], self.threshold[:count], self.leaf[:count])

    def values(self, z: F32) -> F32:
        """The leaf values of every tree, [T] for `z` [P], [n, T] for [n, P]."""
        tree = np.arange(len(self.leaf))
        node = np.zeros((*z.shape[:-1], len(tree)), dtype=np.intp)
        feature, threshold = self.feature.ravel(), self.threshold.ravel()
        base = tree * (LEAVES - 1)
        for _ in range(DEPTH):
            at = base + node
            read = z[feature[at]] if z.ndim == 1 else np.take_along_axis(z, feature[at], axis=-1)
            node = 2 * node + 1 + (read > threshold[at])
        return np.asarray(self.leaf.ravel()[tree * LEAVES + node - (LEAVES - 1)])


class GbmRouter(RegressionRouter):
    """Arrays: `level` [M]; the trees of all, and then of each arm in turn, as many of each arm."""

    name: ClassVar[str] = "gbm"

    def __init__(self, ground: Ground, own: dict[str, NDArray[Any]], settings: dict[str, Any]) -> None:
        super().__init__(ground, own, settings)
        self._trees = Trees(own["feature"], own["threshold"], own["leaf"])

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. Settings `common_trees`, `own_trees` fix how many are used."""
        require(cls.name, "sklearn")
        fixed = positive(cls.name, settings, ("common_trees", "own_trees"))
        if any(value != int(value) for value in fixed.values()):
            raise TrainingError(f"numbers of trees of the gbm router must be whole, got {fixed}")
        lesson = Lesson.of(outcomes, RANK)
        if fixed.keys() == {"common_trees", "own_trees"}:
            common, own = int(fixed["common_trees"]), int(fixed["own_trees"])
        else:
            common, own = _chosen(lesson, fixed, seed)
        grown = _grown(lesson, common, own, seed)
        # Trees shift means a little; a last level takes that back.
        level = levels(lesson.quality - grown.predicted(lesson.z) + grown.level, lesson.weight)
        predicted = np.clip(grown._replace(level=level).predicted(lesson.z), 0.0, 1.0)
        trees = Trees.joined([grown.common, *grown.own])
        arrays = {"level": level.astype(np.float32), "typical": typical(predicted), **trees._asdict()}
        chosen = {"common_trees": len(grown.common.leaf), "own_trees": own}
        return cls(Ground.under(lesson, predicted, NOMINAL_STRENGTH), arrays, chosen)

    def _quality(self, z: F32) -> F32:
        if z.ndim == 2 and len(z) > BATCH:
            return np.concatenate([self._quality(z[start : start + BATCH]) for start in range(0, len(z), BATCH)])
        values, common = self._trees.values(z), self.settings["common_trees"]
        shared = values[..., :common].sum(axis=-1, keepdims=True)
        mine = values[..., common:].reshape(*z.shape[:-1], len(self.arms), self.settings["own_trees"]).sum(axis=-1)
        quality: F32 = self.own["level"] + shared + mine
        return quality


class Grown(NamedTuple):
    """Boosted series: `level` [M], the common trees, and every arm's own (as many for each)."""

    level: F64
    common: Trees
    own: list[Trees]

    def predicted(self, z: F64) -> F64:
        """Qualities [n, M], not cut."""
        narrow = z.astype(np.float32)
        shared = self.common.values(narrow).sum(axis=1, dtype=np.float64)
        mine = [trees.values(narrow).sum(axis=1, dtype=np.float64) for trees in self.own]
        return np.asarray(self.level + shared[:, None] + np.stack(mine, axis=1))


def _grown(lesson: Lesson, common: int, own: int, seed: int) -> Grown:
    level, bins = levels(lesson.quality, lesson.weight), Bins.of(lesson.z)
    weight = lesson.weight.sum(axis=1)
    residual = np.where(lesson.weight > 0, lesson.quality - level, 0.0)
    mean = (lesson.weight * residual).sum(axis=1) / np.where(weight > 0, weight, 1.0)
    shared = boosted(bins, mean, np.sqrt(weight), common, COMMON_RATE, seed)
    left = residual - shared.values(lesson.z.astype(np.float32)).sum(axis=1)[:, None]
    arms = range(len(level))
    return Grown(
        level, shared, [boosted(bins, left[:, arm], lesson.weight[:, arm], own, OWN_RATE, seed) for arm in arms]
    )


class Bins(NamedTuple):
    """Columns of `z` cut into at most BINS codes: a value has the number of `edges[column]` below it as its code.

    Scikit-learn would find its own bins again for every arm, which with weights takes longer than to grow the trees.
    """

    codes: NDArray[np.uint8]
    edges: list[F32]

    @classmethod
    def of(cls, z: F64) -> Self:
        narrow = z.astype(np.float32)
        levels = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
        edges = [np.unique(np.quantile(column, levels, method="lower")) for column in narrow.T]
        # An edge at the largest value parts nothing.
        edges = [edge[edge < column.max()] for edge, column in zip(edges, narrow.T, strict=True)]
        codes = [np.searchsorted(edge, column, side="left") for edge, column in zip(edges, narrow.T, strict=True)]
        return cls(np.stack(codes, axis=1).astype(np.uint8), edges)


def boosted(bins: Bins, target: F64, weight: F64, count: int, rate: float, seed: int) -> Trees:
    """`count` trees for the target [N] over the rows of positive weight [N]; trees that say nothing if they are few."""
    shape = (count, LEAVES - 1)
    found = Trees(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros((count, LEAVES), np.float32))
    rows = np.flatnonzero(weight > 0)
    telling = np.flatnonzero([len(edge) > 0 for edge in bins.edges])
    if count == 0 or len(rows) < MIN_ANSWERS or not len(telling):
        return found
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        learning_rate=rate, max_iter=count, max_depth=DEPTH, max_leaf_nodes=LEAVES, max_bins=BINS,
        min_samples_leaf=MIN_LEAF, l2_regularization=LEAF_STRENGTH, early_stopping=False, random_state=seed,
    )  # fmt: skip
    codes = bins.codes[np.ix_(rows, telling)].astype(np.float32)
    model.fit(codes, target[rows], sample_weight=weight[rows] / weight[rows].mean())
    for index, (predictor,) in enumerate(model._predictors):
        _lay(predictor.nodes, 0, 0, 0, Trees(found.feature[index], found.threshold[index], found.leaf[index]))
    for place in np.ndindex(found.feature.shape):
        column = telling[found.feature[place]]
        # Codes above a threshold are the values above the edge of that number; a place without a split parts nothing.
        cut = int(np.floor(found.threshold[place]))
        found.feature[place] = column
        found.threshold[place] = bins.edges[column][min(cut, len(bins.edges[column]) - 1)]
    found.leaf[0] += float(model._baseline_prediction[0, 0])
    return found


def _lay(nodes: NDArray[Any], at: int, place: int, depth: int, tree: Trees) -> None:
    """Write the subtree of node `at` into the complete tree at `place`; a leaf that comes early fills all below it."""
    node = nodes[at]
    if node["is_leaf"]:
        below = 2 ** (DEPTH - depth)
        begin = (place + 1) * below - LEAVES
        tree.leaf[begin : begin + below] = node["value"]
        return
    tree.feature[place], tree.threshold[place] = node["feature_idx"], node["num_threshold"]
    _lay(nodes, int(node["left"]), 2 * place + 1, depth + 1, tree)
    _lay(nodes, int(node["right"]), 2 * place + 2, depth + 1, tree)


def _chosen(lesson: Lesson, fixed: dict[str, float], seed: int) -> tuple[int, int]:
    """Numbers of common and of own trees of the lowest squared error on a held-out part."""
    held_out = positions(lesson.outcomes.query_ids, f"gbm-{seed}") < HELD_OUT
    train, test = lesson.rows(~held_out), lesson.rows(held_out)
    if len(lesson.z) < MIN_ROWS or not train.weight.any():
        return int(fixed.get("common_trees", 0)), int(fixed.get("own_trees", 0))
    z = test.z.astype(np.float32)
    level = levels(train.quality, train.weight)
    common = int(fixed.get("common_trees", -1))
    if common < 0:
        trees = _grown(train, COMMON_TREES, 0, seed).common
        sums = np.cumsum(np.hstack([np.zeros((len(z), 1)), trees.values(z)]), axis=1)
        common = _best_count(COMMON_TREES, lambda count: level + sums[:, count, None], test)
    if "own_trees" in fixed:
        return common, int(fixed["own_trees"])
    grown = _grown(train, common, OWN_TREES, seed)
    base = grown._replace(own=[Trees.none()] * len(level)).predicted(test.z)
    steps = np.stack([np.cumsum(trees.values(z), axis=1) for trees in grown.own], axis=1)
    return common, _best_count(OWN_TREES, lambda count: base + (steps[:, :, count - 1] if count else 0.0), test)


def _best_count(most: int, predicted: Any, test: Lesson) -> int:
    return min(range(0, most + 1, STEP), key=lambda count: squared_error(predicted(count), test))
