"""A router with further arms that were met only on a few probe queries each.

A new arm's quality is a Gaussian process whose prior the known arms set: its mean is their mean, and two queries are as
alike for the new arm as the known arms' deviations from that mean are,

    cov(q, q') = mean over the known arms of dev(q) dev(q')  +  LEVEL  +  place * exp(SHARPNESS * (cosine - 1)),

where `place`, how much it differs by topic from every combination of known arms, is the one of three that makes its
answers likeliest, the smallest being likeliest beforehand. So with few probes a new arm is a shrunk combination of
known ones, plus an offset of its own where its answers say so. The posterior compiles to one product of a matrix and a
vector per new arm. Each leans on the base router's arms alone, so the order in which they are taken in changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.onboarding.probes import Expected, choose_probes, expected
from routers.protocol import F32, Outcomes, Prediction, Router, TrainingError
from routers.rows import prepared
from routers.standing import require_settings

LEVEL = 0.005
"""Variance of a new arm's offset on all queries alike, beside what the known arms differ by."""
PLACES, SHARPNESS = (0.003, 0.03, 0.1), 5.0
"""Variances that its offset on queries alike in meaning may have, and how fast that likeness falls with the angle."""
ODDS = 1.0
"""Each of the larger variances is by a factor of e less likely beforehand than the one before."""
MIN_SCORED = 8
MOST_PROBES = 512
"""More scored probes than this are thinned: a router that has more is to be trained again."""
SPARSE, SPARSE_SHARE = 64, 0.25
"""`fit` takes an arm for new that has fewer scores than this, and than this share of the arms' median."""
BASE = "cluster"
"""The base router of `fit`, unless its setting `base` names another."""
LEAST_VARIANCE = 1e-6


class ProbeResults(NamedTuple):
    """What a new arm did on n probes, each [n]; NaN where a call failed or a value is not known."""

    quality: NDArray[Any]
    cost_usd: NDArray[Any]
    latency_s: NDArray[Any]


@dataclass(frozen=True, slots=True)
class NewArm:
    """The posterior of one new arm after n probes, over a base of K arms and d dimensions.

    `profile` [K, n] (already divided by K), `vectors` [d, n] (already times SHARPNESS), `answers` [n] and `solve`
    [n, n]: mean and variance are linear and quadratic in the covariances with the probes. `cost_usd`, `latency_s`: of a
    query on which the base's arms cost and take what they do on average; NaN if not known.
    `place` is the variance that was chosen.
    """

    arm: str
    profile: F32
    vectors: F32
    answers: F32
    solve: F32
    place: float
    cost_usd: float
    latency_s: float

    def quality(self, mean: F32, away: F32, own: F32, vectors: F32) -> tuple[F32, F32]:
        """Posterior mean and variance, [n] each; `mean` [n], `away` [n, K] and variance `own` [n] are the base's."""
        near = np.exp(vectors @ self.vectors - SHARPNESS)
        alike = away @ self.profile + np.float32(self.place) * near + np.float32(LEVEL)
        variance = own + np.float32(self.place + LEVEL) - np.einsum("ij,ij->i", alike @ self.solve, alike)
        return mean + alike @ self.answers, np.maximum(variance, LEAST_VARIANCE)


