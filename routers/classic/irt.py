"""Multidimensional item response theory: what an arm can do is a short vector, what a query asks for another.

    P(arm m answers q well) = sigmoid( a(q) . theta_m - b(q) ),        a(q) = A [z, 1],  b(q) = B [z, 1]

An arm has only `ABILITIES` numbers of its own, so that a new one is known after a few answers (`ability`,
`with_arm`), and the queries that tell most about it can be named beforehand (`information`). Scores in [0, 1] are
learned as they are, by weighted cross-entropy over the observed cells. The strength of the penalty is chosen by
validation, and so is the share of the prediction that is left to the arms' means. After IRT-Router (Song et al.,
2025), with linear maps from the query in place of a neural network.
"""

from __future__ import annotations

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
from routers.protocol import F32, Outcomes
from routers.rows import positions

RANK = 64
ABILITIES = 6
STRENGTHS = (1000.0, 100.0, 10.0)
"""Candidates of the penalty on the maps from queries, in observations."""
ABILITY_STRENGTH = 1.0
"""Penalty on abilities and on constants."""
MIX = (0.0, 0.5, 0.75, 1.0)
"""Candidates of the share of IRT in the prediction; the rest is the arm's mean."""
HELD_OUT = 0.25
MIN_ROWS = 40
ITERATIONS = 150
NEWTON_STEPS = 30


class Maps(NamedTuple):
    """`theta` [M, k] abilities; `items` [P + 1, k + 1]: columns of A and then -B, the last row their constants."""

    theta: F64
    items: F64

    def logits(self, z: F64) -> F64:
        """[n, M]"""
        a, b = self.demands(z)
        return np.asarray(a @ self.theta.T - b[:, None])

    def demands(self, z: F64) -> tuple[F64, F64]:
        """(a [n, k], b [n]) of queries."""
        out = z @ self.items[:-1] + self.items[-1]
        return out[:, :-1], -out[:, -1]


class Ability(NamedTuple):
    """What is known of an arm: mean [k] and covariance [k, k] of its ability."""

    mean: F64
    covariance: F64


