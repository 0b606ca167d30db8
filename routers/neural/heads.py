"""Logistic heads over a representation: one per arm, drawn toward a common one, with the error of their means.

    quality = sigmoid(w_m . [h, 1]),      w_m ~ Normal(common head, 1 / strength)

Each head is the maximum of its posterior, found by Newton's method on the weighted scores, so the same data give the
same head whatever the network below did with its own. An arm with few observations stays near the common head: what is
hard for the others is hard for it, and its level is near the pool's. `strength` is chosen on held-out queries. The
standard error is Laplace's: the posterior's curvature, in a basis that the arms share (its off-diagonal part in that
basis is dropped, which makes it a product of two matrices).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32

STRENGTHS = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
"""Candidates for the precision of the prior of an arm's weights, from drawn together to free."""
COMMON_STRENGTH = 10.0
LEVEL_STRENGTH = 2.0
"""Precision of the prior of an arm's level: ten observations of a score, each of which tells about 0.2."""
TURNS, WARM_TURNS = 8, 3
LONGEST_STEP = 2.0
LEAST_STD = 1e-4
EDGE = 1e-4
"""Scores and means are kept this far from 0 and 1 where a logarithm is taken."""

F64 = NDArray[np.float64]


class Heads(NamedTuple):
    """`weights` [H + 1, M] (the last row is the level), `basis` [H + 1, H + 1], `spread` [H + 1, M]; float32."""

    weights: F32
    basis: F32
    spread: F32

    def predict(self, hidden: F32) -> tuple[F32, F32]:
        """Mean quality and its standard error, each [n, M], for representations [n, H]."""
        ones = np.ones((len(hidden), 1), dtype=np.float32)
        extended = np.hstack([hidden, ones])
        quality = sigmoid(extended @ self.weights)
        variance = np.square(extended @ self.basis) @ self.spread
        return quality, np.maximum(quality * (1.0 - quality) * np.sqrt(variance), LEAST_STD)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {f"heads_{field}": getattr(self, field) for field in self._fields}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        return cls(*(arrays[f"heads_{field}"] for field in cls._fields))


def sigmoid(logits: NDArray[Any]) -> F32:
    """1 / (1 + exp(-x)) as float32, without overflow."""
    values: F32 = (0.5 + 0.5 * np.tanh(0.5 * logits)).astype(np.float32)
    return values


def logit(means: NDArray[Any]) -> F64:
    """The inverse of `sigmoid`, of means kept away from 0 and 1."""
    kept = np.clip(np.asarray(means, dtype=np.float64), EDGE, 1.0 - EDGE)
    return np.log(kept / (1.0 - kept))


def log_loss(quality: F32, scores: F32, weights: F32) -> float:
    """Weighted mean of the cross-entropy of scores in [0, 1]; cells of weight 0 take no part. 0.0 without cells."""
    total = float(weights.sum(dtype=np.float64))
    known = np.where(weights > 0, scores, 0.0).astype(np.float64)
    kept = np.clip(quality.astype(np.float64), EDGE, 1.0 - EDGE)
    losses = weights * (known * np.log(kept) + (1.0 - known) * np.log(1.0 - kept))
    return -float(losses.sum()) / total if total > 0 else 0.0


class HeldOut(NamedTuple):
    """Held-out representations [n, H], scores and weights [n, M], by which `strength` is chosen."""

    hidden: F32
    scores: F32
    weights: F32


def chosen_strength(hidden: F32, scores: F32, weights: F32, held_out: HeldOut) -> float:
    """The candidate of the lowest log loss on the held-out queries; the strongest where there are none."""
    if not np.any(held_out.weights > 0):
        return STRENGTHS[0]
    problem = _Problem(hidden, scores, weights)
    losses, start = [], problem.common()
    for strength in STRENGTHS:
        start = problem.solved(strength, start, WARM_TURNS)
        quality = problem.folded(start, strength, with_spread=False).predict(held_out.hidden)[0]
        losses.append(log_loss(quality, held_out.scores, held_out.weights))
    return STRENGTHS[int(np.argmin(losses))]


def fitted_heads(hidden: F32, scores: F32, weights: F32, strength: float) -> Heads:
    """Heads for representations [n, H] and scores [n, M]; cells of weight 0 take no part."""
    problem = _Problem(hidden, scores, weights)
    return problem.folded(problem.solved(strength, problem.common(), TURNS), strength)


