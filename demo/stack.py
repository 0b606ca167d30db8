"""The processes of the demo: an upstream, the gateway in front of it, and training on what the gateway logged.

Everything of one run lives in one folder: the gateway's config and data, and a log file of each process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from demo.fleet.launch import free_port, stop, wait_healthy
from traffic.stores import open_log

START_LIMIT_S = 60.0
FLEET_START_LIMIT_S = 180.0
TRAIN_LIMIT_S = 900.0
LOG_LIMIT_S = 30.0
TAIL_CHARS = 2000


class StackError(RuntimeError):
    """A process of the demo did not start or failed. The message holds the end of what it said."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the gateway of a run listens and keeps its data. `base_url` ends in `/v1`."""

    base_url: str
    metrics_url: str
    data_dir: Path
    folder: Path

    @property
    def log_url(self) -> str:
        return f"sqlite:///{self.data_dir / 'traffic.db'}"


def stop_children_when_terminated() -> None:
    """Turn SIGTERM into SystemExit, so that the processes of the demo are stopped as after any other end."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def environment() -> dict[str, str]:
    """The environment of our processes: one thread each, and no setting that would override the demo's config."""
    dropped = ("TOKAMAK_CONFIG", "TOKAMAK_DATA_DIR")
    return {**{k: v for k, v in os.environ.items() if k not in dropped}, "OMP_NUM_THREADS": "1"}


@contextmanager
def process(name: str, command: Sequence[str], ready_url: str, folder: Path, limit_s: float) -> Iterator[None]:
    """Run a server while the context lasts. Raises StackError if `ready_url` does not answer 200 in time."""
    output = folder / f"{name}.log"
    with output.open("wb") as sink:
        running = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment())
        try:
            wait_healthy(running, ready_url, limit_s)
            yield
        except RuntimeError as error:
            if isinstance(error, StackError) or running.poll() is None:
                raise
            raise StackError(f"the process {name!r} is gone: {error}\n{tail(output)}") from error
        finally:
            stop(running)


@contextmanager
def replay_upstream(pool: str, folder: Path) -> Iterator[str]:
    """The replay server of a pool (a name or a file); yields its base URL."""
    port = free_port()
    which = "--data" if pool.endswith((".parquet", ".gz")) else "--pool"
    command = [sys.executable, "-m", "demo.replay.server", "--port", str(port), which, pool]
    with process("replay", command, f"http://127.0.0.1:{port}/health", folder, START_LIMIT_S):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def fleet_upstream(models: Sequence[str], folder: Path) -> Iterator[str]:
    """The server of the small models (needs the extra `demo`); yields its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "demo.fleet.server", "--port", str(port), "--models", *models]
    with process("fleet", command, f"http://127.0.0.1:{port}/health", folder, FLEET_START_LIMIT_S):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def gateway(config: dict[str, Any], folder: Path) -> Iterator[Stack]:
    """`tokamak serve` with `config`, on free ports and with an empty data folder of its own."""
    data_dir = folder / "data"
    if data_dir.exists():
        shutil.rmtree(data_dir)
    port, admin_port = free_port(), free_port()
    server = {"port": port, "admin_port": admin_port, "data_dir": str(data_dir), "drain_s": 5.0}
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump({**config, "server": server}, sort_keys=False))
    command = [sys.executable, "-m", "tokamak", "serve", "--config", str(path)]
    with process("gateway", command, f"http://127.0.0.1:{port}/ready", folder, START_LIMIT_S):
        yield Stack(f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{admin_port}/metrics", data_dir, folder)


def train(stack: Stack, router: str) -> None:
    """`tokamak train --deploy` on the log of the run. Raises StackError with what it said if it fails."""
    finished(stack, "train", ["train", "--log", stack.log_url, "--router", router, "--deploy"])


def finished(stack: Stack, name: str, arguments: Sequence[str], limit_s: float = TRAIN_LIMIT_S) -> str:
    """Run `tokamak` with these arguments on the data of the run: what it printed. `<name>.log` keeps its notes.

    Raises StackError with what it said if it fails or takes longer than `limit_s`.
    """
    command = [sys.executable, "-m", "tokamak", *arguments, "--data-dir", str(stack.data_dir)]
    output, printed = stack.folder / f"{name}.log", stack.folder / f"{name}.out"
    with output.open("wb") as sink, printed.open("wb") as out:
        try:
            done = subprocess.run(command, stdout=out, stderr=sink, env=environment(), timeout=limit_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{name} took longer than {limit_s:.0f} s\n{tail(output)}") from error
    if done.returncode != 0:
        said = f"{tail(printed)}\n{tail(output)}"
        raise StackError(f"`{' '.join(command[2:])}` ended with code {done.returncode}:\n{said}")
    return printed.read_text()


async def all_feedback_logged(stack: Stack, expected: int) -> None:
    """Return when the log of the run holds `expected` statements on answers. Raises StackError if some are lost."""
    log = open_log(stack.log_url)
    try:
        until = time.monotonic() + LOG_LIMIT_S
        while (found := sum(1 for _ in log.read_feedback())) < expected:
            if time.monotonic() > until:
                raise StackError(f"{expected} answers got feedback, but {found} statements are in {stack.log_url}")
            await asyncio.sleep(0.5)
    finally:
        await log.close()


def tail(path: Path) -> str:
    """The end of a log file."""
    return path.read_text(errors="replace")[-TAIL_CHARS:]
