"""How the default router learns: targets for its trees, values for their nodes, and how far to believe them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.ensemble.bagging import Bagged, Lesson, bagged_forest, out_of_bag
from routers.ensemble.forest import COMMON_STRENGTH, OWN_STRENGTH, Forest, node_sums, node_values
from routers.ensemble.inputs import Inputs
from routers.ensemble.margin import Trust, chosen_edge, chosen_margin, gained
from routers.ensemble.novelty import MEASURED, Novelty
from routers.ensemble.strangers import Strangers
from routers.ensemble.tags import Tags
from routers.estimators.shrinkage import group_sums, ratio_means
from routers.protocol import F32, Outcomes, Prediction, TrainingError
from routers.rows import weights

F64 = NDArray[np.float64]
Integers = NDArray[np.intp]

TREES = 60
MIN_LEAF = 8
TARGETS = 8


class Found(NamedTuple):
    """Arguments of `routers.ensemble.router.EnsembleRouter` after its cost scale."""

    inputs: Inputs
    forest: Forest
    table: F32
    overall: Prediction
    spread: F32
    single: int
    novelty: Novelty
    trust: Trust
    tags: Tags


def fitted(outcomes: Outcomes, seed: int, trees: int = TREES, min_leaf: int = MIN_LEAF) -> Found:
    """Learn from prepared outcomes.

    Raises
    ------
    TrainingError: a setting is out of range.
    """
    if trees < 2 or min_leaf < 1:
        raise TrainingError(f"trees must be at least 2 and min_leaf at least 1, got {trees} and {min_leaf}")
    inputs, lesson = _lesson(outcomes, seed)
    means = lesson.means
    single = int(np.argmax(means))
    bagged = bagged_forest(lesson, trees, min_leaf, seed)
    unseen = out_of_bag(bagged, lesson, means)
    known = np.isfinite(unseen[:, 0])
    codes = np.zeros(len(known), dtype=np.float32) if outcomes.features is None else outcomes.features[:, -1]
    tags, unseen = _tags(lesson, unseen, known, codes)
    margin = chosen_margin(unseen[known], lesson.values[known], lesson.inverse[known], single)
    form = len(inputs.typical)
    novelty = Novelty.learned(lesson.rows, form, seed)
    trust = Strangers.held_out(lesson, form, trees, min_leaf, seed).trust(margin)
    trust = trust._replace(edge=_edge(novelty, lesson, unseen, known, margin, single))
    noise = _noise(unseen[known], lesson.values[known], lesson.counts[known])
    overall, table, spread = _table(outcomes, lesson, bagged, noise)
    return Found(inputs, bagged.forest, table, overall, spread, single, novelty, trust, tags)


def _lesson(outcomes: Outcomes, seed: int) -> tuple[Inputs, Lesson]:
    seen = ~np.isnan(outcomes.quality)
    inverse = weights(outcomes).astype(np.float64)
    counts = inverse * (seen.sum(axis=0) / np.maximum(inverse.sum(axis=0), 1e-12))
    values = np.where(seen, outcomes.quality, 0.0).astype(np.float64)
    blank = np.zeros((len(values), 0))
    means = Lesson(blank.astype(np.float32), blank, values, counts, inverse).means
    targets = _targets(values - means, inverse, seen)
    inputs = Inputs.learned(outcomes, targets, seed)
    return inputs, Lesson(inputs.many(outcomes.vectors, outcomes.features), targets, values, counts, inverse)


def _targets(residual: F64, inverse: F64, seen: NDArray[np.bool_]) -> F64:
    """What the trees are grown on, [N, at most TARGETS]: how hard a query is, and what sets the arms apart."""
    row_weight = inverse.sum(axis=1)
    hardness = (inverse * residual).sum(axis=1) / np.maximum(row_weight, 1e-12)
    apart = np.where(seen, inverse * (residual - hardness[:, None]), 0.0)
    if residual.shape[1] > TARGETS:
        _, turned = np.linalg.eigh(apart.T @ apart)
        apart = apart @ turned[:, ::-1][:, : TARGETS - 1]
    return np.hstack([hardness[:, None] * np.sqrt(residual.shape[1]), apart])


def _tags(lesson: Lesson, unseen: F64, known: NDArray[np.bool_], codes: F32) -> tuple[Tags, F64]:
    """What the tags add, and `unseen` [N, M] with what the other half of the rows says that they add."""
    errors, halves = lesson.values - unseen, np.arange(len(known)) % 2
    moved = unseen.copy()
    for half in (0, 1):
        others, own = known & (halves != half), halves == half
        moved[own] = Tags.learned(codes[others], errors[others], lesson.counts[others]).moved(unseen[own], codes[own])
    return Tags.learned(codes[known], errors[known], lesson.counts[known]), moved


def _edge(novelty: Novelty, lesson: Lesson, unseen: F64, known: NDArray[np.bool_], margin: float, single: int) -> float:
    """See `Trust.edge`. Queries that made the centres are nearer to them than fresh ones, and do not count."""
    rows = np.arange(len(known))[MEASURED]
    rows = rows[known[rows]]
    gains = gained(unseen[rows], lesson.values[rows], lesson.inverse[rows], single, margin)
    return chosen_edge(gains, novelty.nearest(lesson.rows[rows]).astype(np.float64), novelty.least)


def _noise(unseen: F64, values: F64, counts: F64) -> F64:
    """Variance of a score about its prediction, [M], drawn to the pool's."""
    squares = (counts * (values - unseen) ** 2).sum(axis=0)
    weight = counts.sum(axis=0)
    pool = (squares.sum() + 2.0) / (weight.sum() + 10.0)
    noise: F64 = (squares + 10.0 * pool) / (weight + 10.0)
    return np.maximum(noise, 1e-4)


def _table(outcomes: Outcomes, lesson: Lesson, bagged: Bagged, noise: F64) -> tuple[Prediction, F32, F32]:
    """Means over everything, the table of the nodes, and the spread of every arm (see `EnsembleRouter`)."""
    forest, leaves = bagged.forest, bagged.leaves
    means, n = lesson.means, len(lesson.rows)
    sums = node_sums(forest, leaves, lesson.values, lesson.counts, None)
    every = np.ones((n, 1))
    support = 1.0 / (node_sums(forest, leaves, every, every, None).weight + OWN_STRENGTH)
    columns = [node_values(forest, sums, means, COMMON_STRENGTH, OWN_STRENGTH), support]
    observed = lesson.counts.sum(axis=0)
    typical = [means, np.sqrt(noise / (observed + 1.0))]
    for matrix in (outcomes.cost_usd, outcomes.latency_s):
        level, factors = _factors(forest, leaves, matrix)
        typical.append(level)
        if factors is not None:
            columns.append(factors)
    overall = Prediction(*(column.astype(np.float32) for column in typical))
    spread = np.sqrt(noise / (np.maximum(observed, 0.5) / n))
    return overall, np.hstack(columns).astype(np.float32), spread.astype(np.float32)


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
