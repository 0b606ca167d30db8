"""The way of a request, top to bottom.

Everything that a request meets is called from `answer`, in order. Before the first byte of an answer has been sent any
failure may still become another arm's answer; after it nothing is retried, and a break is told to the client as such.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from encoders.features import query_features
from encoders.protocol import Vectors
from registry.arms import Arm, Endpoint
from routers.policy import Choice, NoEligibleArm, decide
from routers.protocol import Prediction
from service.asgi import JSON, ClientLeft, DisconnectWatch, Receive, Scope, Send, read_body, send_body, send_error
from service.backends.attempt import Opened
from service.backends.http1 import CallFailed
from service.backends.stream import StreamEnd, StreamTap
from service.eligible import NO_TEMPLATE, eligible_arms, nothing_eligible
from service.errors import ApiError
from service.exchange import Exchange
from service.explanation import Decided, response_headers, route_object
from service.limits import Key
from service.openai_api.requests import ChatRequest, ModelRequest
from service.routing_options import RoutingOptions, routing_options
from service.serving import Serving, Target
from service.trial import deciding, shadow
from service.wire import read_error
from templates_store.template import Hit
from templates_store.ways import BINDING_FIELDS, ask, format_bound

if TYPE_CHECKING:
    from service.gateway import Gateway

logger = logging.getLogger("tokamak.pipeline")

Parse = Callable[[bytes], ModelRequest]
SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
               (b"x-accel-buffering", b"no")]  # fmt: skip


async def answer(gateway: Gateway, path: str, parse: Parse, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request for a completion, stream or not, and log it."""
    exchange = Exchange(path, scope["headers"])
    watch: DisconnectWatch | None = None
    admitted: Key | None = None
    try:
        exchange.key = key = gateway.limits.authenticate(exchange.headers)
        exchange.raw = await read_body(scope, receive, gateway.max_body_bytes)
        exchange.request = request = parse(exchange.raw)
        gateway.limits.admit(key)
        admitted = key
        watch = DisconnectWatch(receive)

        serving = gateway.serving
        options = routing_options(request.body, exchange.headers)
        target = serving.target(request.model)
        decided: Decided | None = None
        if target.pinned is not None:
            ranking = [permitted(target.pinned, key, request)]
            hits = await pinned_hits(gateway, serving, target.pinned, request, key, exchange)
            exchange.route = "pinned"
        else:
            decided, hits = await route(gateway, serving, target, request, key, options, exchange)
            exchange.decision = decided.record
            exchange.route = "single"
            ranking = decided.ranking()

        def body_for(arm: Arm, endpoint: Endpoint) -> bytes:
            exchange.template_ids = ()
            return upstream_body(request, arm, endpoint, hits, gateway.templates_max_tokens, exchange)

        exchange.outcome = "failed"
        async with asyncio.timeout(None if options.deadline_ms is None else options.deadline_ms / 1e3):
            opened = await gateway.backends.open(ranking, path, body_for, exchange.trail, stream=request.stream)
        finish = relay_stream if request.stream else finish_whole
        await finish(gateway, exchange, opened, decided, options, send)
    except ApiError as error:
        await refuse(exchange, error, send)
    except TimeoutError:
        await refuse(exchange, deadline_exceeded(), send)
    except ClientLeft:
        abandon(exchange)
    except asyncio.CancelledError:
        abandon(exchange)
        if watch is None or not watch.left:
            raise
    except Exception:
        logger.exception("request %s failed on a defect", exchange.id)
        exchange.outcome = "failed"
        if exchange.http_status == 200:
            raise
        await refuse(exchange, ApiError(500, "api_error", "internal_error", f"Internal error in {exchange.id}."), send)
    finally:
        if watch is not None:
            watch.stop()
        if admitted is not None:
            gateway.limits.release(admitted)
        gateway.record(exchange)


async def route(
    gateway: Gateway,
    serving: Serving,
    target: Target,
    request: ModelRequest,
    key: Key,
    options: RoutingOptions,
    exchange: Exchange,
) -> tuple[Decided, Sequence[Hit]]:
    """Encode once, find the eligible arms, predict, decide. Calls no upstream."""
    route_config = target.route
    assert route_config is not None
    champion, serving = serving, deciding(serving, request, exchange)
    allowed, eliminated = eligible_arms(serving, route_config, request, key, options, gateway.backends.health)
    vector = await encoded(serving, request, exchange)
    hits: Sequence[Hit] = ()
    thought = [index for index in allowed if serving.arms[index].way == "thought"]
    if thought:
        hits = gateway.find_templates(serving, vector, key)
        if not hits:
            eliminated.update(dict.fromkeys(thought, NO_TEMPLATE))
            allowed = [index for index in allowed if index not in eliminated]
    if not allowed:
        raise nothing_eligible(serving, request, eliminated)
    exchange.features = features = query_features(exchange.query_text or "", request.shape(), exchange.workload())
    preference = target.preference if options.preference is None else options.preference
    exploration = route_config.exploration if options.exploration is None else options.exploration
    draw = random.random()

    def decided_by(version: Serving, prediction: Prediction) -> Choice:
        return decide(
            prediction, allowed, preference, exploration, version.lineup.cost_scale, draw,
            options.max_cost_usd, None if options.deadline_ms is None else options.deadline_ms / 1e3,
        )  # fmt: skip

    def predicted_by(version: Serving) -> Prediction:
        return version.lineup.predict(vector, features, exchange.query_text)

    prediction = predicted_by(serving)
    try:
        choice = decided_by(serving, prediction)
    except NoEligibleArm as none_left:
        raise nothing_eligible(serving, request, {**eliminated, **none_left.eliminated}) from None
    shadow(champion, exchange, lambda version: decided_by(version, predicted_by(version)))
    decided = Decided(exchange.id, target.name, serving, preference, exploration, choice, prediction, eliminated)
    return decided, hits


