"""Small logs of decisions whose estimates can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from routers.evidence.off_policy import F64, LoggedDecisions
from tests.offline_routers.interactions import HashEncoder
from traffic.records import Candidate, Decision


def log_of(
    chosen: Sequence[int], logging: Sequence[Sequence[float]] | F64, reward: Sequence[float], **changes: Any
) -> LoggedDecisions:
    """One decision for each entry of `chosen`, one query each, an hour and more apart."""
    n, probabilities = len(chosen), np.asarray(logging, dtype=np.float64)
    vectors = np.random.default_rng(0).standard_normal((n, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    fields: dict[str, Any] = {
        "vectors": vectors.astype(np.float32),
        "features": None,
        "texts": None,
        "arms": tuple(f"arm-{i}" for i in range(probabilities.shape[1])),
        "chosen": np.array(chosen, dtype=np.intp),
        "logging": probabilities,
        "eligible": np.ones(probabilities.shape, dtype=bool),
        "reward": np.array(reward, dtype=np.float64),
        "cost_usd": np.full(n, np.nan),
        "latency_s": np.full(n, np.nan),
        "encoder": "0123456789abcdef",
        "ids": tuple(f"query-{i}" for i in range(n)),
        "created_at": 4000.0 * np.arange(n),
    }
    return LoggedDecisions(**(fields | changes))


def always(arm: int, decisions: LoggedDecisions) -> F64:
    """The target that takes one arm whatever is asked."""
    target = np.zeros(decisions.logging.shape)
    target[:, arm] = 1.0
    return target


def decision(arm: str, chances: dict[str, float], eliminated: tuple[str, ...] = (), **changes: Any) -> Decision:
    """A logged decision for `arm`; `chances` are those of the eligible arms."""
    candidates = [Candidate(arm=name, propensity=chance) for name, chance in chances.items()]
    candidates += [Candidate(arm=name, eliminated="not up") for name in eliminated]
    fields: dict[str, Any] = {
        "id": "d", "route": "auto", "router": "prior", "encoder": HashEncoder.hash, "preference": 1.0,
        "exploration": 0.1, "arm": arm, "propensity": chances[arm], "explored": False, "candidates": tuple(candidates),
    }  # fmt: skip
    return Decision(**(fields | changes))
