"""docker-compose.yml: what is pinned, published, confined and limited, and that every setting of it is a setting."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.config import Config
from registry.discover import PROVIDERS
from registry.jobs import Jobs
from service.admin import TOKEN_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTING = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*")
ROOT_BY_ITS_IMAGE = {"vllm"}
"""The image of vLLM is made for root, and keeps its models in root's home."""


def defaults() -> dict[str, str]:
    """The settings of the compose file and what they are if nobody has set them."""
    return {found[1]: found[2] for found in SETTING.finditer(TEXT)}


def examples() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_of_env_has_every_setting_with_its_default() -> None:
    assert examples() == defaults()


def test_env_is_ignored_by_git_and_left_out_of_the_image() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert not any(line.startswith("!.env") for line in (ROOT / ".dockerignore").read_text().splitlines())


def test_every_key_that_a_provider_has_reaches_gateways_and_the_worker_and_nobody_else() -> None:
    keys = {provider.key_env for provider in PROVIDERS if provider.key_env and provider.key_env != "VLLM_API_KEY"}
    assert keys == set(COMPOSE["x-keys"])
    for name, service in SERVICES.items():
        held = keys & set(service.get("environment", {}))
        assert held == (keys if name in ("gateway", "worker") else set()), name
    assert [name for name in SERVICES if TOKEN_VARIABLE in SERVICES[name].get("environment", {})] == ["gateway"]


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_image_is_pinned_by_its_version(name: str) -> None:
    image = SETTING.sub(r"\2", SERVICES[name]["image"])
    if "build" in SERVICES[name]:
        assert image.startswith("tokamak:local"), image
    else:
        assert PINNED.fullmatch(image), image


def test_the_base_of_our_image_is_pinned_and_it_runs_as_a_user_of_its_own() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    bases = [line.removeprefix("ARG PYTHON_IMAGE=") for line in lines if line.startswith("ARG PYTHON_IMAGE=")]
    assert len(bases) == 1
    assert PINNED.fullmatch(bases[0]), bases[0]
    stages = [line for line in lines if line.startswith("FROM ")]
    assert stages == ["FROM ${PYTHON_IMAGE} AS build", "FROM ${PYTHON_IMAGE}"]
    users = [line.split()[1] for line in lines[lines.index(stages[-1]) :] if line.startswith("USER ")]
    assert users == ["10001"]
    assert lines.index("USER 10001") < next(n for n, line in enumerate(lines) if line.startswith("ENTRYPOINT "))


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_service_is_confined_limited_and_looked_after(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert "mem_limit" in service
    assert not service.get("privileged")
    if name not in ROOT_BY_ITS_IMAGE:
        assert service["read_only"] is True
        assert "cpus" in service
        assert "pids_limit" in service
    # A gateway's check is the one of its image.
    assert name == "gateway" or service["healthcheck"]["test"]


@pytest.mark.parametrize("name", list(SERVICES))
def test_only_the_proxy_is_published_and_only_its_api_beyond_loopback(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert bool(ports) == (name in ("proxy", "prometheus", "grafana"))
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == (
        ["${TOKAMAK_PORT:-8400}:8400"] if name == "proxy" else []
    )


def test_every_volume_is_declared_and_every_file_that_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], volume


def test_the_proxy_waits_longer_than_a_gateway_and_a_stop_longer_than_a_drain() -> None:
    proxy = (ROOT / "deploy" / "haproxy.cfg").read_text()
    config = yaml.safe_load((ROOT / "deploy" / "compose.config.yaml").read_text())
    read = Config.model_validate(config | {"upstreams": {"local": {"base_url": "http://vllm/v1"}}})
    waits = {found[1]: int(found[2]) for found in re.finditer(r"^ +timeout (\w+) +(\d+)s$", proxy, re.MULTILINE)}
    assert waits["server"] > max(upstream.total_timeout_s for upstream in read.upstreams.values())
    assert waits["client"] >= waits["server"]
    assert int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s")) > read.server.drain_s
    slots = [int(n) for n in re.findall(r"^ +server-template \w+ (\d+) ", proxy, re.MULTILINE)]
    assert slots
    assert min(slots) >= int(defaults()["GATEWAYS"])


def test_the_health_of_the_worker_is_that_of_the_queue(tmp_path: Path) -> None:
    program = SERVICES["worker"]["healthcheck"]["test"][-1].replace("/data", str(tmp_path))

    def healthy() -> bool:
        return subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0

    assert not healthy()
    Jobs(tmp_path).seen("w1", 0.0)
    assert healthy()


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
@pytest.mark.parametrize("extra", [(), ("--profile", "vllm"), ("-f", "deploy/check/compose.override.yaml")])
def test_compose_accepts_the_file(extra: tuple[str, ...]) -> None:
    environ = {"PATH": os.environ["PATH"], "UPSTREAM_PORT": "1", "TOKAMAK_TAG": "t"}
    command = ["docker-compose", "-f", "docker-compose.yml", *extra, "config", "-q"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_the_proxy_accepts_its_config() -> None:
    done = subprocess.run(
        ["haproxy", "-c", "-f", "deploy/haproxy.cfg"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
