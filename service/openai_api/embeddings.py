"""`POST /v1/embeddings`: passed through to a model of the pool, or answered by the service's own encoder."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from service.asgi import ClientLeft, Receive, Scope, Send, read_body, send_body, send_error
from service.errors import ApiError, invalid
from service.exchange import Exchange
from service.explanation import response_headers
from service.openai_api.requests import embedding_request
from service.pipeline import abandon, answer
from service.serving import encoder_model
from service.wire import Body

if TYPE_CHECKING:
    from service.gateway import Gateway

MAX_INPUTS = 2048


async def embeddings(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Which of the two is asked is only known from the body, so it is read here and handed on."""
    exchange = Exchange("/embeddings", scope["headers"])
    try:
        exchange.key = key = gateway.limits.authenticate(exchange.headers, "embeddings", scope.get("client"))
        raw = await read_body(exchange.headers, receive, gateway.max_body_bytes)
    except ApiError as error:
        await _refused(gateway, exchange, error, send)
        return
    except ClientLeft:
        abandon(exchange)
        gateway.record(exchange)
        return
    own = encoder_model(gateway.serving.encoder)
    if own.encode() not in raw:
        await answer(gateway, "/embeddings", embedding_request, scope, _replay(raw, receive), send)
        return
    exchange.raw = raw
    try:
        exchange.request = request = embedding_request(raw)
        if request.model != own:
            await answer(gateway, "/embeddings", embedding_request, scope, _replay(raw, receive), send)
            return
        gateway.limits.admit(key)
        try:
            body = await _encode(gateway, request.body, own)
        finally:
            gateway.limits.release(key)
    except ApiError as error:
        await _refused(gateway, exchange, error, send)
        return
    exchange.outcome, exchange.http_status, exchange.route = "ok", 200, "encoder"
    gateway.record(exchange)
    await send_body(send, 200, body, [(b"content-type", b"application/json"),
                                      *response_headers(exchange, None, complete=True)])  # fmt: skip


async def _encode(gateway: Gateway, body: Body, name: str) -> bytes:
    """The answer of the service's encoder. Token counts are not reported: it has no tokens to bill."""
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise invalid(
            "'input' must be a non-empty string or an array of non-empty strings for this model.",
            "input",
            "invalid_type",
        )
    if len(texts) > MAX_INPUTS:
        raise invalid(f"'input' may hold at most {MAX_INPUTS} texts, got {len(texts)}.", "input")
    encoder = gateway.serving.encoder
    wanted = body.integer("dimensions", least=1)
    if wanted is not None and wanted != encoder.dim:
        raise invalid(f"'dimensions' must be {encoder.dim} for {name!r}, got {wanted}.", "dimensions")
    packed = body.string("encoding_format") == "base64"
    vectors = await asyncio.to_thread(encoder.encode, texts)
    return msgspec.json.encode(
        {
            "object": "list",
            "model": name,
            "data": [
                {"object": "embedding", "index": i, "embedding": _packed(row) if packed else row.tolist()}
                for i, row in enumerate(vectors)
            ],
            "usage": None,
        }
    )


def _packed(row: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode("ascii")


async def _refused(gateway: Gateway, exchange: Exchange, error: ApiError, send: Send) -> None:
    exchange.error, exchange.http_status = error, error.status
    gateway.record(exchange)
    await send_error(send, error, response_headers(exchange, None, complete=False))


def _replay(raw: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, then whatever comes."""
    pending = [{"type": "http.request", "body": raw, "more_body": False}]

    async def again() -> Any:
        return pending.pop() if pending else await receive()

    return again
