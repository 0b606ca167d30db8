"""A model server for the check of the compose file; it runs in a container and needs nothing but Python.

It answers chat requests with the request's last message. A message that begins with `hold` is answered only after
`POST /go`; if it is streamed, its first event is sent before. `GET /calls` says how often it was asked.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

HELD_S = 120.0


class Model(BaseHTTPRequestHandler):
    """One connection to the server."""

    protocol_version = "HTTP/1.1"
    calls: ClassVar[list[str]] = []
    go: ClassVar[threading.Semaphore] = threading.Semaphore(0)

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._whole({"object": "list", "data": [{"id": "local", "object": "model"}]})
        else:
            self._whole({"calls": self.calls})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/go":
            self.go.release()
            self._whole({})
            return
        asked = json.loads(body)
        text = asked["messages"][-1]["content"]
        self.calls.append(text)
        if asked.get("stream"):
            self._stream(text)
        else:
            self._hold(text)
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            self._whole({"id": "c", "object": "chat.completion", "created": 1, "model": "local", "choices": [choice],
                         "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})  # fmt: skip

    def _hold(self, text: str) -> None:
        if text.startswith("hold"):
            self.go.acquire(timeout=HELD_S)

    def _stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._event({"role": "assistant", "content": text}, None)
        self._hold(text)
        self._event({}, "stop")
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, delta: dict[str, str], finish: str | None) -> None:
        event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "local",
                 "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}  # fmt: skip
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n")
        self.wfile.flush()

    def _whole(self, payload: Any) -> None:
        data = json.dumps(payload).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8000), Model).serve_forever()
