"""Off-policy estimates against the truth: on logs where every arm answered, a log of one arm each is drawn and judged.

    python -m benchmarks.off_policy [--quick] [--repetitions 200] [POOL ...]

Half of a pool's queries (by content) teach the champion and the candidates; the other half is the world. At most ten
arms are kept, spread over the ranking by quality. The champion serves 20,000 queries of the world, drawn with
replacement (the worlds hold fewer), and explores in 10 % of them. What the estimators say of twelve candidates from the
worst to the oracle is held against the true mean over the world; every repetition draws another log and fits the model
of rewards anew. Curves: fewer decisions, less exploration. Writes `results/off_policy.json`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.result_file import write_result
from benchmarks.routing_lab.pools import whole
from encoders.catalogue import load_encoder
from offline.outcome_file import outcomes_from_file
from offline.routing.off_policy import MIN_DISAGREEING, decisions_from_outcomes
from routers.catalogue import ROUTERS
from routers.evidence.off_policy import (
    ESTIMATORS,
    F64,
    MIN_EFFECTIVE,
    LoggedDecisions,
    bursts,
    effective_size,
    importance,
    terms,
)
from routers.evidence.off_policy_intervals import METHODS, mean_interval
from routers.evidence.off_policy_rewards import cross_fitted, principal
from routers.evidence.off_policy_targets import target_probabilities
from routers.prior import PriorRouter
from routers.protocol import Outcomes
from routers.rows import positions, prepared, split, subset

POOLS = ("llmrouter14", "routerbench_sub", "zeroeval", "mmlu_pro")
MOST_ARMS = 10
DECISIONS, EXPLORATION = 20_000, 0.10
FEWER = (500, 1_000, 2_000, 5_000, 10_000)
LESS_EXPLORATION = (0.01, 0.03)
CHAMPION = "champion"
BURSTS, BURST = 1_000, 5
LITTLE = 150
"""Training queries of the candidate that learned from little."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """The queries that are served, with every arm's answer, and what each candidate would do: [P, M] each."""

    pool: str
    outcomes: Outcomes
    everyone: LoggedDecisions
    targets: dict[str, F64]

    def truth(self) -> F64:
        """The true value of each candidate."""
        return np.array([(target * self.outcomes.quality).sum(axis=1).mean() for target in self.targets.values()])

    def logging(self, exploration: float) -> F64:
        return (1.0 - exploration) * self.targets[CHAMPION] + exploration / len(self.outcomes.arms)


class Judged(NamedTuple):
    """What E estimators say of C candidates, [E, C]; effective sizes, and gains over the champion (DR), [C]."""

    value: F64
    low: F64
    high: F64
    effective: F64
    difference: F64
    difference_low: F64
    difference_high: F64
    disagreeing: F64


def world_of(pool: str, folder: Path) -> World:
    """Read a pool, teach the candidates on one half of its queries, and let them choose on the other."""
    outcomes = prepared(few_arms(whole(outcomes_from_file(folder / f"{pool}.parquet", load_encoder("static")))[0]))
    training, served = split(outcomes, 0.5, "off-policy-world")
    everyone = decisions_from_outcomes(served, np.full(served.quality.shape, 1.0 / len(served.arms)))
    single = PriorRouter.fit(training)
    little = ROUTERS["cluster"].fit(subset(training, np.arange(min(LITTLE, len(training.query_ids)))), clusters=12)
    champion = target_probabilities(
        ROUTERS["cluster"].fit(split(training, 0.3, "champion")[1]), everyone, preference=1.0
    )
    targets = {
        "worst": one_arm(served, int(single.cells.quality[0].argmin())),
        "random": everyone.logging,
        "half random": 0.5 * everyone.logging + 0.5 * champion,
        "cluster, little data": target_probabilities(little, everyone, 1.0),
        "best single": target_probabilities(single, everyone, 1.0),
        CHAMPION: champion,
        "knn": target_probabilities(ROUTERS["knn"].fit(training), everyone, 1.0),
        "cluster": target_probabilities(ROUTERS["cluster"].fit(training), everyone, 1.0),
    }
    oracle = np.eye(len(served.arms))[served.quality.argmax(axis=1)]
    at = positions(served.query_ids, "oracle")[:, None]
    for share in (0.1, 0.25, 0.5, 1.0):
        targets[f"{share:.0%} oracle"] = np.where(at < share, oracle, champion)
    # Only what the estimators read is kept; principal components, so that no repetition computes them again.
    light = replace(served, vectors=principal(served.vectors).astype(np.float32), features=None, feature_set=None)
    return World(pool, replace(light, texts=None), everyone, targets)


