"""The end of a request: sending an answer on, whole or as a stream, and writing down what it cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from service.asgi import JSON, Send, send_body
from service.backends.attempt import Opened
from service.backends.http1 import CallFailed
from service.backends.stream import StreamEnd, StreamTap
from service.errors import ApiError
from service.exchange import Exchange
from service.explanation import Decided, considered, response_headers, route_object
from service.routing_options import RoutingOptions
from service.wire import read_error
from traffic.records import AttemptOutcome

if TYPE_CHECKING:
    from service.gateway import Gateway

SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
               (b"x-accel-buffering", b"no")]  # fmt: skip
Finish = Callable[[RoutingOptions, Send], Awaitable[None]]
"""Sends an answer on to the client."""
DONE = b"data: [DONE]\n\n"
SHELL = ("id", "created", "model", "system_fingerprint", "service_tier")
"""What every chunk of a stream repeats."""


def finishing(gateway: Gateway, exchange: Exchange, opened: Opened, decided: Decided | None) -> Finish:
    """The way to send an answer that has begun."""
    request = exchange.request
    assert request is not None
    return partial(relay_stream if request.stream else finish_whole, gateway, exchange, opened, decided)


async def finish_whole(
    gateway: Gateway, exchange: Exchange, opened: Opened, decided: Decided | None, options: RoutingOptions, send: Send
) -> None:
    """Send an answer that is complete."""
    exchange.reports(opened.answer.usage)
    close_attempt(exchange, opened, None)
    await send_whole(gateway, exchange, opened.head, decided, options, send)


async def send_whole(
    gateway: Gateway, exchange: Exchange, body: bytes, decided: Decided | None, options: RoutingOptions, send: Send
) -> None:
    """Send a complete answer whose attempt is written down already."""
    exchange.response = body if len(body) <= gateway.max_response_bytes else None
    if options.explain and decided is not None:
        body = explained(body, exchange, decided)
    exchange.outcome, exchange.http_status = "ok", 200
    headers = response_headers(exchange, decided, complete=True)
    await send_body(send, 200, body, [JSON, *headers])


async def relay_stream(
    gateway: Gateway,
    exchange: Exchange,
    opened: Opened,
    decided: Decided | None,
    options: RoutingOptions,
    send: Send,
) -> None:
    """Send a stream on as it comes. What breaks now is told to the client as an error event and never retried."""
    request = exchange.request
    assert request is not None
    explain = options.explain and decided is not None
    tap = StreamTap(hide_usage=not request.usage_wanted, hold_done=explain, keep_bytes=gateway.max_response_bytes)
    exchange.http_status = 200
    exchange.response = None
    note_answer(exchange, opened)
    headers = [*SSE_HEADERS, *response_headers(exchange, decided, complete=False)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    broken: str | None = None
    reply = opened.reply
    try:
        data: bytes | None = opened.head
        while data is not None:
            out = tap.feed(data)
            if out:
                await send({"type": "http.response.body", "body": out, "more_body": True})
            data = await reply.read() if tap.error is None else None
    except CallFailed as failed:
        broken = str(failed)
    finally:
        reply.close()
        end = StreamEnd(tap)
        exchange.reports(end.usage)
        exchange.response = tap.raw()
    rest = tap.finish()
    if broken is None and (tap.error is not None or not end.finished):
        broken = end.error or "the stream ended before it was finished"
    close_attempt(exchange, opened, broken)
    if broken is not None:
        exchange.error = ApiError(502, "api_error", "stream_broken", f"The answer broke off: {broken}")
        shaped = tap.error is not None and read_error(tap.error).shaped
        rest = b"data: " + ((tap.error if shaped else None) or exchange.error.body()) + b"\n\n"
    else:
        exchange.outcome = "ok"
        if explain and decided is not None:
            rest += explanation_event(exchange, decided) + (b"data: [DONE]\n\n" if end.done else b"")
    await send({"type": "http.response.body", "body": rest})


async def send_replay(
    gateway: Gateway, exchange: Exchange, body: bytes, decided: Decided, options: RoutingOptions, send: Send
) -> None:
    """Send a complete answer to a client that asked for a stream, as the events of one."""
    request = exchange.request
    assert request is not None
    stream = b"".join(map(event_of, replayed(body, request.usage_wanted)))
    exchange.response = stream + DONE if len(stream) <= gateway.max_response_bytes else None
    if options.explain:
        stream += explanation_event(exchange, decided)
    exchange.outcome, exchange.http_status = "ok", 200
    headers = [*SSE_HEADERS, *response_headers(exchange, decided, complete=True)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": stream + DONE})


def replayed(body: bytes, usage_wanted: bool) -> list[dict[str, Any]]:
    """The chunks of a stream that says what a complete answer says: per choice what was said, then its end."""
    answer = msgspec.json.decode(body)
    shell = {key: answer[key] for key in SHELL if key in answer}
    shell["object"] = "text_completion" if answer.get("object") == "text_completion" else "chat.completion.chunk"
    chunks = []
    for choice in answer["choices"]:
        place = {"index": choice.get("index", 0)}
        said, end = _said(choice)
        logprobs = {"logprobs": choice["logprobs"]} if choice.get("logprobs") else {}
        chunks.append({**shell, "choices": [{**place, **said, **logprobs, "finish_reason": None}]})
        chunks.append({**shell, "choices": [{**place, **end, "finish_reason": choice.get("finish_reason")}]})
    if usage_wanted and answer.get("usage") is not None:
        chunks.append({**shell, "choices": [], "usage": answer["usage"]})
    return chunks


def _said(choice: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one chunk says of a choice, and the nothing that its last chunk says."""
    if "message" not in choice:
        return {"text": choice["text"]}, {"text": ""}
    delta = {key: value for key, value in choice["message"].items() if value is not None}
    if delta.get("tool_calls"):
        # In a stream, and only there, a call says its place.
        delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(delta["tool_calls"])]
    return {"delta": delta}, {"delta": {}}


