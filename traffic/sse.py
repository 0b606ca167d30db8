"""What an answer said: the raw bytes of a streamed answer as one `chat.completion` object, and the text of any answer.

Follows the event-stream format of the HTML standard (section 9.2.6): lines end in LF, CRLF or CR, an event ends with an
empty line, several `data` lines of one event are joined by a newline, lines that begin with a colon are comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
DONE = b"[DONE]"


class EventReader:
    """Splits a byte stream into the data of its events, however the bytes are cut into chunks."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._after_cr = False
        self._first = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of every event that `chunk` completes."""
        for byte_line, ended in self._split(chunk):
            self._line += byte_line
            if ended:
                line, self._line = bytes(self._line), bytearray()
                yield from self._take(line)

    def close(self) -> Iterator[bytes]:
        """The data of a last event that was not closed by an empty line; a cut-off answer ends that way."""
        if self._line:
            yield from self._take(bytes(self._line))
            self._line = bytearray()
        yield from self._take(b"")

    def _split(self, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """Pieces of lines, and whether a line ends with them."""
        if not chunk:
            return
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the second half of a CRLF whose first half ended the chunk before
        self._after_cr = chunk.endswith(b"\r")
        for piece in chunk.splitlines(keepends=True):
            bare = piece.rstrip(b"\r\n")
            yield bare, len(bare) < len(piece)

    def _take(self, line: bytes) -> Iterator[bytes]:
        """Interpret one line; an empty one closes the event."""
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if self._data:
                yield b"\n".join(self._data)
                self._data = []
        elif line.startswith(b"data"):
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))


def events(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of every event of a stream, `[DONE]` included."""
    reader = EventReader()
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.close()


class ChatAssembly:
    """Puts the chunks of one streamed chat completion (or text completion) together.

    Everything is kept: several choices, tool calls by their index, logprobs, refusals, fields unknown today (strings
    that come in pieces are joined, of everything else the last one counts). `error` is the error object of an error
    event, `done` whether the stream ended with `[DONE]`.
    """

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._object = "chat.completion"
        self.error: Any = None
        self.done = False

    def take(self, data: bytes) -> None:
        """Take the data of one event; what is not a chunk (garbage, a keep-alive) is passed over."""
        if data.strip() == DONE:
            self.done = True
            return
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if not isinstance(chunk, dict):
            return
        if chunk.get("error") is not None:
            self.error = chunk["error"]
        if chunk.get("object") == "text_completion":
            self._object = "text_completion"
        for name, value in chunk.items():
            if name not in ("choices", "object", "error") and (value is not None or name not in self._top):
                self._top[name] = value
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._take_choice(choice)

    def completion(self) -> dict[str, Any] | None:
        """The whole as a `chat.completion` (or `text_completion`) object; None if no chunk of an answer came."""
        if not self._choices and not self._top:
            return None
        choices = [_closed(self._choices[index]) for index in sorted(self._choices)]
        return {**self._top, "object": self._object, "choices": choices}

    def _take_choice(self, piece: dict[str, Any]) -> None:
        index = piece.get("index")
        index = index if isinstance(index, int) else 0
        choice = self._choices.setdefault(index, {"index": index})
        for name, value in piece.items():
            if name == "delta":
                if isinstance(value, dict):
                    _merge_delta(choice.setdefault("message", {}), value)
            elif name in ("text", "logprobs"):
                _merge(choice, {name: value})
            elif name != "index" and (value is not None or name not in choice):
                choice[name] = value


_WHOLE = frozenset({"role", "id", "type", "name"})
"""Strings that are repeated rather than continued: the first one counts, and a later one is no continuation of it."""


def _merge_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list):
            calls = message.setdefault("tool_calls", {})
            for position, call in enumerate(value):
                if isinstance(call, dict):
                    index = call.get("index")
                    _merge(calls.setdefault(index if isinstance(index, int) else position, {}), call)
        else:
            _merge(message, {name: value})


def _merge(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    """Join strings and lists, descend into objects, and let the last of everything else count."""
    for name, value in piece.items():
        before = whole.get(name)
        if before is None:
            if isinstance(value, dict):
                whole[name] = {}
                _merge(whole[name], value)
            elif value is not None or name not in whole:
                whole[name] = list(value) if isinstance(value, list) else value
        elif isinstance(before, str) and isinstance(value, str):
            if name not in _WHOLE:
                whole[name] = before + value
        elif isinstance(before, list) and isinstance(value, list):
            before.extend(value)
        elif isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        elif value is not None:
            whole[name] = value


def _closed(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice as a whole answer has it: tool calls as a list, a role, content and a finish reason in any case."""
    if "message" not in choice and "text" in choice:
        return {"finish_reason": None} | choice
    message = dict(choice.get("message", {}))
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = [
            {name: value for name, value in calls[index].items() if name != "index"} for index in sorted(calls)
        ]
    message = {"role": "assistant", "content": None} | message
    return {"finish_reason": None} | choice | {"message": message}


def assemble(response: bytes) -> dict[str, Any] | None:
    """The raw SSE bytes of a streamed answer as one `chat.completion` object; None if there is no answer in them."""
    assembly = ChatAssembly()
    for data in events((response,)):
        assembly.take(data)
    return assembly.completion()


def answer_object(response: bytes, stream: bool) -> dict[str, Any] | None:
    """A logged response as one object, whether it was streamed or not; None if it is not a JSON object."""
    if stream and not response.lstrip().startswith(b"{"):
        return assemble(response)
    try:
        whole = _decode(response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def answer_text(response: bytes, stream: bool) -> str | None:
    """The text of the first choice of a chat completion or a completion; None if it has none (an error, tool calls)."""
    whole = answer_object(response, stream)
    choices = None if whole is None else whole.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    first = choices[0]
    message = first.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if content is None:
        content = first.get("text")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str)) if parts else None
    return content if isinstance(content, str) else None