def few_arms(outcomes: Outcomes) -> Outcomes:
    """At most ten arms, spread evenly over the ranking by mean quality, best and worst among them."""
    if len(outcomes.arms) <= MOST_ARMS:
        return outcomes
    ranking = np.argsort(outcomes.quality.mean(axis=0))
    kept = np.sort(ranking[np.linspace(0, len(ranking) - 1, MOST_ARMS).round().astype(np.intp)])
    columns = {name: getattr(outcomes, name)[:, kept] for name in ("quality", "cost_usd", "latency_s", "propensity")}
    return replace(outcomes, arms=tuple(outcomes.arms[arm] for arm in kept.tolist()), **columns)


def one_arm(outcomes: Outcomes, arm: int) -> F64:
    target = np.zeros(outcomes.quality.shape)
    target[:, arm] = 1.0
    return target


def judged(
    world: World,
    rows: NDArray[np.intp],
    decisions: LoggedDecisions,
    estimators: Sequence[str] = ESTIMATORS,
    method: str = "student",
) -> Judged:
    """What the estimators say of every candidate after one log, `rows` being the queries of its decisions."""
    predicted, groups = cross_fitted(decisions), bursts(decisions)
    targets = [target[rows] for target in world.targets.values()]
    each = {name: [terms(name, decisions, target, None, predicted) for target in targets] for name in estimators}
    found = np.array([[mean_interval(e, groups, method) for e in each[name]] for name in estimators])
    at = list(world.targets).index(CHAMPION)
    paired = np.array([mean_interval(e - each["dr"][at], groups, method) for e in each["dr"]])
    value, low, high = np.moveaxis(found, 2, 0)
    gain, gain_low, gain_high = paired.T
    weights = [importance(decisions, target) for target in targets]
    apart = [(rho > 0.0) & (rho != weights[at]) for rho in weights]
    disagreeing = np.array([np.count_nonzero(rows) for rows in apart], dtype=np.float64)
    effective = np.array([effective_size(rho) for rho in weights])
    return Judged(value, low, high, effective, gain, gain_low, gain_high, disagreeing)


def logged(world: World, seed: int, n: int, exploration: float) -> tuple[NDArray[np.intp], LoggedDecisions]:
    """A log of n decisions, and the query of each."""
    decisions = decisions_from_outcomes(world.outcomes, world.logging(exploration), seed, n)
    return np.random.default_rng(seed).integers(len(world.outcomes.query_ids), size=n), decisions


def repeated(
    world: World, seeds: Iterable[int], n: int, exploration: float, estimators: Sequence[str] = ESTIMATORS
) -> Judged:
    """All repetitions, stacked: [R, E, C] and [R, C]."""
    runs = [judged(world, *logged(world, seed, n, exploration), estimators) for seed in seeds]
    return Judged(*(np.stack(column) for column in zip(*runs, strict=True)))


def spearman(first: F64, second: F64) -> float:
    """Rank correlation; equal values share their mean rank."""
    a, b = (ranked(values) - (len(values) + 1) / 2 for values in (first, second))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def ranked(values: F64) -> F64:
    found, counts = np.unique(values, return_inverse=True, return_counts=True)[1:]
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[found], dtype=np.float64)


