"""The OpenAI shapes the light server reads and writes: requests, responses, chunks, log-probabilities, errors."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

DEFAULT_MAX_TOKENS = 128
"""Longest reply when the request names no limit; replies of the fleet are short."""
MAX_CHOICES = 16
Kind = Literal["chat", "text"]
Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 leave all tokens in.

    `top_logprobs` None: no log-probabilities; otherwise how many alternatives are reported beside each token.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Token:
    """One token as log-probabilities report it, with the most likely alternatives, best first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


class ApiError(Exception):
    """A refusal in OpenAI's shape."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        kind = {404: "not_found_error", 500: "api_error"}.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What both endpoints share. Unknown fields are ignored, as vLLM does."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    ignore_eos: bool = False


class ChatRequest(Request, frozen=True, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


class TextRequest(Request, frozen=True, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool = False


def parse_chat(body: bytes) -> ChatRequest:
    """Read a chat request. Raises ApiError (400) naming the field that is wrong."""
    request = _decode(body, ChatRequest)
    if not request.messages:
        raise ApiError(400, "expected at least one message in `messages`, got none", param="messages")
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages[{index}]")
    if request.tools:
        raise ApiError(400, "the models of this server cannot call tools; leave `tools` out", param="tools")
    if request.response_format is not None and request.response_format.get("type") != "text":
        refusal = "the models of this server cannot be held to a JSON format; leave `response_format` out"
        raise ApiError(400, refusal, param="response_format")
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "expected `logprobs: true` beside `top_logprobs`", param="top_logprobs")
    return request


def _check_message(message: dict[str, Any], where: str) -> None:
    if not isinstance(message.get("role"), str):
        raise ApiError(400, f"expected a text in `{where}.role`, got {message.get('role')!r}", param=where)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise ApiError(
            400, f"expected a text or text parts in `{where}.content`; these models only read text", param=where
        )


def parse_text(body: bytes) -> TextRequest:
    """Read a completions request. Raises ApiError (400) naming the field that is wrong."""
    request = _decode(body, TextRequest)
    if request.echo:
        raise ApiError(400, "`echo` is not supported by this server; leave it out", param="echo")
    if not request.prompt:
        raise ApiError(400, "expected a prompt in `prompt`, got an empty one", param="prompt")
    return request


def _decode(body: bytes, shape: type[Shape]) -> Shape:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"the request does not have the expected shape: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the request body is not JSON: {error}") from error


def sampling_of(request: ChatRequest | TextRequest, prompt_tokens: int, window: int) -> Sampling:
    """The request's sampling settings. Raises ApiError (400), also when prompt and reply exceed the context window."""
    limit, logprobs = request.max_tokens, request.logprobs
    if isinstance(request, ChatRequest):
        limit = request.max_completion_tokens if request.max_completion_tokens is not None else limit
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
    _in_range("max_tokens", limit, 1, None)
    _in_range("temperature", request.temperature, 0, 2)
    _in_range("top_p", request.top_p, 0, 1)
    _in_range("n", request.n, 1, MAX_CHOICES)
    _in_range("logprobs", logprobs, 0, 20)
    room = window - prompt_tokens
    if room < (limit or 1):
        asked = f"{prompt_tokens} tokens in the prompt and {limit or 1} for the reply"
        message = (
            f"This model's maximum context length is {window} tokens, but you asked for {asked}. Shorten the prompt."
        )
        raise ApiError(
            400, message, "context_length_exceeded", "messages" if isinstance(request, ChatRequest) else "prompt"
        )
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Sampling(
        max_tokens=limit or min(DEFAULT_MAX_TOKENS, room),
        # Greedy unless asked otherwise: the fleet's questions have one right answer.
        temperature=0.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(request.top_k or 0, 0),
        seed=request.seed,
        stop=tuple(text for text in stop if text),
        top_logprobs=int(logprobs) if logprobs is not None else None,
        ignore_eos=request.ignore_eos,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
    )


def _in_range(name: str, value: float | None, low: float, high: float | None) -> None:
    if value is not None and (value < low or (high is not None and value > high)):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ApiError(400, f"expected `{name}` {wanted}, got {value}", param=name)


def chat_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    """The `logprobs` object of a chat choice."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [{**entry(t.text, t.logprob), "top_logprobs": [entry(*pair) for pair in t.top]} for t in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[Token], offset: int) -> dict[str, Any]:
    """The `logprobs` object of a completions choice; `offset` is the number of characters before the first token."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [t.text for t in tokens],
        "token_logprobs": [t.logprob for t in tokens],
        "top_logprobs": [dict(t.top) for t in tokens],
        "text_offset": offsets,
    }


class Writer:
    """Writes the responses and chunks of one request: same id, time and model in all of them."""

    def __init__(self, kind: Kind, model: str) -> None:
        self.kind: Kind = kind
        self.model = model
        self.id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def response(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        kind = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict[str, Any]], **usage: dict[str, int] | None) -> dict[str, Any]:
        """A chunk of a stream; `usage` is a key of it only if the client asked for usage, null on all but the last."""
        kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return {**self._head(kind), "choices": choices, **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def choice(self, index: int, text: str, finish: str | None, tokens: Sequence[Token] | None) -> dict[str, Any]:
        """A complete choice. `tokens` None means that no log-probabilities were asked for."""
        if self.kind == "text":
            logprobs = None if tokens is None else text_logprobs(tokens, 0)
            return {"index": index, "text": text, "finish_reason": finish, "logprobs": logprobs}
        message = {"role": "assistant", "content": text, "refusal": None}
        logprobs = None if tokens is None else chat_logprobs(tokens)
        return {"index": index, "message": message, "finish_reason": finish, "logprobs": logprobs}

    def delta(
        self, index: int, text: str, finish: str | None, tokens: Sequence[Token] | None, offset: int, first: bool
    ) -> dict[str, Any]:
        """A piece of a choice; `offset` is the number of characters sent before it."""
        if self.kind == "text":
            logprobs = None if tokens is None else text_logprobs(tokens, offset)
            return {"index": index, "text": text, "finish_reason": finish, "logprobs": logprobs}
        content = {"role": "assistant", "content": text} if first else {"content": text} if text else {}
        logprobs = None if tokens is None else chat_logprobs(tokens)
        return {"index": index, "delta": content, "finish_reason": finish, "logprobs": logprobs}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}
