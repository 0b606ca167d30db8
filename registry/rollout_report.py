"""A canary beside the champion, from what the log says of the requests that each of them decided in the same time.

Conversations are dealt to the two by chance, so plain means are comparable. The intervals hold at every moment at once
(asymptotic confidence sequences: Robbins 1970; Waudby-Smith et al. 2021): they may be looked at again and again, and
acted on at the first moment that they exclude 0, without more than 5 % false alarms. A fixed-sample interval may not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import log, sqrt
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.artifacts import Manifest
from traffic.log import TrafficLog
from traffic.records import Interaction, ScoreSource
from traffic.said import said_about

Verdict = Literal["better", "not worse", "worse", "undecided"]

ALPHA: Final = 0.05
TUNED_FOR: Final = 1_000
"""Conversations at which the intervals are tightest."""
MIN_CONVERSATIONS: Final = 50
"""Least scored conversations on each side; below it the normal approximation means little."""
MARGIN: Final = 0.02
"""What a canary may lose in quality and still be called not worse."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate less champion, with a 95 % interval that holds at all times at once."""

    value: float
    low: float
    high: float


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one version's requests. Means are over answered requests; None: nothing is known."""

    router: str
    requests: int = 0
    conversations: int = 0
    failed: int = 0
    scored: int = 0
    quality: float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None


class RolloutReport(msgspec.Struct, frozen=True, kw_only=True):
    """`verdict` is about quality, and `worse` also if more of the requests fail."""

    candidate: Side
    champion: Side
    since: float
    until: float | None
    quality: Difference | None
    cost_usd: Difference | None
    latency_s: Difference | None
    failure_rate: Difference | None
    shadowed: int
    shadow_agreement: float | None
    verdict: Verdict
    reason: str


class Values:
    """Numbers of one version, each with the conversation that it belongs to: those are what was dealt by chance."""

    def __init__(self) -> None:
        self._conversations: dict[str, int] = {}
        self._rows: list[int] = []
        self._values: list[float] = []

    def add(self, conversation: str, value: float) -> None:
        self._rows.append(self._conversations.setdefault(conversation, len(self._conversations)))
        self._values.append(value)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def conversations(self) -> int:
        return len(self._conversations)

    def mean(self) -> float | None:
        return float(np.mean(self._values)) if self._values else None

    def variance(self, *, shares: bool) -> float:
        """Of the mean, by conversations. Of `shares` in [0, 1] a few equal ones do not make a variance of 0."""
        values: NDArray[np.float64] = np.array(self._values)
        off = values - values.mean()
        sums = np.bincount(self._rows, off, self.conversations)
        doubt = 0.5 if shares else 0.0
        return float(((sums**2).sum() + doubt) / len(values) ** 2)


def difference(candidate: Values, champion: Values, *, shares: bool) -> Difference | None:
    """None if one of the two has fewer than `MIN_CONVERSATIONS` conversations."""
    if min(candidate.conversations, champion.conversations) < MIN_CONVERSATIONS:
        return None
    first, second = candidate.mean(), champion.mean()
    assert first is not None
    assert second is not None
    count = candidate.conversations + champion.conversations
    spread = sqrt(count * (candidate.variance(shares=shares) + champion.variance(shares=shares)))
    reach = spread * always_valid_radius(count)
    value = first - second
    return Difference(value=value, low=value - reach, high=value + reach)


def always_valid_radius(count: int) -> float:
    """Half the width of the interval for a mean of `count` independent values of variance 1."""
    rho2 = (-2.0 * log(ALPHA) + log(-2.0 * log(ALPHA) + 1.0)) / TUNED_FOR
    grown = count * rho2 + 1.0
    return sqrt(2.0 * grown / (count**2 * rho2) * log(sqrt(grown) / ALPHA))


class _Tally:
    """Collects one version's requests."""

    def __init__(self, router: str) -> None:
        self.router = router
        self.requests = 0
        self.failed = Values()
        self.quality, self.cost_usd, self.latency_s = Values(), Values(), Values()

    def add(self, interaction: Interaction, said: list[float] | None) -> None:
        dealt_by = None if interaction.decision is None else interaction.decision.conversation
        conversation = dealt_by or interaction.session or interaction.id
        self.requests += 1
        if interaction.outcome in ("ok", "failed"):
            self.failed.add(conversation, float(interaction.outcome == "failed"))
        if interaction.outcome != "ok":
            return
        if said:
            self.quality.add(conversation, sum(said) / len(said))
        if interaction.cost_usd is not None:
            self.cost_usd.add(conversation, interaction.cost_usd)
        if interaction.latency_s is not None:
            self.latency_s.add(conversation, interaction.latency_s)

    def side(self) -> Side:
        failures = self.failed.mean()
        return Side(
            router=self.router, requests=self.requests, conversations=self.failed.conversations,
            failed=round((failures or 0.0) * len(self.failed)), scored=len(self.quality),
            quality=self.quality.mean(), cost_usd=self.cost_usd.mean(), latency_s=self.latency_s.mean(),
        )  # fmt: skip


