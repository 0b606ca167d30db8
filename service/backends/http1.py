"""The HTTP/1.1 client of the hot path: keep-alive pools on asyncio protocols, parsed by httptools (llhttp).

It does what a gateway needs and no more: POST with a body in memory, the answer as raw bytes as they arrive, TLS,
deadlines for connecting, for the first byte and for the whole call, back-pressure, and cancellation that closes the
upstream connection at once. It follows no redirects, keeps no cookies, asks for no compression and reads no proxy
settings from the environment.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from urllib.parse import urlsplit

import httptools

from registry.arms import Upstream

HIGH_WATER = 1 << 20
"""Bytes received but not yet read after which the socket is no longer read."""
MAX_HEADER_BYTES = 65_536
MAX_IDLE = 256
"""Idle connections kept per upstream."""


class CallFailed(Exception):
    """A call broke off. `kind` says how; `started` is True once a byte of the answer was received."""

    def __init__(self, kind: str, message: str, *, started: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.started = started


class Reply:
    """An answer as it arrives. `status` and `headers` are set once `head` is done; read the body with `read`."""

    __slots__ = ("_buffer", "_buffered", "_connection", "_error", "_waiter", "complete", "head", "headers", "status")

    def __init__(self, connection: Connection, head: asyncio.Future[None]) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.head = head
        self.complete = False
        self._connection = connection
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: CallFailed | None = None

    def header(self, name: bytes) -> bytes | None:
        """The first header of that lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def read(self) -> bytes | None:
        """The bytes that have arrived since the last call, None at the end.

        Raises
        ------
        CallFailed: the answer broke off or its deadline passed; bytes that came before are handed out first.
        """
        if not self._buffer:
            if self.complete:
                return None
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            if not self._buffer:
                if self._error is not None:
                    raise self._error
                return None
        data = self._buffer.popleft() if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        if self._buffered > HIGH_WATER and self._connection.carries(self):
            self._connection.resume()
        self._buffered = 0
        return data

    async def read_all(self, limit: int) -> bytes:
        """The whole body. Raises CallFailed if it breaks off or is longer than `limit` bytes."""
        first = await self.read()
        if first is None:
            return b""
        if self.complete and not self._buffer:
            return first
        parts, size = [first], len(first)
        while (data := await self.read()) is not None:
            size += len(data)
            if size > limit:
                self.close()
                raise CallFailed("bad_answer", f"answer longer than {limit} bytes", started=True)
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        """Give the answer up: closes the upstream connection at once unless the answer is complete."""
        if not self.complete and self._connection.carries(self):
            self._connection.abort()

    def is_full(self) -> bool:
        """Whether reading from the socket is paused until the reader catches up."""
        return self._buffered > HIGH_WATER

    def feed(self, data: bytes) -> None:
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER:
            self._connection.pause()
        self._wake()

    def finish(self) -> None:
        self.complete = True
        self._wake()

    def fail(self, error: CallFailed) -> None:
        self._error = error
        if not self.head.done():
            self.head.set_exception(error)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One keep-alive connection; carries one call at a time."""

    __slots__ = (
        "_body_begun",
        "_close_after",
        "_header_bytes",
        "_parser",
        "_pool",
        "_reply",
        "_timer",
        "_total_at",
        "_transport",
        "fresh",
        "started",
    )

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        # One for all calls: after a whole answer it stands at the beginning of the next one.
        self._parser = httptools.HttpResponseParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._close_after = False
        self._header_bytes = 0
        self.fresh = True
        self.started = False
        self._body_begun = False
        self._total_at: float | None = None

    # Calls -----------------------------------------------------------------------------------------------------------

    def start(self, message: bytes) -> Reply:
        """Send a request; the reply's `head` is done when the status line and the headers are in."""
        loop = self._pool.loop
        self._reply = reply = Reply(self, loop.create_future())
        self.started = self._close_after = self._body_begun = False
        self._total_at = None
        self._header_bytes = 0
        assert self._transport is not None
        self._transport.write(message)
        seconds = min(self._pool.upstream.first_byte_timeout_s, self._pool.upstream.total_timeout_s)
        self._timer = loop.call_later(seconds, self._time_out, f"no byte of an answer within {seconds:g} s")
        return reply

    def carries(self, reply: Reply) -> bool:
        """Whether the connection still belongs to this reply; once complete it may serve another call."""
        return self._reply is reply

    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def abort(self) -> None:
        self._stop_timer()
        self._reply = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # asyncio.Protocol ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            # Bytes that no call asked for: the connection cannot be trusted any more.
            self.abort()
            return
        self.started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(CallFailed("bad_answer", f"not an HTTP answer: {error}", started=True))

    def eof_received(self) -> None:
        # An answer without a length ends where the connection ends; llhttp knows whether this is such a one.
        reply = self._reply
        if reply is None or not reply.head.done():
            return
        framed = reply.header(b"content-length") is not None or b"chunked" in (
            reply.header(b"transfer-encoding") or b""
        )
        if not framed and not reply.complete:
            self._close_after = True
            self.on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if self._reply is not None:
            what = "closed the connection" if exc is None else f"connection lost: {exc}"
            self._break(
                CallFailed("connect_error" if not self.started else "broken_stream", what, started=self.started)
            )
        self._transport = None

    # httptools -------------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None:
            self._header_bytes += len(name) + len(value)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._break(CallFailed("bad_answer", f"headers longer than {MAX_HEADER_BYTES} bytes", started=True))
                return
            self._reply.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        reply, parser = self._reply, self._parser
        if reply is None:
            return
        reply.status = parser.get_status_code()
        if reply.status < 200:
            reply.headers.clear()
            return
        self._close_after = not parser.should_keep_alive()
        if not reply.head.done():
            reply.head.set_result(None)

    def on_body(self, body: bytes) -> None:
        if self._reply is not None:
            if not self._body_begun:
                self._body_begun = True
                self._stop_timer()
                if self._total_at is not None:
                    self._bound_total(self._total_at)
            self._reply.feed(body)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or reply.status < 200:
            return
        self._stop_timer()
        self._reply = None
        reply.finish()
        if self._close_after or self.is_closing():
            if self._transport is not None:
                self._transport.close()
        else:
            self.fresh = False
            if reply.is_full():
                self.resume()
            self._pool.release(self)

    # Deadlines -------------------------------------------------------------------------------------------------------

    def arm_total(self, reply: Reply, seconds: float) -> None:
        """Bound the rest of `reply`; does nothing if it is complete and the connection may serve another call.

        The wait for the first byte is one for the body: some servers send the headers before they begin to work.
        """
        if self._reply is reply:
            self._total_at = self._pool.loop.time() + max(seconds, 0.0)
            if self._body_begun:
                self._bound_total(self._total_at)

    def _bound_total(self, at: float) -> None:
        self._timer = self._pool.loop.call_at(
            at, self._time_out, f"not complete within {self._pool.upstream.total_timeout_s:g} s"
        )

    def _time_out(self, what: str) -> None:
        self._break(CallFailed("timeout", what, started=self.started))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _break(self, error: CallFailed) -> None:
        reply = self._reply
        self.abort()
        if reply is not None:
            reply.fail(error)