def rows_of(
    world: World, runs: Judged, n: int, exploration: float, estimators: Sequence[str] = ESTIMATORS
) -> list[Row]:
    """One line per estimator, over all candidates."""
    truth, at = world.truth(), list(world.targets).index(CHAMPION)
    # Where `compare_routers` gives a verdict; of the champion itself there is none to give.
    enough = (runs.effective >= MIN_EFFECTIVE) & (runs.disagreeing >= MIN_DISAGREEING)
    gain = truth - truth[at]
    wrong = ((runs.difference_low > 0.0) & (gain <= 0.0)) | ((runs.difference_high < 0.0) & (gain >= 0.0))
    rows = []
    for index, name in enumerate(estimators):
        value, low, high = (column[:, index] for column in (runs.value, runs.low, runs.high))
        inside = (low <= truth) & (truth <= high)
        rows.append(
            {
                "pool": world.pool,
                "decisions": n,
                "exploration": exploration,
                "estimator": name,
                "repetitions": len(value),
                "coverage": float(inside.mean()),
                "coverage_lowest": float(inside.mean(axis=0).min()),
                "judged": float(enough.mean()),
                "coverage_judged": float(inside[enough].mean()) if enough.any() else None,
                "wrong_sign": float(wrong[enough].mean()) if enough.any() else None,
                "half_width": float(((high - low) / 2).mean()),
                "bias": float(np.abs((value - truth).mean(axis=0)).mean()),
                "rmse": float(np.sqrt(np.square(value - truth).mean(axis=0)).mean()),
                "spearman": float(np.mean([spearman(v, truth) for v in value])),
            }
        )
    return rows


def candidate_rows(world: World, runs: Judged, estimators: Sequence[str] = ESTIMATORS) -> list[Row]:
    """One line per candidate, doubly robust; and how often a verdict about its difference to the champion was wrong."""
    truth, dr = world.truth(), estimators.index("dr")
    gain = truth - truth[list(world.targets).index(CHAMPION)]
    rows = []
    for index, name in enumerate(world.targets):
        value, low, high = (column[:, dr, index] for column in (runs.value, runs.low, runs.high))
        below, above = runs.difference_low[:, index], runs.difference_high[:, index]
        rows.append(
            {
                "pool": world.pool,
                "candidate": name,
                "truth": float(truth[index]),
                "mean": float(value.mean()),
                "sd": float(value.std()),
                "half_width": float(((high - low) / 2).mean()),
                "coverage": float(((low <= truth[index]) & (truth[index] <= high)).mean()),
                "effective": float(runs.effective[:, index].mean()),
                "gain": float(gain[index]),
                "gain_coverage": float(((below <= gain[index] + 1e-12) & (gain[index] - 1e-12 <= above)).mean()),
                "called_better": float((below > 0.0).mean()),
                "called_worse": float((above < 0.0).mean()),
            }
        )
    return rows


def measure(pools: Sequence[str] = POOLS, seeds: Iterable[int] = range(50)) -> dict[str, float]:
    """The two figures of the bar, over the pools: one log of 20,000 decisions at 10 % exploration for each seed.

    `ope_coverage` is the share of (pool, candidate, seed) whose 95 % doubly robust interval holds the truth,
    `ope_spearman` the mean rank correlation of the estimates with the truth. Needs the shared pools.
    """
    rows: list[Row] = []
    for pool in pools:
        world = world_of(pool, pools_folder())
        runs = repeated(world, seeds, DECISIONS, EXPLORATION, ("dr",))
        rows += rows_of(world, runs, DECISIONS, EXPLORATION, ("dr",))
    return bar_of(rows)


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    chosen = [
        row
        for row in rows
        if row.get("estimator") == "dr" and row["decisions"] == DECISIONS and row["exploration"] == EXPLORATION
    ]
    return {f"ope_{name}": float(np.mean([row[name] for row in chosen])) for name in ("coverage", "spearman")}


def pools_folder() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("TOKAMAK_SHARED_DATA") or beside)


def interval_rows(world: World, seeds: Iterable[int], n: int, exploration: float = EXPLORATION) -> list[Row]:
    """How often each kind of interval holds the truth, doubly robust, and how wide it is."""
    truth, inside, width = world.truth(), dict.fromkeys(METHODS, 0.0), dict.fromkeys(METHODS, 0.0)
    lowest = {method: np.zeros(len(truth)) for method in METHODS}
    count = 0
    for seed in seeds:
        rows, decisions = logged(world, seed, n, exploration)
        predicted, groups = cross_fitted(decisions), bursts(decisions)
        count += 1
        for index, target in enumerate(world.targets.values()):
            each = terms("dr", decisions, target[rows], None, predicted)
            for method in METHODS:
                found = mean_interval(each, groups, method, seed)
                held = found.low <= truth[index] <= found.high
                inside[method] += held
                lowest[method][index] += held
                width[method] += (found.high - found.low) / 2
    cells = count * len(truth)
    return [
        {
            "pool": world.pool,
            "decisions": n,
            "exploration": exploration,
            "interval": method,
            "repetitions": count,
            "coverage": float(inside[method] / cells),
            "coverage_lowest": float(lowest[method].min()) / count,
            "half_width": float(width[method] / cells),
        }
        for method in METHODS
    ]


