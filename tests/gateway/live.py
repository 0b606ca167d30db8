"""A live gateway on a free port, with scripted upstreams behind it, and what a test asks of the two."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import openai
import orjson
import uvicorn
import uvloop

from registry.config import Config
from service.admin import admin_application
from service.app import create_app
from tests.upstream import ScriptedUpstream
from traffic.log import TrafficLog
from traffic.records import Feedback, Interaction
from traffic.stores import open_log

T = TypeVar("T")

HI: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
ERROR_FIELDS = {"message", "type", "param", "code"}
WAIT_S = 20.0
"""Longest wait for something that has to happen; nothing asserts on how long it took."""


def until(what: Callable[[], T | None], why: str) -> T:
    """The first true value of `what()`.

    Raises
    ------
    AssertionError: there was none in time.
    """
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited in vain: {why}")


class Gateway:
    """The service in a thread of its own, on real sockets, as `tokamak serve` runs it."""

    def __init__(self, config: Config, environ: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.data_dir = Path(config.server.data_dir)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"
        app = create_app(config, environ)
        settings = uvicorn.Config(
            app, loop="uvloop", http="httptools", lifespan="on", log_level="warning",
            access_log=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
        self._server = uvicorn.Server(settings)
        self._admin_socket = socket.create_server(("127.0.0.1", 0))
        self.admin_url = f"http://127.0.0.1:{self._admin_socket.getsockname()[1]}"
        admin_app = admin_application(app.gateway, {} if environ is None else environ)
        self._admin = uvicorn.Server(uvicorn.Config(admin_app, lifespan="off", log_level="warning", access_log=False))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._reader: TrafficLog | None = None
        self.since = 0.0

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        """Both ports in one event loop, until the data port is told to stop."""
        admin = asyncio.create_task(self._admin.serve([self._admin_socket]))
        await self._server.serve([self._socket])
        self._admin.should_exit = True
        await admin

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive(), "the gateway did not start")
        assert self._server.started, "the gateway stopped while it started"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(WAIT_S)
        if self._reader is not None:
            asyncio.run(self._reader.close())

    def stop(self) -> None:
        """Stop and wait until it has."""
        self.stop_soon()
        self._thread.join(WAIT_S)
        assert not self.running, "the gateway did not stop"

    def stop_soon(self) -> None:
        """What SIGTERM does: take nothing new, finish what runs, stop."""
        self._server.should_exit = True

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def log_url(self) -> str:
        return self.config.log.url or f"sqlite:///{self.data_dir / 'traffic.db'}"

    @property
    def log(self) -> TrafficLog:
        """The log, read as another process would read it."""
        if self._reader is None:
            self._reader = open_log(self.log_url)
        return self._reader

    def interactions(self) -> list[Interaction]:
        """What is committed to the log now of the requests after `since`, oldest first."""
        return list(self.log.read_interactions(self.since))

    def feedback(self) -> list[Feedback]:
        return list(self.log.read_feedback(self.since))

    def record(self, request_id: str) -> Interaction:
        """The log's record of the request, once it is committed."""

        def find() -> Interaction | None:
            rows = self.interactions()
            return next((r for r in rows if request_id in (r.id, r.client_request_id, r.answer_id)), None)

        return until(find, f"no record of {request_id} in the log")


