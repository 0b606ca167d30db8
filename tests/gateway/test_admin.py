"""What operators see on the admin port, and that nobody sees it without the token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from registry.artifacts import Artifacts
from tests.gateway.live import ERROR_FIELDS, HI, WAIT_S, until
from tests.gateway.test_hot_swap import publish
from tests.gateway.test_serve_command import free_ports, served, write_config
from tests.upstream import ScriptedUpstream

TOKEN = "admin-token-of-the-test"


class Ports(NamedTuple):
    data: httpx.Client
    admin: httpx.Client
    data_dir: Path


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("admin")
    data, admin = free_ports(2)
    headers = {"authorization": f"Bearer {TOKEN}"}
    with (
        ScriptedUpstream() as upstream,
        served(write_config(folder, upstream.url, data, admin), data, TOKAMAK_ADMIN_TOKEN=TOKEN),
        httpx.Client(base_url=f"http://127.0.0.1:{data}", timeout=WAIT_S) as to_data,
        httpx.Client(base_url=f"http://127.0.0.1:{admin}", timeout=WAIT_S, headers=headers) as to_admin,
    ):
        until(lambda: listens(to_admin), "the admin port did not open")
        yield Ports(to_data, to_admin, folder / "data")


def listens(client: httpx.Client) -> bool:
    try:
        return client.get("/metrics").status_code == 200
    except httpx.TransportError:
        return False


def get(ports: Ports, path: str) -> Any:
    response = ports.admin.get(path)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    "path", ["/admin/backends", "/admin/routers", "/admin/log/stats", "/admin/decisions/x", "/metrics"]
)
@pytest.mark.parametrize("header", ["", "Bearer wrong", f"Bearer {TOKEN}x", TOKEN])
def test_without_the_token_nothing_is_told(ports: Ports, path: str, header: str) -> None:
    response = ports.admin.get(path, headers={"authorization": header})
    assert response.status_code == 401
    assert set(response.json()["error"]) == ERROR_FIELDS
    assert TOKEN not in response.text


def test_the_admin_api_is_not_on_the_data_port(ports: Ports) -> None:
    response = ports.data.get("/admin/backends", headers={"authorization": f"Bearer {TOKEN}"})
    assert response.status_code == 404


def test_backends(ports: Ports) -> None:
    assert get(ports, "/admin/backends")["endpoints"] == [{"model": "alpha", "endpoint": "up/alpha", "up": True}]


def test_a_decision_can_be_looked_up(ports: Ports) -> None:
    response = ports.data.post("/v1/chat/completions", json={"model": "auto", "messages": HI})
    found = get(ports, f"/admin/decisions/{response.headers['x-tokamak-decision-id']}")
    assert found["arm"] == response.headers["x-tokamak-model"]
    assert found["attempts"][0]["outcome"] == "ok"
    assert {candidate["arm"] for candidate in found["candidates"]} == {"alpha", "alpha#thought"}
    assert ports.admin.get("/admin/decisions/none").status_code == 404
    pinned = ports.data.post("/v1/chat/completions", json={"model": "alpha", "messages": HI})
    missing = ports.admin.get(f"/admin/decisions/{pinned.headers['x-tokamak-decision-id']}")
    assert missing.status_code == 404
    assert set(missing.json()["error"]) == ERROR_FIELDS


def test_log_stats(ports: Ports) -> None:
    before = get(ports, "/admin/log/stats")["written"]
    ports.data.post("/v1/chat/completions", json={"model": "alpha", "messages": HI})
    until(lambda: get(ports, "/admin/log/stats")["written"] > before, "nothing was written")
    assert get(ports, "/admin/log/stats")["dropped"] == 0


def test_routers_and_taking_in(ports: Ports) -> None:
    assert get(ports, "/admin/routers")["serving"] == "prior@0"
    artifacts = Artifacts(ports.data_dir / "artifacts")
    version = publish(artifacts, "alpha")
    assert [row["version"] for row in get(ports, "/admin/routers")["versions"]] == [version]
    artifacts.deploy("router", version)
    ports.admin.post("/admin/routers/take-in")
    assert get(ports, "/admin/routers")["serving"] == version
    response = ports.data.post("/v1/chat/completions", json={"model": "auto", "messages": HI})
    assert response.headers["x-tokamak-router"] == version