def burst_rows(world: World, seeds: Iterable[int]) -> list[Row]:
    """The same for 1,000 queries that come in bursts of five (retries, loops), with and without bursts as groups."""
    truth, held, count = world.truth(), np.zeros(2), 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        queries = np.repeat(rng.integers(len(world.outcomes.query_ids), size=BURSTS), BURST)
        decisions = decisions_from_outcomes(subset(world.outcomes, queries), world.logging(EXPLORATION)[queries], seed)
        predicted = cross_fitted(decisions)
        for index, target in enumerate(world.targets.values()):
            each = terms("dr", decisions, target[queries], None, predicted)
            for kind, groups in enumerate((None, bursts(decisions))):
                found = mean_interval(each, groups)
                held[kind] += found.low <= truth[index] <= found.high
        count += 1
    names = ("student, bursts as single decisions", "student, bursts as groups")
    shares = (held / count / len(truth)).tolist()
    return [
        {
            "pool": world.pool,
            "decisions": BURSTS * BURST,
            "exploration": EXPLORATION,
            "interval": name,
            "repetitions": count,
            "coverage": share,
        }
        for name, share in zip(names, shares, strict=True)
    ]


TITLES = ("estimators", "candidates by DR, 20,000 decisions, 10 % exploration", "kinds of intervals for DR")


class Rows(NamedTuple):
    """The three tables of a pool."""

    estimators: list[Row]
    candidates: list[Row]
    intervals: list[Row]


def measured(world: World, repetitions: int, whole: bool) -> Rows:
    """Everything that is measured on one pool. SNIPS is not defined in every small log, so the curve is DR's."""
    runs = repeated(world, range(repetitions), DECISIONS, EXPLORATION)
    lines, candidates = rows_of(world, runs, DECISIONS, EXPLORATION), candidate_rows(world, runs)
    fewer = range(1000, 1000 + max(10, repetitions // 2))
    for n in FEWER:
        lines += rows_of(world, repeated(world, fewer, n, EXPLORATION, ("dr",)), n, EXPLORATION, ("dr",))
    for share in LESS_EXPLORATION:
        lines += rows_of(world, repeated(world, fewer, DECISIONS, share), DECISIONS, share)
    few = range(2000, 2000 + max(5, repetitions // 8))
    return Rows(lines, candidates, interval_rows(world, few, 5_000) + burst_rows(world, few) if whole else [])


def shown(title: str, rows: Sequence[Row]) -> Table:
    columns = list(rows[0])
    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 1))
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{row[c]:.4f}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pools", nargs="*", default=POOLS, help=f"among {', '.join(POOLS)}; all if left out")
    parser.add_argument("--repetitions", type=int, default=200, help="logs that are drawn")
    parser.add_argument("--quick", action="store_true", help="one pool, few repetitions, no file; under a minute")
    arguments = parser.parse_args()
    folder = pools_folder()
    if not folder.is_dir():
        print(f"skipped: there is no {folder}; set TOKAMAK_SHARED_DATA to the folder of the multi-LLM logs")
        sys.exit(0)
    pools = arguments.pools[:1] if arguments.quick else arguments.pools
    repetitions = 20 if arguments.quick else arguments.repetitions
    found = Rows([], [], [])
    for pool in pools:
        start = time.perf_counter()
        part = measured(world_of(pool, folder), repetitions, whole=not arguments.quick)
        for title, rows in zip(TITLES, part, strict=True):
            if rows:
                Console(width=170).print(shown(f"{pool}: {title}", rows))
        print(f"{pool}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        found = Rows(*(all_of + rows for all_of, rows in zip(found, part, strict=True)))
    bar = bar_of(found.estimators)
    print(bar)
    if not arguments.quick:
        rows = found.estimators + found.candidates + found.intervals
        write_result("off_policy", "python -m benchmarks.off_policy", rows, bar)


if __name__ == "__main__":
    main()
