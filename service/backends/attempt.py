"""One call of one endpoint, up to the point where its answer is known to be one.

A streamed answer counts as begun when its first event is in and is not an error: until then nothing has reached the
client and another arm can still be tried. Some servers report a refused request as an error inside a 200 stream.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from registry.arms import Arm, Endpoint
from service.backends.http1 import CallFailed, ConnectionPool, Reply
from service.errors import UpstreamFailed
from service.wire import AnswerFields, read_answer, read_error
from traffic.records import Attempt, AttemptOutcome, Usage

MAX_ANSWER_BYTES = 64_000_000
MAX_FIRST_EVENT_BYTES = 4_000_000
RETRYABLE_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
OUTCOMES: dict[str, AttemptOutcome] = {
    "connect_error": "connect_error",
    "timeout": "timeout",
    "bad_answer": "bad_answer",
    "broken_stream": "broken_stream",
}


@dataclass(slots=True)
class Call:
    """A running attempt: what its record will say."""

    ordinal: int
    arm: Arm
    endpoint: Endpoint
    started_at: float
    started: float
    ttft_s: float | None = None
    http_status: int | None = None

    def record(
        self,
        outcome: AttemptOutcome,
        error: str | None = None,
        usage: Usage | None = None,
        cost_usd: float | None = None,
    ) -> Attempt:
        return Attempt(
            ordinal=self.ordinal, arm=self.arm.id, endpoint=self.endpoint.id, outcome=outcome,
            started_at=self.started_at, latency_s=time.perf_counter() - self.started, ttft_s=self.ttft_s,
            http_status=self.http_status, error=error, usage=usage, cost_usd=cost_usd,
        )  # fmt: skip

    def failure(
        self,
        outcome: AttemptOutcome,
        error: str,
        *,
        status: int,
        retryable: bool,
        retry_after_s: float | None = None,
        body: bytes | None = None,
        code: str | None = None,
    ) -> UpstreamFailed:
        return UpstreamFailed(
            self.record(outcome, error), status=status, retryable=retryable, retry_after_s=retry_after_s, body=body,
            code=code,
        )  # fmt: skip


@dataclass(slots=True)
class Opened:
    """An answer that has begun: all of it (`complete`) or its first events, and the reply to read the rest from."""

    call: Call
    reply: Reply
    head: bytes
    answer: AnswerFields
    content_type: bytes


async def open_answer(pool: ConnectionPool, call: Call, path: str, body: bytes, *, stream: bool) -> Opened:
    """Call the endpoint. Raises UpstreamFailed; being cancelled closes the upstream connection at once."""
    reply: Reply | None = None
    try:
        reply = await pool.call(path, body)
        call.http_status = reply.status
        content_type = reply.header(b"content-type") or b"application/json"
        if reply.status != 200:
            raise _refused(call, reply, await reply.read_all(MAX_ANSWER_BYTES))
        if stream:
            head, answer = await _first_event(call, reply, content_type)
        else:
            head = await reply.read_all(MAX_ANSWER_BYTES)
            answer = _whole_answer(call, head)
        call.ttft_s = time.perf_counter() - call.started
        return Opened(call, reply, head, answer, content_type)
    except CallFailed as error:
        status = 504 if error.kind == "timeout" else 502
        raise call.failure(OUTCOMES[error.kind], str(error), status=status, retryable=True) from None
    except (UpstreamFailed, asyncio.CancelledError):
        if reply is not None:
            reply.close()
        raise


def _whole_answer(call: Call, body: bytes) -> AnswerFields:
    answer = read_answer(body)
    if answer is None:
        raise call.failure("bad_answer", "the answer is not a JSON object", status=502, retryable=True)
    if answer.error is not None:
        raise _error_inside(call, body)
    return answer


async def _first_event(call: Call, reply: Reply, content_type: bytes) -> tuple[bytes, AnswerFields]:
    if b"text/event-stream" not in content_type:
        body = await reply.read_all(MAX_ANSWER_BYTES)
        _whole_answer(call, body)
        raise call.failure("bad_answer", f"asked for a stream, got {content_type.decode('latin-1')}", status=502,
                           retryable=True)  # fmt: skip
    head = b""
    while len(head) < MAX_FIRST_EVENT_BYTES:
        data = await reply.read()
        if data is None:
            raise call.failure("broken_stream", "the stream ended before its first event", status=502, retryable=True)
        head = head + data if head else data
        payload = first_payload(head)
        if payload is None:
            continue
        if payload == b"[DONE]":
            return head, AnswerFields()
        answer = read_answer(payload)
        if answer is None:
            raise call.failure("bad_answer", "the first event is not a JSON object", status=502, retryable=True)
        if answer.error is not None:
            raise _error_inside(call, payload)
        return head, answer
    raise call.failure("bad_answer", f"no event within {MAX_FIRST_EVENT_BYTES} bytes", status=502, retryable=True)


def first_payload(head: bytes) -> bytes | None:
    """The payload of the first complete event that has data, None if there is none yet."""
    if head.startswith(b"data: "):
        end = head.find(b"\n\n")
        if end > 0 and head.find(b"\n", 0, end) < 0:
            return head[6:end].rstrip(b"\r")
    lines: list[bytes] = []
    for line in head.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            return b"\n".join(lines)
    return None


def _error_inside(call: Call, body: bytes) -> UpstreamFailed:
    """An error object in a 200 answer; its `code` is the status if it is one."""
    error = read_error(body)
    status = error.code if isinstance(error.code, int) and 400 <= error.code <= 599 else 502
    return _failed_status(call, status, error.message, body if error.shaped else None, error.code, None)


def _refused(call: Call, reply: Reply, body: bytes) -> UpstreamFailed:
    error = read_error(body)
    retry_after = reply.header(b"retry-after")
    seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    return _failed_status(call, reply.status, error.message, body if error.shaped else None, error.code, seconds)


def _failed_status(
    call: Call,
    status: int,
    message: str | None,
    body: bytes | None,
    code: str | int | None,
    retry_after_s: float | None,
) -> UpstreamFailed:
    return call.failure(
        "http_error", f"HTTP {status}: {message or 'no message'}", status=status,
        retryable=status in RETRYABLE_STATUSES, retry_after_s=retry_after_s, body=body,
        code=code if isinstance(code, str) else None,
    )  # fmt: skip
