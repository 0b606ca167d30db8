"""The chain of retries and fallbacks along a ranking of arms. Free until an answer has begun; never after."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from registry.arms import Arm, Endpoint
from service.backends.attempt import Call, Opened, open_answer
from service.backends.health import Health
from service.backends.http1 import ConnectionPool
from service.backends.load import Load
from service.errors import CLIENT_FAULTS, ApiError, UpstreamFailed, upstream_error
from traffic.records import Attempt

MAX_RETRY_AFTER_S = 1.0
"""An endpoint that asks for a longer pause is left for the next one."""
BACKOFF_S = 0.05

BodyFor = Callable[[Arm, Endpoint], bytes]


@dataclass(slots=True)
class Trail:
    """The attempts of one request in order; outlives a cancellation, so that the log tells the truth.

    What `begins` also `ends`: `load` counts the calls that are under way.
    """

    attempts: list[Attempt] = field(default_factory=list)
    running: Call | None = None
    arm: Arm | None = None
    load: Load | None = None

    def begins(self, call: Call, load: Load) -> None:
        """A call goes out."""
        self.running, self.load = call, load
        load.starts(call.endpoint)

    def ends(self, attempt: Attempt) -> None:
        """The running call is over, however."""
        self.attempts.append(attempt)
        if self.running is not None and self.load is not None:
            self.load.ends(self.running.endpoint)
        self.running = None


class Backends:
    """The connections of one process, and the rules for trying again."""

    def __init__(self, *, retries: int, fallbacks: int, health: Health) -> None:
        self._retries = retries
        self._fallbacks = fallbacks
        self.health = health
        self.load = Load()
        self._pools: dict[str, ConnectionPool] = {}

    async def open(self, ranking: Sequence[Arm], path: str, body_for: BodyFor, trail: Trail, *, stream: bool) -> Opened:
        """The first answer that begins, trying arms in order, each on its endpoints, each with retries.

        Raises
        ------
        ApiError: every attempt failed; the last one decides the class.
        """
        failure: UpstreamFailed | None = None
        for arm in ranking[: 1 + self._fallbacks]:
            endpoints = [e for e in arm.model.endpoints if self.health.is_up(e)] or list(arm.model.endpoints[:1])
            for endpoint in endpoints:
                result = await self._try(arm, endpoint, path, body_for(arm, endpoint), trail, stream)
                if isinstance(result, Opened):
                    return result
                failure = result
                if failure.status in CLIENT_FAULTS:
                    break
        if failure is None:
            raise ApiError(503, "overloaded_error", "no_eligible_model", "No arm is left to call.", retry_after_s=1.0)
        raise upstream_error(failure)

    async def _try(
        self, arm: Arm, endpoint: Endpoint, path: str, body: bytes, trail: Trail, stream: bool
    ) -> Opened | UpstreamFailed:
        """One endpoint with its retries."""
        trail.arm = arm
        for tries_left in range(self._retries, -1, -1):
            call = Call(len(trail.attempts), arm, endpoint, time.time(), time.perf_counter())
            trail.begins(call, self.load)
            self.health.starts(endpoint)
            try:
                opened = await open_answer(self._pool(endpoint), call, path, body, stream=stream)
            except UpstreamFailed as error:
                failure = error
            else:
                self.health.succeeded(endpoint)
                self.load.answered(arm, opened.call.ttft_s or 0.0, stream=stream)
                return opened
            trail.ends(failure.attempt)
            if failure.status not in CLIENT_FAULTS:
                self.health.failed(endpoint)
            pause_s = _pause(failure, self._retries - tries_left)
            if (
                not tries_left
                or not failure.retryable
                or pause_s > MAX_RETRY_AFTER_S
                or not self.health.is_up(endpoint)
            ):
                break
            await asyncio.sleep(pause_s)
        return failure

    def _pool(self, endpoint: Endpoint) -> ConnectionPool:
        upstream = endpoint.upstream
        pool = self._pools.get(upstream.name)
        if pool is None or (pool.upstream is not upstream and pool.upstream != upstream):
            if pool is not None:
                pool.retire()
            pool = self._pools[upstream.name] = ConnectionPool(upstream, asyncio.get_running_loop())
        return pool

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


def _pause(failure: UpstreamFailed, retry: int) -> float:
    """What the upstream asked for, else a jittered back-off that doubles."""
    if failure.retry_after_s is not None:
        return failure.retry_after_s
    return BACKOFF_S * float(2**retry) * random.uniform(0.5, 1.5)
