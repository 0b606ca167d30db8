"""How the default router learns: targets for its trees, values for their nodes, a margin from out-of-bag choices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.ensemble_forest import (
    COMMON_STRENGTH,
    OWN_STRENGTH,
    Forest,
    Sums,
    grown,
    node_sums,
    node_values,
)
from routers.ensemble_inputs import Inputs
from routers.ensemble_margin import chosen_margin
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import weights
from routers.shrinkage import group_sums, quality_means, ratio_means

F64 = NDArray[np.float64]
Integers = NDArray[np.intp]

TREES = 60
MIN_LEAF = 8
MAX_FEATURES = 0.3
IN_BAG = 0.7
"""Share of the rows that a tree is grown on; the rest judges it."""
MAX_IN_BAG = 20_000
TARGETS = 8


class Found(NamedTuple):
    """Arguments of `routers.ensemble.EnsembleRouter` after its cost scale."""

    inputs: Inputs
    forest: Forest
    table: F32
    overall: Prediction
    spread: F32
    single: int
    margin: float


def fitted(outcomes: Outcomes, seed: int, trees: int = TREES, min_leaf: int = MIN_LEAF) -> Found:
    """Learn from prepared outcomes.

    Raises
    ------
    TrainingError: a setting is out of range.
    """
    if trees < 2 or min_leaf < 1:
        raise TrainingError(f"trees must be at least 2 and min_leaf at least 1, got {trees} and {min_leaf}")
    n = len(outcomes.query_ids)
    seen = ~np.isnan(outcomes.quality)
    inverse = weights(outcomes).astype(np.float64)
    counts = inverse * (seen.sum(axis=0) / np.maximum(inverse.sum(axis=0), 1e-12))
    values = np.where(seen, outcomes.quality, 0.0).astype(np.float64)
    one_group = group_sums(outcomes.quality, inverse.astype(np.float32), np.zeros(n, dtype=np.intp), 1)
    overall = quality_means(one_group)
    means = overall.cells[0]
    targets = _targets(values - means, inverse, seen)
    inputs = Inputs.learned(outcomes, targets, seed)
    rows = inputs.many(outcomes.vectors, outcomes.features)
    rng = np.random.default_rng(seed)
    bag = max(1, min(MAX_IN_BAG, round(IN_BAG * n)))
    samples = [np.sort(rng.choice(n, bag, replace=False)) for _ in range(trees)]
    leaf_rows = int(np.ceil(min_leaf / seen.mean()))
    forest = grown(rows, targets, samples, max(1, min(leaf_rows, bag // 4 or 1)), MAX_FEATURES, seed)
    leaves = forest.leaves_batch(rows)
    used = np.zeros((n, trees), dtype=bool)
    for tree, sample in enumerate(samples):
        used[sample, tree] = True
    in_bag = node_sums(forest, leaves, values, counts, used)
    unseen = _out_of_bag(forest, leaves, used, node_values(forest, in_bag, means, *_strengths(in_bag)))
    known = np.isfinite(unseen[:, 0])
    single = int(np.argmax(means))
    margin = chosen_margin(unseen[known], values[known], inverse[known], single)
    sums = node_sums(forest, leaves, values, counts, None)
    quality = node_values(forest, sums, means, *_strengths(sums))
    noise = _noise(unseen, values, counts, known)
    every = np.ones((n, 1))
    support = 1.0 / (node_sums(forest, leaves, every, every, None).weight + OWN_STRENGTH)
    share = np.maximum(counts.sum(axis=0), 0.5) / n
    spread = np.sqrt(noise / share)
    columns = [quality, support]
    typical = [means.astype(np.float32), np.sqrt(overall.variance[0] + 1e-9).astype(np.float32)]
    for matrix in (outcomes.cost_usd, outcomes.latency_s):
        level, factors = _factors(forest, leaves, matrix)
        typical.append(level.astype(np.float32))
        if factors is not None:
            columns.append(factors)
    table = np.hstack(columns).astype(np.float32)
    return Found(inputs, forest, table, Prediction(*typical), spread.astype(np.float32), single, margin)


def _strengths(sums: Sums) -> tuple[float, float]:
    return COMMON_STRENGTH, OWN_STRENGTH


def _targets(residual: F64, inverse: F64, seen: NDArray[np.bool_]) -> F64:
    """What the trees are grown on, [N, at most TARGETS]: how hard a query is, and what sets the arms apart."""
    row_weight = inverse.sum(axis=1)
    hardness = (inverse * residual).sum(axis=1) / np.maximum(row_weight, 1e-12)
    apart = np.where(seen, inverse * (residual - hardness[:, None]), 0.0)
    if residual.shape[1] > TARGETS:
        _, turned = np.linalg.eigh(apart.T @ apart)
        apart = apart @ turned[:, ::-1][:, : TARGETS - 1]
    return np.hstack([hardness[:, None] * np.sqrt(residual.shape[1]), apart])


def _out_of_bag(forest: Forest, leaves: Integers, used: NDArray[np.bool_], values: F64) -> F64:
    """Predicted quality [N, M] of every row by the trees that did not see it; NaN where all did."""
    total, count = np.zeros((len(leaves), values.shape[1])), np.zeros((len(leaves), 1))
    for tree in range(leaves.shape[1]):
        free = ~used[:, tree]
        total[free] += values[leaves[free, tree]]
        count[free] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _noise(unseen: F64, values: F64, counts: F64, known: NDArray[np.bool_]) -> F64:
    """Variance of a score about its prediction, [M], drawn to the pool's."""
    squares = (counts[known] * (values[known] - unseen[known]) ** 2).sum(axis=0)
    weight = counts[known].sum(axis=0)
    pool = (squares.sum() + 2.0) / (weight.sum() + 10.0)
    noise: F64 = (squares + 10.0 * pool) / (weight + 10.0)
    return np.maximum(noise, 1e-4)


def _factors(forest: Forest, leaves: Integers, matrix: F32) -> tuple[F64, F64 | None]:
    """Mean of every arm, NaN where nothing was observed, and each node's factors of it."""
    n = len(matrix)
    level = ratio_means(group_sums(matrix, np.ones_like(matrix), np.zeros(n, dtype=np.intp), 1))[0]
    usable = np.isfinite(level) & (level > 0)
    if not usable.any():
        return level, None
    known = np.isfinite(matrix) & usable
    ratio = np.where(known, matrix / np.where(usable, level, 1.0), 0.0).astype(np.float64)
    sums = node_sums(forest, leaves, ratio, known.astype(np.float64), None)
    return level, node_values(forest, sums, np.ones(matrix.shape[1]), COMMON_STRENGTH, OWN_STRENGTH)
