"""The shared traffic log: Redis Streams, written by any number of replicas.

Keys, all under one prefix: a stream per kind of record (`tokamak:interactions`, `tokamak:feedback`,
`tokamak:scores`), a sorted set per stream from time to entry (`...:by_time`) and hashes from id to entry
(`...:by_id`, `...:by_alias`). One script writes a group and trims the streams together with their indexes, so all
always agree. What Redis acknowledged counts as durable: how much a crash of Redis can lose is set there
(`appendonly yes`; `appendfsync always` for nothing).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from traffic.log import LogError, LogStats
from traffic.records import Feedback, Interaction, Score
from traffic.write_queue import QueueLimits, Record, StoreUnavailable, WriteQueue

LAYOUT = 1
"""Version of the keys and fields; a Redis that holds a higher one was written by a newer version and is refused."""
PAGE_ENTRIES = 256
MAX_ENTRIES = 1_000_000
"""Longest stream; older entries are trimmed. About 5 kB each with content."""

WRITE_GROUP = """
local stored_layout = tonumber(redis.call('GET', KEYS[1]) or '0')
local layout = tonumber(ARGV[1])
if stored_layout > layout then
  return redis.error_reply('NEWERLAYOUT ' .. stored_layout)
elseif stored_layout < layout then
  redis.call('SET', KEYS[1], layout)
end
local before = redis.call('GET', KEYS[2])
if before then
  return tonumber(before)
end
local max_entries = tonumber(ARGV[2])
local new = 0
local touched = {}
for i = 3, #ARGV, 6 do
  local stream, id, created_at, alias, other, packed = unpack(ARGV, i, i + 5)
  if id == '' or redis.call('HEXISTS', stream .. ':by_id', id) == 0 then
    local entry = redis.call('XADD', stream, '*', 'id', id, 'alias', alias, 'other', other, 'record', packed)
    redis.call('ZADD', stream .. ':by_time', created_at, entry)
    if id ~= '' then redis.call('HSET', stream .. ':by_id', id, entry) end
    if alias ~= '' then redis.call('HSET', stream .. ':by_alias', alias, entry) end
    if other ~= '' then redis.call('HSET', stream .. ':by_alias', other, entry) end
    touched[stream] = true
    new = new + 1
  end
end
local function forget(stream, alias, entry)
  if alias ~= '' and redis.call('HGET', stream .. ':by_alias', alias) == entry then
    redis.call('HDEL', stream .. ':by_alias', alias)
  end
end
for stream in pairs(touched) do
  local extra = redis.call('XLEN', stream) - max_entries
  if extra > 0 then
    for _, old in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', math.min(extra, 1000))) do
      local entry, fields = old[1], old[2]
      redis.call('XDEL', stream, entry)
      redis.call('ZREM', stream .. ':by_time', entry)
      if fields[2] ~= '' then redis.call('HDEL', stream .. ':by_id', fields[2]) end
      forget(stream, fields[4], entry)
      forget(stream, fields[6], entry)
    end
  end
