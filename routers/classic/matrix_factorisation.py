"""Matrix factorisation of comparisons: who wins against whom depends on the query through a product of two vectors.

    delta(m, q) = v_m / |v_m| . (W z(q) + c),        P(i beats j on q) = sigmoid(delta(i, q) - delta(j, q))

This is RouteLLM's bilinear form (its weight vector is part of W here, and c gives every arm a strength of its own) for
any number of arms, learned from the pairs of `routers.estimators.pairs`: ties are dropped. Comparisons say nothing
about how good an arm is, only who is better. Mean scores are therefore calibrated on top:

    quality(q, m) = level_m + z(q) g + scale_m * (delta(m, q) - its mean over the arms - the arm's mean of that)

with `g` how hard the query is for all arms (`routers.classic.ridge`) and `scale_m = scale * n_m / (n_m + 10)`, because
the few comparisons of an arm with few answers n_m can turn its unit vector anywhere; `scale` is learned on queries that
the factors have not seen, which also choose the strength of the penalty.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.classic.regression import Ground, Lesson, RegressionRouter, levels, positive, require, squared_error
from routers.classic.ridge import fitted as linear
from routers.estimators.least_squares import F64
from routers.estimators.pairs import Pairs, compared
from routers.estimators.shrinkage import ARM_STRENGTH
from routers.protocol import F32, Outcomes
from routers.rows import positions

RANK = 64
FACTORS = 16
STRENGTHS = (300.0, 30.0)
"""Candidates of the penalty on W, in observations."""
CONSTANT_STRENGTH = 1.0
COMMON = 1000.0
"""Ridge strength of what is common to the arms."""
HELD_OUT = 0.25
MIN_ROWS = 40
ITERATIONS = 60


class Factors(NamedTuple):
    """`arms` [M, k], unit rows; `query` [P + 1, k]: W transposed, the last row c."""

    arms: F64
    query: F64

    def delta(self, z: NDArray[Any]) -> NDArray[Any]:
        """[n, M] (or [M] for one query)"""
        return np.asarray((z.dot(self.query[:-1]) + self.query[-1]).dot(self.arms.T))


class MatrixFactorisationRouter(RegressionRouter):
    """Arrays: `factors_arms`, `factors_query`, `level` [M], `slope` [P] (the common one), `centre` and `scale` [M]."""

    name: ClassVar[str] = "mf"

    def __init__(self, ground: Ground, own: dict[str, NDArray[Any]], settings: dict[str, Any]) -> None:
        super().__init__(ground, own, settings)
        self._factors = Factors(own["factors_arms"], own["factors_query"])

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. The setting `strength` (positive, in observations) fixes the penalty."""
        require(cls.name, "scipy")
        fixed = positive(cls.name, settings, ("strength",))
        lesson = Lesson.of(outcomes, RANK)
        strength, scale = _chosen(lesson, fixed.get("strength"), seed)
        factors = factorised(lesson, strength, seed)
        slope = linear(lesson, COMMON, np.inf).slope[0] if len(lesson.z) >= MIN_ROWS else np.zeros(lesson.z.shape[1])
        delta = factors.delta(lesson.z)
        centre = (delta - delta.mean(axis=1, keepdims=True)).mean(axis=0)
        scales = scale * _trust(lesson)
        moved = (lesson.z @ slope)[:, None] + scales * (delta - delta.mean(axis=1, keepdims=True) - centre)
        level = levels(lesson.quality - moved, lesson.weight)
        own = {
            "factors_arms": factors.arms, "factors_query": factors.query, "level": level,
            "slope": slope, "centre": centre, "scale": scales,
        }  # fmt: skip
        arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in own.items()}
        ground = Ground.under(lesson, np.clip(level + moved, 0.0, 1.0), strength)
        return cls(ground, arrays, {"strength": strength, "scale": scale})

    def _quality(self, z: F32) -> F32:
        own = self.own
        delta = self._factors.delta(z)
        ahead = delta - delta.mean(axis=-1, keepdims=True) - own["centre"]
        # The zero vector's strengths are those of c, not the means over all queries that `centre` holds.
        ahead = ahead * z.any(axis=-1, keepdims=True)
        quality: F32 = own["level"] + z.dot(own["slope"])[..., None] + own["scale"] * ahead
        return quality

    def win_probability(
        self, vectors: F32, strong: str, weak: str, features: F32 | None = None
    ) -> NDArray[np.floating[Any]]:
        """How likely `strong` is to do better than `weak` where they differ, [n] for vectors [n, d], [] for [d]."""
        first, second = self.arms.index(strong), self.arms.index(weak)
        delta = self._factors.delta(self.ground.inputs.transform(vectors, features))
        return np.asarray(1.0 / (1.0 + np.exp(delta[..., second] - delta[..., first])))


