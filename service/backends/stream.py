"""The relay of a streamed answer: bytes pass as they came; what must be known of them is read at the end.

Per chunk this costs a few comparisons. Only when an event has to be held back (an error, a usage event that the client
did not ask for, or the end of the stream when the decision is to be explained) are events looked at one by one.
"""

from __future__ import annotations

import msgspec

from service.backends.attempt import first_payload
from service.wire import AnswerFields, UsageFields, read_answer

TAIL_BYTES = 65_536
"""How much of the end of a stream is kept when it is too long to be logged."""

MAX_HELD_BYTES = 1_000_000
"""A longer event passes in parts, unlooked at."""


class _UsageEvent(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    # Not `Raw | None`: in a union with None, msgspec accepts null only.
    usage: msgspec.Raw = msgspec.Raw()


_USAGE_EVENT = msgspec.json.Decoder(_UsageEvent)


class StreamTap:
    """Sees every byte of a stream on its way to the client.

    Parameters
    ----------
    hide_usage: hold back the usage-only event (it was asked for by this service, not by the client).
    hold_done: hold back `data: [DONE]`, so that a last event can be put before it.
    keep_bytes: a longer stream is not kept for the log.
    """

    __slots__ = (
        "_carry",
        "_hold_done",
        "_kept",
        "_kept_bytes",
        "_tail",
        "error",
        "hide_usage",
        "keep_bytes",
        "too_long",
    )

    def __init__(self, *, hide_usage: bool, hold_done: bool, keep_bytes: int) -> None:
        self.hide_usage = hide_usage
        self.keep_bytes = keep_bytes
        self.too_long = False
        self.error: bytes | None = None
        """The payload of an error event of the upstream. It is held back, and nothing after it passes."""
        self._hold_done = hold_done
        self._carry = b""
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes to send on now; may be empty. Half an event waits for the rest, which a break may never bring."""
        self._keep(data)
        if not self._carry and data.endswith(b"\n\n") and not self._of_interest(data):
            return data
        return self._by_event(data)

    def finish(self) -> bytes:
        """What is still held back at the end of a stream, less what is to be hidden."""
        rest, self._carry = self._carry, b""
        return b"" if self._is_hidden(rest) or self._is_error(rest) else rest

    def _of_interest(self, data: bytes) -> bool:
        if b'"error"' in data or (self._hold_done and b"[DONE]" in data):
            return True
        return self.hide_usage and data.count(b'"usage"') > data.count(b'"usage":null') + data.count(b'"usage": null')

    def _by_event(self, data: bytes) -> bytes:
        buffer = self._carry + data
        out: list[bytes] = []
        start = 0
        while (end := _event_end(buffer, start)) >= 0:
            event = buffer[start:end]
            if self._is_error(event):
                self._carry = b""
                return b"".join(out)
            if not self._is_hidden(event):
                out.append(event)
            start = end
        self._carry = buffer[start:]
        if len(self._carry) > MAX_HELD_BYTES:
            out.append(self._carry)
            self._carry = b""
        return b"".join(out)

    def _is_hidden(self, event: bytes) -> bool:
        if self._hold_done and b"[DONE]" in event and first_payload(event + b"\n\n") == b"[DONE]":
            return True
        if not self.hide_usage or b'"usage"' not in event:
            return False
        try:
            fields = _USAGE_EVENT.decode(first_payload(event + b"\n\n") or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        return fields.choices == [] and bytes(fields.usage) not in (b"", b"null")

    def _is_error(self, event: bytes) -> bool:
        if b'"error"' not in event:
            return False
        payload = first_payload(event + b"\n\n") or b""
        answer = read_answer(payload)
        if answer is None or answer.error is None:
            return False
        self.error = payload
        return True

    def _keep(self, data: bytes) -> None:
        if not self.too_long:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes > self.keep_bytes:
                self.too_long = True
                self._tail = b"".join(self._kept)[-TAIL_BYTES:]
                self._kept = []
        else:
            self._tail = (self._tail + data)[-TAIL_BYTES:]

    def raw(self) -> bytes | None:
        """The whole stream as it came, None if it was too long to keep."""
        return None if self.too_long else b"".join(self._kept)


class StreamEnd:
    """What the end of a stream says. `finished`: it closed with [DONE] or a finish reason. `usage`: as reported."""

    __slots__ = ("done", "error", "finished", "usage")

    def __init__(self, tap: StreamTap) -> None:
        raw = tap.raw()
        text = tap._tail if raw is None else raw
        self.done = text[-200:].rstrip().rpartition(b"\n")[2] in (b"data: [DONE]", b"data:[DONE]")
        last = text[-4096:]
        self.finished = self.done or b'"finish_reason":"' in last or b'"finish_reason": "' in last
        self.usage = _last_usage(text)
        self.error = _last_error(text)


def _last_usage(text: bytes) -> UsageFields | None:
    """The last usage object of the stream, wherever its event stands (some servers send it in a content event)."""
    at = len(text)
    while (at := text.rfind(b'"usage"', 0, at)) >= 0:
        if text[at + 7 : at + 14].replace(b" ", b"").startswith(b":null"):
            continue
        answer = _event_around(text, at)
        if answer is not None and answer.usage is not None:
            return answer.usage
    return None


def _last_error(text: bytes) -> str | None:
    """The message of an error event at the end of the stream."""
    at = text.rfind(b'"error"', -4096 if len(text) > 4096 else 0)
    if at < 0:
        return None
    answer = _event_around(text, at)
    if answer is None or answer.error is None:
        return None
    error = answer.error
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


def _event_around(text: bytes, at: int) -> AnswerFields | None:
    start = text.rfind(b"data:", 0, at)
    if start < 0:
        return None
    end = text.find(b"\n", at)
    return read_answer(text[start + 5 : end if end >= 0 else len(text)].strip())


def _event_end(buffer: bytes, start: int) -> int:
    """The position after the blank line that ends the event at `start`, or -1."""
    plain, crlf = buffer.find(b"\n\n", start), buffer.find(b"\r\n\r\n", start)
    if plain < 0 and crlf < 0:
        return -1
    if crlf < 0 or 0 <= plain < crlf:
        return plain + 2
    return crlf + 4
