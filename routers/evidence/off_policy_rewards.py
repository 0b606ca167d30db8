"""The model of rewards behind doubly robust estimates, cross-fitted: a row is predicted by a model that never saw it.

The default is a ridge regression on the leading principal components of the vectors: one for all arms together, then
one for each arm that is drawn toward it, every strength chosen by generalised cross-validation. It fits 20,000
decisions in a fraction of a second; its quality only decides how narrow an interval is, never whether it is right. Any
router can take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from routers.evidence.off_policy import F64, Indices, LoggedDecisions, OffPolicyError, columns
from routers.protocol import Outcomes, Router
from routers.rows import positions

FOLDS = 5
COMPONENTS = 64
LEAST_ANSWERS = 5
"""An arm with fewer answers is predicted like all arms together."""
CONSTANT = 20.0
"""Value of the constant column: the larger, the less a strong penalty on slopes draws an arm's mean to the others'."""
STRENGTHS: Final = np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0])
"""Ridge penalties that are tried."""


def fold_of(decisions: LoggedDecisions, seed: int = 0, folds: int = FOLDS) -> Indices:
    """The fold in 0..folds-1 of each decision, by content: all repeats of a query are in one."""
    return (positions(decisions.ids, f"off-policy-{seed}") * folds).astype(np.intp)


def cross_fitted(
    decisions: LoggedDecisions,
    values: F64 | None = None,
    router: type[Router] | None = None,
    *,
    seed: int = 0,
    folds: int = FOLDS,
) -> F64:
    """Predicted values of every arm for every decision, float64 [n, M], each from the other folds alone.

    Parameters
    ----------
    values: [n], what is predicted; the reward if left out. The ridge takes any finite numbers, a router rewards only.
    router: a kind of router to predict with in place of the ridge.

    Raises
    ------
    OffPolicyError: too few different queries to leave some out.
    TrainingError: the router cannot learn from what is left.
    """
    fold = fold_of(decisions, seed, folds)
    if len(np.unique(fold)) < 2:
        raise OffPolicyError(f"{len(set(decisions.ids))} different queries are too few to cross-fit; log more")
    if router is None:
        return _ridge(decisions, decisions.reward if values is None else values, fold, folds)
    if values is not None:
        raise OffPolicyError("a router predicts rewards; leave `values` or `router` out")
    return _routed(decisions, router, fold, seed)


@dataclass(frozen=True, slots=True)
class Moments:
    """Sufficient statistics of a regression of y on k columns x: sum x x^T [k, k], sum x y [k], sum y^2, rows."""

    gram: F64
    cross: F64
    squares: float
    count: int

    @classmethod
    def of(cls, x: F64, y: F64) -> Moments:
        return cls(x.T @ x, x.T @ y, float(y @ y), len(y))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.gram + other.gram, self.cross + other.cross, self.squares + other.squares, self.count + other.count
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.gram - other.gram, self.cross - other.cross, self.squares - other.squares, self.count - other.count
        )


def drawn_toward(moments: Moments, start: F64) -> F64:
    """Coefficients [k] of the ridge regression that is drawn toward `start`; its strength is that of the lowest
    generalised cross-validation error among STRENGTHS."""
    values, vectors = np.linalg.eigh(moments.gram)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ (moments.cross - moments.gram @ start)
    left = moments.squares - 2.0 * float(start @ moments.cross) + float(start @ moments.gram @ start)
    shrunk = turned / (values + STRENGTHS[:, None])
    residual = left - 2.0 * shrunk @ turned + np.square(shrunk) @ values
    freedom = (values / (values + STRENGTHS[:, None])).sum(axis=1)
    error = residual / np.maximum(1.0 - freedom / moments.count, 1e-3) ** 2
    found: F64 = start + vectors @ shrunk[np.argmin(error)]
    return found


def _ridge(decisions: LoggedDecisions, values: F64, fold: Indices, folds: int) -> F64:
    x = np.hstack([principal(decisions.vectors), np.full((len(values), 1), CONSTANT)])
    arms = range(len(decisions.arms))
    cells = [
        [Moments.of(x[here], values[here]) for arm in arms for here in [(fold == part) & (decisions.chosen == arm)]]
        for part in range(folds)
    ]
    whole = [_sum([cells[part][arm] for part in range(folds)]) for arm in arms]
    predicted = np.empty((len(values), len(decisions.arms)))
    nothing = np.zeros(x.shape[1])
    for part in range(folds):
        here = fold == part
        known = [whole[arm] - cells[part][arm] for arm in arms]
        everyone = drawn_toward(_sum(known), nothing)
        coefficients = [drawn_toward(m, everyone) if m.count >= LEAST_ANSWERS else everyone for m in known]
        predicted[here] = x[here] @ np.stack(coefficients, axis=1)
    return np.clip(predicted, values.min(), values.max())


def _sum(moments: list[Moments]) -> Moments:
    total = moments[0]
    for more in moments[1:]:
        total = total + more
    return total


def principal(vectors: F64 | np.ndarray[tuple[int, ...], np.dtype[np.float32]], count: int = COMPONENTS) -> F64:
    """The vectors in their leading principal components, float64 [n, at most `count`]. Reads no reward."""
    centred = np.asarray(vectors - vectors.mean(axis=0), dtype=np.float32)
    if centred.shape[1] <= count:
        return centred.astype(np.float64)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, -count:]
    return np.asarray(centred @ directions, dtype=np.float64)


def _routed(decisions: LoggedDecisions, router: type[Router], fold: Indices, seed: int) -> F64:
    predicted = np.empty(decisions.logging.shape)
    overall = float(decisions.reward.mean())
    for part in np.unique(fold):
        here = np.flatnonzero(fold == part)
        fitted = router.fit(as_outcomes(decisions.rows(np.flatnonzero(fold != part))), seed=seed)
        held = decisions.rows(here)
        quality = fitted.predict_batch(held.vectors, held.features, held.texts).quality
        at = columns(decisions.arms, fitted.arms)
        predicted[here] = np.where(at >= 0, quality[:, at], overall)
    return predicted


def as_outcomes(decisions: LoggedDecisions) -> Outcomes:
    """The decisions as the masked matrices that routers learn from; repeats of a query are one row of means."""
    first, row = np.unique(np.array(decisions.ids), return_index=True, return_inverse=True)[1:]
    shape = (len(first), len(decisions.arms))
    at = row * shape[1] + decisions.chosen

    def means(values: F64) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        known = ~np.isnan(values)
        count = np.bincount(at[known], minlength=shape[0] * shape[1])
        total = np.bincount(at[known], values[known], minlength=shape[0] * shape[1])
        with np.errstate(invalid="ignore"):
            return (total / np.where(count > 0, count, np.nan)).reshape(shape).astype(np.float32)

    features = None if decisions.features is None else decisions.features[first]
    return Outcomes(
        vectors=decisions.vectors[first],
        arms=decisions.arms,
        quality=means(decisions.reward),
        cost_usd=means(decisions.cost_usd),
        latency_s=means(decisions.latency_s),
        propensity=means(decisions.propensity),
        encoder=decisions.encoder,
        query_ids=tuple(decisions.ids[index] for index in first.tolist()),
        features=features,
        feature_set=None if features is None else decisions.feature_set,
        texts=None if decisions.texts is None else tuple(decisions.texts[index] for index in first.tolist()),
    )
