"""The default router: a forest of randomised trees over the form of a query and the directions of its vector.

Every tree is a partition of the queries, like a clustering, but one that the outcomes themselves have drawn and that
reads the form as well as the topic. What a leaf says is a mean of masked, weighted outcomes, shrunk along the way from
the root (`routers.ensemble.forest`); the forest's prediction is the mean over its trees.

An arm is put above the best single arm only if its predicted advantage exceeds a margin. The margin is chosen inside
the training data, from predictions by trees that have not seen the query: where nothing is to be won it is infinite,
and the choice at preference 1 is the best single arm. A query unlike anything that was learned from
(`routers.ensemble.novelty`) gets that arm too, and so do the least familiar of the others as far as nothing was gained
on such; not so one that carries a task tag that was learned from (`routers.ensemble.tags`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from encoders.features import FEATURE_SET
from routers.cost_scale import CostScale
from routers.ensemble.fit import fitted
from routers.ensemble.forest import Forest, walker
from routers.ensemble.inputs import Inputs
from routers.ensemble.margin import Trust, guarded
from routers.ensemble.novelty import Novelty
from routers.ensemble.tags import Tags
from routers.protocol import F32, Outcomes, Prediction
from routers.rows import prepared
from routers.standing import require_settings

NOVELTY = ("centers", "shift", "scale", "limit")
"""Stored arrays of `routers.ensemble.novelty.Novelty`."""


class EnsembleRouter:
    """Predicts by a walk down all trees at once, then the mean of one row for each tree."""

    name: ClassVar[str] = "ensemble"

    def __init__(
        self,
        arms: tuple[str, ...],
        encoder: str,
        cost_scale: CostScale,
        inputs: Inputs,
        forest: Forest,
        table: F32,
        overall: Prediction,
        spread: F32,
        single: int,
        novelty: Novelty,
        trust: Trust,
        tags: Tags,
    ) -> None:
        """`table` [S, columns]: per node quality [M], its support [1], and where known cost [M] and latency [M] as
        factors of `overall`, the means over everything. `spread` [M] times the root of the inverse support is the
        standard error. `single` is the best single arm."""
        self.arms = arms
        self.encoder = encoder
        self.dim = inputs.directions.shape[0]
        self.cost_scale = cost_scale
        self.inputs = inputs
        self.forest = forest
        self.table = table
        self.overall = overall
        self.spread = spread
        self.single = single
        self.novelty = novelty
        self.trust = trust
        self.tags = tags
        self._moves = dict(zip(tags.codes.tolist(), tags.moves, strict=True))
        self._edge = max(trust.edge, novelty.least)
        self._scale = np.float32(1.0 / len(forest.roots))
        self._walk, self._rows = walker(forest), table.take
        self._blank = np.full(len(arms), np.nan, dtype=np.float32)

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`.

        Settings: `trees` (int >= 2) and `min_leaf` (int >= 1, rows of a leaf with every arm observed).
        """
        require_settings(cls.name, settings, ("trees", "min_leaf"))
        outcomes = prepared(outcomes)
        found = fitted(outcomes, seed, **settings)
        scale = CostScale.learned(outcomes.cost_usd)
        return cls(outcomes.arms, outcomes.encoder, scale, *found)

    def predict(self, vector: F32, features: F32 | None = None, text: str | None = None) -> Prediction:
        """See `routers.protocol.Router.predict`."""
        if not vector.any():
            return self.overall
        row = self.inputs.one(vector, features)
        mean = self._rows(self._walk(row), 0).sum(0) * self._scale
        move = None if features is None else self._moves.get(float(features[-1]))
        if move is None:
            nearest = self.novelty.nearest(row)
            return self._told(mean, bool(nearest < self.novelty.least), bool(nearest < self._edge))
        mean[: len(move)] += move
        return self._told(mean, False, False)

    def predict_batch(
        self, vectors: F32, features: F32 | None = None, texts: Sequence[str | None] | None = None
    ) -> Prediction:
        """See `routers.protocol.Router.predict_batch`."""
        rows = self.inputs.many(vectors, features)
        leaves = self.forest.leaves_batch(rows)
        total = np.zeros((len(vectors), self.table.shape[1]), dtype=np.float32)
        for tree in range(leaves.shape[1]):
            total += self.table[leaves[:, tree]]
        mean, nearest = total * self._scale, self.novelty.nearest(rows)
        novel, far = nearest < self.novelty.least, nearest < self._edge
        if features is not None:
            place = self.tags.places(features[:, -1])
            known = place >= 0
            mean[known, : len(self.arms)] += self.tags.moves[place[known]]
            novel, far = novel & ~known, far & ~known
        told = self._told(mean, novel[:, None], far[:, None])
        empty = ~vectors.any(axis=1)
        for column, typical in zip(told, self.overall, strict=True):
            column[empty] = typical
        return told

    def _told(self, mean: F32, novel: NDArray[np.bool_] | bool, far: NDArray[np.bool_] | bool) -> Prediction:
        """Predictions from mean rows of the table, [columns] or [n, columns]; `novel` and `far` (below the edge of
        what is believed, as all novel ones are) are one bool each, or [n, 1]."""
        m, trust = len(self.arms), self.trust
        quality, std = mean[..., :m], self.spread * np.sqrt(mean[..., m : m + 1])
        margin: F32 | float = trust.margin
        if novel is not False and np.any(novel):
            believed = np.where(novel, np.float32(trust.belief), np.float32(1.0))
            quality = self.overall.quality + believed * (quality - self.overall.quality)
            std = np.sqrt(std * std + np.where(novel, np.float32(trust.drift), np.float32(0.0)))
        if far is not False:
            margin = np.where(far, np.float32(np.inf), np.float32(trust.margin))
        quality = guarded(quality, self.single, margin)
        times, at = [], m + 1
        for typical in (self.overall.cost_usd, self.overall.latency_s):
            if np.isnan(typical[0]) and np.isnan(typical).all():
                times.append(np.broadcast_to(self._blank, quality.shape).copy())
            else:
                times.append(typical * mean[..., at : at + m])
                at += m
        return Prediction(quality, std, *times)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `routers.protocol.Router.arrays`."""
        forest = self.forest
        return {
            "directions": self.inputs.directions,
            "typical": self.inputs.typical,
            "feature": forest.feature.astype(np.int32),
            "threshold": forest.threshold,
            "child": forest.child.astype(np.int32),
            "roots": forest.roots.astype(np.int32),
            "table": self.table,
            "spread": self.spread,
            **{f"novelty_{name}": getattr(self.novelty, name) for name in NOVELTY},
            "tag_codes": self.tags.codes,
            "tag_moves": self.tags.moves,
            "trust": np.array([self.novelty.least, *self.trust]),
            **{f"overall_{name}": column for name, column in self.overall._asdict().items()},
        }

    def meta(self) -> dict[str, Any]:
        """See `routers.protocol.Router.meta`."""
        return {
            "router": self.name,
            "arms": list(self.arms),
            "encoder": self.encoder,
            "depth": self.forest.depth,
            "single": self.single,
            "cost_scale": self.cost_scale.to_meta(),
            "feature_set": FEATURE_SET if len(self.inputs.typical) else None,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> Self:
        """See `routers.protocol.Router.from_arrays`."""
        feature, child, roots = (arrays[name].astype(np.intp) for name in ("feature", "child", "roots"))
        least, *trust = arrays["trust"].tolist()
        return cls(
            tuple(meta["arms"]),
            meta["encoder"],
            CostScale.from_meta(meta["cost_scale"]),
            Inputs(arrays["directions"], arrays["typical"]),
            Forest(feature, arrays["threshold"], child, roots, int(meta["depth"])),
            arrays["table"],
            Prediction(*(arrays[f"overall_{name}"] for name in Prediction._fields)),
            arrays["spread"],
            int(meta["single"]),
            Novelty(least=least, **{name: arrays[f"novelty_{name}"] for name in NOVELTY}),
            Trust(*trust),
            Tags(arrays["tag_codes"], arrays["tag_moves"]),
        )