class ConnectionPool:
    """The connections to one upstream."""

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        url = urlsplit(upstream.base_url)
        if url.hostname is None:
            raise ValueError(f"upstream {upstream.name!r}: base_url {upstream.base_url!r} has no host")
        self.upstream = upstream
        self.loop = loop
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._host = url.hostname
        self._port = url.port or (443 if self._tls else 80)
        self._path = url.path.rstrip("/")
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._heads: dict[str, bytes] = {}
        self._retired = False

    async def call(self, path: str, body: bytes) -> Reply:
        """POST `body` (JSON) to `path` below the base URL; returns when the answer's headers are in.

        A call on a reused connection that the upstream closed before answering a byte is sent once more on a new one:
        the upstream had closed it while it was idle.

        Raises
        ------
        CallFailed: no connection, no first byte in time, or not an HTTP answer. If the caller is cancelled the
            connection is closed at once.
        """
        head = self._heads.get(path) or self._head(path)
        message = b"%s%d\r\n\r\n%s" % (head, len(body), body)
        started_at = self.loop.time()
        connection = self._take() or await self._connect()
        while True:
            reply = connection.start(message)
            try:
                await reply.head
            except CallFailed as error:
                if error.kind == "connect_error" and not connection.fresh and not error.started:
                    connection = await self._connect()
                    continue
                raise
            except asyncio.CancelledError:
                reply.close()
                raise
            connection.arm_total(reply, self.upstream.total_timeout_s - (self.loop.time() - started_at))
            return reply

    def release(self, connection: Connection) -> None:
        if len(self._idle) < MAX_IDLE and not self._retired:
            self._idle.append(connection)
        else:
            connection.abort()

    def forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def retire(self) -> None:
        """Take no new calls: idle connections close now, the others when their answer is complete."""
        self._retired = True
        for connection in self._idle[:]:
            connection.abort()

    def close(self) -> None:
        """Close every connection, also those in use."""
        for connection in list(self._all):
            connection.abort()

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closing():
                return connection
        return None

    async def _connect(self) -> Connection:
        seconds = self.upstream.connect_timeout_s
        try:
            async with asyncio.timeout(seconds):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )  # fmt: skip
        except TimeoutError:
            raise CallFailed("timeout", f"no connection within {seconds:g} s") from None
        except (OSError, ssl.SSLError) as error:
            raise CallFailed("connect_error", f"cannot connect: {error}") from None
        self._all.add(connection)
        return connection

    def _head(self, path: str) -> bytes:
        upstream = self.upstream
        host = f"[{self._host}]" if ":" in self._host else self._host
        default_port = 443 if self._tls else 80
        lines = [
            f"POST {self._path}{path} HTTP/1.1",
            f"Host: {host}" if self._port == default_port else f"Host: {host}:{self._port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            "User-Agent: tokamak",
        ]
        if upstream.api_key:
            lines.append(f"Authorization: Bearer {upstream.api_key}")
        lines += [f"{name}: {value}" for name, value in upstream.headers]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError(f"upstream {upstream.name!r}: a header, the key or the URL contains a line break")
        self._heads[path] = head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode("latin-1")
        return head
