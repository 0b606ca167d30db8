"""The hot path's HTTP client against real sockets: framing, reuse, deadlines, cancellation, back-pressure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from registry.arms import Upstream
from service.backends.http1 import HIGH_WATER, CallFailed, ConnectionPool

Respond = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def serving(respond: Respond, **settings: float) -> AsyncIterator[ConnectionPool]:
    """A pool connected to a server that answers each connection with `respond`."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await respond(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream("test", f"http://127.0.0.1:{port}/v1", api_key="k", **settings)
    pool = ConnectionPool(upstream, asyncio.get_running_loop())
    try:
        yield pool
    finally:
        pool.close()
        server.close()


async def echo_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await read_request(reader):
        writer.write(OK)


async def test_a_request_has_the_path_the_key_and_the_body() -> None:
    seen: list[bytes] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK)

    async with serving(respond) as pool:
        reply = await pool.call("/chat/completions", b'{"a":1}')
        assert await reply.read_all(100) == b"ok"
    assert seen[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"Authorization: Bearer k\r\n" in seen[0]
    assert seen[0].endswith(b'\r\n\r\n{"a":1}')


async def test_a_connection_is_used_again() -> None:
    connections = 0

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await echo_ok(reader, writer)

    async with serving(respond) as pool:
        for _ in range(5):
            assert await (await pool.call("/x", b"{}")).read_all(100) == b"ok"
    assert connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nabcdefg",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcdefg",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nabcdefg",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_every_framing_gives_the_same_body_however_it_arrives(answer: bytes, size: int) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for at in range(0, len(answer), size):
            writer.write(answer[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(respond) as pool:
        reply = await pool.call("/x", b"{}")
        assert reply.status == 200
        assert await reply.read_all(100) == b"abcdefg"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", "connect_error"),
        (b"garbage garbage\r\n\r\n", "bad_answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "broken_stream"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc", "broken_stream"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n", "bad_answer"),
    ],
)
async def test_a_broken_answer_says_how_it_broke(answer: bytes, kind: str) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    async with serving(respond) as pool:
        with pytest.raises(CallFailed) as failed:
            await (await pool.call("/x", b"{}")).read_all(100)
    assert failed.value.kind == kind


async def test_nobody_listening_is_a_connect_error() -> None:
    pool = ConnectionPool(Upstream("gone", "http://127.0.0.1:1/v1"), asyncio.get_running_loop())
    with pytest.raises(CallFailed, match="cannot connect") as failed:
        await pool.call("/x", b"{}")
    assert failed.value.kind == "connect_error"


async def test_a_connection_that_was_closed_while_idle_is_replaced_without_a_word() -> None:
    served = 0

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await read_request(reader)
        writer.write(OK)
        served += 1
        await read_request(reader)  # The second request on this connection finds it closed.

    async with serving(respond) as pool:
        for _ in range(3):
            assert await (await pool.call("/x", b"{}")).read_all(100) == b"ok"
    assert served == 3


async def test_the_first_byte_has_a_deadline() -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(respond, first_byte_timeout_s=0.05) as pool:
        with pytest.raises(CallFailed, match="no byte of an answer within") as failed:
            await pool.call("/x", b"{}")
    assert failed.value.kind == "timeout"


async def test_the_whole_answer_has_a_deadline() -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\na\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(respond, total_timeout_s=0.1) as pool:
        with pytest.raises(CallFailed, match="not complete within") as failed:
            await (await pool.call("/x", b"{}")).read_all(10_000)
    assert failed.value.kind == "timeout"


@pytest.mark.parametrize("headers_first", [False, True])
async def test_giving_up_closes_the_upstream_connection(headers_first: bool) -> None:
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if headers_first:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        arrived.set()
        await reader.read()
        closed.set()

    async def ask(pool: ConnectionPool) -> None:
        reply = await pool.call("/x", b"{}")
        try:
            await reply.read_all(100)
        finally:
            reply.close()

    async with serving(respond) as pool:
        task = asyncio.create_task(ask(pool))
        await arrived.wait()
        await asyncio.sleep(0.02)
        task.cancel()
        async with asyncio.timeout(5):
            await closed.wait()
        assert task.cancelled()
        assert not pool._idle


async def test_cancelling_a_call_that_is_already_answered_leaves_the_next_call_alone() -> None:
    """The answer is complete and its connection taken again before the cancelled task has run."""
    async with serving(echo_ok) as pool:
        await (await pool.call("/x", b"{}")).read_all(100)
        first = asyncio.create_task(pool.call("/x", b"{}"))
        await asyncio.sleep(0)
        while not pool._idle:  # noqa: ASYNC110
            await asyncio.sleep(0)
        second = asyncio.create_task(pool.call("/x", b"{}"))
        await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(5):
            assert await (await second).read_all(100) == b"ok"


async def test_a_large_answer_waits_for_its_reader_and_the_connection_survives() -> None:
    size = 4 * HIGH_WATER

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)

    async with serving(respond) as pool:
        for _ in range(2):
            reply = await pool.call("/x", b"{}")
            await asyncio.sleep(0.05)
            assert len(await reply.read_all(2 * size)) == size


async def test_an_answer_over_the_limit_is_refused_and_closed() -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 50_000)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"x" * 50_000)

    async with serving(respond) as pool:
        with pytest.raises(CallFailed, match="longer than 10 bytes"):
            await (await pool.call("/x", b"{}")).read_all(10)


def test_a_line_break_in_a_key_is_refused() -> None:
    async def build() -> None:
        pool = ConnectionPool(Upstream("u", "http://127.0.0.1:1/v1", api_key="a\r\nx: y"), asyncio.get_running_loop())
        await pool.call("/x", b"{}")

    with pytest.raises(ValueError, match="line break"):
        asyncio.run(build())
