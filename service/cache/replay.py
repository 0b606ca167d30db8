"""Sends an answer that was kept, in the way that this client asked for: whole or as a stream."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from registry.arms import Arm
from service.asgi import JSON, Send, send_body
from service.backends.stream import StreamTap
from service.cache.kept import KeptAnswer
from service.exchange import Exchange
from service.explanation import response_headers
from service.finishing import DONE, SSE_HEADERS, event_of, replayed

if TYPE_CHECKING:
    from service.gateway import Gateway

ROUTE = "cache"


async def send_kept(gateway: Gateway, exchange: Exchange, arm: Arm, send: Send) -> None:
    """Send the answer that the look-up has found. It costs nothing; its usage is what it was billed as the first time.

    The answer's own id is not noted: what is said about it by that id is said about the first time it was given.
    """
    use, request = exchange.cache, exchange.request
    assert use is not None
    assert use.answer is not None
    assert request is not None
    kept = use.answer
    exchange.route, exchange.trail.arm = ROUTE, arm
    exchange.usage, exchange.cost_usd = kept.usage, 0.0
    exchange.query_text = request.query()
    body = as_stream(kept, usage_wanted=request.usage_wanted) if request.stream else kept.whole()
    exchange.response = body if len(body) <= gateway.max_response_bytes else None
    exchange.outcome, exchange.http_status = "ok", 200
    shape = SSE_HEADERS if request.stream else [JSON]
    age = (b"age", b"%d" % max(time.time() - kept.kept_at, 0.0))
    await send_body(send, 200, body, [*shape, *response_headers(exchange, None, complete=True), age])


def as_stream(kept: KeptAnswer, *, usage_wanted: bool) -> bytes:
    """The answer as the events of a stream: those that came, without the usage that this client did not ask for."""
    if not kept.stream:
        return b"".join(map(event_of, replayed(kept.body, usage_wanted))) + DONE
    tap = StreamTap(hide_usage=not usage_wanted, hold_done=False, keep_bytes=0)
    return tap.feed(kept.body) + tap.finish()
