"""The OpenAI shapes of a replayed answer: one chat completion, or its chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson

from demo.replay.sample import LoggedQuery, ReplaySample, Reply

EXTENSION = "tokamak_replay"
"""The one key of an answer that is not of OpenAI's: where the answer and its usage come from."""
CHUNK_CHARS = 24
TOKENS_PER_SECOND = 50.0
"""Speed of an answer whose latency no log recorded; used only where `--speed` asks for latency."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of one model, ready to be written whole or in chunks."""

    sample: ReplaySample
    query: LoggedQuery
    model: str
    reply: Reply

    def whole(self) -> bytes:
        """The body of a chat completion."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.reply.text, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
        body = self._frame("chat.completion") | {"choices": [choice], "usage": self._usage(), EXTENSION: self._origin()}
        return orjson.dumps(body)

    def events(self, include_usage: bool) -> Iterator[bytes]:
        """The server-sent events of a streamed completion, each with its blank line, up to `[DONE]`."""
        frame = self._frame("chat.completion.chunk")
        yield _event(frame, {"role": "assistant", "content": ""}, None)
        text = self.reply.text
        for start in range(0, len(text), CHUNK_CHARS):
            yield _event(frame, {"content": text[start : start + CHUNK_CHARS]}, None)
        yield _event(frame | {EXTENSION: self._origin()}, {}, "stop")
        if include_usage:
            yield _data(frame | {"choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def seconds(self, speed: float) -> float:
        """How long the answer takes at `speed` times the logged one; 0 for `speed` 0, which means at once."""
        if speed <= 0:
            return 0.0
        logged = self.reply.latency_s
        return (self.reply.completion_tokens / TOKENS_PER_SECOND if logged is None else logged) / speed

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": self.model}

    def _usage(self) -> dict[str, int]:
        prompt, completion = self.reply.prompt_tokens, self.reply.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _origin(self) -> dict[str, Any]:
        return {
            "dataset": self.sample.header.dataset,
            "task": self.query.task,
            "query_id": self.query.query_id,
            "text": "logged" if self.reply.logged else "not_logged",
            "usage": self.reply.usage_source,
        }


def _event(frame: dict[str, Any], delta: dict[str, Any], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _data(frame | {"choices": [choice]})


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
