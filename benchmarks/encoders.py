"""`make bench-encoders`: the encoders beside each other, on what they cost and on what routing gains from them.

python -m benchmarks.encoders [--encoders static onnx st:minilm]

Latency is the median time of `encode_one` on one thread, for real prompts of 20, 100 and 400 words: wall time, and the
processor time of the thread, which a busy machine does not stretch as much. Gain is points of accuracy over the best
single model (`benchmarks.routing_probe`). The encoder chosen is the one with the most points per millisecond.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.result_file import write_result
from benchmarks.routing_probe import METHODS, Floats, Pool, probe, read_pool, shared_folder, task_accuracy
from encoders.catalogue import load_encoder
from encoders.protocol import Encoder, EncoderUnavailable

NAMES = ("static", "onnx", "st:minilm")
POOLS = (("llmrouter14", None), ("mmlu_pro", "resp_sample"))
"""Files of the shared logs, and the split of theirs that is used: the sample keeps the neural encoders' time down."""
WORDS = (20, 100, 400)
PROMPTS = 24
VECTORS = Path(__file__).resolve().parent.parent / ".bench" / "encoders"
"""Vectors of earlier runs, under the encoder's hash; delete the folder to compute them again."""
SECONDS = 3.0
"""Measuring time per encoder and length."""


def prompts(pool: Pool, words: int) -> list[str]:
    """Prompts of so many words, cut from the pool's queries strung together; the same on every machine."""
    spread = pool.queries[:: max(1, len(pool.queries) // 1000)]
    stream = " ".join(spread).split(" ")
    return [" ".join(stream[i * words : (i + 1) * words]) for i in range(PROMPTS)]


def latency(encoder: Encoder, texts: Sequence[str]) -> tuple[float, float]:
    """Microseconds per `encode_one`: the median of wall time and of the thread's processor time."""
    for text in texts:
        encoder.encode_one(text)
    walls, works = [], []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        wall, work = time.perf_counter(), time.thread_time()
        for text in texts:
            encoder.encode_one(text)
        walls.append((time.perf_counter() - wall) / len(texts))
        works.append((time.thread_time() - work) / len(texts))
    return 1e6 * float(np.median(walls)), 1e6 * float(np.median(works))


def vectors_of(encoder: Encoder, pool: Pool, console: Console) -> Floats:
    """The pool's vectors, from an earlier run if the encoder and the number of queries are the same."""
    path = VECTORS / f"{encoder.hash}-{pool.name}-{len(pool.queries)}.npy"
    if path.exists():
        known: Floats = np.load(path, allow_pickle=False)
        return known
    console.print(f"encoding {len(pool.queries):,} queries of {pool.name} with {encoder.name}")
    order = np.argsort([len(query) for query in pool.queries])
    vectors = np.empty((len(order), encoder.dim), np.float32)
    for part in np.array_split(order, max(1, len(order) // 256)):
        vectors[part] = encoder.encode([pool.queries[i] for i in part])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors, allow_pickle=False)
    return vectors


def measure(encoder: Encoder, pools: Sequence[Pool], console: Console) -> dict[str, Any]:
    """The encoder's line of the table."""
    row: dict[str, Any] = {"encoder": encoder.name, "hash": encoder.hash, "dim": encoder.dim}
    for words in WORDS:
        wall, work = latency(encoder, prompts(pools[0], words))
        row[f"us_{words}_words"], row[f"cpu_us_{words}_words"] = round(wall, 1), round(work, 1)
    gains = []
    for pool in pools:
        vectors = vectors_of(encoder, pool, console)
        for method, gain in probe(pool, vectors).items():
            gains.append(gain.points)
            key = f"{pool.name}.{method}"
            row |= {f"{key}.gain": gain.points, f"{key}.lo": gain.low, f"{key}.hi": gain.high}
        row[f"{pool.name}.task_accuracy"] = round(task_accuracy(pool, vectors), 1)
    row["mean_gain"] = round(fmean(gains), 2)
    row["gain_per_ms"] = round(row["mean_gain"] / (row["us_100_words"] / 1000), 3)
    return row


def shown(rows: Sequence[dict[str, Any]], pools: Sequence[Pool]) -> Table:
    """The rows as a table for the terminal."""
    table = Table(title="Encoders: latency per text, points over the best single model (lower end of 95 %)")
    columns = ["encoder", *(f"{words} words" for words in WORDS)]
    columns += [f"{pool.name} {method}" for pool in pools for method in METHODS]
    columns += [f"{pool.name} task" for pool in pools] + ["mean", "points/ms"]
    for column in columns:
        table.add_column(column, justify="left" if column == "encoder" else "right")
    for row in rows:
        cells = [row["encoder"], *(_duration(row[f"us_{words}_words"]) for words in WORDS)]
        for pool in pools:
            for method in METHODS:
                key = f"{pool.name}.{method}"
                cells.append(f"{row[f'{key}.gain']:+.2f} ({row[f'{key}.lo']:+.2f})")
        cells += [f"{row[f'{pool.name}.task_accuracy']:.1f} %" for pool in pools]
        table.add_row(*cells, f"{row['mean_gain']:+.2f}", f"{row['gain_per_ms']:,.2f}")
    return table


def _duration(microseconds: float) -> str:
    return f"{microseconds:.1f} us" if microseconds < 1000 else f"{microseconds / 1000:.1f} ms"


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float | bool]:
    """The bar: latency, gain and gain per millisecond of each encoder, and whether the default is the one to choose."""
    bar: dict[str, float | bool] = {}
    for row in rows:
        name = row["encoder"].replace("st:", "st_")
        bar |= {f"{name}_us_{words}_words": row[f"us_{words}_words"] for words in WORDS}
        bar |= {f"{name}_gain": row["mean_gain"], f"{name}_gain_per_ms": row["gain_per_ms"]}
    bar["default_is_best_per_ms"] = max(rows, key=lambda row: row["gain_per_ms"])["encoder"] == NAMES[0]
    return bar


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what can be loaded; 1 if the logs are missing or nothing could be loaded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(NAMES), help="names as in the configuration")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    folder = shared_folder()
    missing = [name for name, _ in POOLS if not (folder / f"{name}.parquet").exists()]
    if missing:
        console.print(f"{missing} not found in {folder}; set TOKAMAK_SHARED_DATA to the folder of the multi-LLM logs")
        return 1
    pools = [read_pool(folder / f"{name}.parquet", split) for name, split in POOLS]
    _one_thread()
    rows = []
    for name in options.encoders:
        try:
            encoder = load_encoder(name)
        except EncoderUnavailable as error:
            console.print(f"left out: {error}", markup=False)
            continue
        rows.append(measure(encoder, pools, console))
    if not rows:
        console.print("no encoder could be loaded")
        return 1
    console.print(shown(rows, pools))
    best = max(rows, key=lambda row: row["gain_per_ms"])
    console.print(f"most points per millisecond: {best['encoder']}")
    command = "python -m benchmarks.encoders --encoders " + " ".join(options.encoders)
    console.print(f"written: {write_result('encoders', command, rows, figures(rows))}", highlight=False)
    return 0


def _one_thread() -> None:
    import faiss

    faiss.omp_set_num_threads(1)
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
