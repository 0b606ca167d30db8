"""Starts the light server as a process of its own and stops it again. Needs no torch in the calling process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

START_LIMIT_S = 180.0


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_healthy(process: subprocess.Popen[bytes], url: str, limit_s: float = START_LIMIT_S) -> None:
    """Return when `url` answers 200. Raises RuntimeError if the process ends or `limit_s` passes first."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"expected a server at {url}, but its process ended with code {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"expected {url} to answer within {limit_s:.0f} s, it did not; is the machine very busy?")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process we started: politely, after ten seconds by force."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running_server(port: int = 0, models: Sequence[str] = ()) -> Iterator[str]:
    """The light server (all models, or those named) while the context lasts; yields its URL, ending in `/v1`.

    Raises RuntimeError if it does not come up, for example because the extra `demo` (torch, transformers) is missing.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "demo.fleet.server", "--port", str(port), "--exit-with-parent"]
    process = subprocess.Popen(
        [*command, *(["--models", *models] if models else [])], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        wait_healthy(process, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        stop(process)
