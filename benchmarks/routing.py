"""The routing laboratory: every router on every pool of real logs, beside what was published and beside rulers.

    python -m benchmarks.routing [--quick] [--fresh] [--pool FILE]... [POOL ...]

Reads the Parquet files of the multi-LLM logs from the folder that TOKAMAK_SHARED_DATA names, else from `shared/data`
beside the checkout. Trials are kept under `.cache/routing`, so a run takes up where the last one ended. A run of
everything writes `benchmarks/results/routing.json`; a run of a part writes to `.cache/routing/results`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.result_file import RESULTS, write_result
from benchmarks.routing_lab.bench import Bench, cells_of, limit_threads, run_cells
from benchmarks.routing_lab.contenders import contenders, default_router
from benchmarks.routing_lab.pools import Pool, PoolError, pools_of, sampled, shared_files
from benchmarks.routing_lab.report import printed
from benchmarks.routing_lab.summary import Row, bar_of, rows_of
from encoders.protocol import load_encoder

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "routing"
QUICK_QUERIES = 1200
QUICK_ROUTERS = ("cluster", "knn", "ensemble")
UNITS = "scores and gains are in [0, 1] (0.01 is one point); costs in USD; `_lo` and `_hi` end a 95 % paired interval"


def main() -> None:
    arguments = _arguments()
    limit_threads()
    files = [Path(name) for name in arguments.pool] or [
        path for path in shared_files() if not arguments.pools or path.stem in arguments.pools
    ]
    if not files:
        print("skipped: there are no multi-LLM logs; set TOKAMAK_SHARED_DATA to their folder, or name one with --pool")
        sys.exit(0)
    names = _routers(arguments)
    bench = Bench(CACHE / "trials", 1 if arguments.quick else arguments.seeds, arguments.fresh, arguments.workers)
    rows: list[Row] = []
    bar: dict[str, float] = {}
    encoder = load_encoder("static")
    for path in files:
        try:
            for pool in pools_of(path, encoder, CACHE / "pools"):
                found = _pool_rows(sampled(pool, QUICK_QUERIES) if arguments.quick else pool, bench, names)
                rows += found
                bar |= bar_of([row for row in found if "router" in row], default_router())
        except PoolError as error:
            print(f"{path.name} left out: {error}", file=sys.stderr)
    if not rows:
        sys.exit("no pool was left to run")
    printed(rows)
    partial = bool(arguments.quick or arguments.pool or arguments.pools or arguments.router)
    folder = CACHE / "results" if partial else RESULTS
    command = "python -m benchmarks.routing" + "".join(f" {part}" for part in sys.argv[1:])
    print(f"written to {write_result('routing', command, rows, bar, folder, {'units': UNITS})}", file=sys.stderr)


def _routers(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.router or not arguments.quick:
        return tuple(arguments.router)
    from routers.catalogue import PLACES

    return tuple(name for name in QUICK_ROUTERS if name in PLACES)


def _pool_rows(pool: Pool, bench: Bench, names: tuple[str, ...]) -> list[Row]:
    start = time.perf_counter()
    cells = cells_of(pool, contenders(names), bench.seeds)
    found = rows_of(pool, run_cells(bench, pool, cells))
    about: Row = {
        "pool": pool.name,
        "queries": len(pool.outcomes.query_ids),
        "arms": len(pool.outcomes.arms),
        "tasks": len(set(pool.outcomes.tasks or ())),
        "priced": pool.priced,
        "notes": list(pool.notes),
    }
    if not any(cell.kind == "out" for cell in cells):
        about["notes"].append("no split out of distribution: the pool has one task, or names none")
    print(f"{pool.name}: {len(cells)} trials, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return [about, *found]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pools", nargs="*", help="names of files of the shared folder; all if left out")
    parser.add_argument("--pool", action="append", default=[], metavar="FILE", help="another file of the same layout")
    parser.add_argument("--router", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--seeds", type=int, default=5, help="splits to average over")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--quick", action="store_true", help="one split, few queries, quick routers: under a minute")
    parser.add_argument("--fresh", action="store_true", help="run again what an earlier run has kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
