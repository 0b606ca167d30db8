"""A replay server of a small sample over real HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from demo.replay.sample import Header, LoggedModel, LoggedQuery, ReplaySample
from demo.replay.server import ReplayApp

LONG = "The answer is (F). " * 20


def small_sample() -> ReplaySample:
    """Three queries of two models: one with texts, one without, one that `large` never saw."""
    models = (LoggedModel(name="small", prompt_per_1m=1.0, completion_per_1m=2.0), LoggedModel(name="large"))
    header = Header(name="tiny", dataset="tiny", source="s", licence="MIT", models=models)
    common = {"task": "t", "score_kind": "exact_match"}
    return ReplaySample(
        header,
        [
            LoggedQuery(query_id="1", text="Which letter?", scores=(1.0, 0.0), texts=(LONG, "G"), **common),  # type: ignore[arg-type]
            LoggedQuery(query_id="2", text="How many?", scores=(0.0, 1.0), **common),  # type: ignore[arg-type]
            LoggedQuery(query_id="3", text="Who?", scores=(1.0, None), **common),  # type: ignore[arg-type]
        ],
    )


@pytest.fixture(scope="module")
def sample() -> ReplaySample:
    return small_sample()


@pytest.fixture(scope="module")
def replay_url(sample: ReplaySample) -> Iterator[str]:
    """Base URL, ending in `/v1`, of a running replay server."""
    server = uvicorn.Server(uvicorn.Config(ReplayApp(sample), port=0, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive(), "the replay server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(10)
