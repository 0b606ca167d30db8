"""Kept answers in a Redis that replicas share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.cache.kept import KeptAnswer
from service.cache.stores import StoreAway

logger = logging.getLogger("tokamak.cache")

PREFIX = b"tokamak:cache:1:"
"""With the version of the layout: another one is not found, rather than misread."""
TIMEOUT_S = 0.25
"""A Redis that is slower than this costs more than it saves."""
PAUSE_S = 1.0
MAX_CONNECTIONS = 32
"""Of one process; further requests wait for one, for at most `TIMEOUT_S`."""


class RedisStore:
    """In Redis, which bounds its memory itself (`maxmemory`).

    After a failure it is left alone for a moment, so that an absent Redis slows nobody down.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url, max_connections=MAX_CONNECTIONS, timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        self._redis = redis.asyncio.Redis.from_pool(pool)
        self._clock = clock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(KeptAnswer)
        self._paused_until = 0.0

    async def get(self, key: bytes) -> KeptAnswer | None:
        self._raise_if_paused()
        try:
            found = await self._redis.get(PREFIX + key.hex().encode())
        except (redis.RedisError, OSError) as error:
            raise self._away(error) from error
        if found is None:
            return None
        answer = self._decoded(found)
        if answer is None or answer.key != key:
            # A connection that has lost step answers the command before: nobody may get another's answer by that.
            logger.error("Redis gave something else than the answer that was asked for; its connections are renewed")
            await self._redis.connection_pool.disconnect()
            return None
        return answer if answer.until > self._clock() else None

    async def put(self, answer: KeptAnswer) -> None:
        self._raise_if_paused()
        left_ms = int((answer.until - self._clock()) * 1e3)
        if left_ms <= 0:
            return
        try:
            await self._redis.set(PREFIX + answer.key.hex().encode(), self._encoder.encode(answer), px=left_ms)
        except (redis.RedisError, OSError) as error:
            raise self._away(error) from error

    async def clear(self) -> int:
        count = 0
        try:
            async for name in self._redis.scan_iter(match=PREFIX + b"*", count=1_000):
                count += await self._redis.unlink(name)
        except (redis.RedisError, OSError) as error:
            raise self._away(error) from error
        return count

    async def close(self) -> None:
        await self._redis.aclose()

    def _decoded(self, found: object) -> KeptAnswer | None:
        try:
            return self._decoder.decode(found) if isinstance(found, bytes) else None
        except msgspec.DecodeError:
            return None

    def _raise_if_paused(self) -> None:
        if self._clock() < self._paused_until:
            raise StoreAway("Redis has failed a moment ago")

    def _away(self, error: Exception) -> StoreAway:
        self._paused_until = self._clock() + PAUSE_S
        logger.error("the cache's Redis cannot be used, requests go on without it: %s", type(error).__name__)
        return StoreAway(str(error))
