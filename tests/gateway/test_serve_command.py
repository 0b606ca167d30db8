"""`tokamak serve` as a user runs it: it serves, drains on SIGTERM, and refuses what is broken with what to do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

import tokamak
from registry.artifacts import Artifacts
from tests.gateway.live import HI, WAIT_S, until
from tests.gateway.test_hot_swap import break_version, publish
from tests.house import ROOT
from tests.upstream import Gate, ScriptedUpstream, answer, gated
from traffic.stores import open_log

TOKAMAK = [sys.executable, "-m", "tokamak"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

CONFIG = """version: 1
server: {{port: {port}, admin_port: {admin}, data_dir: {data}, drain_s: 10}}
upstreams:
  up: {{base_url: "{url}"}}
models:
  alpha: {{endpoints: [{{upstream: up}}], ways: [direct, thought], prices: {{prompt_per_1m: 1, completion_per_1m: 2}}}}
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


def write_config(folder: Path, url: str = "http://127.0.0.1:9/v1", port: int = 0, admin: int = 0) -> Path:
    path = folder / "tokamak.yaml"
    path.write_text(CONFIG.format(port=port, admin=admin, data=folder / "data", url=url))
    return path


def refused(config: Path) -> subprocess.CompletedProcess[str]:
    """`tokamak serve` where it is expected to end by itself."""
    command = [*TOKAMAK, "serve", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENV, check=False, cwd=ROOT)


@contextmanager
def served(config: Path, port: int, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """`tokamak serve` in a process of its own, ready to answer."""
    with subprocess.Popen(
        [*TOKAMAK, "serve", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        env={**ENV, **environ},
        cwd=ROOT,
    ) as process:
        try:
            until(lambda: process.poll() is not None or is_ready(port), "the service did not start")
            assert process.poll() is None
            yield process
        finally:
            process.kill()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_it_serves_both_ports_and_drains_when_told_to_stop(tmp_path: Path) -> None:
    port, admin = free_ports(2)
    gate = Gate()
    with ScriptedUpstream() as upstream, served(write_config(tmp_path, upstream.url, port, admin), port) as process:
        upstream.script(gated(answer("slow"), gate, after=1))
        assert httpx.get(f"http://127.0.0.1:{admin}/admin/backends").json()["endpoints"][0]["up"] is True
        assert "tokamak_requests_total" in httpx.get(f"http://127.0.0.1:{admin}/metrics").text
        body = {"model": "auto", "messages": HI, "stream": True}
        with httpx.stream(
            "POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=WAIT_S
        ) as response:
            pieces = response.iter_raw()
            text = next(pieces)
            process.send_signal(signal.SIGTERM)
            until(lambda: not is_ready(port), "the service goes on taking requests")
            gate.open()
            text += b"".join(pieces)
        assert text.endswith(b"data: [DONE]\n\n")
        assert process.wait(WAIT_S) == 0
    records = list(open_log(f"sqlite:///{tmp_path}/data/traffic.db").read_interactions())
    assert [record.outcome for record in records] == ["ok"]


@pytest.mark.parametrize(
    ("old", "new", "line", "near"),
    [
        ("ways:", "way:", 6, "ways"),
        ("drain_s", "drain_ms", 2, "drain_s"),
        ("upstream: up", "upstream: pu", 6, "up"),
        ("upstreams:", "upstreems:", 3, "upstreams"),
        ("port: 0, admin", "port: many, admin", 2, "port"),
        ("version: 1", "version: 7", 1, "version"),
        ("models:", "models: [", 6, "tokamak.yaml"),
    ],
)
def test_a_mistake_in_the_config_is_told_with_its_line_and_the_nearest_key(
    tmp_path: Path, old: str, new: str, line: int, near: str
) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace(old, new, 1))
    for command in (["serve", "--config", str(path)], ["config", "check", str(path)]):
        done = CliRunner().invoke(tokamak.app, command)
        assert done.exit_code == 2, done.output
        said = done.output
        assert f"tokamak.yaml:{line}" in said or (near == "tokamak.yaml" and "tokamak.yaml:" in said)
        assert near in said
        assert "Traceback" not in said


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(tokamak.app, ["serve", "--config", str(tmp_path / "none.yaml")])
    assert done.exit_code == 2
    assert "none.yaml" in done.output


def test_the_folder_of_the_environment_wins_over_the_configs_and_says_so(tmp_path: Path) -> None:
    port, admin = free_ports(2)
    elsewhere = tmp_path / "elsewhere"
    config = write_config(tmp_path, port=port, admin=admin)
    with served(config, port, TOKAMAK_DATA_DIR=str(elsewhere)) as process:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=WAIT_S)[1]
    assert f"data in {elsewhere} (by $TOKAMAK_DATA_DIR; server.data_dir, {tmp_path / 'data'}, is not used)" in said
    assert (elsewhere / "traffic.db").exists()
    assert not (tmp_path / "data").exists()


def test_a_broken_group_of_commands_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "offline.templates.commands", None)
    trains, lists = typer.Typer(), typer.Typer()
    tokamak.mount_groups(trains, "train")
    tokamak.mount_groups(lists, "--help")
    assert {command.name for command in trains.registered_commands} == {"train", "evaluate", "deploy"}
    assert "drift" in {command.name for command in lists.registered_commands}
    assert {group.name for group in lists.registered_groups} >= {"rollout", "jobs", "log"}
    assert "templates" not in {group.name for group in lists.registered_groups}
    with pytest.raises(ImportError):
        tokamak.mount_groups(typer.Typer(), "templates")


def test_a_corrupt_router_is_refused_with_what_to_do(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "data" / "artifacts")
    break_version(tmp_path / "data" / "artifacts" / "router", publish(artifacts, "alpha"), "arrays")
    check_refused(tmp_path, "router", ("train", "deploy"))


def test_a_corrupt_log_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "traffic.db").write_bytes(b"this is no database at all, and it is long enough" * 200)
    check_refused(tmp_path, "traffic.db", ("move", "restore", "delete", "log.url"))


def test_a_corrupt_template_store_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "templates.db").write_bytes(b"this is no database at all, and it is long enough" * 200)
    check_refused(tmp_path, "templates.db", ("move", "restore", "delete", "build"))


def check_refused(folder: Path, what: str, advice: tuple[str, ...]) -> None:
    done = refused(write_config(folder))
    assert done.returncode not in (0, -9), done.stderr
    assert what in done.stderr
    assert any(word in done.stderr.lower() for word in advice), done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = refused(write_config(tmp_path, port=port))
    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert str(port) in done.stderr
