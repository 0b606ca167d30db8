"""Whether memory stays flat: many requests of every kind through a real gateway, its memory sampled all the while.

    python -m benchmarks.soak [--requests 200000]

Kinds, in turn: pinned, routed, streamed, streamed and left by the client after the first chunk, malformed. The slope
is a least-squares fit over the samples after the first fifth, in which caches and pools fill up.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gateway_ground import KEY, KEY_VARIABLE, PINNED, prepare, queries

WORKERS = 32
SAMPLE_EVERY = 2_000
KINDS = ("pinned", "auto", "auto", "stream", "left", "pinned", "malformed", "auto stream")


@dataclass
class Soak:
    """The run so far. `samples` are (requests done, resident MB, open files) of the gateway's process."""

    pid: int
    port: int
    total: int
    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[int, float, int]] = field(default_factory=list)

    def count(self, kind: str, outcome: str) -> None:
        self.outcomes[f"{kind}: {outcome}"] += 1
        self.done += 1
        if self.done % SAMPLE_EVERY == 0:
            self.samples.append((self.done, resident_mb(self.pid), len(os.listdir(f"/proc/{self.pid}/fd"))))


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no resident memory: it has ended")


async def _worker(soak: Soak, kinds: Iterator[str], texts: list[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", soak.port)
    for kind in kinds:
        if soak.done >= soak.total:
            break
        writer.write(_request(kind, texts[soak.done % len(texts)]))
        head = await reader.readuntil(b"\r\n\r\n")
        status = head[9:12].decode()
        if kind == "left" and status == "200":
            await reader.read(1)
            writer.transport.abort()
            reader, writer = await asyncio.open_connection("127.0.0.1", soak.port)
        elif b"chunked" in head.lower():
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        if status != ("400" if kind == "malformed" else "200"):
            raise RuntimeError(f"a {kind} request was answered with {status}: {head.decode()}")
        soak.count(kind, status)
    writer.transport.abort()


def _request(kind: str, text: str) -> bytes:
    body = json.dumps(
        {
            "model": "auto" if "auto" in kind or kind == "left" else PINNED,
            "messages": [{"role": "user", "content": text}],
            "stream": "stream" in kind or kind == "left",
        }
    ).encode()
    if kind == "malformed":
        body = body[:-5]
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _drive(soak: Soak, in_turn: tuple[str, ...]) -> None:
    texts = queries(20_000, seed=5)
    kinds = itertools.cycle(in_turn)
    await asyncio.gather(*(_worker(soak, kinds, texts) for _ in range(WORKERS)))


@contextmanager
def running_gateway(harness: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """A mock upstream and a gateway in front of it; gives the gateway's process id and port."""
    environ = {**os.environ, KEY_VARIABLE: KEY}
    port, upstream_port = _free_port(), _free_port()
    config = prepare(folder, f"http://127.0.0.1:{upstream_port}/v1", port)
    log = folder / "gateway.log"
    upstream = [str(harness / "bin" / "mock_upstream"), "--port", str(upstream_port), "--chunks", "16"]
    serve = [sys.executable, "-m", "tokamak", "serve", "--config", str(config)]
    root = Path(__file__).resolve().parent.parent
    with (
        log.open("wb") as out,
        subprocess.Popen(upstream, stdout=subprocess.DEVNULL) as mock,
        subprocess.Popen(serve, env=environ, cwd=root, stdout=out, stderr=out) as gateway,
    ):
        try:
            _wait_until_ready(gateway, port, log)
            yield gateway.pid, port
        finally:
            gateway.terminate()
            gateway.wait(60)
            mock.terminate()


def _free_port() -> int:
    """A port that is free and so is the one after it, for the admin API."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


def _wait_until_ready(gateway: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1):
                return
        except OSError:
            if gateway.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"the gateway did not become ready:\n{log.read_text()[-2000:]}")


def run(harness: Path, total: int, kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    """Soak and return one row: slope in MB per 100,000 requests, first and last samples, what was answered."""
    with tempfile.TemporaryDirectory() as folder:
        ground = Path(folder) / "ground"
        with running_gateway(harness, ground) as (pid, port):
            soak = Soak(pid, port, total)
            start = time.monotonic()
            asyncio.run(_drive(soak, kinds))
            seconds = time.monotonic() - start
        logged = _logged(ground / "data" / "traffic.db")
    settled = [sample for sample in soak.samples if sample[0] > total / 5]
    if len(settled) < 10:
        raise ValueError(f"{total} requests give {len(settled)} samples; at least {25 * SAMPLE_EVERY // 2} are needed")
    done, resident, files = (np.array(column, dtype=float) for column in zip(*settled, strict=True))
    slope = float(np.polyfit(done, resident, 1)[0]) * 1e5
    return {
        "soak": f"{total} requests, {WORKERS} at a time",
        "rss_slope_mb_per_100k": round(slope, 3),
        "rss_mb_first": round(soak.samples[0][1], 1),
        "rss_mb_settled": round(float(resident[0]), 1),
        "rss_mb_last": round(float(resident[-1]), 1),
        "rss_mb_most": round(float(resident.max()), 1),
        "rss_mb_by_requests": [
            [count, round(mb, 1)] for count, mb, _ in soak.samples[:: max(1, len(soak.samples) // 20)]
        ],
        "open_files_growth": int(files[-1] - files[0]),
        "seconds": round(seconds, 1),
        "records_lost": soak.done - logged,
        "answers": dict(sorted(soak.outcomes.items())),
    }


def _logged(path: Path) -> int:
    """Interactions in the log of a gateway that has stopped."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM interactions").fetchone()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--harness", type=Path, default=Path(".bench"))
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated kinds of requests, taken in turn")
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.harness, arguments.requests, tuple(arguments.kinds.split(","))), indent=1))


if __name__ == "__main__":
    main()
