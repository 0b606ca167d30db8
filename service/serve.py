"""Running the service: both ports in one process and one event loop, with a bounded drain on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Generator, Mapping

import uvicorn

from registry.config import Config
from service.admin import admin_application
from service.app import create_app

BACKLOG = 4096
KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """The data port's server. After a clean stop uvicorn raises the signal again, which would end the process by it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Companion(uvicorn.Server):
    """The admin port's server: it stops when the data port's does, so it leaves the signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def serve(config: Config, environ: Mapping[str, str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit code: 0 after a clean stop, 3 if the start failed."""
    environ = os.environ if environ is None else environ
    app = create_app(config, environ)
    server = config.server
    data = _Server(_settings(app, server.host, server.port, server.drain_s, lifespan="on"))
    admin_app = admin_application(app.gateway, environ)
    admin = _Companion(_settings(admin_app, server.admin_host, server.admin_port, 1.0, lifespan="off"))
    # The records of requests are short-lived and hold no cycles; fewer collections are fewer pauses.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    return _loop_factory_run(_serve_both(data, admin))


async def _serve_both(data: uvicorn.Server, admin: uvicorn.Server) -> int:
    companion = asyncio.create_task(_once_started(data, admin))
    await data.serve()
    admin.should_exit = True
    await companion
    return 0 if data.started else 3


async def _once_started(data: uvicorn.Server, admin: uvicorn.Server) -> None:
    while not data.started:
        if data.should_exit:
            return
        await asyncio.sleep(0.01)
    with contextlib.suppress(SystemExit):
        await admin.serve()


def _settings(app: object, host: str, port: int, drain_s: float, *, lifespan: str) -> uvicorn.Config:
    return uvicorn.Config(
        app, host=host, port=port, http="httptools", loop="auto", ws="none", lifespan=lifespan,  # type: ignore[arg-type]
        access_log=False,
        proxy_headers=False, log_level="warning", server_header=False, backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )  # fmt: skip


def _loop_factory_run(main: object) -> int:
    """Run on uvloop where it is installed (everywhere but on Windows), else on asyncio's own loop."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(main)  # type: ignore[arg-type]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result: int = runner.run(main)  # type: ignore[arg-type]
        return result
