"""The routing laboratory: every router on every pool of real logs, beside what was published and beside rulers.

    python -m benchmarks.routing [--quick] [--fresh] [--pool FILE]... [POOL ...]

Reads the Parquet files of the multi-LLM logs from the folder that TOKAMAK_SHARED_DATA names, else from `shared/data`
beside the checkout. Trials are kept under `.cache/routing`, so a run takes up where the last one ended. A run of
everything writes `benchmarks/results/routing.json`, `docs/images/routing` and the tables of `docs/routing.md`; a run of
a part writes to `.cache/routing/results`.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.result_file import RESULTS, write_result
from benchmarks.routing_lab.bench import Bench, cells_of, limit_threads, run_cells
from benchmarks.routing_lab.contenders import contenders, default_router
from benchmarks.routing_lab.page import PAGE, page_with, read_result, tables
from benchmarks.routing_lab.plots import plotted
from benchmarks.routing_lab.pools import Pool, PoolError, pools_of, sampled, shared_files
from benchmarks.routing_lab.report import printed
from benchmarks.routing_lab.sisters import sister_figures
from benchmarks.routing_lab.speed import measured_apart
from benchmarks.routing_lab.summary import Row, bar_of, rows_of
from encoders.catalogue import load_encoder
from routers.catalogue import PLACES

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "routing"
IMAGES = ROOT / "docs" / "images" / "routing"
SEEDS = 5
QUICK_QUERIES = 1000
QUICK_ROUTERS = ("cluster", "knn", "ensemble")
UNITS = "scores and gains are in [0, 1] (0.01 is one point); costs in USD; `_lo` and `_hi` end a 95 % paired interval"
METHOD = (
    "5 splits by content hash; means over splits; 10,000 paired resamples of queries; the best published baseline is "
    "the one of the highest mean gain in this run on the same test queries, which favours it; hulls are drawn over "
    "test points, of routers and of single models alike"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and where to write. `partial`: not everything, so the committed results are left alone."""

    files: tuple[Path, ...]
    routers: tuple[str, ...]
    bench: Bench
    quick: bool
    partial: bool

    @property
    def results(self) -> Path:
        return CACHE / "results" if self.partial else RESULTS

    @property
    def images(self) -> Path:
        return CACHE / "results" if self.partial else IMAGES


def main() -> None:
    arguments = _arguments()
    if arguments.page:
        PAGE.write_text(page_with(tables(read_result())))
        return
    limit_threads()
    plan = _plan(arguments)
    if not plan.files:
        print("skipped: there are no multi-LLM logs; set TOKAMAK_SHARED_DATA to their folder, or name one with --pool")
        sys.exit(0)
    rows, bar = _measured(plan)
    if not rows:
        sys.exit("no pool was left to run")
    notes = {"units": UNITS, "method": METHOD, "ours": default_router()}
    if not plan.partial:
        speed = measured_apart(default_router())
        rows.append(speed)
        bar |= {"fit_s_100k": speed["fit_s"], "predict_us_40_arms": speed["predict_us"]}
        figures, sources = sister_figures()
        bar |= figures
        notes |= sources
    printed(rows)
    command = "python -m benchmarks.routing" + "".join(f" {part}" for part in sys.argv[1:])
    path = write_result("routing", command, rows, bar, plan.results, notes)
    print(f"written to {path}", file=sys.stderr)
    if not plan.partial:
        PAGE.write_text(page_with(tables(read_result())))


def _measured(plan: Plan) -> tuple[list[Row], dict[str, float]]:
    rows: list[Row] = []
    bar: dict[str, float] = {}
    encoder = load_encoder("static")
    for path in plan.files:
        try:
            for pool in pools_of(path, encoder, CACHE / "pools"):
                found = _pool_rows(sampled(pool, QUICK_QUERIES) if plan.quick else pool, plan)
                rows += found
                bar |= bar_of(found, default_router())
        except PoolError as error:
            print(f"{path.name} left out: {error}", file=sys.stderr)
    errors = [
        row["ece"] for row in rows if row.get("router") == default_router() and row["split"] == "in" and "ece" in row
    ]
    return rows, bar | ({"ece_max": max(errors)} if errors else {})


def _pool_rows(pool: Pool, plan: Plan) -> list[Row]:
    start = time.perf_counter()
    cells = cells_of(pool, contenders(plan.routers), plan.bench.seeds)
    found = run_cells(plan.bench, pool, cells)
    rows = rows_of(pool, found)
    plotted(pool.name, rows, found, plan.images)
    about: Row = {
        "about": "pool",
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
    return [about, *rows]


def _plan(arguments: argparse.Namespace) -> Plan:
    named = tuple(Path(name) for name in arguments.pool)
    shared = tuple(path for path in shared_files() if not arguments.pools or path.stem in arguments.pools)
    routers = tuple(arguments.router)
    if arguments.quick and not routers:
        routers = tuple(name for name in QUICK_ROUTERS if name in PLACES)
    return Plan(
        files=named + (shared if arguments.pools or not named else ()),
        routers=routers,
        bench=Bench(
            CACHE / "trials",
            1 if arguments.quick else arguments.seeds,
            arguments.fresh,
            arguments.kept,
            arguments.workers,
        ),
        quick=arguments.quick,
        partial=bool(arguments.quick or named or arguments.pools or arguments.router or arguments.seeds != SEEDS),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pools", nargs="*", help="names of files of the shared folder; all if left out")
    parser.add_argument("--pool", action="append", default=[], metavar="FILE", help="another file of the same layout")
    parser.add_argument("--router", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="splits to average over")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--quick", action="store_true", help="one split, few queries, quick routers: under a minute")
    parser.add_argument("--fresh", action="store_true", help="run again what an earlier run has kept")
    parser.add_argument("--kept", action="store_true", help="run nothing: make the table of what runs have kept")
    parser.add_argument("--page", action="store_true", help="only write the tables of docs/routing.md anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
