"""Well-behaved answers of the OpenAI API: chat, completions and embeddings, streamed when the request asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tests.upstream.script import JSON, SSE, Received, Script, Steps, chunked, fixed, raw_stream, whole

UsagePlace = Literal["if_asked", "always", "last_content", "every", "absent"]
"""Where a stream carries usage: in a chunk of its own if the request asks for it (as OpenAI does), in one in any case,
in the last chunk with `choices`, in every chunk (as vLLM can), or nowhere. Unstreamed answers know only `absent`."""

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
ANSWER_ID = "chatcmpl-scripted"
CREATED = 1_700_000_000


def event(payload: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says. `pieces` are the deltas of the stream; without a stream they are joined."""

    pieces: tuple[str, ...] = ("Hello", " there", ".")
    tool_calls: tuple[dict[str, Any], ...] = ()
    usage: Any = None
    usage_place: UsagePlace = "if_asked"
    finish_reason: str | None = None
    n: int = 1
    id: str = ANSWER_ID
    model: str | None = None

    @property
    def finish(self) -> str:
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    @property
    def reported(self) -> Any:
        """The usage that the upstream reports: `USAGE` unless the test said otherwise."""
        return USAGE if self.usage is None else self.usage

    def steps(self, request: Received) -> Steps:
        model = self.model or request.json.get("model")
        if request.path.endswith("/embeddings"):
            return whole(200, orjson.dumps(embeddings(request, model)), JSON)
        chat = request.path.endswith("/chat/completions")
        if request.streams:
            asked = (request.json.get("stream_options") or {}).get("include_usage") is True
            return chunked((*self.events(model, chat, asked), DONE), SSE)
        return whole(200, orjson.dumps(self.body(model, chat)), JSON)

    def body(self, model: str, chat: bool) -> dict[str, Any]:
        """The unstreamed answer."""
        text = "".join(self.pieces)
        message: dict[str, Any] = {"role": "assistant", "content": None if self.tool_calls else text}
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        said = {"message": message} if chat else {"text": text}
        choices = [{"index": i, **said, "finish_reason": self.finish} for i in range(self.n)]
        body = {**self.shell(model, "chat.completion" if chat else "text_completion"), "choices": choices}
        return body if self.usage_place == "absent" else {**body, "usage": self.reported}

    def shell(self, model: str, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": CREATED, "model": model}

    def deltas(self) -> list[dict[str, Any]]:
        """The deltas of a chat stream, without the one that finishes it."""
        opening = {"role": "assistant", "content": None if self.tool_calls else ""}
        if not self.tool_calls:
            return [opening, *({"content": piece} for piece in self.pieces)]
        deltas: list[dict[str, Any]] = [opening]
        for index, call in enumerate(self.tool_calls):
            function = call["function"]
            named = {"name": function["name"], "arguments": ""}
            start = {"index": index, "id": call["id"], "type": "function", "function": named}
            deltas.append({"tool_calls": [start]})
            for letter in range(0, len(function["arguments"]), 4):
                part = {"index": index, "function": {"arguments": function["arguments"][letter : letter + 4]}}
                deltas.append({"tool_calls": [part]})
        return deltas

    def events(self, model: str, chat: bool, asked: bool) -> list[bytes]:
        """The events of a stream before `[DONE]`."""
        shell = self.shell(model, "chat.completion.chunk" if chat else "text_completion")
        usage = self.reported
        payloads: list[dict[str, Any]] = []
        for index in range(self.n):
            said: list[dict[str, Any]] = [{"text": text} for text in self.pieces]
            last: dict[str, Any] = {"text": ""}
            if chat:
                said, last = [{"delta": delta} for delta in self.deltas()], {"delta": {}}
            finishes: list[str | None] = [None] * len(said) + [self.finish]
            for content, finish in zip([*said, last], finishes, strict=True):
                payloads.append({**shell, "choices": [{"index": index, **content, "finish_reason": finish}]})
        if self.usage_place == "every":
            payloads = [{**payload, "usage": usage} for payload in payloads]
        if self.usage_place == "last_content":
            payloads[-1] = {**payloads[-1], "usage": usage}
        if self.usage_place in ("always", "every") or (self.usage_place == "if_asked" and asked):
            payloads.append({**shell, "choices": [], "usage": usage})
        return [event(payload) for payload in payloads]


def answer(*pieces: str, **fields: Any) -> Script:
    """A good answer; see `Answer` for the fields."""
    made = Answer(pieces or ("Hello", " there", "."), **fields)
    return made.steps


def tool_call(name: str, arguments: str, id_: str = "call_1") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def embeddings(request: Received, model: str) -> dict[str, Any]:
    """One fixed vector of three numbers per input."""
    given = request.json["input"]
    count = len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1
    data = [{"object": "embedding", "index": i, "embedding": [0.5, -0.25, i]} for i in range(count)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def error_object(message: str, kind: str = "api_error", code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def failing(
    status: int, message: str = "scripted failure", kind: str = "api_error", code: str | None = None, **headers: str
) -> Script:
    """An OpenAI error object with that status; `retry_after="2"` and the like become headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return fixed(status, orjson.dumps(error_object(message, kind, code)), named)


def error_in_stream(*before: bytes, status: int = 400, message: str = "scripted failure in the stream") -> Script:
    """A 200 event stream that carries an error object after the events `before`, as vLLM and SGLang send it."""
    return raw_stream(*before, event({"error": {"message": message, "type": "BadRequestError", "code": status}}), DONE)


def chat_events(pieces: Sequence[str] = ("Hello", " there", "."), model: str = "m") -> list[bytes]:
    """The events of a well-behaved chat stream, for tests that bend single ones."""
    return Answer(tuple(pieces)).events(model, chat=True, asked=False)