def event_of(payload: Any) -> bytes:
    """An event of a stream."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def note_answer(exchange: Exchange, opened: Opened) -> None:
    exchange.ttft_s = opened.call.ttft_s
    if isinstance(opened.answer.id, str):
        exchange.answer_id = opened.answer.id


def close_attempt(exchange: Exchange, opened: Opened, broken: str | None) -> None:
    note_answer(exchange, opened)
    outcome: AttemptOutcome = "ok" if broken is None else "broken_stream"
    exchange.trail.ends(opened.call.record(outcome, broken, exchange.answer_usage, exchange.answer_cost_usd))


def explained(body: bytes, exchange: Exchange, decided: Decided) -> bytes:
    """The answer with the decision in it, under `route`."""
    head = body.rstrip()[:-1].rstrip()
    comma = b"" if head.endswith(b"{") else b","
    return head + comma + b'"route":' + msgspec.json.encode(explanation(exchange, decided)) + b"}"


def explanation_event(exchange: Exchange, decided: Decided) -> bytes:
    """A last chunk without choices that carries the decision, like the usage chunk of the OpenAI API."""
    chunk = {
        "id": exchange.answer_id or exchange.id, "object": "chat.completion.chunk", "created": int(exchange.created_at),
        "model": exchange.arm.model.name if exchange.arm else "", "choices": [],
        "route": explanation(exchange, decided),
    }  # fmt: skip
    return event_of(chunk)


def explanation(exchange: Exchange, decided: Decided) -> dict[str, Any]:
    answered_by = exchange.arm.id if exchange.arm else None
    found = route_object(decided.record(), exchange.trail.attempts, answered_by, decided.live())
    return found | {"templates": considered(exchange.selection, withheld=decided.withheld_from is not None)}