class OnboardedRouter:
    """A base router, and new arms that lean on it. `arms` may name them in any order."""

    name: ClassVar[str] = "onboarded"

    def __init__(self, base: Router, new: Sequence[NewArm], arms: tuple[str, ...] | None = None) -> None:
        together = (*base.arms, *(arm.arm for arm in new))
        self.base = base
        self.new = tuple(new)
        self.arms = together if arms is None else arms
        self.encoder, self.cost_scale = base.encoder, base.cost_scale
        self.dim = base.dim or (self.new[0].vectors.shape[0] if self.new else 0)
        self._order = np.array([together.index(arm) for arm in self.arms], dtype=np.intp)
        self._in_order = self.arms == together
        typical = base.predict(np.zeros(base.dim, dtype=np.float32))
        self._usual = tuple(np.asarray(column, dtype=np.float32) for column in (typical.cost_usd, typical.latency_s))

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """Learn the base from the arms with enough scores, and take in those with few as new ones.

        The setting `base` names the router that is learned. Propensities weigh in the base alone.
        See `routers.protocol.Router.fit`.
        """
        from routers.catalogue import ROUTERS

        require_settings(cls.name, settings, ("base",))
        name = str(settings.get("base", BASE))
        if name not in ROUTERS or name == cls.name:
            raise TrainingError(f"setting base must be one of {', '.join(n for n in ROUTERS if n != cls.name)}")
        outcomes = prepared(outcomes)
        counts = (~np.isnan(outcomes.quality)).sum(axis=0)
        sparse = counts < min(SPARSE, SPARSE_SHARE * float(np.median(counts)))
        base = ROUTERS[name].fit(of_arms(outcomes, np.flatnonzero(~sparse)), seed=seed)
        new = [_from_column(base, outcomes, int(arm), seed) for arm in np.flatnonzero(sparse)]
        return cls(base, new, outcomes.arms)

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """See `routers.protocol.Router.predict`."""
        known = Prediction(*(column[None, :] for column in self.base.predict(vector, features, text)))
        return Prediction(*(column[0] for column in self._extended(known, vector[None, :])))

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        return self._extended(self.base.predict_batch(vectors, features, texts), vectors)

    def _extended(self, known: Prediction, vectors: F32) -> Prediction:
        if not self.new:
            return known if self._in_order else Prediction(*(column[:, self._order] for column in known))
        mean = known.quality.mean(axis=1)
        away = known.quality - mean[:, None]
        own = (away * away).mean(axis=1)
        lengths = [
            lengthening(column, usual)
            for column, usual in zip((known.cost_usd, known.latency_s), self._usual, strict=True)
        ]
        parts: list[list[F32]] = [[column] for column in known]
        for arm in self.new:
            quality, variance = arm.quality(mean, away, own, vectors)
            parts[0].append(np.clip(quality, 0.0, 1.0)[:, None])
            parts[1].append(np.sqrt(variance)[:, None])
            parts[2].append((lengths[0] * np.float32(arm.cost_usd))[:, None])
            parts[3].append((lengths[1] * np.float32(arm.latency_s))[:, None])
        columns = (np.concatenate(part, axis=1).astype(np.float32, copy=False) for part in parts)
        return Prediction(*(column if self._in_order else column[:, self._order] for column in columns))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        arrays = {f"base.{name}": array for name, array in self.base.arrays().items()}
        for number, arm in enumerate(self.new):
            held = {"profile": arm.profile, "vectors": arm.vectors, "answers": arm.answers, "solve": arm.solve}
            scale = np.array([arm.place, arm.cost_usd, arm.latency_s], dtype=np.float64)
            arrays |= {f"new{number}.{name}": array for name, array in (held | {"scale": scale}).items()}
        return arrays

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`; the base's own is under `base`, what else the gateway reads is its."""
        base = self.base.meta()
        new = [arm.arm for arm in self.new]
        return base | {"router": self.name, "arms": list(self.arms), "new": new, "base": base}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        from routers.catalogue import ROUTERS

        base = ROUTERS[meta["base"]["router"]].from_arrays(_below(arrays, "base."), meta["base"])
        new = [_stored(arm, _below(arrays, f"new{number}.")) for number, arm in enumerate(meta["new"])]
        return cls(base, new, tuple(meta["arms"]))


def add_arm(
    router: Router, arm: str, outcomes: Outcomes, rows: NDArray[np.intp], results: ProbeResults
) -> OnboardedRouter:
    """The router with one more arm, known from its answers to the queries `rows` of `outcomes` alone.

    `outcomes` should hold the known arms' scores on these queries, and on others: the more of them, the better it is
    known how far a query's difficulty is shared. Works on any router; on an onboarded one the new arm joins the others.

    Raises
    ------
    TrainingError: the router has that arm, fewer than 8 probes were scored, a score is out of range, or another
        encoder's vectors.
    """
    if arm in router.arms:
        raise TrainingError(f"the router knows {arm} already; train it again to learn more about that arm")
    quality = np.asarray(results.quality, dtype=np.float64)
    scored = ~np.isnan(quality)
    if quality.shape != rows.shape:
        raise TrainingError(f"{len(rows)} probes need one result each, got {quality.shape}")
    if scored.sum() < MIN_SCORED:
        raise TrainingError(
            f"{scored.sum()} probes of {arm} were scored, at least {MIN_SCORED} are needed; run again to ask the rest"
        )
    if np.any((quality[scored] < 0) | (quality[scored] > 1)):
        raise TrainingError(f"scores of {arm} must lie in [0, 1]; correct them")
    base, others = (router.base, router.new) if isinstance(router, OnboardedRouter) else (router, ())
    new = new_arm(base, arm, outcomes, rows, results)
    return OnboardedRouter(base, (*others, new), (*router.arms, arm))


def new_arm(base: Router, arm: str, outcomes: Outcomes, rows: NDArray[np.intp], results: ProbeResults) -> NewArm:
    """The posterior of a new arm over the base's arms after its answers to the queries `rows`."""
    hopes = expected(outcomes, base)
    quality = np.asarray(results.quality, dtype=np.float64)
    asked = np.flatnonzero(~np.isnan(quality))
    at = rows[asked]
    vectors = outcomes.vectors[at].astype(np.float64)
    surprise = quality[asked] - hopes.mean[at]
    place, solve = _likeliest(Expected(*(column[at] for column in hopes)), vectors, surprise)
    predicted = base.predict_batch(
        outcomes.vectors[rows],
        None if outcomes.features is None else outcomes.features[rows],
        None if outcomes.texts is None else [outcomes.texts[row] for row in rows.tolist()],
    )
    typical = base.predict(np.zeros(base.dim, dtype=np.float32))
    return NewArm(
        arm,
        profile=_f32(hopes.profile[at].T / len(base.arms)),
        vectors=_f32(SHARPNESS * vectors.T),
        answers=_f32(solve @ surprise),
        solve=_f32(0.5 * (solve + solve.T)),
        place=place,
        cost_usd=_per_usual(results.cost_usd, lengthening(predicted.cost_usd, typical.cost_usd)),
        latency_s=_per_usual(results.latency_s, lengthening(predicted.latency_s, typical.latency_s)),
    )


def _likeliest(
    hopes: Expected, vectors: NDArray[np.float64], surprise: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """The variance by place that makes the surprises [n] likeliest, and the inverse of their covariance then."""
    shared = hopes.profile @ hopes.profile.T / hopes.profile.shape[1] + LEVEL + np.diag(hopes.spread)
    near = np.exp(SHARPNESS * (vectors @ vectors.T - 1.0))
    candidates = []
    for step, place in enumerate(PLACES):
        covariance = shared + place * near
        solve = np.linalg.inv(covariance)
        _, size = np.linalg.slogdet(covariance)
        candidates.append((-0.5 * (surprise @ solve @ surprise + size) - ODDS * step, place, solve))
    _, place, solve = max(candidates, key=lambda candidate: candidate[0])
    return place, np.asarray(solve)


def lengthening(predicted: F32, usual: F32) -> F32:
    """By which factor the known arms' cost or latency exceeds what is usual of them, [n]; 1 where nothing is known."""
    known = usual > 0
    if not np.any(known):
        return np.ones(len(predicted), dtype=np.float32)
    ratios: F32 = (predicted[:, known] / usual[known]).mean(axis=1)
    return ratios


def _per_usual(values: NDArray[Any], factors: F32) -> float:
    """What a query of usual length costs or takes, from observed values; NaN if none was observed."""
    known = np.isfinite(values)
    total = float(factors[known].sum())
    return float(np.asarray(values, dtype=np.float64)[known].sum()) / total if total > 0 else float("nan")


def of_arms(outcomes: Outcomes, arms: NDArray[np.intp]) -> Outcomes:
    """The outcomes of some of the arms, by position; queries none of them was asked stay."""
    return replace(
        outcomes,
        arms=tuple(outcomes.arms[arm] for arm in arms.tolist()),
        quality=outcomes.quality[:, arms],
        cost_usd=outcomes.cost_usd[:, arms],
        latency_s=outcomes.latency_s[:, arms],
        propensity=outcomes.propensity[:, arms],
    )


def _from_column(base: Router, outcomes: Outcomes, arm: int, seed: int) -> NewArm:
    scored = ~np.isnan(outcomes.quality[:, arm])
    rows = choose_probes(outcomes, base, MOST_PROBES, seed, scored) if np.any(scored) else np.zeros(0, dtype=np.intp)
    columns = (outcomes.quality[rows, arm], outcomes.cost_usd[rows, arm], outcomes.latency_s[rows, arm])
    return new_arm(base, outcomes.arms[arm], outcomes, rows, ProbeResults(*columns))


def _f32(array: NDArray[np.float64]) -> F32:
    return np.ascontiguousarray(array, dtype=np.float32)


def _stored(arm: str, arrays: Mapping[str, NDArray[Any]]) -> NewArm:
    place, cost, latency = arrays["scale"].tolist()
    return NewArm(arm, arrays["profile"], arrays["vectors"], arrays["answers"], arrays["solve"], place, cost, latency)


def _below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
