"""How often the drift test cries wolf, and how soon it sees a change; beside a z-test that is looked at all the time.

    python -m benchmarks.drift [--streams 40] [POOL ...]

Streams are made of the multi-LLM logs: a router learns from one half of the queries; the other half, drawn with
replacement, is asked of one model after the other, and a score's residual is its distance from the prediction. Without
a change every alarm is false. For a change by so many points, a share of the queries is answered from answer 2,000 on
by another, worse model; where no other model is so much worse, right answers are made wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.onboarding import read
from benchmarks.result_file import write_result
from benchmarks.routing_probe import shared_folder
from routers.classic.cluster import ClusterRouter
from routers.evidence.drift import REFERENCE, find_change, reference_of
from routers.protocol import Outcomes
from routers.rows import split

POOLS = ("llmrouter14", "mmlu_pro", "zeroeval", "routerbench_sub")
ANSWERS = 12_000
CHANGE_AT = 2000
DROPS = (0.03, 0.05, 0.10, 0.20)
WINDOW = 500
F64 = NDArray[np.float64]
Row = dict[str, Any]
Test = Callable[[F64], int | None]


def e_detector(residuals: F64) -> int | None:
    """Position of the alarm of the house's test after its reference, or None."""
    change = find_change(residuals[REFERENCE:], reference_of(residuals[:REFERENCE]))
    return None if change is None else REFERENCE + change.alarm


def peeking_z(residuals: F64) -> int | None:
    """The wrong way: after every answer, a two-sided z-test at 5 % of the last 500 answers against the first 1,000."""
    first = residuals[:REFERENCE]
    sums, squares = (np.concatenate([[0.0], np.cumsum(x)]) for x in (residuals, residuals**2))
    ends = np.arange(REFERENCE + WINDOW, len(residuals) + 1)
    mean = (sums[ends] - sums[ends - WINDOW]) / WINDOW
    variance = (squares[ends] - squares[ends - WINDOW]) / WINDOW - mean**2
    z = (mean - first.mean()) / np.sqrt(variance / WINDOW + first.var() / REFERENCE)
    hits = np.flatnonzero(np.abs(z) > 1.96)
    return int(ends[hits[0]]) - 1 if len(hits) else None


TESTS: dict[str, Test] = {"e-detector": e_detector, "z-test, peeking": peeking_z}


def stream(outcomes: Outcomes, predicted: F64, model: int, drop: float, rng: np.random.Generator) -> F64:
    """Residuals of one model, float64 [ANSWERS]; it loses `drop` of mean score at CHANGE_AT."""
    rows = rng.integers(len(predicted), size=ANSWERS)
    scores = outcomes.quality[rows, model].astype(np.float64)
    if drop > 0:
        after = np.arange(ANSWERS) >= CHANGE_AT
        scores = np.where(after, _worsened(outcomes, rows, scores, model, drop, rng), scores)
    return np.asarray(scores - predicted[rows, model])


def _worsened(
    outcomes: Outcomes, rows: NDArray[np.intp], scores: F64, model: int, drop: float, rng: np.random.Generator
) -> F64:
    """The scores with a share of the queries answered by the model nearest in quality of those worse by `drop`."""
    means = outcomes.quality.mean(axis=0)
    worse = np.flatnonzero(means <= means[model] - drop)
    if len(worse):
        other = int(worse[means[worse].argmax()])
        swapped = rng.random(len(rows)) < drop / float(means[model] - means[other])
        return np.where(swapped, outcomes.quality[rows, other], scores)
    lost = rng.random(len(rows)) < min(drop / max(float(means[model]), 1e-9), 1.0)
    return np.where(lost, 0.0, scores)


def measure(pool: str, streams: int) -> list[Row]:
    """One row per size of change and test."""
    training, later = split(read(pool), 0.5, "drift")
    predicted = ClusterRouter.fit(training).predict_batch(later.vectors).quality.astype(np.float64)
    means = later.quality.mean(axis=0)
    models = np.flatnonzero(means > max(DROPS))
    rows = []
    for drop in (0.0, *DROPS):
        rng = np.random.default_rng(round(1000 * drop))
        made = [stream(later, predicted, int(models[i % len(models)]), drop, rng) for i in range(streams)]
        rows += [{"pool": pool, "drop": drop, "test": name} | judged(made, test, drop) for name, test in TESTS.items()]
    return rows


def judged(streams: Sequence[F64], test: Test, drop: float) -> Row:
    """False alarms per 10,000 answers without a change; else the share of changes found, and after how many answers."""
    found = [test(residuals) for residuals in streams]
    if drop == 0:
        # A stream ends at its alarm: what came after it was not looked at.
        looked = sum((ANSWERS if at is None else at + 1) - REFERENCE for at in found)
        alarms = sum(at is not None for at in found)
        return {
            "streams": len(streams),
            "false_per_10000": 1e4 * alarms / looked,
            "ever_alarmed": alarms / len(streams),
        }
    early = sum(at is not None and at < CHANGE_AT for at in found)
    delays = [at - CHANGE_AT for at in found if at is not None and at >= CHANGE_AT]
    row: Row = {"streams": len(streams), "alarmed_before": early, "found": len(delays) / max(len(streams) - early, 1)}
    return row | ({"median_delay": median(delays)} if delays else {})


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    """Means over the pools, of the house's test and of the z-test."""
    bar: dict[str, float] = {}
    for name, suffix in (("e-detector", ""), ("z-test, peeking", "_peeking_z")):
        same = [row for row in rows if row["test"] == name]
        bar[f"drift_false_alarms_per_10000{suffix}"] = fmean(r["false_per_10000"] for r in same if r["drop"] == 0)
        for drop in DROPS:
            cells = [row for row in same if row["drop"] == drop]
            bar[f"drift_found_{round(100 * drop)}_points{suffix}"] = fmean(row["found"] for row in cells)
            delays = [row["median_delay"] for row in cells if "median_delay" in row]
            if delays:
                bar[f"drift_delay_{round(100 * drop)}_points{suffix}"] = fmean(delays)
    return bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pools", nargs="*", default=POOLS, help=f"among {', '.join(POOLS)}; all if left out")
    parser.add_argument("--streams", type=int, default=40, help="streams for each pool and size of change")
    arguments = parser.parse_args()
    if not shared_folder().is_dir():
        print(f"skipped: there is no {shared_folder()}; set TOKAMAK_SHARED_DATA to the folder of the multi-LLM logs")
        sys.exit(0)
    rows = [row for pool in arguments.pools for row in measure(pool, arguments.streams)]
    table = Table(box=None, header_style="bold")
    for heading in ("pool", "change", "test", "false per 10,000", "found", "median delay"):
        table.add_column(heading)
    for row in rows:
        cells = [f"{row[key]:.2f}" if key in row else "" for key in ("false_per_10000", "found", "median_delay")]
        table.add_row(row["pool"], f"-{100 * row['drop']:.0f}", row["test"], *cells)
    Console().print(table)
    write_result("drift", "python -m benchmarks.drift", rows, bar_of(rows))


if __name__ == "__main__":
    main()
