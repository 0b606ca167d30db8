"""What a scripted upstream does with one request: a tuple of steps, made by a script, bent by combinators.

A *script* maps a received request to steps; `tests.upstream.answers` makes the well-behaved ones, the combinators here
(`cut`, `truncated`, `drip`, `gated`, ...) turn any of them into a misbehaving one at the level of bytes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Part = Literal["head", "body", "event", "end"]


@dataclass(frozen=True, slots=True)
class Send:
    """Write bytes. `part` says what they are, so that combinators can count the events of a stream."""

    data: bytes
    part: Part = "body"


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds (or until the client has gone)."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Gate:
    """Wait until the test opens the gate (or until the client has gone)."""

    opened: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        self.opened.set()


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing more and keep the connection open until the client has gone."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection off with a TCP RST."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection in order (FIN), wherever the answer stands."""


Step = Send | Pause | Gate | Stall | Reset | Close
Steps = tuple[Step, ...]


@dataclass(slots=True)
class Received:
    """One request as it came over the wire. Times are `time.monotonic()` seconds.

    `raw` is every byte of it, head and body, framing included; `body` is the de-chunked body. `client_closed_at` is set
    when the client closed the connection before the answer was complete.
    """

    raw: bytes
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    at: float = field(default_factory=time.monotonic)
    client_closed_at: float | None = None
    answered_at: float | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def streams(self) -> bool:
        return isinstance(self.json, dict) and self.json.get("stream") is True

    def client_closed(self, timeout: float = 5.0) -> bool:
        """Wait for the answer to be over; True if it ended because the client had gone."""
        return self.over.wait(timeout) and self.client_closed_at is not None


Script = Callable[[Received], Steps]

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
JSON = ("content-type", "application/json")
SSE = ("content-type", "text/event-stream; charset=utf-8")


def head(status: int, *headers: tuple[str, str]) -> Send:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", *(f"{name}: {value}" for name, value in headers)]
    return Send("\r\n".join([*lines, "", ""]).encode("latin-1"), "head")


def whole(status: int, body: bytes, *headers: tuple[str, str]) -> Steps:
    """A complete answer with a content length."""
    return head(status, *headers, ("content-length", str(len(body)))), Send(body)


def chunk(data: bytes, part: Part = "event") -> Send:
    """One chunk of the chunked transfer coding."""
    return Send(b"%x\r\n%b\r\n" % (len(data), data), part)


def chunked(events: tuple[bytes, ...], *headers: tuple[str, str], status: int = 200) -> Steps:
    """A stream: each of `events` travels in a chunk of its own."""
    steps = tuple(chunk(event) for event in events)
    return head(status, *headers, ("transfer-encoding", "chunked")), *steps, Send(b"0\r\n\r\n", "end")


def fixed(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Script:
    """Always these bytes with this status."""
    pairs = tuple((headers or {}).items())
    return lambda request: whole(status, body, *((JSON,) if "content-type" not in dict(pairs) else ()), *pairs)


def raw_stream(*events: bytes) -> Script:
    """A 200 event stream of exactly these bytes, one transfer chunk per item."""
    return lambda request: chunked(events, SSE)


def raw_bytes(*pieces: bytes, then: Step | None = None) -> Script:
    """Exactly these bytes on the socket, HTTP or not; the connection is closed afterwards unless told otherwise."""
    return lambda request: (*(Send(piece) for piece in pieces), then or Close())


def stall_before_headers(request: Received) -> Steps:
    return (Stall(),)


def reset_before_headers(request: Received) -> Steps:
    return (Reset(),)


def close_before_headers(request: Received) -> Steps:
    return (Close(),)


def cut(script: Script, after: int, fault: Step | None = None, settle: float = 0.05) -> Script:
    """The answer up to and including its `after`-th event, then `fault` (a TCP reset if not given).

    The pause before the fault lets the bytes sent so far reach the client: a reset may overtake them.
    """

    def bent(request: Received) -> Steps:
        kept: list[Step] = []
        seen = 0
        for step in script(request):
            if isinstance(step, Send) and step.part in ("event", "end", "body"):
                if seen == after:
                    break
                seen += 1
            kept.append(step)
        return *kept, Pause(settle), fault or Reset()

    return bent


def truncated(script: Script, keep: float = 0.5) -> Script:
    """A `content-length` answer of which only a share of the body is sent before the connection is closed."""

    def bent(request: Received) -> Steps:
        first, body = script(request)
        assert isinstance(body, Send)
        return first, Send(body.data[: int(len(body.data) * keep)]), Close()

    return bent


def drip(script: Script, size: int = 1, pause: float = 0.0) -> Script:
    """The same bytes in pieces of `size`, each written by itself."""

    def bent(request: Received) -> Steps:
        steps: list[Step] = []
        for step in script(request):
            if not isinstance(step, Send):
                steps.append(step)
                continue
            for start in range(0, len(step.data), size):
                steps += [Send(step.data[start : start + size], step.part), Pause(pause)]
        return tuple(steps)

    return bent


def gated(script: Script, gate: Gate, after: int = 0) -> Script:
    """The answer waits at `gate` after the `after`-th event; with `after` 0 after the head, with -1 before it."""

    def bent(request: Received) -> Steps:
        steps: list[Step] = [gate] if after < 0 else []
        seen = 0
        for step in script(request):
            steps.append(step)
            if isinstance(step, Send):
                seen += step.part != "head"
                if after >= 0 and seen == after and gate not in steps:
                    steps.append(gate)
        return tuple(steps)

    return bent


def paced(script: Script, pause: float) -> Script:
    """A pause before every event."""

    def bent(request: Received) -> Steps:
        steps: list[Step] = []
        for step in script(request):
            if isinstance(step, Send) and step.part == "event":
                steps.append(Pause(pause))
            steps.append(step)
        return tuple(steps)

    return bent