class _Problem:
    """Standardised representations, scores, and weights that sum to each arm's effective number of observations."""

    def __init__(self, hidden: F32, scores: F32, weights: F32) -> None:
        self.mean = hidden.mean(axis=0, dtype=np.float64)
        spread = hidden.std(axis=0, dtype=np.float64)
        self.scale = np.where(spread > 1e-6, spread, 1.0)
        inputs = ((hidden - self.mean) / self.scale).astype(np.float32)
        self.inputs = np.hstack([inputs, np.ones((len(inputs), 1), dtype=np.float32)])
        seen = weights > 0
        self.scores = np.where(seen, scores, 0.0).astype(np.float64)
        squares = np.square(weights, dtype=np.float64).sum(axis=0)
        share = weights.sum(axis=0, dtype=np.float64) / np.where(squares > 0, squares, 1.0)
        self.weights = weights.astype(np.float64) * share
        total = self.weights.sum()
        pool = (self.weights * self.scores).sum() / total if total > 0 else 0.5
        self.prior_mean = np.zeros((self.inputs.shape[1], 1))
        self.prior_mean[-1] = logit(np.array(pool))

    def common(self) -> F64:
        """Sets the head that all arms are drawn toward, and returns it for each arm, [H + 1, M]."""
        arms = self.weights.shape[1]
        heads = np.repeat(self.prior_mean, arms, axis=1)
        for _ in range(TURNS):
            quality = sigmoid(self.inputs @ heads)
            # What remains for the arms' levels, then what all arms have in common.
            pull = (self.weights * (self.scores - quality)).sum(axis=0)
            curve = (self.weights * quality * (1.0 - quality)).sum(axis=0) + LEVEL_STRENGTH
            pull -= LEVEL_STRENGTH * (heads[-1] - self.prior_mean[-1])
            heads[-1] += np.clip(pull / curve, -LONGEST_STEP, LONGEST_STEP)
            quality = sigmoid(self.inputs @ heads)
            residual = (self.weights * (self.scores - quality)).sum(axis=1)
            curve = (self.weights * quality * (1.0 - quality)).sum(axis=1)
            features = self.inputs[:, :-1]
            gradient = features.T @ residual - COMMON_STRENGTH * heads[:-1, 0]
            hessian = (features * curve[:, None]).T @ features + COMMON_STRENGTH * np.eye(len(heads) - 1)
            heads[:-1] += np.clip(np.linalg.solve(hessian, gradient), -LONGEST_STEP, LONGEST_STEP)[:, None]
        self.prior_mean[:-1] = heads[:-1, :1]
        return heads

    def solved(self, strength: float, start: F64, turns: int) -> F64:
        """The heads [H + 1, M] of highest posterior for a strength of the prior."""
        heads = start.copy()
        for arm in range(heads.shape[1]):
            rows = np.flatnonzero(self.weights[:, arm] > 0)
            inputs, scores, weights = self.inputs[rows], self.scores[rows, arm], self.weights[rows, arm]
            for _ in range(turns):
                quality = sigmoid(inputs @ heads[:, arm])
                gradient = inputs.T @ (weights * (scores - quality))
                gradient -= self._precision(strength) * (heads[:, arm] - self.prior_mean[:, 0])
                step = np.linalg.solve(self._curvature(inputs, weights, quality, strength), gradient)
                heads[:, arm] += np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        return heads

    def _precision(self, strength: float) -> F64:
        precision = np.full(self.inputs.shape[1], strength)
        precision[-1] = LEVEL_STRENGTH
        return precision

    def _curvature(self, inputs: F32, weights: F64, quality: F32, strength: float) -> F64:
        curve = (weights * quality * (1.0 - quality)).astype(np.float32)
        return ((inputs * curve[:, None]).T @ inputs).astype(np.float64) + np.diag(self._precision(strength))

    def folded(self, heads: F64, strength: float, with_spread: bool = True) -> Heads:
        """The heads for representations as they come, not standardised."""
        size, arms = heads.shape
        turn = np.diag(np.append(1.0 / self.scale, 1.0))
        turn[-1, :-1] = -self.mean / self.scale
        spread = np.ones((size, arms))
        basis = np.eye(size)
        if with_spread:
            basis = np.linalg.eigh((self.inputs.T @ self.inputs).astype(np.float64))[1]
            for arm in range(arms):
                rows = np.flatnonzero(self.weights[:, arm] > 0)
                inputs = self.inputs[rows]
                quality = sigmoid(inputs @ heads[:, arm])
                curvature = self._curvature(inputs, self.weights[rows, arm], quality, strength)
                spread[:, arm] = np.einsum("ki,ki->i", basis, np.linalg.solve(curvature, basis))
        folded = (turn @ heads, turn @ basis, spread)
        return Heads(*(np.ascontiguousarray(array, dtype=np.float32) for array in folded))