async def pinned_hits(
    gateway: Gateway, serving: Serving, arm: Arm, request: ModelRequest, key: Key, exchange: Exchange
) -> Sequence[Hit]:
    """The templates of an arm that was asked for by name; only a thought arm needs any, and the encoder for them."""
    if arm.way != "thought":
        exchange.query_text = request.query()
        return ()
    return gateway.find_templates(serving, await encoded(serving, request, exchange), key)


async def encoded(serving: Serving, request: ModelRequest, exchange: Exchange) -> Vectors:
    """The vector of the request's query, kept for the log."""
    exchange.query_text = text = request.query()
    vector = await serving.encode(text)
    exchange.vector, exchange.encoder = vector.tobytes(), serving.encoder.hash
    return vector


def permitted(arm: Arm, key: Key, request: ModelRequest) -> Arm:
    """The pinned arm, if the key may use it and it can do what is asked."""
    if not key.may_use(arm.model.name):
        raise ApiError(
            403,
            "permission_error",
            "model_not_allowed",
            f"Key {key.id!r} may not use {arm.model.name!r}.",
            param="model",
        )
    kind = request.needs & {"chat", "completions", "embeddings"}
    if not kind <= arm.model.capabilities:
        raise ApiError(
            400, "invalid_request_error", "unsupported_model",
            f"The model {arm.model.name!r} is not served for {', '.join(kind)}.", param="model",
        )  # fmt: skip
    return arm


def upstream_body(
    request: ModelRequest, arm: Arm, endpoint: Endpoint, hits: Sequence[Hit], max_tokens: int, exchange: Exchange
) -> bytes:
    """The request as this arm's endpoint gets it: model name, way of asking, usage on streams; all else as it came."""
    changes: dict[str, Any] = {}
    if endpoint.model != request.model:
        changes["model"] = endpoint.model
    if arm.way != "direct" and isinstance(request, ChatRequest):
        asked = ask(
            arm.way, request.messages(), hits, max_tokens=max_tokens,
            bound=format_bound({name: request.body.peek(name) for name in BINDING_FIELDS if name in request.body}),
        )  # fmt: skip
        changes["messages"] = asked.messages
        exchange.template_ids = asked.template_ids
    if request.stream and not request.usage_wanted:
        options = request.body.mapping("stream_options") or {}
        changes["stream_options"] = {**options, "include_usage": True}
    return request.body.edited(changes)


async def finish_whole(
    gateway: Gateway, exchange: Exchange, opened: Opened, decided: Decided | None, options: RoutingOptions, send: Send
) -> None:
    """Send an answer that is complete."""
    close_attempt(exchange, opened, None)
    exchange.reports(opened.answer.usage)
    body = opened.head
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


def note_answer(exchange: Exchange, opened: Opened) -> None:
    exchange.ttft_s = opened.call.ttft_s
    if isinstance(opened.answer.id, str):
        exchange.answer_id = opened.answer.id


def close_attempt(exchange: Exchange, opened: Opened, broken: str | None) -> None:
    note_answer(exchange, opened)
    attempt = opened.call.record("ok" if broken is None else "broken_stream", broken)
    exchange.trail.attempts.append(attempt)
    exchange.trail.running = None


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
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def explanation(exchange: Exchange, decided: Decided) -> dict[str, Any]:
    return route_object(decided.record(), exchange.trail.attempts, exchange.arm.id if exchange.arm else None)


def deadline_exceeded() -> ApiError:
    return ApiError(504, "api_error", "deadline_exceeded", "No answer came within 'deadline_ms'.")


async def refuse(exchange: Exchange, error: ApiError, send: Send) -> None:
    """Tell the client what went wrong; nothing of an answer has been sent yet."""
    exchange.error, exchange.http_status = error, error.status
    end_running(exchange, "timeout" if error.code == "deadline_exceeded" else "aborted")
    await send_error(send, error, response_headers(exchange, None, complete=False))


def abandon(exchange: Exchange) -> None:
    """The client is gone, or the process is stopping: keep what is known."""
    exchange.outcome, exchange.http_status = "aborted", 499
    exchange.error = ApiError(499, "api_error", "client_closed_request", "The client closed the connection.")
    end_running(exchange, "aborted")


def end_running(exchange: Exchange, outcome: Any) -> None:
    """Close the record of a call that was cut off."""
    if exchange.trail.running is not None:
        exchange.trail.attempts.append(exchange.trail.running.record(outcome))
        exchange.trail.running = None
