"""What the running calls show: how many each endpoint has, and how long each arm takes lately. Per process, O(1).

Latencies go into a histogram on a logarithmic scale, one per arm and kind of answer (whole, or first event of a
stream). Newer calls weigh more; an arm that has not been called for a while has no live latency, so that one that was
slow once is tried again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from registry.arms import Arm, Endpoint

SHORTEST_S = 0.001
RATIO = 1.15
LOG_RATIO = math.log(RATIO)
BUCKETS = 100
"""From a millisecond to about 18 minutes; a quantile is right to within 7 %."""
GROWTH = 1.01
"""A call weighs 1 % more than the one before: about the last hundred count."""
LEAST_CALLS = 10
STALE_S = 300.0
RESCALE = 1e9


class Quantiles(NamedTuple):
    """Of recent latencies, in seconds."""

    p50: float
    p95: float


class LatencyHistogram:
    """Recent latencies of one arm."""

    __slots__ = ("_counts", "_quantiles", "_total", "_weight", "calls", "last_at")

    def __init__(self) -> None:
        self._counts = [0.0] * BUCKETS
        self._total = 0.0
        self._weight = 1.0
        self.calls = 0
        self.last_at = -math.inf
        self._quantiles: Quantiles | None = None
        """As of the last call; None if nobody has asked since."""

    @property
    def quantiles(self) -> Quantiles | None:
        """None of too few calls. Most calls are followed by another before anybody asks."""
        if self._quantiles is None and self.calls >= LEAST_CALLS:
            self._quantiles = self._read()
        return self._quantiles

    def add(self, latency_s: float, now: float) -> None:
        """One finished call."""
        if now - self.last_at > STALE_S:
            self._counts, self._total, self._weight, self.calls = [0.0] * BUCKETS, 0.0, 1.0, 0
        place = int(math.log(max(latency_s, SHORTEST_S) / SHORTEST_S) / LOG_RATIO)
        self._weight *= GROWTH
        self._counts[min(place, BUCKETS - 1)] += self._weight
        self._total += self._weight
        self.calls += 1
        self.last_at = now
        if self._weight > RESCALE:
            self._counts = [count / self._weight for count in self._counts]
            self._total, self._weight = self._total / self._weight, 1.0
        self._quantiles = None

    def _read(self) -> Quantiles:
        seen, p50 = 0.0, None
        for place, count in enumerate(self._counts):
            seen += count
            if p50 is None and seen >= 0.5 * self._total:
                p50 = _middle(place)
            if seen >= 0.95 * self._total:
                return Quantiles(p50 or _middle(place), _middle(place))
        return Quantiles(p50 or _middle(BUCKETS - 1), _middle(BUCKETS - 1))


def _middle(place: int) -> float:
    return float(SHORTEST_S * RATIO ** (place + 0.5))


class Load:
    """The load of one process. `concurrency` of an endpoint is how many calls it takes at a time, if configured."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, int] = {}
        self._latencies: dict[tuple[str, bool], LatencyHistogram] = {}

    def starts(self, endpoint: Endpoint) -> None:
        self._running[endpoint.id] = self._running.get(endpoint.id, 0) + 1

    def ends(self, endpoint: Endpoint) -> None:
        self._running[endpoint.id] -= 1

    def answered(self, arm: Arm, latency_s: float, *, stream: bool) -> None:
        """A call was answered: a whole answer after `latency_s`, or the first event of a stream."""
        key = (arm.id, stream)
        histogram = self._latencies.get(key)
        if histogram is None:
            histogram = self._latencies[key] = LatencyHistogram()
        histogram.add(latency_s, self._clock())

    def running(self, endpoint: Endpoint) -> int:
        """Calls of the endpoint that are under way."""
        return self._running.get(endpoint.id, 0)

    def latency(self, arm: Arm, *, stream: bool) -> Quantiles | None:
        """Recent latencies of an arm; None if there were too few calls lately."""
        histogram = self._latencies.get((arm.id, stream))
        if histogram is None or self._clock() - histogram.last_at > STALE_S:
            return None
        return histogram.quantiles

    def latencies(self, arms: Sequence[Arm], *, stream: bool) -> list[Quantiles | None]:
        if not self._latencies:
            return [None] * len(arms)
        return [self.latency(arm, stream=stream) for arm in arms]

    def use(self, arm: Arm) -> float | None:
        """Running calls over `concurrency` of the arm's least used endpoint; None where no concurrency is known."""
        uses = [self.running(e) / e.concurrency for e in arm.model.endpoints if e.concurrency is not None]
        return min(uses) if len(uses) == len(arm.model.endpoints) else None


def saturation(use: float) -> float:
    """From 0 for an idle endpoint to 1 for a hopelessly full one, one half at its concurrency; smooth."""
    fourth = use**4
    return fourth / (1.0 + fourth)
