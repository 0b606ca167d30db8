"""A trained router fitted to the pool that serves now: its arms in the pool's order, arms it never saw filled in.

An unseen arm that asks a known model in another way is expected to be as good as the known way, at the prior's ratio of
cost. Any other unseen arm takes the prior's quality, moved by how far this router's arms lie from their own priors, and
the prior's cost, scaled likewise. Both are uncertain (`quality_std` is at least the prior's): exploration finds out.
A cost that was never observed is the prior's, scaled, for every arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from registry.arms import Arm
from routers.protocol import F32, Prediction, Router


@runtime_checkable
class Tabular(Protocol):
    """A router whose predictions are mixtures of the rows of a table, so that filling in the table once is enough."""

    @property
    def cells(self) -> Prediction: ...

    def with_cells(self, arms: tuple[str, ...], cells: Prediction) -> Self: ...


class Lineup:
    """Predictions aligned with `arms`. Built once per router version and pool; immutable.

    Attributes
    ----------
    arms: the pool's arms.
    unseen: ids of the arms that the router has never seen.
    reads_features: whether the router has learned from feature blocks; else it is given none.
    """

    def __init__(self, router: Router, arms: tuple[Arm, ...], prior: Router) -> None:
        """`prior` predicts for every arm of the pool (`routers.prior.prior_router`)."""
        self.router = router
        self.arms = arms
        self.reads_features = router.meta().get("feature_set") is not None
        self.cost_scale = router.cost_scale if np.any(np.isfinite(_typical(router).cost_usd)) else prior.cost_scale
        ids = tuple(arm.id for arm in arms)
        self.unseen = tuple(arm for arm in ids if arm not in set(router.arms))
        self._fill: _Fill | None = None
        self._aligned = router
        fill = _Fill(router, arms, prior)
        if ids != tuple(router.arms) or len(fill.unpriced):
            if isinstance(router, Tabular):
                self._aligned = router.with_cells(ids, fill(router.cells))
            else:
                self._fill = fill

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """Float32 arrays of length `len(arms)` for one unit vector."""
        prediction = self._aligned.predict(vector, features, text)
        if self._fill is None:
            return prediction
        filled = self._fill(Prediction(*(column[None, :] for column in prediction)))
        return Prediction(*(column[0] for column in filled))

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """Float32 arrays of shape [n, len(arms)]."""
        prediction = self._aligned.predict_batch(vectors, features, texts)
        return prediction if self._fill is None else self._fill(prediction)


class _Fill:
    """Maps predictions over a router's arms, [n, M], to predictions over the pool's arms, [n, P]."""

    def __init__(self, router: Router, arms: tuple[Arm, ...], prior: Router) -> None:
        source = {arm: index for index, arm in enumerate(router.arms)}
        by_model: dict[str, int] = {}
        for arm, index in source.items():
            model = arm.partition("#")[0]
            if model not in by_model or arm == model:
                by_model[model] = index
        place = {arm: index for index, arm in enumerate(prior.arms)}
        expected, learned = _ordered(_typical(prior), [place[arm.id] for arm in arms]), _typical(router)
        seen = [index for index, arm in enumerate(arms) if arm.id in source]
        twins = [i for i, arm in enumerate(arms) if arm.id not in source and arm.model.name in by_model]
        self._new = _integers(i for i, arm in enumerate(arms) if arm.id not in source and i not in set(twins))
        self._seen, self._seen_source = _integers(seen), _integers(source[arms[i].id] for i in seen)
        self._twins, self._twin_source = _integers(twins), _integers(by_model[arms[i].model.name] for i in twins)
        self._expected = expected
        self._cost_ratio = _ratio(learned.cost_usd[self._seen_source], expected.cost_usd[self._seen])
        known_cost, prior_cost = np.isfinite(learned.cost_usd), np.isfinite(expected.cost_usd)
        self.unpriced = _integers(i for i in seen if not known_cost[source[arms[i].id]] and prior_cost[i])
        direct = {arm.model.name: expected.cost_usd[i] for i, arm in enumerate(arms) if arm.way == "direct"}
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = [expected.cost_usd[i] / direct.get(arms[i].model.name, np.nan) for i in twins]
        self._twin_cost = np.nan_to_num(np.array(ratios, dtype=np.float32), nan=1.0, posinf=1.0)

    def __call__(self, prediction: Prediction) -> Prediction:
        expected, rows = self._expected, len(prediction.quality)
        filled = Prediction(*(np.tile(column, (rows, 1)) for column in expected))
        for whole, part in zip(filled, prediction, strict=True):
            whole[:, self._seen] = part[:, self._seen_source]
        filled.cost_usd[:, self.unpriced] = expected.cost_usd[self.unpriced] * self._cost_ratio
        if len(self._twins):
            filled.quality[:, self._twins] = prediction.quality[:, self._twin_source]
            known = prediction.quality_std[:, self._twin_source]
            filled.quality_std[:, self._twins] = np.maximum(known, expected.quality_std[self._twins])
            filled.cost_usd[:, self._twins] = prediction.cost_usd[:, self._twin_source] * self._twin_cost
            filled.latency_s[:, self._twins] = prediction.latency_s[:, self._twin_source]
        if len(self._new):
            if len(self._seen):
                gap = prediction.quality[:, self._seen_source] - expected.quality[self._seen]
                moved = expected.quality[self._new] + gap.mean(axis=1, keepdims=True)
                filled.quality[:, self._new] = np.clip(moved, 0.0, 1.0)
            filled.cost_usd[:, self._new] *= self._cost_ratio
        return filled


def _typical(router: Router) -> Prediction:
    return router.predict(np.zeros(router.dim, dtype=np.float32))


def _ordered(prediction: Prediction, order: list[int]) -> Prediction:
    return Prediction(*(column[order] for column in prediction))


def _ratio(learned: F32, expected: F32) -> float:
    """By how much real costs exceed the prior's, as the median over the arms of which both are known."""
    known = (learned > 0) & (expected > 0)
    return float(np.median(learned[known] / expected[known])) if np.any(known) else 1.0


def _integers(values: Any) -> NDArray[np.intp]:
    return np.array(list(values), dtype=np.intp)
