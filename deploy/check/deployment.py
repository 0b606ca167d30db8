"""The deployment of docker-compose.yml while it is checked: built, brought up, asked, and taken down."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
import yaml

from deploy.check.engine import COMPOSE_FILE, ROOT, CannotCheck, Engine

T = TypeVar("T")

PROJECT = "tokamak-check"
OVERRIDE = ROOT / "deploy" / "check" / "compose.override.yaml"
BUILD_S = 1800.0
WAIT_S = 180.0
GATEWAYS = 2


def until(what: Callable[[], T | None], why: str) -> T:
    """The first true value of `what()`; what cannot be reached yet is asked again. Raises AssertionError in the end."""
    end, last = time.monotonic() + WAIT_S, ""
    while time.monotonic() < end:
        try:
            value = what()
        except httpx.HTTPError as error:
            last, value = repr(error), None
        if value:
            return value
        time.sleep(0.25)
    raise AssertionError(f"waited {WAIT_S:.0f} s in vain: {why} {last}")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment that is up. Every address is the one that compose publishes."""

    engine: Engine
    environ: Mapping[str, str]
    services: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environ['TOKAMAK_PORT']}"

    @property
    def admin(self) -> httpx.Client:
        token = {"authorization": f"Bearer {self.environ['TOKAMAK_ADMIN_TOKEN']}"}
        base = f"http://127.0.0.1:{self.environ['TOKAMAK_ADMIN_PORT']}"
        return httpx.Client(base_url=base, headers=token, timeout=30)

    def compose(self, *command: str, timeout_s: float = 300.0) -> str:
        files = ("-p", PROJECT, "-f", str(COMPOSE_FILE), "-f", str(OVERRIDE))
        return self.engine.run(*self.engine.compose, *files, *command, timeout_s=timeout_s)

    def docker(self, *command: str, timeout_s: float = 120.0) -> str:
        return self.engine.run("docker", *command, timeout_s=timeout_s)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers."""
        labels = (f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.service={service}")
        return self.docker("ps", "-q", "--filter", labels[0], "--filter", labels[1]).split()

    def inside(self, container: str, path: str) -> str:
        """What a gateway's own data port answers to a GET."""
        url = f"http://127.0.0.1:8400{path}"
        program = f"import urllib.request as u; print(u.urlopen('{url}', timeout=5).read().decode())"
        return self.docker("exec", container, "python3", "-c", program)

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        """One chat request through the proxy."""
        body = {"model": "local", "messages": [{"role": "user", "content": text}], **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)

    @contextmanager
    def stream(self, text: str) -> Iterator[Iterator[str]]:
        """The events of a streamed answer, as they come."""
        body = {"model": "local", "messages": [{"role": "user", "content": text}], "stream": True}
        with httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=60) as answer:
            assert answer.status_code == 200, answer.read()
            yield (line for line in answer.iter_lines() if line.startswith("data: "))

    def go(self) -> None:
        """Let one held answer of the model go on."""
        httpx.post(f"http://127.0.0.1:{self.environ['UPSTREAM_PORT']}/go", timeout=30).raise_for_status()

    def calls(self, text: str) -> int:
        """How often the model was asked this."""
        told = httpx.get(f"http://127.0.0.1:{self.environ['UPSTREAM_PORT']}/calls", timeout=30).json()
        return int(told["calls"].count(text))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus finds now. Raises AssertionError if it does not understand the expression."""
        base = f"http://127.0.0.1:{self.environ['PROMETHEUS_PORT']}/api/v1/query"
        told = httpx.get(base, params={"query": expression}, timeout=30).json()
        assert told["status"] == "success", (expression, told)
        found: list[dict[str, Any]] = told["data"]["result"]
        return found

    def health(self) -> dict[str, list[str]]:
        """The health of every container by service; `running` where it has no check of its own."""
        found: dict[str, list[str]] = {}
        for service in self.services:
            for container in self.containers(service):
                state = json.loads(self.docker("inspect", "--format", "{{json .State}}", container))
                found.setdefault(service, []).append((state.get("Health") or {"Status": state["Status"]})["Status"])
        return found


@contextmanager
def deployed(engine: Engine) -> Iterator[Deployment]:
    """Build the images, bring all up, and take it down again with its volumes."""
    environ = {**os.environ, **engine.environ, **_settings()}
    with_settings = replace(engine, environ=environ)
    described = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    wanted = [name for name in described if name not in engine.absent and "profiles" not in described[name]]
    up = Deployment(with_settings, environ, (*wanted, "upstream"))
    try:
        up.compose("build", "gateway", "worker", timeout_s=BUILD_S)
        up.compose("up", "-d", "--no-build", *up.services, timeout_s=BUILD_S)
        yield up
    finally:
        with contextlib.suppress(CannotCheck):
            (ROOT / ".cache").mkdir(exist_ok=True)
            (ROOT / ".cache" / "compose.log").write_text(up.compose("logs", "--no-color"))
        up.compose("down", "--volumes", "--remove-orphans")


def _settings() -> dict[str, str]:
    published = ("TOKAMAK_PORT", "TOKAMAK_ADMIN_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "UPSTREAM_PORT")
    cpus = str(min(2, os.cpu_count() or 1))
    return {
        **{name: str(_free_port()) for name in published}, "TOKAMAK_TAG": "check", "GATEWAYS": str(GATEWAYS),
        "LOCAL_BASE_URL": "http://upstream:8000/v1", "LOCAL_MODEL": "local", "GATEWAY_CPUS": cpus, "WORKER_CPUS": cpus,
        "TOKAMAK_ADMIN_TOKEN": secrets.token_hex(16), "REDIS_MAXMEMORY": "256mb",
    }  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
