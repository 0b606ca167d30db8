"""A log of decisions by two router versions, with the quality that each is to have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from encoders.catalogue import load_encoder
from registry.worker_settings import WorkerSettings
from tests.rollouts.town import question
from traffic.records import Candidate, Decision, Feedback, Interaction, Score, Shadow
from traffic.stores import open_log

Record = Interaction | Score | Feedback
ENCODER = load_encoder("static")
ARMS = ("book", "calc")


def routed(
    number: int,
    router: str,
    *,
    at: float = 1_000.0,
    arm: str = "calc",
    propensity: float = 1.0,
    outcome: str = "ok",
    shadow: Shadow | None = None,
    session: str | None = None,
    text: str | None = None,
) -> Interaction:
    """One routed request among `ARMS`."""
    text = question(number) if text is None else text
    candidates = tuple(
        Candidate(arm=name, quality=0.5, propensity=propensity if name == arm else 1.0 - propensity) for name in ARMS
    )
    decision = Decision(
        id=f"req_{number}", route="auto", router=router, encoder=ENCODER.hash, preference=1.0, exploration=1.0, arm=arm,
        propensity=propensity, explored=False, candidates=candidates, shadow=shadow,
    )  # fmt: skip
    return Interaction(
        id=f"req_{number}", created_at=at + number * 1e-3, endpoint="/chat/completions", outcome=outcome,  # type: ignore[arg-type]
        http_status=200, arm=arm, model=arm, session=session, decision=decision, cost_usd=0.001, latency_s=0.5,
        query_text=text, encoder=ENCODER.hash, vector=ENCODER.encode_one(text).astype("<f4").tobytes(),
    )  # fmt: skip


def scored(number: int, value: float, at: float = 1_000.0) -> Score:
    return Score(
        interaction_id=f"req_{number}", source="feedback", value=value, created_at=at + number * 1e-3, scorer="test"
    )


def side(
    router: str, numbers: Sequence[int], quality: float, *, at: float = 1_000.0, seed: int = 0
) -> Iterator[Record]:
    """Requests that this version decided, right with that probability."""
    rng = np.random.default_rng(seed)
    for number in numbers:
        yield routed(number, router, at=at)
        yield scored(number, float(rng.random() < quality), at)


def explored(numbers: Sequence[int], *, at: float = 1_000.0, seed: int = 0) -> Iterator[Record]:
    """Uniformly explored requests: `calc` is right on sums (even numbers), `book` on capitals."""
    rng = np.random.default_rng(seed)
    for number in numbers:
        arm = ARMS[int(rng.random() < 0.5)]
        yield routed(number, "prior@0", arm=arm, propensity=0.5, at=at)
        yield scored(number, float((arm == "calc") == (number % 2 == 0)), at)


async def write(folder: Path, *parts: Iterator[Record]) -> str:
    """Put the records into the folder's log; returns its URL."""
    url = f"sqlite:///{folder / 'traffic.db'}"
    log = open_log(url)
    for part in parts:
        for record in part:
            log.append(record)
    await log.flush()
    await log.close()
    return url


def settings_for(folder: Path, lease_s: float = 30.0, **changes: object) -> WorkerSettings:
    values = {
        "data_dir": folder,
        "log_url": f"sqlite:///{folder / 'traffic.db'}",
        "lease_s": lease_s,
        "preference": 1.0,
    }
    return WorkerSettings.model_validate(values | changes)


def written(folder: Path, *parts: Iterator[Record]) -> None:
    """The same where no event loop runs."""
    asyncio.run(write(folder, *parts))
