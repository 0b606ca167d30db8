"""The threshold of a strong-weak router for a wanted share of strong calls, from the queries that the log holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from encoders.features import FEATURE_SET
from offline.outcomes import logged_features
from routers.policy.threshold import DECIMALS, Duellist, calibrated, win_probabilities
from routers.protocol import F32, Router, TrainingError
from traffic.records import Interaction

LEAST_QUERIES = 50


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """`model` is the name to ask for. `reached_share` is the share of these queries that it sends to the strong arm."""

    model: str
    threshold: float
    wanted_share: float
    reached_share: float
    queries: int
    strong: str | None
    weak: str | None


def calibrate(
    router: Router,
    interactions: Iterable[Interaction],
    strong_share: float,
    strong: str | None = None,
    weak: str | None = None,
) -> Calibration:
    """Calibrate a router on logged chat queries that its encoder has encoded; no score is needed.

    Without a named pair it is the dearest and the cheapest arm by the predicted cost of each query, as in the gateway.

    Raises
    ------
    TrainingError: fewer than 50 such queries, an arm that the router does not know, or no costs to find a pair by.
    """
    vectors, features, texts = _queries(router, interactions)
    if len(vectors) < LEAST_QUERIES:
        raise TrainingError(
            f"the log holds {len(vectors)} queries that were encoded by {router.encoder}, {LEAST_QUERIES} are needed; "
            "route some traffic first (what was sent with `store: false` has no vector)"
        )
    wins = _odds(router, vectors, features, texts, strong, weak)
    threshold = calibrated(wins, strong_share)
    return Calibration(
        model=f"router-{router.name}-{threshold:.{DECIMALS}f}", threshold=threshold, wanted_share=strong_share,
        reached_share=float(np.mean(wins >= threshold)), queries=len(vectors), strong=strong, weak=weak,
    )  # fmt: skip


def _queries(router: Router, interactions: Iterable[Interaction]) -> tuple[F32, F32 | None, list[str | None]]:
    vectors: list[NDArray[Any]] = []
    features: list[NDArray[Any] | None] = []
    texts: list[str | None] = []
    for interaction in interactions:
        if interaction.vector is None or interaction.encoder != router.encoder:
            continue
        vectors.append(np.frombuffer(interaction.vector, dtype="<f4"))
        features.append(logged_features(interaction))
        texts.append(interaction.query_text)
    known = [block for block in features if block is not None]
    if not vectors:
        return np.zeros((0, router.dim), dtype=np.float32), None, texts
    blocks = np.stack(known).astype(np.float32) if len(known) == len(vectors) else None
    if blocks is None and router.meta().get("feature_set") == FEATURE_SET:
        raise TrainingError(
            "some of the logged queries have neither features nor a text; read a later window (--since)"
        )
    return np.stack(vectors).astype(np.float32), blocks, texts


def _odds(
    router: Router, vectors: F32, features: F32 | None, texts: list[str | None], strong: str | None, weak: str | None
) -> NDArray[np.float64]:
    for name in (strong, weak):
        if name is not None and name not in router.arms:
            raise TrainingError(f"the router knows no arm {name!r}; it has {', '.join(router.arms)}")
    if (strong is None) != (weak is None):
        raise TrainingError("name both arms of the pair, or none")
    prediction = router.predict_batch(vectors, features, texts)
    rows = np.arange(len(vectors))
    if strong is not None and weak is not None:
        better = np.full(len(rows), router.arms.index(strong))
        worse = np.full(len(rows), router.arms.index(weak))
    else:
        cost = prediction.cost_usd
        if np.any(np.isfinite(cost).sum(axis=1) < 2):
            raise TrainingError("the router knows the cost of fewer than two arms; name the pair (--strong, --weak)")
        better, worse = np.nanargmax(cost, axis=1), np.nanargmin(cost, axis=1)
    if isinstance(router, Duellist):
        arms = router.arms
        return np.array(
            [router.win_probability(vectors[row], arms[better[row]], arms[worse[row]]) for row in rows],
            dtype=np.float64,
        )
    return win_probabilities(prediction.quality[rows, better], prediction.quality[rows, worse])
