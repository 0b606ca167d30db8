"""A real traffic log filled with what a gateway would have written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoders.protocol import Vectors
from traffic.log import TrafficLog
from traffic.records import Candidate, Decision, Feedback, Interaction, Score
from traffic.stores import open_log

ENCODER = "0123456789abcdef"
DIM = 16


class HashEncoder:
    """Unit vectors from the words of a text: equal words, near vectors. Small and fast, for tests."""

    name = "hash"
    hash = ENCODER
    dim = DIM
    inline = True

    def encode(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self.encode_one(text) for text in texts]) if texts else np.zeros((0, DIM), dtype=np.float32)

    def encode_one(self, text: str) -> Vectors:
        total = np.zeros(DIM)
        for word in text.split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
            total += np.random.default_rng(seed).standard_normal(DIM)
        norm = np.linalg.norm(total)
        return (total / norm if norm else total).astype(np.float32)


def decision(arm: str, propensity: float = 1.0) -> Decision:
    candidate = Candidate(arm=arm, propensity=propensity)
    return Decision(
        id=f"d-{arm}",
        route="auto",
        router="prior",
        encoder=ENCODER,
        preference=1.0,
        exploration=0.1,
        arm=arm,
        propensity=propensity,
        explored=False,
        candidates=(candidate,),
    )


def interaction(number: int, arm: str | None, text: str | None = "question", **changes: Any) -> Interaction:
    fields: dict[str, Any] = {
        "id": f"i-{number}",
        "created_at": 1000.0 + number,
        "endpoint": "/v1/chat/completions",
        "outcome": "ok",
        "http_status": 200,
        "arm": arm,
        "cost_usd": 0.002,
        "latency_s": 0.5,
        "query_text": text,
        "encoder": ENCODER,
        "vector": None if text is None else HashEncoder().encode_one(text).astype("<f4").tobytes(),
    }
    return Interaction(**(fields | changes))


def score(number: int, value: float, source: Any = "exact_match") -> Score:
    return Score(interaction_id=f"i-{number}", source=source, value=value, created_at=2000.0, scorer="test")


def feedback(number: int, value: float | bool | str, name: str = "") -> Feedback:
    return Feedback(
        id=f"f-{number}{name}", interaction_id=f"i-{number}", created_at=2000.0, metric="helpful", value=value
    )


async def written(folder: Path, records: Sequence[Interaction | Feedback | Score]) -> TrafficLog:
    """A log on disk that holds the records; the caller closes it."""
    log = open_log(f"sqlite:///{folder / 'traffic.db'}")
    for record in records:
        log.append(record)
    await log.flush()
    return log