class IrtRouter(RegressionRouter):
    """Arrays: `theta` [M, k], `items` [P + 1, k + 1], `level` [M] (mean qualities), `prior_covariance` [k, k]."""

    name: ClassVar[str] = "irt"

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`.

        Settings: `strength` (positive, in observations) fixes the penalty that is otherwise chosen by validation.
        """
        require(cls.name, "scipy")
        fixed = positive(cls.name, settings, ("strength",))
        lesson = Lesson.of(outcomes, RANK)
        strength, mix = _chosen(lesson, fixed.get("strength"), seed)
        maps = fitted(lesson, strength, seed)
        level = levels(lesson.quality, lesson.weight)
        predicted = mix * _sigmoid(maps.logits(lesson.z)) + (1 - mix) * level
        arrays = {
            "theta": maps.theta.astype(np.float32),
            "items": maps.items.astype(np.float32),
            "level": level.astype(np.float32),
            "typical": typical(predicted),
            "prior_mean": maps.theta.mean(axis=0),
            "prior_covariance": _spread(maps.theta),
        }
        return cls(Ground.under(lesson, predicted, strength), arrays, {"strength": strength, "mix": mix})

    def _quality(self, z: F32) -> F32:
        items, mix = self.own["items"], np.float32(self.settings["mix"])
        demand = z.dot(items[:-1]) + items[-1]
        logits = demand[..., :-1].dot(self.own["theta"].T) + demand[..., -1:]
        quality: F32 = mix / (1.0 + np.exp(-logits)) + (1 - mix) * self.own["level"]
        return quality.astype(np.float32)

    def ability_prior(self) -> Ability:
        """What is known of an arm of which nothing was seen: how the abilities of the others are spread."""
        return Ability(self.own["prior_mean"], self.own["prior_covariance"])

    def demands(self, vectors: F32, features: F32 | None = None) -> tuple[F64, F64]:
        """(a [n, k], b [n]): what queries ask for, in the formula at the top of this file."""
        z = self.ground.inputs.transform(vectors, features).astype(np.float64)
        return Maps(self.own["theta"].astype(np.float64), self.own["items"].astype(np.float64)).demands(z)

    def information(self, vectors: F32, features: F32 | None = None, about: Ability | None = None) -> F64:
        """How much the answer to each query tells about an arm, [n]: p (1 - p) a' C a with C the covariance of what is
        known so far (`about`, by default the prior). The most informative query removes the largest share of doubt."""
        about = self.ability_prior() if about is None else about
        a, b = self.demands(vectors, features)
        p = _sigmoid(a @ about.mean - b)
        return np.asarray(p * (1 - p) * np.einsum("nk,kl,nl->n", a, about.covariance, a))

    def ability(self, vectors: F32, scores: F32, features: F32 | None = None) -> Ability:
        """The most probable ability of an arm that answered n queries [n, d] with these scores [n] in [0, 1].

        With none it is the prior; the covariance is of the normal approximation at the maximum.
        """
        a, b = self.demands(vectors, features)
        prior = self.ability_prior()
        inverse = np.linalg.inv(prior.covariance)
        theta, hessian = prior.mean.copy(), inverse
        for _ in range(NEWTON_STEPS):
            p = _sigmoid(a @ theta - b)
            hessian = inverse + (a * (p * (1 - p))[:, None]).T @ a
            step = np.linalg.solve(hessian, a.T @ (scores - p) - inverse @ (theta - prior.mean))
            # A long step would leave the region in which the quadratic holds.
            theta = theta + step * min(1.0, 2.0 / max(float(np.linalg.norm(step)), 1e-12))
            if np.abs(step).max() < 1e-9:
                break
        return Ability(theta, np.linalg.inv(hessian))

    def quality_of(self, ability: Ability, vectors: F32, features: F32 | None = None) -> F64:
        """Expected scores [n] of an arm with this ability."""
        a, b = self.demands(vectors, features)
        return np.asarray(_sigmoid(a @ ability.mean - b))


def fitted(lesson: Lesson, strength: float, seed: int) -> Maps:
    """Minimise the weighted cross-entropy plus penalties (L-BFGS)."""
    from scipy.optimize import minimize

    arms, width, k = lesson.weight.shape[1], lesson.z.shape[1], min(ABILITIES, lesson.weight.shape[1])
    start = np.random.default_rng(seed).normal(0.0, 0.1, arms * k + (width + 1) * (k + 1))
    # Constants of the demand begin apart from zero, so that abilities have something to act on.
    start[arms * k :].reshape(width + 1, k + 1)[-1] += 1.0
    padded = np.hstack([lesson.z, np.ones((len(lesson.z), 1))])
    penalty = np.full((width + 1, k + 1), strength)
    penalty[-1] = ABILITY_STRENGTH
    # Answers of many arms to one query share its demand: the penalty counts queries.
    penalty *= max(lesson.weight.sum() / len(lesson.z), 1.0)

    def loss(parameters: F64) -> tuple[float, F64]:
        theta, items = parameters[: arms * k].reshape(arms, k), parameters[arms * k :].reshape(width + 1, k + 1)
        out = padded @ items
        logits = out[:, :-1] @ theta.T + out[:, -1:]
        cross = np.logaddexp(0.0, logits) - lesson.quality * logits
        error = lesson.weight * (_sigmoid(logits) - lesson.quality)
        demand = np.hstack([error @ theta, error.sum(axis=1, keepdims=True)])
        gradient = (error.T @ out[:, :-1] + ABILITY_STRENGTH * theta, padded.T @ demand + penalty * items)
        value = (lesson.weight * cross).sum()
        value += 0.5 * (ABILITY_STRENGTH * (theta**2).sum() + (penalty * items**2).sum())
        return float(value), np.concatenate([part.ravel() for part in gradient])

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}).x
    return Maps(found[: arms * k].reshape(arms, k), found[arms * k :].reshape(width + 1, k + 1))


def _chosen(lesson: Lesson, strength: float | None, seed: int) -> tuple[float, float]:
    """Strength and mix of the lowest squared error on a held-out part; few queries leave all to the arms' means."""
    held_out = positions(lesson.outcomes.query_ids, f"irt-{seed}") < HELD_OUT
    train, test = lesson.rows(~held_out), lesson.rows(held_out)
    if len(lesson.z) < MIN_ROWS or not train.weight.any():
        return strength or STRENGTHS[0], 0.0
    level = levels(train.quality, train.weight)
    best, chosen = np.inf, (STRENGTHS[0], 0.0)
    for candidate in STRENGTHS if strength is None else (strength,):
        modelled = _sigmoid(fitted(train, candidate, seed).logits(test.z))
        for mix in MIX:
            error = squared_error(mix * modelled + (1 - mix) * level, test)
            if error < best:
                best, chosen = error, (candidate, mix)
    return chosen


def _spread(theta: F64) -> F64:
    """Covariance of the abilities over the arms, drawn toward its diagonal mean as if by two more arms."""
    k = theta.shape[1]
    centered = theta - theta.mean(axis=0)
    scatter = centered.T @ centered
    typical = max(float(np.trace(scatter)) / (k * max(len(theta) - 1, 1)), 1e-3)
    return np.asarray((scatter + 2.0 * typical * np.eye(k)) / (len(theta) + 1.0))


def _sigmoid(x: NDArray[np.float64]) -> F64:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
