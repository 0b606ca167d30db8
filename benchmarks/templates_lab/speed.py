"""What a request pays: retrieve twenty, rank them again by worth, read the best three and put them into the prompt.

Where other programs want the core too, a call is now and then put aside for milliseconds. So each call is also timed by
the CPU that it took, and the kernel is asked whether it was put aside (`disturbed_share`, `p99_undisturbed_wall_ms`) or
waited by itself (`waited_share`), as it does for records that the memory of the machine had no room to keep.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoders.protocol import Vectors
from templates_store.augment import Augmented
from templates_store.choosing import Bounds, choose
from templates_store.index import TemplateIndex
from templates_store.ways import ask

_WHOSE = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
BOUNDS = Bounds(retrieve=20, top_k=3, floor=0.5)
QUIET = 0.005
"""A round in which a smaller share of the calls was interrupted counts as quiet."""
Row = dict[str, Any]

_LOAD = """
import sys, time
from pathlib import Path
import numpy as np
from templates_store.live_index import LiveIndex
from templates_store.store import TemplateStore
vector = np.load(sys.argv[3])
started = time.perf_counter()
store = TemplateStore(Path(sys.argv[1]) / "templates.db")
live = LiveIndex(store, sys.argv[2], Path(sys.argv[1]) / "templates.index")
assert live.current.ready
live.current.search(vector, 3, 0.0)
print(time.perf_counter() - started, len(live.current))
"""


def request(index: TemplateIndex, vector: Vectors, text: str, tenant: str | None = None) -> Augmented:
    """What the gateway does between encoding a query and calling a model."""
    chosen = choose(index, vector, tenant, BOUNDS)
    return ask("thought", [{"role": "user", "content": text}], chosen.hits)


def timed(calls: Sequence[Callable[[], object]], warm: int = 100) -> Row:
    """Wall-clock and CPU time of each call once, in milliseconds: median and 99th percentile.

    `disturbed_share` of them were interrupted for another program, and the percentile of the rest stands beside;
    `waited_share` waited, for the disk.
    """
    for call in calls[:warm]:
        call()
    wall, cpu = np.empty(len(calls)), np.empty(len(calls))
    disturbed, waited = np.zeros(len(calls), dtype=np.bool_), np.zeros(len(calls), dtype=np.bool_)
    for i, call in enumerate(calls):
        before = resource.getrusage(_WHOSE)
        cpu_start, start = time.thread_time_ns(), time.perf_counter_ns()
        call()
        wall[i], cpu[i] = time.perf_counter_ns() - start, time.thread_time_ns() - cpu_start
        after = resource.getrusage(_WHOSE)
        disturbed[i], waited[i] = after.ru_nivcsw > before.ru_nivcsw, after.ru_nvcsw > before.ru_nvcsw
    row = {
        f"{name}_{kind}_ms": float(np.percentile(taken, share)) / 1e6
        for kind, taken in (("wall", wall), ("cpu", cpu))
        for name, share in (("p50", 50), ("p99", 99))
    }
    row |= {"mean_wall_ms": float(wall.mean()) / 1e6, "mean_cpu_ms": float(cpu.mean()) / 1e6}
    row |= {"disturbed_share": float(disturbed.mean()), "waited_share": float(waited.mean())}
    if not disturbed.all():
        row["p99_undisturbed_wall_ms"] = float(np.percentile(wall[~disturbed], 99)) / 1e6
    return row


def quietest(measure: Callable[[], Row], rounds: int) -> Row:
    """The round that was disturbed least, and the 99th percentiles of all; stops at one that hardly was."""
    rows: list[Row] = []
    while len(rows) < rounds and not (rows and rows[-1]["disturbed_share"] < QUIET):
        rows.append(measure())
    best = min(rows, key=lambda row: float(row["disturbed_share"]))
    return best | {"p99_wall_ms_of_rounds": [round(row["p99_wall_ms"], 3) for row in rows]}


def cost_per_request(
    index: TemplateIndex, asked: Vectors, texts: Sequence[str], repeats: int, tenants: Sequence[str | None] = (None,)
) -> Row:
    """The whole of `request` over different questions, so that nothing is answered from a cache of the last one."""
    calls = [
        lambda i=i: request(index, asked[i % len(asked)], texts[i % len(texts)], tenants[i % len(tenants)])
        for i in range(repeats)
    ]
    return {"templates": len(index), **timed(calls)}


def recall(index: TemplateIndex, asked: Vectors, vectors: Vectors, k: int = 10, tenant: str | None = None) -> float:
    """Share of the `k` truly nearest templates that a search finds; similarities decide, so that ties do no harm.

    `vectors` are those of the templates that the tenant may see.
    """
    found = wanted = 0
    for start in range(0, len(asked), 100):
        part = asked[start : start + 100]
        best = np.full((len(part), k), -2.0, np.float32)
        for low in range(0, len(vectors), 50_000):
            both = np.concatenate([best, part @ vectors[low : low + 50_000].T], axis=1)
            best = -np.partition(-both, k - 1, axis=1)[:, :k]
        for query, truth in zip(part, best, strict=True):
            got = np.array([candidate.similarity for candidate in index.candidates(query, k, tenant=tenant)])
            found += int((got >= truth.min() - 1e-6).sum())
            wanted += k
    return found / wanted


def load_seconds(folder: Path, encoder: str, vector: Vectors, scratch: Path) -> float:
    """From opening the store to the first search, in a new process; the median of three, imports not counted."""
    asked = scratch / "asked.npy"
    np.save(asked, vector)
    taken = []
    for _ in range(3):
        command = [sys.executable, "-c", _LOAD, str(folder), encoder, str(asked)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        taken.append(float(done.stdout.split()[0]))
    return float(np.median(taken))
