"""The files that deploy the service agree with the service: configs load, commands and paths exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from registry.config_file import build_pool, load_config

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DEFAULT = re.compile(r"\$\{\w+:?-([^}]*)\}")


def compose_environment(service: str) -> dict[str, str]:
    """The environment that compose gives a service when the user has set nothing."""
    given: dict[str, str] = COMPOSE["services"][service]["environment"]
    return {name: DEFAULT.sub(r"\1", value) for name, value in given.items()}


def test_the_compose_config_loads_in_the_environment_that_compose_gives() -> None:
    environ = compose_environment("gateway")
    config = load_config(ROOT / "deploy" / "compose.config.yaml", environ)
    endpoint = build_pool(config, environ).models["local"].endpoints[0]
    assert endpoint.upstream.base_url == "http://vllm:8000/v1"
    assert f"--served-model-name={endpoint.model}" in COMPOSE["services"]["vllm"]["command"]
    assert config.log.url is not None
    assert config.log.url.startswith("redis://redis:")


def test_the_worker_of_compose_reads_what_the_gateway_reads_and_can_learn() -> None:
    gateway, worker = COMPOSE["services"]["gateway"], COMPOSE["services"]["worker"]
    config = load_config(ROOT / "deploy" / "compose.config.yaml", compose_environment("worker"))
    assert config.jobs.worker == "external"
    assert worker["command"] == ["worker"]
    for same in ("volumes", "networks", "depends_on"):
        assert worker[same] == gateway[same], same
    needed = compose_environment("gateway").items() - {("TOKAMAK_ADMIN_TOKEN", "")}
    assert needed <= compose_environment("worker").items()
    assert worker["image"] != gateway["image"], "one would take the place of the other"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert DEFAULT.sub(r"\1", worker["build"]["args"]["EXTRAS"]) in extras
    assert any(pin.startswith("scikit-learn==") for pin in extras["learn"])
    # The image's own check asks a port that no worker opens; this one asks the queue.
    compile(worker["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_the_image_config_serves_the_model_that_the_environment_names() -> None:
    environ = {"UPSTREAM_URL": "http://host:1/v1", "UPSTREAM_MODEL": "llama3.2:1b"}
    config = load_config(ROOT / "deploy" / "container.config.yaml", environ)
    assert config.models["default"].endpoints[0].model == "llama3.2:1b"
    assert config.upstreams["upstream"].base_url == "http://host:1/v1"
    assert config.server.data_dir == "/data"


def test_what_the_image_copies_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= allowed
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in " ".join(copied).split():
        assert name == "." or name.split("/")[0] in allowed, name


def test_every_pin_of_the_project_is_a_pin_of_the_constraints() -> None:
    pins = set((ROOT / "constraints.txt").read_text().lower().split())
    wanted = re.findall(r'"([a-zA-Z0-9_.-]+==[\w.]+)[";]', (ROOT / "pyproject.toml").read_text())
    assert wanted
    normal = {pin.replace("_", "-") for pin in pins}
    assert {pin.lower().replace("_", "-") for pin in wanted} - normal == set()
    assert not any(token in (ROOT / "constraints.txt").read_text() for token in ("://", "nvidia", "+cu"))
