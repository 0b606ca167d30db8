"""Outcomes made ready to learn from: checked, in an order that depends on content alone, weighted, and split by
content."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32, Outcomes, TrainingError

MIN_PROPENSITY = 0.02
"""Cells weigh 1 / max(propensity, this), which bounds the variance that one rare cell can bring."""


def prepared(outcomes: Outcomes) -> Outcomes:
    """The outcomes, verified, with rows sorted by query id so that nothing learned depends on their order.

    Raises
    ------
    TrainingError: says which array is wrong, what was expected and what came.
    """
    check(outcomes)
    order = sorted(range(len(outcomes.query_ids)), key=outcomes.query_ids.__getitem__)
    return subset(outcomes, np.array(order, dtype=np.intp))


def check(outcomes: Outcomes) -> None:
    """Raise TrainingError if the outcomes break their own contract (`routers.protocol.Outcomes`)."""
    n, m = len(outcomes.query_ids), len(outcomes.arms)
    if n == 0 or m == 0:
        raise TrainingError(f"outcomes hold {n} queries and {m} arms; log or collect scored answers first")
    if len(set(outcomes.arms)) != m:
        raise TrainingError("outcomes name an arm twice; merge its columns")
    if len(set(outcomes.query_ids)) != n:
        raise TrainingError("outcomes hold a query id twice; merge the rows of one query into one")
    if outcomes.vectors.ndim != 2 or outcomes.vectors.shape[0] != n:
        raise TrainingError(f"vectors must have shape [{n}, d], got {outcomes.vectors.shape}")
    norms = np.linalg.norm(outcomes.vectors, axis=1)
    if not np.all((np.abs(norms - 1.0) < 1e-2) | (norms == 0.0)):
        raise TrainingError("vectors must be finite and of unit norm (or zero for an empty query); encode them again")
    _check_extras(outcomes, n)
    matrices = {name: getattr(outcomes, name) for name in ("quality", "cost_usd", "latency_s", "propensity")}
    for name, matrix in matrices.items():
        if matrix.shape != (n, m):
            raise TrainingError(f"{name} must have shape [{n}, {m}] (queries, arms), got {matrix.shape}")
    _check_range("quality", outcomes.quality, 0.0, 1.0)
    _check_range("cost_usd", outcomes.cost_usd, 0.0, np.inf)
    _check_range("latency_s", outcomes.latency_s, 0.0, np.inf)
    _check_range("propensity", outcomes.propensity, 1e-12, 1.0 + 1e-6)
    if np.any(np.isnan(outcomes.propensity) & ~np.isnan(outcomes.quality)):
        raise TrainingError("a cell has a quality but no propensity; use 1.0 where every arm was asked")
    if np.all(np.isnan(outcomes.quality)):
        raise TrainingError("no cell has a quality: score the answers, or send feedback on them, first")


def _check_extras(outcomes: Outcomes, n: int) -> None:
    features, texts = outcomes.features, outcomes.texts
    if features is not None and (features.ndim != 2 or len(features) != n or not np.all(np.isfinite(features))):
        raise TrainingError(f"features must be finite and of shape [{n}, F], got {features.shape}; compute them again")
    if (features is None) != (outcomes.feature_set is None):
        raise TrainingError("features and feature_set go together; give both or neither")
    if texts is not None and len(texts) != n:
        raise TrainingError(f"texts must be {n}, one for each query, got {len(texts)}")


def _check_range(name: str, matrix: F32, low: float, high: float) -> None:
    known = matrix[~np.isnan(matrix)]
    bad = (known < low) | (known > high) | np.isinf(known)
    if np.any(bad):
        raise TrainingError(f"{name} must lie in [{low:g}, {high:g}] or be NaN, got {known[bad][0]:g}")


def subset(outcomes: Outcomes, rows: NDArray[np.intp]) -> Outcomes:
    """The outcomes of some of the queries, in the order of `rows`."""
    return replace(
        outcomes,
        vectors=outcomes.vectors[rows],
        quality=outcomes.quality[rows],
        cost_usd=outcomes.cost_usd[rows],
        latency_s=outcomes.latency_s[rows],
        propensity=outcomes.propensity[rows],
        query_ids=tuple(outcomes.query_ids[row] for row in rows.tolist()),
        tasks=None if outcomes.tasks is None else tuple(outcomes.tasks[row] for row in rows.tolist()),
        features=None if outcomes.features is None else outcomes.features[rows],
        texts=None if outcomes.texts is None else tuple(outcomes.texts[row] for row in rows.tolist()),
    )


def weights(outcomes: Outcomes) -> F32:
    """Weight of every cell, float32 [N, M]: inverse propensity, 0 where no quality was observed."""
    seen = ~np.isnan(outcomes.quality)
    inverse = 1.0 / np.maximum(outcomes.propensity, MIN_PROPENSITY)
    return np.where(seen, inverse, 0.0).astype(np.float32)


def positions(query_ids: tuple[str, ...], salt: str) -> NDArray[np.float64]:
    """A uniform number in [0, 1) for each query, from its id and the salt alone: the key of every split."""
    digests = (hashlib.sha256(f"{salt}\0{query_id}".encode()).digest()[:8] for query_id in query_ids)
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests])


def split(outcomes: Outcomes, share: float, salt: str) -> tuple[Outcomes, Outcomes]:
    """(training part, held-out part of about `share`), by content: a query is always on the same side."""
    held_out = positions(outcomes.query_ids, salt) < share
    return subset(outcomes, np.flatnonzero(~held_out)), subset(outcomes, np.flatnonzero(held_out))


def folds(outcomes: Outcomes, count: int, salt: str) -> NDArray[np.intp]:
    """The fold in 0..count-1 of each query, by content."""
    return (positions(outcomes.query_ids, salt) * count).astype(np.intp)
