"""Routers on real multi-LLM logs: cluster and nearest neighbours beside the best single arm, random and the oracle.

    python -m benchmarks.routing_quick [--seeds 3] [POOL ...]

Reads the Parquet files of the multi-LLM logs from the folder that TOKAMAK_SHARED_DATA names, else from `shared/data`
beside the checkout. Of each pool the arms that answered nearly every query are kept, and the queries that all of these
answered, so that the value of every choice is known. Gains are means over the seeds of the split, with the standard
error over them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from timeit import repeat
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.result_file import write_result
from encoders.protocol import Encoder, load_encoder
from offline.evaluate_router import BEST_SINGLE, Evaluation, evaluate
from offline.outcome_file import outcomes_from_file
from routers.catalogue import ROUTERS
from routers.policy import decide
from routers.protocol import Outcomes
from routers.rows import subset

POOLS = ("llmrouter14", "routerbench_sub", "zeroeval", "mmlu_pro")
LEARNING = ("cluster", "knn")
NEARLY_EVERY = 0.95
Row = dict[str, Any]


def whole(outcomes: Outcomes) -> Outcomes:
    """The part of the outcomes in which every arm answered every query."""
    known = ~np.isnan(outcomes.quality)
    arms = np.flatnonzero(known.mean(axis=0) > NEARLY_EVERY)
    part = replace(
        outcomes,
        arms=tuple(outcomes.arms[arm] for arm in arms),
        quality=outcomes.quality[:, arms],
        cost_usd=outcomes.cost_usd[:, arms],
        latency_s=outcomes.latency_s[:, arms],
        propensity=outcomes.propensity[:, arms],
    )
    return subset(part, np.flatnonzero(known[:, arms].all(axis=1)))


def known(figure: float | None) -> float:
    """A figure that a pool in which every arm answered every query always has."""
    if figure is None:
        raise ValueError("a figure is missing although every arm answered every query")
    return figure


def rows_of(pool: str, evaluations: list[Evaluation]) -> list[Row]:
    """One row per router and preference, averaged over the seeds."""
    rows = []
    first = evaluations[0]
    for index, result in enumerate(first.routers):
        for preset, scenario in result.scenarios.items():
            same = [evaluation.routers[index] for evaluation in evaluations]
            gains = [gain.mean for r in same if (gain := r.scenarios[preset].gain) is not None]
            row: Row = {
                "pool": pool,
                "queries": first.queries,
                "arms": first.arms,
                "router": result.router,
                "preference": preset,
                "quality": fmean(known(r.scenarios[preset].quality) for r in same),
                "gain": fmean(gains),
                "gain_se": stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None,
                "gain_lo_first_seed": None if scenario.gain is None else scenario.gain.low,
                "oracle": fmean(known(evaluation.oracle) for evaluation in evaluations),
                "random": fmean(known(evaluation.random) for evaluation in evaluations),
                "calibration_error": fmean(known(r.calibration_error) for r in same),
            }
            if scenario.cost_usd is not None:
                row["usd_per_1000"] = 1000 * fmean(known(r.scenarios[preset].cost_usd) for r in same)
            rows.append({key: value for key, value in row.items() if value is not None})
    return rows


def micros(call: Callable[[], object], calls: int) -> float:
    """Microseconds of one call, the best of five rounds."""
    return min(repeat(call, number=calls, repeat=5)) / calls * 1e6


def speed(outcomes: Outcomes) -> Row:
    """Seconds to fit, and microseconds to predict and to decide for one query."""
    row: Row = {}
    vector = outcomes.vectors[0]
    for name in LEARNING:
        start = time.perf_counter()
        router = ROUTERS[name].fit(outcomes)
        row[f"{name}_fit_s"] = time.perf_counter() - start
        calls = 200 if name == "knn" else 2000
        row[f"{name}_predict_us"] = micros(partial(router.predict, vector), calls)
    prediction, arms = router.predict(vector), range(len(outcomes.arms))
    scale = router.cost_scale
    row["decide_us"] = micros(partial(decide, prediction, arms, 0.5, 0.01, scale, 0.5), 2000)
    return row | {"arms": len(outcomes.arms), "dim": len(vector), "queries": len(outcomes.query_ids)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pools", nargs="*", default=POOLS, help=f"among {', '.join(POOLS)}; all if left out")
    parser.add_argument("--seeds", type=int, default=3, help="splits to average over")
    parser.add_argument("--encoder", default="static")
    arguments = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TOKAMAK_SHARED_DATA") or beside)
    if not folder.is_dir():
        print(f"skipped: there is no {folder}; set TOKAMAK_SHARED_DATA to the folder of the multi-LLM logs")
        sys.exit(0)
    encoder: Encoder = load_encoder(arguments.encoder)
    rows: list[Row] = []
    bar: dict[str, float] = {}
    for pool in arguments.pools:
        outcomes = whole(outcomes_from_file(folder / f"{pool}.parquet", encoder))
        evaluations = [evaluate(outcomes, LEARNING, seed) for seed in range(arguments.seeds)]
        found = rows_of(pool, evaluations)
        rows += found
        best = next(row for row in found if row["router"] == BEST_SINGLE and row["preference"] == "performance")
        ours = next(row for row in found if row["router"] == "cluster" and row["preference"] == "performance")
        bar |= {
            f"{pool}.best_single": best["quality"],
            f"{pool}.ours": ours["quality"],
            f"{pool}.oracle": ours["oracle"],
            f"{pool}.gap_closed": ours["gain"] / (ours["oracle"] - best["quality"]),
        }
        rows.append({"pool": pool, "encoder": encoder.name} | speed(outcomes))
        print(f"{pool}: {rows[-1]}", file=sys.stderr)
    table = Table(box=None, header_style="bold")
    for heading in ("pool", "router", "preference", "quality", "gain in points", "USD/1k", "oracle"):
        table.add_column(heading)
    for row in rows:
        if "router" in row:
            gain = f"{100 * row['gain']:+.2f} ± {100 * row.get('gain_se', 0.0):.2f}"
            cost = f"{row['usd_per_1000']:.3f}" if "usd_per_1000" in row else ""
            named = (row["pool"], row["router"], row["preference"])
            table.add_row(*named, f"{row['quality']:.4f}", gain, cost, f"{row['oracle']:.4f}")
    Console().print(table)
    write_result("routing_quick", "python -m benchmarks.routing_quick", rows, bar)


if __name__ == "__main__":
    main()