end
redis.call('SET', KEYS[2], new, 'EX', 3600)
return new
"""
"""Writes a group once, however often it is sent. KEYS: layout, group. ARGV: layout, longest stream, then six per
record: stream, id, time, two more names under which it is found, packed record; what it lacks is empty."""

_pack = msgspec.msgpack.Encoder().encode
_unpack_interaction = msgspec.msgpack.Decoder(Interaction).decode
_unpack_feedback = msgspec.msgpack.Decoder(Feedback).decode
_unpack_score = msgspec.msgpack.Decoder(Score).decode

T = TypeVar("T")
log = logging.getLogger("tokamak.traffic")


class RedisLog:
    """`TrafficLog` in a Redis. One that is away at the start is waited for; one that refuses is a LogError.

    `max_entries` bounds each stream; the oldest entries go first. A `prefix` sets logs in one Redis apart.
    """

    def __init__(
        self,
        url: str,
        limits: QueueLimits | None = None,
        *,
        max_entries: int = MAX_ENTRIES,
        prefix: str = "tokamak",
    ) -> None:
        self._prefix = prefix
        self._client = _connect(url)
        self._name = _shown(url)
        _check(self._client, self._name, f"{prefix}:layout")
        self._queue = WriteQueue(RedisStore(self._client, prefix, max_entries), self._name, limits)

    def append(self, record: Record) -> None:
        self._queue.append(record)

    async def flush(self) -> None:
        await self._queue.flush()

    async def close(self) -> None:
        await self._queue.close()

    def backlog(self) -> int:
        return self._queue.backlog()

    def stats(self) -> LogStats:
        return self._queue.stats()

    async def interaction(self, interaction_id: str) -> Interaction | None:
        return await self._queue.find_interaction(interaction_id, self._find_interaction)

    async def feedback_by_idempotency_key(self, key: str) -> Feedback | None:
        for record in self._queue.pending():
            if type(record) is Feedback and record.idempotency_key == key:
                return record
        packed = await asyncio.to_thread(self._lookup, "feedback", "by_alias", key)
        return None if packed is None else _unpack_feedback(packed)

    def read_interactions(
        self, since: float = 0.0, until: float | None = None, *, content: bool = True
    ) -> Iterator[Interaction]:
        for packed in self._pages("interactions", since, until):
            record = _unpack_interaction(packed)
            if not content:
                record = msgspec.structs.replace(record, query_text=None, request=None, response=None)
            yield record

    def read_feedback(self, since: float = 0.0, until: float | None = None) -> Iterator[Feedback]:
        return map(_unpack_feedback, self._pages("feedback", since, until))

    def read_scores(self, since: float = 0.0, until: float | None = None) -> Iterator[Score]:
        return map(_unpack_score, self._pages("scores", since, until))

    def _find_interaction(self, field: str, value: str) -> Interaction | None:
        index, key = ("by_id", value) if field == "id" else ("by_alias", f"{field}:{value}")
        packed = self._lookup("interactions", index, key)
        return None if packed is None else _unpack_interaction(packed)

    def _lookup(self, kind: str, index: str, key: str) -> bytes | None:
        """The packed record that an index names, or None."""
        stream = f"{self._prefix}:{kind}"
        try:
            entry = cast(bytes | None, self._client.hget(f"{stream}:{index}", key))
            found = [] if entry is None else cast(list[Any], self._client.xrange(stream, entry, entry))
        except redis.RedisError as error:
            raise LogError(f"cannot read the log {self._name}: {error}") from error
        return found[0][1][b"record"] if found else None

    def _pages(self, kind: str, since: float, until: float | None) -> Iterator[bytes]:
        """Packed records in the order of their times, a page at a time."""
        stream = f"{self._prefix}:{kind}"
        low, end = since, "+inf" if until is None else f"({until!r}"
        seen: set[bytes] = set()  # entries of exactly the time `low` that were already given out
        while True:
            try:
                found = cast(
                    list[tuple[bytes, float]],
                    self._client.zrangebyscore(
                        f"{stream}:by_time", repr(low), end, start=0, num=PAGE_ENTRIES + len(seen), withscores=True
                    ),
                )
                page = [(entry, at) for entry, at in found if entry not in seen]
                packed = self._entries(stream, [entry for entry, _ in page])
            except redis.RedisError as error:
                raise LogError(f"cannot read {kind} of the log {self._name}: {error}") from error
            yield from packed
            if not page:
                return
            last = page[-1][1]
            seen = {entry for entry, at in page if at == last} | (seen if last == low else set())
            low = last

    def _entries(self, stream: str, entries: Sequence[bytes]) -> list[bytes]:
        """The packed records of stream entries; those trimmed in the meantime are left out."""
        pipeline = self._client.pipeline(transaction=False)
        for entry in entries:
            pipeline.xrange(stream, entry, entry)
        return [found[0][1][b"record"] for found in pipeline.execute() if found]


class RedisStore:
    """Writes each group of records by one call of one script."""

    def __init__(self, client: redis.Redis, prefix: str, max_entries: int) -> None:
        self._client = client
        self._prefix = prefix
        self._max_entries = max_entries
        self._writer = uuid.uuid4().hex
        self._script = client.register_script(WRITE_GROUP)

    def write(self, group: Sequence[Record], group_id: str) -> int:
        arguments: list[bytes | str | int] = [LAYOUT, self._max_entries]
        for record in group:
            arguments += self._record_arguments(record)
        keys = [f"{self._prefix}:layout", f"{self._prefix}:group:{self._writer}:{group_id}"]
        try:
            return int(cast(int, self._script(keys=keys, args=arguments)))
        except redis.RedisError as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._client.close()

    def _record_arguments(self, record: Record) -> tuple[str, str, str, str, str, bytes]:
        created_at = repr(float(record.created_at))
        packed = _pack(record)
        match record:
            case Interaction():
                answer = f"answer_id:{record.answer_id}" if record.answer_id else ""
                request = f"client_request_id:{record.client_request_id}" if record.client_request_id else ""
                return f"{self._prefix}:interactions", record.id, created_at, answer, request, packed
            case Feedback():
                return f"{self._prefix}:feedback", record.id, created_at, record.idempotency_key or "", "", packed
            case Score():
                return f"{self._prefix}:scores", "", created_at, "", "", packed


def _connect(url: str) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url, socket_connect_timeout=1.0, socket_timeout=5.0, retry=Retry(NoBackoff(), 0), health_check_interval=30
        )
    except ValueError as error:
        raise LogError(f"`log.url` must look like redis://host:port/db, got {_shown(url)!r}: {error}") from error


def _check(client: redis.Redis, name: str, layout_key: str) -> None:
    """Refuse a Redis that will never take our records; one that is merely away is waited for."""
    try:
        layout = int(cast(bytes | None, client.get(layout_key)) or 0)
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise LogError(f"the Redis {name} refuses us ({error}): put user and password into `log.url`") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        log.error("the Redis %s of the log is away, records are kept until it comes: %s", name, error)
        return
    except redis.RedisError as error:
        raise LogError(f"the Redis {name} cannot hold the log: {error}") from error
    if layout > LAYOUT:
        raise LogError(
            f"the log in {name} was written by a newer version of Tokamak (layout {layout}, this one knows {LAYOUT}): "
            "install that version, or name another database in `log.url`"
        )


def _shown(url: str) -> str:
    """The URL without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
