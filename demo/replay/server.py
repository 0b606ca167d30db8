"""An OpenAI-compatible upstream that answers logged queries with the logged answers of real models.

`python -m demo.replay.server --port P [--pool NAME | --data FILE] [--speed S]`. It knows no scores: who sends traffic
through it judges the answers from the sample. A query or a model that is not in the sample is a 404.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

import orjson
import uvicorn

from demo.replay.completion import EXTENSION, Completion
from demo.replay.load import load_sample
from demo.replay.sample import ReplaySample, SampleError, bundled_samples
from encoders.query_text import content_text

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
MAX_BODY_BYTES = 8_000_000


class Refusal(Exception):
    """A request that cannot be answered, with all that OpenAI's error object says."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> bytes:
        kind = "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})


class Asked(NamedTuple):
    """What a chat request asks of a replay: whose answer to which text, and how it is to be sent."""

    model: str
    text: str
    stream: bool
    include_usage: bool


class ReplayApp:
    """The ASGI application over one sample. `speed` 0 answers at once, 1 as slowly as logged, 10 ten times faster."""

    def __init__(self, sample: ReplaySample, speed: float = 0.0) -> None:
        self.sample = sample
        self.speed = speed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                await self._answer(scope, receive, send)
            except Refusal as refusal:
                await _send(send, refusal.status, JSON, refusal.body())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if path == "/v1/chat/completions":
            _need(method, "POST", path)
            await self._complete(await _body(receive), send)
        elif path == "/v1/models":
            _need(method, "GET", path)
            await _send(send, 200, JSON, self._models())
        elif path == "/health":
            await _send(send, 200, JSON, b'{"status":"ok"}')
        else:
            known = "POST /v1/chat/completions, GET /v1/models and GET /health"
            raise Refusal(404, f"no such path {path}; this replay serves {known}", "not_found")

    async def _complete(self, body: bytes, send: Send) -> None:
        asked = read_request(body)
        completion = self.completion(asked.model, asked.text)
        seconds = completion.seconds(self.speed)
        if not asked.stream:
            if seconds:
                await asyncio.sleep(seconds)
            await _send(send, 200, JSON, completion.whole())
        elif not seconds:
            await _send(send, 200, EVENTS, b"".join(completion.events(asked.include_usage)))
        else:
            await _pace(send, list(completion.events(asked.include_usage)), seconds)

    def completion(self, model: str, text: str) -> Completion:
        """The logged answer of `model` to the query of that text. Raises Refusal (404) where the sample has none."""
        if model not in self.sample.columns:
            near = difflib.get_close_matches(model, self.sample.models, n=3, cutoff=0.3) or self.sample.models
            message = f"the model {model!r} is not in the sample {self.sample.header.name!r}; near: {', '.join(near)}"
            raise Refusal(404, message, "model_not_found", "model")
        query = self.sample.find(text)
        if query is None:
            name, count = self.sample.header.name, len(self.sample.queries)
            message = (
                f"the last user message is not one of the {count} logged queries of {name!r}: a replay can only answer "
                f"what was logged. Take one from demo.replay.load.load_sample({name!r}).queries. Got {text[:80]!r}"
            )
            raise Refusal(404, message, "query_not_logged", "messages")
        reply = self.sample.reply(query, model)
        if reply is None:
            message = f"the log holds no answer of {model!r} to the query {query.query_id!r}; ask another model"
            raise Refusal(404, message, "answer_not_logged", "model")
        return Completion(self.sample, query, model, reply)

    def _models(self) -> bytes:
        owner = self.sample.header.dataset
        entries = [
            {
                "id": m.name,
                "object": "model",
                "created": 0,
                "owned_by": owner,
                EXTENSION: {"price_source": m.price_source},
            }
            for m in self.sample.header.models
        ]
        return orjson.dumps({"object": "list", "data": entries})


def read_request(body: bytes) -> Asked:
    """The request in `body`. Raises Refusal (400) with the field that is wrong."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}", "invalid_json") from error
    if not isinstance(request, dict):
        raise Refusal(400, "the body must be a JSON object", "invalid_type")
    model, messages = request.get("model"), request.get("messages")
    if not isinstance(model, str):
        raise Refusal(400, "`model` must be the name of a model", "invalid_type", "model")
    if not isinstance(messages, list):
        raise Refusal(400, "`messages` must be a list of messages", "invalid_type", "messages")
    if request.get("n") not in (None, 1):
        raise Refusal(400, "a replay has one logged answer per model: `n` must be 1", "unsupported_value", "n")
    users = [m for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    text = content_text(users[-1].get("content")) if users else ""
    if not text.strip():
        raise Refusal(400, "`messages` holds no user message with text", "invalid_value", "messages")
    options = request.get("stream_options")
    include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return Asked(model, text, bool(request.get("stream")), include_usage)


async def _pace(send: Send, events: Sequence[bytes], seconds: float) -> None:
    """Send the events evenly spread over `seconds`."""
    await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
    for event in events:
        await asyncio.sleep(seconds / len(events))
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    message = await receive()
    parts = [message.get("body", b"")]
    size = len(parts[0])
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise Refusal(413, f"the body is longer than {MAX_BODY_BYTES} bytes", "body_too_large")
    return b"".join(parts)


def _need(method: str, wanted: str, path: str) -> None:
    if method != wanted:
        raise Refusal(405, f"{path} answers {wanted}, got {method}", "method_not_allowed")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; 2 if the sample cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pool", default="llmrouter14", help=f"a bundled sample: {', '.join(bundled_samples())}")
    which.add_argument("--data", help="a .parquet log or a .jsonl.gz sample")
    parser.add_argument("--speed", type=float, default=0.0, help="0 (default): at once; 1: as slow as it was logged")
    options = parser.parse_args(arguments)
    try:
        sample = load_sample(options.data or options.pool)
    except SampleError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"replaying {len(sample.queries):,} queries of {len(sample.models)} models on {options.host}:{options.port}")
    app = ReplayApp(sample, options.speed)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