def _trust(lesson: Lesson) -> F64:
    """Share of what the factors say of an arm that its number of answers lets believe, [M]."""
    count = lesson.weight.sum(axis=0)
    return np.asarray(count / (count + ARM_STRENGTH))


def factorised(lesson: Lesson, strength: float, seed: int) -> Factors:
    """Minimise the weighted logistic loss of the comparisons plus penalties (L-BFGS)."""
    from scipy.optimize import minimize

    arms, width, k = lesson.weight.shape[1], lesson.z.shape[1], FACTORS
    rng = np.random.default_rng(seed)
    pairs = compared(lesson, rng)
    start = rng.normal(0.0, 0.1, arms * k + (width + 1) * k)
    if not len(pairs.row):
        # Nobody was seen to be better than anybody.
        unit = start[: arms * k].reshape(arms, k)
        return Factors(unit / np.linalg.norm(unit, axis=1, keepdims=True), np.zeros((width + 1, k)))
    padded = np.hstack([lesson.z, np.ones((len(lesson.z), 1))])
    # All comparisons together weigh what the answers do that they were derived from.
    total = lesson.weight.sum()
    pairs = pairs._replace(weight=pairs.weight * (total / pairs.weight.sum()))
    penalty = np.full((width + 1, 1), strength * max(total / len(lesson.z), 1.0))
    penalty[-1] = CONSTANT_STRENGTH

    def loss(parameters: F64) -> tuple[float, F64]:
        raw, query = parameters[: arms * k].reshape(arms, k), parameters[arms * k :].reshape(width + 1, k)
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        unit, hidden = raw / length, padded @ query
        value, pull = _logistic(hidden @ unit.T, pairs)
        pulled = pull.T @ hidden
        tangent = (pulled - (pulled * unit).sum(axis=1, keepdims=True) * unit) / length
        gradient = (tangent, padded.T @ (pull @ unit) + penalty * query)
        value += 0.5 * float((penalty * query**2).sum())
        return value, np.concatenate([part.ravel() for part in gradient])

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}).x
    raw = found[: arms * k].reshape(arms, k)
    return Factors(raw / np.linalg.norm(raw, axis=1, keepdims=True), found[arms * k :].reshape(width + 1, k))


def _logistic(delta: F64, pairs: Pairs) -> tuple[float, F64]:
    """Loss of the comparisons, and its derivative by `delta` [n, M]."""
    rows, arms = delta.shape
    won, lost = pairs.row * arms + pairs.winner, pairs.row * arms + pairs.loser
    flat = delta.ravel()
    margin = flat[won] - flat[lost]
    push = pairs.weight * 0.5 * (1.0 - np.tanh(0.5 * margin))
    pull = np.asarray(np.bincount(lost, push, rows * arms) - np.bincount(won, push, rows * arms), dtype=np.float64)
    return float((pairs.weight * np.logaddexp(0.0, -margin)).sum()), pull.reshape(rows, arms)


def _chosen(lesson: Lesson, strength: float | None, seed: int) -> tuple[float, float]:
    """Penalty and scale of the lowest squared error on a held-out part; few queries leave all to the arms' means."""
    held_out = positions(lesson.outcomes.query_ids, f"mf-{seed}") < HELD_OUT
    train, test = lesson.rows(~held_out), lesson.rows(held_out)
    if len(lesson.z) < MIN_ROWS or not train.weight.any():
        return strength or STRENGTHS[0], 0.0
    base = linear(train, COMMON, np.inf).predicted(test.z)
    best, chosen = squared_error(base, test), (strength or STRENGTHS[0], 0.0)
    for candidate in STRENGTHS if strength is None else (strength,):
        factors = factorised(train, candidate, seed)
        known, delta = factors.delta(train.z), factors.delta(test.z)
        ahead = delta - delta.mean(axis=1, keepdims=True)
        ahead -= (known - known.mean(axis=1, keepdims=True)).mean(axis=0)
        ahead *= _trust(train)
        squares = float((test.weight * ahead**2).sum())
        scale = max(float((test.weight * ahead * (test.quality - base)).sum()) / max(squares, 1e-12), 0.0)
        error = squared_error(base + scale * ahead, test)
        if error < best:
            best, chosen = error, (candidate, scale)
    return chosen
