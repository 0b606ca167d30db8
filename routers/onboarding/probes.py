"""Which few queries tell most about an arm that nobody has asked yet.

A new arm is expected to answer like the known ones: a query's difficulty is what the router predicts for it, moved by
how much better or worse than predicted the known arms really did there. What such an expectation leaves open is the
spread of one answer about it. Probes are drawn so that the known part balances out and the open part is seen where it
is largest: queries are ordered by which arms they favour and by difficulty, and taken at even steps of the cumulated
spread (systematic sampling with probability in proportion to size; with an expectation that is right this is the
allocation of Neyman, 1934). Queries that all arms get right, or all get wrong, are therefore rarely asked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.estimators.kmeans import centroids
from routers.protocol import F32, Outcomes, Router, TrainingError
from routers.rows import subset

PROBES = 64
GROUPS = 8
"""Groups of queries that favour the same arms."""
MIN_ROWS_PER_GROUP = 8
OWN_SHARE = 0.4
"""How much of what one known arm did beyond expectation on a query counts as the query's, not as luck."""
SPREAD = 0.8
"""Variance of a score about its expectation m, in parts of m (1 - m), which it would have if nothing were known."""
LEAST_SPREAD = 0.04
"""Floor of m (1 - m): no expectation is that sure."""

F64 = NDArray[np.float64]


class Expected(NamedTuple):
    """What is expected of an unknown arm on each of N queries, given K known ones.

    `mean` [N]: its score. `profile` [N, K]: by how much each known arm differs from that. `spread` [N]: the variance
    of one score of the new arm about what it is really expected to be there.
    """

    mean: F64
    profile: F64
    spread: F64


def expected(outcomes: Outcomes, router: Router) -> Expected:
    """Expectations for the queries of `outcomes`, from the router's predictions and the scores of its arms.

    Scores of arms that the router does not know take no part; none need be there.

    Raises
    ------
    TrainingError: the outcomes are of another encoder than the router.
    """
    predicted = predictions(outcomes, router)
    scores = _scores(outcomes, router.arms)
    seen = ~np.isnan(scores)
    residual = np.where(seen, scores - predicted, 0.0)
    count = seen.sum(axis=1)
    shift = residual.sum(axis=1) / np.maximum(count, 1)
    mean = predicted.mean(axis=1) + _reliability(residual, seen) * shift
    own = np.where(seen, residual - shift[:, None], 0.0)
    profile = predicted - predicted.mean(axis=1, keepdims=True) + OWN_SHARE * own
    within = np.clip(mean, 0.0, 1.0)
    return Expected(mean, profile, SPREAD * np.maximum(within * (1.0 - within), LEAST_SPREAD))


def predictions(outcomes: Outcomes, router: Router) -> F64:
    """Predicted quality of the router's arms, [N, K]. Raises TrainingError on another encoder's vectors."""
    if outcomes.encoder != router.encoder or outcomes.vectors.shape[1:] != (router.dim or outcomes.vectors.shape[1],):
        raise TrainingError(
            f"the router learned from vectors of encoder {router.encoder}, these queries are encoded with "
            f"{outcomes.encoder}; encode them with the router's encoder, or train a router with this one"
        )
    quality = router.predict_batch(outcomes.vectors, outcomes.features, outcomes.texts).quality
    return quality.astype(np.float64)


def choose_probes(
    outcomes: Outcomes, router: Router, count: int = PROBES, seed: int = 0, among: NDArray[np.bool_] | None = None
) -> NDArray[np.intp]:
    """Positions in `outcomes` of at most `count` queries to ask a new arm, in ascending order.

    Deterministic for a seed, and the same queries whatever the order of the rows. `among` [N] says which queries may be
    asked; all if left out.

    Raises
    ------
    TrainingError: no query may be asked, `count` is not positive, or another encoder's vectors.
    """
    if count < 1:
        raise TrainingError(f"at least one probe must be asked, got {count}")
    ids = outcomes.query_ids
    # Sums depend on the order of what is summed, in their last digits: everything is computed in the order of the ids.
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.intp)
    rows = np.arange(len(ids)) if among is None else np.flatnonzero(among[by_id])
    if not len(rows):
        raise TrainingError("no query can be asked of the new model: score some answers, or give a file of them, first")
    if len(rows) <= count:
        return np.sort(by_id[rows])
    ordered = subset(outcomes, by_id)
    hopes = expected(ordered, router)
    favoured = _favoured(predictions(ordered, router)[rows], seed)
    order = rows[np.lexsort((hopes.mean[rows], favoured))]
    taken = _even_steps(np.sqrt(hopes.spread[order]), count, np.random.default_rng(seed).random())
    return np.sort(by_id[order[taken]])


def _scores(outcomes: Outcomes, arms: tuple[str, ...]) -> F64:
    """Scores of the arms named, [N, K]; NaN for an arm that the outcomes do not have."""
    column = {arm: index for index, arm in enumerate(outcomes.arms)}
    scores = np.full((len(outcomes.query_ids), len(arms)), np.nan)
    for index, arm in enumerate(arms):
        if arm in column:
            scores[:, index] = outcomes.quality[:, column[arm]]
    return scores


def _reliability(residual: F64, seen: NDArray[np.bool_]) -> F64:
    """By which part of the mean residual of n known arms a further arm is off as well, [N].

    With variance s of a residual and covariance t of two arms' residuals on one query this is n t / (s + (n - 1) t).
    Both are estimated by moments over all queries; t is 0 where no query was asked of two arms.
    """
    count = seen.sum(axis=1)
    pairs = float((count * (count - 1)).sum())
    products = float((residual.sum(axis=1) ** 2 - (residual**2).sum(axis=1)).sum())
    variance = float((residual**2).sum()) / max(float(count.sum()), 1.0)
    together = min(max(products / pairs, 0.0), variance) if pairs > 0 else 0.0
    if together == 0.0:
        return np.zeros(len(count))
    return np.asarray(count * together / (variance + np.maximum(count - 1, 0) * together))


def _favoured(predicted: F64, seed: int) -> NDArray[np.intp]:
    """A group for each query: those that the same arms are predicted to be good at."""
    away = predicted - predicted.mean(axis=1, keepdims=True)
    away -= away.mean(axis=0)
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    count = min(GROUPS, len(away) // MIN_ROWS_PER_GROUP)
    if count < 2 or lengths.max() < 1e-9:
        return np.zeros(len(away), dtype=np.intp)
    directions: F32 = np.where(lengths > 1e-9, away / np.maximum(lengths, 1e-9), 0.0).astype(np.float32)
    return np.asarray(np.argmax(directions @ centroids(directions, count, seed).T, axis=1), dtype=np.intp)


def _even_steps(sizes: F64, count: int, start: float) -> NDArray[np.intp]:
    """`count` different positions at even steps of the cumulated sizes, the first at `start` in [0, 1) of a step."""
    ends = np.cumsum(sizes) / sizes.sum()
    drawn = np.searchsorted(ends, (np.arange(count) + start) / count, side="right")
    taken = np.unique(np.minimum(drawn, len(sizes) - 1))
    if len(taken) < count:
        # One size was larger than a step: what it would have got twice goes to the largest of the others.
        left = np.setdiff1d(np.argsort(-sizes, kind="stable"), taken, assume_unique=True)
        taken = np.concatenate([taken, left[: count - len(taken)]])
    return np.asarray(taken)
