"""Who makes the calls of a batch: the event loop here, or processes of a Ray cluster. The calls are the same.

Only calls travel. The log, the tree and every decision stay with the one process that runs the round, so a round gives
the same result whoever makes its calls. Over Ray they travel as JSON, keys of upstreams included: the cluster must be
one's own.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, Protocol

import httpx
import msgspec

from offline.bohdi.calls import Call, reply_to
from offline.bohdi.log import StoredReply
from offline.chat_call import FIRST_WAIT_S, timeout_of
from registry.arms import Arm

Keep = Callable[[Call, StoredReply], Awaitable[None]]
RAY_WORKERS = 4


class FanOutUnavailable(RuntimeError):
    """Calls cannot be made in the way that the settings ask for. The message says what to do."""


class Team(msgspec.Struct, frozen=True, kw_only=True):
    """Whom calls can go to, and how: `arms` by id, `concurrency` calls to one arm at a time."""

    arms: dict[str, Arm]
    concurrency: int = 8
    attempts: int = 3
    first_wait_s: float = FIRST_WAIT_S

    def places(self, arm: Arm) -> int:
        """How many calls an arm is sent at a time: no more than its endpoints take."""
        taken = [endpoint.concurrency for endpoint in arm.model.endpoints if endpoint.concurrency is not None]
        return min([self.concurrency, *taken])


class FanOut(Protocol):
    """Makes calls."""

    async def run(self, calls: Sequence[Call], keep: Keep) -> None:
        """Make all calls; `keep` is called with each reply as it comes, in this process. An error of `keep` ends it."""


def fan_out(kind: Literal["asyncio", "ray"], team: Team) -> AbstractAsyncContextManager[FanOut]:
    """The fan-out of that kind, open while the context is.

    Raises
    ------
    FanOutUnavailable: ray is asked for and not installed.
    """
    return _here(team) if kind == "asyncio" else _over_ray(team)


class Line:
    """Makes calls on this event loop, within the places of each arm."""

    def __init__(self, team: Team, client: httpx.AsyncClient) -> None:
        self._team = team
        self._client = client
        self._places = {name: asyncio.Semaphore(team.places(arm)) for name, arm in team.arms.items()}

    async def reply(self, call: Call) -> StoredReply:
        team = self._team
        async with self._places[call.arm]:
            return await reply_to(
                self._client, team.arms[call.arm], call, attempts=team.attempts, first_wait_s=team.first_wait_s
            )

    async def run(self, calls: Sequence[Call], keep: Keep) -> None:
        async def one(call: Call) -> None:
            await keep(call, await self.reply(call))

        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(one(call))


@asynccontextmanager
async def _here(team: Team) -> AsyncIterator[FanOut]:
    async with _client(team) as client:
        yield Line(team, client)


def _client(team: Team) -> httpx.AsyncClient:
    models = [arm.model for arm in team.arms.values()]
    return httpx.AsyncClient(timeout=timeout_of(models), limits=httpx.Limits(max_connections=None))


class RayLine:
    """One process of the cluster: a line of its own, which speaks JSON."""

    def __init__(self, team: bytes) -> None:
        self._team = msgspec.json.decode(team, type=Team)
        self._line: Line | None = None

    async def reply(self, call: bytes) -> bytes:
        if self._line is None:
            # Made here, not before: a client belongs to the event loop that it is used on.
            self._line = Line(self._team, _client(self._team))
        return msgspec.json.encode(await self._line.reply(msgspec.json.decode(call, type=Call)))


class _RayFanOut:
    """Gives calls to the processes of a cluster in turn."""

    def __init__(self, lines: Sequence[Any]) -> None:
        self._lines = lines

    async def run(self, calls: Sequence[Call], keep: Keep) -> None:
        async def one(position: int, call: Call) -> None:
            line = self._lines[position % len(self._lines)]
            answer: bytes = await line.reply.remote(msgspec.json.encode(call))
            await keep(call, msgspec.json.decode(answer, type=StoredReply))

        async with asyncio.TaskGroup() as tasks:
            for position, call in enumerate(calls):
                tasks.create_task(one(position, call))


@asynccontextmanager
async def _over_ray(team: Team) -> AsyncIterator[FanOut]:
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise FanOutUnavailable(
            "`fan_out: ray` needs Ray: pip install 'tokamak[ray]', or set `fan_out: asyncio`"
        ) from None
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    lines: list[Any] = []
    try:
        count = min(RAY_WORKERS, max(team.concurrency, 1))
        # Each process gets its part of the places, so that an arm is not sent more calls than the settings say.
        part = msgspec.structs.replace(team, concurrency=max(team.concurrency // count, 1))
        actor = ray.remote(num_cpus=0, max_concurrency=1000)(RayLine)
        lines = [actor.remote(msgspec.json.encode(part)) for _ in range(count)]
        yield _RayFanOut(lines)
    finally:
        for line in lines:
            ray.kill(line)
        if started:
            ray.shutdown()