@dataclass(frozen=True, slots=True)
class Fleet:
    """A gateway and the scripted upstreams behind it, one for each model and named as the model."""

    gateway: Gateway
    upstreams: dict[str, ScriptedUpstream]
    http: httpx.Client
    client: openai.OpenAI

    def __getitem__(self, name: str) -> ScriptedUpstream:
        return self.upstreams[name]

    def forget(self) -> None:
        for upstream in self.upstreams.values():
            upstream.forget()
        self.gateway.since = time.time()

    def chat(self, model: str = "auto", *, headers: Mapping[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Ask over plain HTTP; a stream is read to its end."""
        body = {"model": model, "messages": HI, **fields}
        return self.http.post("/v1/chat/completions", json=body, headers=headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """POST an object as JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return self.http.post(path, content=content, headers={"content-type": "application/json", **(headers or {})})

    def calls(self) -> dict[str, int]:
        """How many requests each upstream got."""
        return {name: len(upstream.requests) for name, upstream in self.upstreams.items()}

    def called(self) -> list[str]:
        return [name for name, count in self.calls().items() if count]

    def record_of(self, response: httpx.Response) -> Interaction:
        return self.gateway.record(response.headers["x-request-id"])


MODELS: dict[str, dict[str, Any]] = {
    "alpha": {"quality_prior": 0.3, "prices": {"prompt_per_1m": 0.1, "completion_per_1m": 0.4}},
    "beta": {"quality_prior": 0.6, "prices": {"prompt_per_1m": 1.0, "completion_per_1m": 4.0}},
    "gamma": {"quality_prior": 0.9, "prices": {"prompt_per_1m": 10.0, "completion_per_1m": 40.0}},
}
"""A cheap and weak, a middling, and a dear and strong model."""

RELAXED = {"breaker_failures": 1_000_000, "retries": 0}
"""Limits under which one test's faults do not change what the next test sees."""


def configured(
    data_dir: Path,
    upstreams: Mapping[str, str],
    models: Mapping[str, Mapping[str, Any]],
    upstream_settings: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Config:
    """A config with one upstream for each model; `upstreams` maps names to base URLs."""
    settings = {"first_byte_timeout_s": 2.0, "connect_timeout_s": 1.0, **(upstream_settings or {})}
    server = {"data_dir": str(data_dir), "port": 0, "admin_port": 0, **sections.pop("server", {})}
    return Config.model_validate(
        {
            "version": 1,
            "server": server,
            "upstreams": {name: {"base_url": url, **settings} for name, url in upstreams.items()},
            "models": {name: {"endpoints": [{"upstream": name}], **model} for name, model in models.items()},
            "limits": {**RELAXED, **sections.pop("limits", {})},
            **sections,
        }
    )


@contextmanager
def fleet(
    data_dir: Path,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    key: str = "unused",
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[Fleet]:
    """Scripted upstreams for the models, a gateway in front of them, and clients that use `key`."""
    models = MODELS if models is None else models
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(ScriptedUpstream((name,))) for name in models}
        urls = {name: upstream.url for name, upstream in upstreams.items()}
        gateway = stack.enter_context(Gateway(configured(data_dir, urls, models, **settings), environ))
        headers = {"authorization": f"Bearer {key}"}
        http = stack.enter_context(httpx.Client(base_url=gateway.root, timeout=WAIT_S, headers=headers))
        client = stack.enter_context(openai.OpenAI(base_url=gateway.url, api_key=key, max_retries=0, timeout=WAIT_S))
        yield Fleet(gateway, upstreams, http, client)


def payloads(response: httpx.Response) -> list[Any]:
    """The JSON of each event of a stream; `[DONE]` stays a string."""
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [text if text == "[DONE]" else orjson.loads(text) for text in data]


def streamed_text(events: list[Any]) -> str:
    """The content of a chat stream's events put together."""
    deltas = [e["choices"][0]["delta"] for e in events if isinstance(e, dict) and e.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


def assert_error(
    response: httpx.Response, status: int, kind: str, code: str | None, param: str | type[Any] | None = object
) -> str:
    """Check the four-field error object and return its message; `param` is not looked at if left out."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    error = response.json()["error"]
    assert set(error) == ERROR_FIELDS
    assert (error["type"], error["code"]) == (kind, code)
    if param is not object:
        assert error["param"] == param
    assert isinstance(error["message"], str)
    assert error["message"]
    for leak in ("Traceback", 'File "', ".py"):
        assert leak not in response.text
    return str(error["message"])