def compare_versions(
    log: TrafficLog,
    candidate: str,
    champion: str,
    since: float,
    until: float | None = None,
    sources: Collection[ScoreSource] | None = None,
) -> RolloutReport:
    """Compare what two router versions decided from `since` to `until`. Reads the log; call it off the event loop.

    Raises
    ------
    ScoreOutOfRange: a score is not in [0, 1].
    """
    said = said_about(log.read_scores(since), log.read_feedback(since), sources)
    return _compared(log.read_interactions(since, until, content=False), said, candidate, champion, since, until)


def _compared(
    interactions: Iterable[Interaction], said: dict[str, list[float]], candidate: str, champion: str, since: float,
    until: float | None,
) -> RolloutReport:  # fmt: skip
    tallies = {candidate: _Tally(candidate), champion: _Tally(champion)}
    shadowed = agreed = 0
    for interaction in interactions:
        decision = interaction.decision
        if decision is None:
            continue
        if decision.router in tallies:
            tallies[decision.router].add(interaction, said.get(interaction.id))
        shadow = decision.shadow
        if shadow is not None and shadow.router == candidate and not decision.explored:
            shadowed += 1
            agreed += shadow.arm == decision.arm
    new, old = tallies[candidate], tallies[champion]
    quality = difference(new.quality, old.quality, shares=True)
    failures = difference(new.failed, old.failed, shares=True)
    verdict, reason = _verdict(quality, failures, new, old)
    if shadowed and not new.requests:
        reason = (
            f"in shadow it answers nobody; of {shadowed} requests it would have sent {agreed} to the same arm as the "
            "champion. A canary lets it answer a share of the conversations"
        )
    return RolloutReport(
        candidate=new.side(), champion=old.side(), since=since, until=until, quality=quality,
        cost_usd=difference(new.cost_usd, old.cost_usd, shares=False),
        latency_s=difference(new.latency_s, old.latency_s, shares=False), failure_rate=failures,
        shadowed=shadowed, shadow_agreement=agreed / shadowed if shadowed else None, verdict=verdict, reason=reason,
    )  # fmt: skip


def _verdict(quality: Difference | None, failures: Difference | None, new: _Tally, old: _Tally) -> tuple[Verdict, str]:
    if failures is not None and failures.low > 0.0:
        return "worse", f"more requests fail: {_told(failures)}"
    if quality is None:
        return "undecided", (
            f"{new.quality.conversations} conversations of the canary and {old.quality.conversations} of the champion "
            f"are scored, at least {MIN_CONVERSATIONS} of each are needed"
        )
    if quality.low > 0.0:
        return "better", f"the difference in quality is {_told(quality)}"
    if quality.high < 0.0:
        return "worse", f"the difference in quality is {_told(quality)}"
    if quality.low >= -MARGIN:
        return "not worse", f"the difference in quality is {_told(quality)}, within the margin of {MARGIN:g}"
    return "undecided", f"the difference in quality is {_told(quality)}; more scored traffic narrows it"


def _told(found: Difference) -> str:
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


class Gate(msgspec.Struct, frozen=True):
    """Whether a version may be promoted without force, and why."""

    open: bool
    why: str


def promotion_gate(manifest: Manifest, champion: str | None, report: RolloutReport | None) -> Gate:
    """Promotion takes evidence against the champion of today: off-policy from training, or of a canary.

    A canary that is worse closes the gate whatever the estimate before it was.
    """
    if report is not None and report.verdict == "worse":
        return Gate(False, f"the canary is worse than the champion: {report.reason}")
    if report is not None and report.verdict in ("better", "not worse"):
        return Gate(True, f"the canary is {report.verdict}: {report.reason}")
    estimate = manifest.evidence.get("off_policy") or {}
    verdict = estimate.get("verdict", "undecided")
    reason = estimate.get("reason", "it was trained without an off-policy estimate")
    if estimate and estimate.get("against") != champion:
        was, now = estimate.get("against") or "the cold start", champion or "the cold start"
        return Gate(False, f"its off-policy estimate is against {was}, but {now} serves now; train again, or canary it")
    if verdict in ("better", "not worse"):
        return Gate(True, f"off-policy it is {verdict}: {reason}")
    canary = "" if report is None else f"; the canary is undecided: {report.reason}"
    return Gate(False, f"off-policy it is {verdict}: {reason}{canary}")
