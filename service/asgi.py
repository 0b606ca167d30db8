"""The pieces of plain ASGI that the hot endpoints need: reading a body, sending JSON, noticing that a client left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from service.errors import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")


class ClientLeft(Exception):
    """The client closed the connection before the answer was complete."""


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The request body. Raises ApiError 413 over `limit` bytes and ClientLeft if it never completes."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message["body"]
    if len(body) > limit:
        raise _too_large(limit)
    if not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message["body"])
        size += len(message["body"])
        if size > limit:
            raise _too_large(limit)
    return b"".join(parts)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        "invalid_request_error",
        "request_too_large",
        f"The request body is larger than the limit of {limit} bytes.",
    )


async def send_body(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (JSON,)) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ApiError, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    out = [JSON, *headers]
    if error.retry_after_s is not None:
        out.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    if error.status == 401:
        out.append((b"www-authenticate", b"Bearer"))
    await send_body(send, error.status, error.body(), out)


class DisconnectWatch:
    """Cancels the task that answers when the client leaves.

    Most requests end sooner than anybody leaves, so the watching task is only made after `DELAY_S`.
    """

    DELAY_S = 0.02
    __slots__ = ("_receive", "_target", "_task", "_timer", "left")

    def __init__(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self.left = False
        self._receive = receive
        self._target = asyncio.current_task()
        self._task: asyncio.Task[None] | None = None
        self._timer = loop.call_later(self.DELAY_S, self._start)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._target is not None:
            self._target.cancel()
