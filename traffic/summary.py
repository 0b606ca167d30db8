"""A window of the log in figures, read once from end to end."""

from __future__ import annotations

from collections import Counter
from statistics import fmean

import msgspec

from traffic.log import TrafficLog


class ArmSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm did. Sums are over the answers that reported the figure; None where none did.

    Tokens are those that the arm has made or read: an answer from the cache adds none.
    """

    arm: str
    requests: int
    ok: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    mean_score: float | None


class LogSummary(msgspec.Struct, frozen=True, kw_only=True):
    interactions: int
    without_content: int
    outcomes: dict[str, int]
    feedback: int
    scores: int
    arms: tuple[ArmSummary, ...]


class _Tally:
    """Running figures of one arm."""

    def __init__(self) -> None:
        self.requests = 0
        self.ok = 0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cost_usd: float | None = None
        self.scores: list[float] = []


def summarize(log: TrafficLog, since: float = 0.0, until: float | None = None) -> LogSummary:
    """Count the interactions, feedback and scores of a window; scores count for the arm whose answer they are on."""
    scores: dict[str, list[float]] = {}
    for score in log.read_scores(since, until):
        scores.setdefault(score.interaction_id, []).append(score.value)
    outcomes: Counter[str] = Counter()
    tallies: dict[str, _Tally] = {}
    without_content = 0
    for record in log.read_interactions(since, until, content=False):
        outcomes[record.outcome] += 1
        without_content += not record.stored
        if record.arm is None:
            continue
        tally = tallies.setdefault(record.arm, _Tally())
        tally.requests += 1
        tally.ok += record.outcome == "ok"
        tally.scores += scores.get(record.id, [])
        if record.cost_usd is not None:
            tally.cost_usd = (tally.cost_usd or 0.0) + record.cost_usd
        usage = record.usage if record.cached_from is None else None
        if usage is not None and usage.prompt_tokens is not None:
            tally.prompt_tokens = (tally.prompt_tokens or 0) + usage.prompt_tokens
        if usage is not None and usage.completion_tokens is not None:
            tally.completion_tokens = (tally.completion_tokens or 0) + usage.completion_tokens
    return LogSummary(
        interactions=sum(outcomes.values()), without_content=without_content, outcomes=dict(outcomes),
        feedback=sum(1 for _ in log.read_feedback(since, until)), scores=sum(len(found) for found in scores.values()),
        arms=tuple(_summary(arm, tally) for arm, tally in sorted(tallies.items())),
    )  # fmt: skip


def _summary(arm: str, tally: _Tally) -> ArmSummary:
    return ArmSummary(
        arm=arm, requests=tally.requests, ok=tally.ok, prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens, cost_usd=tally.cost_usd,
        mean_score=fmean(tally.scores) if tally.scores else None,
    )  # fmt: skip
