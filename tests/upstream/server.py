"""A scripted upstream: an HTTP/1.1 server on a real socket that does to each request what the test wrote down.

It runs on an event loop in a thread of its own, so that synchronous and asynchronous tests and gateways in any process
can use it. `GET /v1/models` is answered from `models` and recorded apart, so that health probes do not count as calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

import orjson

from tests.upstream.answers import answer
from tests.upstream.script import (
    JSON,
    Close,
    Gate,
    Pause,
    Received,
    Reset,
    Script,
    Send,
    Stall,
    Steps,
    whole,
)

RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """One client connection: reads requests one after another and plays the steps of their scripts."""

    def __init__(self, upstream: ScriptedUpstream, number: int) -> None:
        self.upstream = upstream
        self.number = number
        self.buffer = bytearray()
        self.gone = asyncio.Event()
        self.more = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.task = asyncio.get_running_loop().create_task(self.serve())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.more.set()

    def eof_received(self) -> None:
        self.gone.set()
        self.more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self.more.set()
        self.upstream.disconnected(self)

    async def serve(self) -> None:
        assert self.transport is not None
        try:
            while (request := await self.next_request()) is not None:
                steps = self.upstream.accept(request)
                if not await self.play(request, steps):
                    break
        finally:
            self.transport.close()

    async def next_request(self) -> Received | None:
        """The next request on this connection, or None when the client has closed it."""
        while (request := parse(self.buffer, self.number)) is None:
            if self.gone.is_set():
                return None
            self.more.clear()
            await self.more.wait()
        del self.buffer[: len(request.raw)]
        return request

    async def play(self, request: Received, steps: Steps) -> bool:
        """Play the steps; False if the connection is not to be used again."""
        assert self.transport is not None
        try:
            for step in steps:
                if isinstance(step, Send) and not self.gone.is_set():
                    self.transport.write(step.data)
                elif isinstance(step, Reset):
                    sock: socket.socket = self.transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
                    self.transport.abort()
                    return False
                elif isinstance(step, Close):
                    return False
                elif isinstance(step, (Pause, Gate, Stall)):
                    await self.wait(step)
                if self.gone.is_set():
                    request.client_closed_at = time.monotonic()
                    return False
            request.answered_at = time.monotonic()
            return request.header("connection") != "close"
        finally:
            request.over.set()

    async def wait(self, step: Pause | Gate | Stall) -> None:
        """Wait for the step or for the client to go, whichever comes first."""
        if isinstance(step, Gate):
            # The gate is opened by another thread, so there is no event of this loop to wait for.
            while not step.opened.is_set() and not self.gone.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        elif isinstance(step, Stall):
            await self.gone.wait()
        elif step.seconds == 0:
            await asyncio.sleep(0)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), step.seconds)


def parse(buffer: bytearray, connection: int) -> Received | None:
    """The first request in the buffer, or None if it is not complete yet."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    pairs = (line.partition(":") for line in lines[1:])
    headers = tuple((name, value.strip()) for name, _, value in pairs)
    lower = {name.lower(): value for name, value in headers}
    start = end + 4
    if lower.get("transfer-encoding", "").lower() == "chunked":
        dechunked = parse_chunks(buffer, start)
        if dechunked is None:
            return None
        body, stop = dechunked
    else:
        stop = start + int(lower.get("content-length", "0"))
        if len(buffer) < stop:
            return None
        body = bytes(buffer[start:stop])
    return Received(bytes(buffer[:stop]), method, path, headers, body, connection)


def parse_chunks(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    """The de-chunked body from `start` on and where it ends, or None if it is not complete yet."""
    body = b""
    while (line := buffer.find(b"\r\n", start)) >= 0:
        size = int(bytes(buffer[start:line]).split(b";")[0], 16)
        stop = line + 2 + size + 2
        if len(buffer) < stop:
            return None
        body += bytes(buffer[line + 2 : stop - 2])
        start = stop
        if size == 0:
            return body, stop
    return None


class ScriptedUpstream:
    """The server. Use it as a context manager; `url` is the base URL that goes into a gateway's config.

    Each request takes the first script of `script(...)` that is left, else the one set for its model, else `default`.
    """

    def __init__(self, models: tuple[str, ...] = ("m",), default: Script | None = None) -> None:
        self.models = models
        self.default: Script = default or answer()
        self.requests: list[Received] = []
        self.probes: list[Received] = []
        self.connections = 0
        self._queue: deque[Script] = deque()
        self._by_model: dict[str, Script] = {}
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-upstream", daemon=True)
        self._server: asyncio.Server | None = None
        self._live: set[Connection] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, *scripts: Script) -> None:
        """What the next requests get, in this order."""
        self._queue.extend(scripts)

    def for_model(self, model: str, script: Script) -> None:
        """What requests for that model get when the queue is empty."""
        self._by_model[model] = script

    def forget(self) -> None:
        """Drop what was scripted and received."""
        self._queue.clear()
        self._by_model.clear()
        self.requests.clear()
        self.default = answer()

    @property
    def last(self) -> Received:
        return self.requests[-1]

    def wait_for(self, count: int, timeout: float = 5.0) -> list[Received]:
        """The requests received so far, once there are at least `count`.

        Raises
        ------
        TimeoutError: fewer came in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"expected {count} requests upstream, {len(self.requests)} came")
            return list(self.requests)

    def accept(self, request: Received) -> Steps:
        """Called on the server's loop: record the request and say what it gets."""
        if request.method == "GET":
            self.probes.append(request)
            data = [{"id": name, "object": "model", "created": 1, "owned_by": "test"} for name in self.models]
            return whole(200, orjson.dumps({"object": "list", "data": data}), JSON)
        script = self._queue.popleft() if self._queue else self._by_model.get(model_of(request), self.default)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        return script(request)

    def _connect(self) -> Connection:
        self.connections += 1
        connection = Connection(self, self.connections)
        self._live.add(connection)
        return connection

    def disconnected(self, connection: Connection) -> None:
        self._live.discard(connection)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(self._connect, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    def listen(self) -> None:
        """Accept connections (again)."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._live):
            if connection.transport is not None:
                connection.transport.abort()
        self._live.clear()

    def refuse(self) -> None:
        """Stop listening and break every open connection: from now on connecting is refused."""
        asyncio.run_coroutine_threadsafe(self._refuse(), self._loop).result(5)

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    async def _stop(self) -> None:
        await self._refuse()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def model_of(request: Received) -> str:
    """The `model` of the body, or an empty string."""
    try:
        body = request.json
    except ValueError:
        return ""
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else ""
