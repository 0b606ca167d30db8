"""An answer as the cache keeps it, and which answers it may keep."""

from __future__ import annotations

from typing import Any

import msgspec

from traffic.records import Usage
from traffic.sse import answer_object

FINISHED = frozenset({"stop", "tool_calls", "function_call"})
"""Finish reasons of answers that are whole: not `length`, which was cut, nor `content_filter`, nor an unknown one."""
SAYING = ("content", "tool_calls", "function_call", "audio")
"""The parts of a message that say something."""


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `body` is as it came: a JSON object, or the events of a stream if `stream`.

    `key` is the digest it is kept under; a store that gives another answer than was asked for is found out by it. `id`
    is the interaction that it was the answer of, `kept_at` (Unix seconds) when that was, `usage` and `cost_usd` what it
    was billed as.
    """

    key: bytes
    id: str
    kept_at: float
    until: float
    arm: str
    stream: bool
    body: bytes
    usage: Usage | None = None
    cost_usd: float | None = None

    def whole(self) -> bytes:
        """The answer as one JSON object."""
        if not self.stream:
            return self.body
        answer = answer_object(self.body, stream=True)
        return msgspec.json.encode({} if answer is None else answer)


def is_whole(endpoint: str, body: bytes, *, stream: bool, choices: int) -> bool:
    """Whether an answer says all that was asked for, so that it may be given again.

    It is not if a choice is missing, has not come to its end by itself, was filtered, is a refusal or says nothing.
    """
    if stream and not body.rstrip().endswith(b"[DONE]"):
        return False
    answer = answer_object(body, stream)
    if answer is None:
        return False
    if endpoint == "/embeddings":
        data = answer.get("data")
        return isinstance(data, list) and bool(data)
    found = answer.get("choices")
    if not isinstance(found, list) or {_index(choice) for choice in found} != set(range(choices)):
        return False
    return len(found) == choices and all(_is_finished(choice) for choice in found)


def _index(choice: Any) -> int:
    index = choice.get("index", 0) if isinstance(choice, dict) else None
    return index if isinstance(index, int) else -1


def _is_finished(choice: dict[str, Any]) -> bool:
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or reason not in FINISHED:
        return False
    message = choice.get("message")
    if not isinstance(message, dict):
        return isinstance(choice.get("text"), str) and bool(choice["text"])
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return False
    return not message.get("refusal") and any(message.get(name) for name in SAYING)
