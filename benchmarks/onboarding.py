"""How much of what full training gains is reached with a few probes of a new model.

    python -m benchmarks.onboarding [--seeds 3] [--router cluster] [POOL ...]

Leave-one-model-out over the multi-LLM logs: each model of a pool in turn is new. A router is trained on the others'
answers to four fifths of the queries; the new model is asked at most 64 of these; choices are judged on the last fifth.
Beside it stands the router that saw all of the new model's training answers. Two shares are reported, each a ratio of
sums over the models, with a 95 % bootstrap interval over the held-out queries:

    gain share   (onboarded - best single known model) / (fully trained - best single known model)
    added share  (onboarded - router without the new model) / (fully trained - router without the new model)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.probe_rules import RULES
from benchmarks.result_file import write_result
from benchmarks.routing_lab.pools import whole
from benchmarks.routing_probe import shared_folder
from encoders.catalogue import load_encoder
from offline.outcome_file import outcomes_from_file
from routers.catalogue import ROUTERS
from routers.onboarding.onboarded import ProbeResults, add_arm, of_arms
from routers.onboarding.probes import PROBES
from routers.protocol import Outcomes, Router
from routers.rows import prepared, split

POOLS = ("llmrouter14", "routerbench_sub", "zeroeval", "mmlu_pro", "mmlu_pro_small")
SMALL = 16
"""Models of the small pool of MMLU-Pro: those with the lowest means."""
MOST_MODELS = 12
"""Of a larger pool so many models are left out, spread evenly over the ranking by mean score, the best one included."""
COUNTS = (16, 32, 64, 128)
HELD_OUT = 0.2
DRAWS = 2000
Row = dict[str, Any]
F64 = NDArray[np.float64]


class Fold(NamedTuple):
    """One split of a pool: `full` are the scores of the fully trained router's choices on the held-out part."""

    training: Outcomes
    held_out: Outcomes
    settings: dict[str, Any]
    full: F64


class Sums(NamedTuple):
    """Per held-out query, summed over left-out models: what each way of choosing was worth."""

    single: F64
    without: F64
    onboarded: F64
    full: F64


def read(pool: str) -> Outcomes:
    """The part of a pool in which every model answered every query."""
    name = pool.removesuffix("_small")
    outcomes = whole(outcomes_from_file(shared_folder() / f"{name}.parquet", load_encoder("static")))[0]
    if pool != name:
        outcomes = of_arms(outcomes, np.sort(np.argsort(outcomes.quality.mean(axis=0))[:SMALL]))
    return prepared(outcomes)


def fold(outcomes: Outcomes, router: str, seed: int) -> Fold:
    """A split by content hash. What the cluster router chooses for all models (its grid) is kept for all refits."""
    training, held_out = split(outcomes, HELD_OUT, f"onboarding-{seed}")
    fitted = ROUTERS[router].fit(training, seed=seed)
    meta = fitted.meta()
    settings = {"clusters": meta["clusters"], "sharpness": meta["sharpness"]} if router == "cluster" else {}
    return Fold(training, held_out, settings, worth(fitted, held_out, np.arange(len(outcomes.arms))))


def worth(router: Router, held_out: Outcomes, columns: NDArray[np.intp]) -> F64:
    """Score of the best predicted arm on each held-out query; `columns` are the router's arms in `held_out`."""
    predicted = router.predict_batch(held_out.vectors, held_out.features, held_out.texts)
    chosen = columns[predicted.quality.argmax(axis=1)]
    return np.asarray(held_out.quality[np.arange(len(chosen)), chosen], dtype=np.float64)


def models_of(training: Outcomes) -> list[int]:
    """Which models are left out."""
    ranked = np.argsort(-training.quality.mean(axis=0), kind="stable")
    places = np.unique(np.linspace(0, len(ranked) - 1, min(MOST_MODELS, len(ranked))).round().astype(int))
    return [int(model) for model in ranked[places]]


def judged(parts: Fold, router: str, arms: Sequence[tuple[str, int]], seed: int) -> dict[tuple[str, int], Sums]:
    """For each (rule, count): what choices are worth, summed over left-out models."""
    training, held_out = parts.training, parts.held_out
    found: dict[tuple[str, int], list[Sums]] = {arm: [] for arm in arms}
    for model in models_of(training):
        known = np.array([arm for arm in range(len(training.arms)) if arm != model])
        others = of_arms(training, known)
        base = ROUTERS[router].fit(others, seed=seed, **parts.settings)
        single = held_out.quality[:, known[others.quality.mean(axis=0).argmax()]].astype(np.float64)
        without = worth(base, held_out, known)
        for rule, count in arms:
            rows = RULES[rule](others, base, count, seed)
            results = ProbeResults(
                training.quality[rows, model], training.cost_usd[rows, model], training.latency_s[rows, model]
            )
            extended = add_arm(base, training.arms[model], others, rows, results)
            got = worth(extended, held_out, np.append(known, model))
            found[rule, count].append(Sums(single, without, got, parts.full))
    return {arm: Sums(*(np.sum(column, axis=0) for column in zip(*sums, strict=True))) for arm, sums in found.items()}


def shares(sums: Sequence[Sums], draws: int = DRAWS) -> Row:
    """The two shares with their intervals, and the mean gains in points per left-out model and query."""
    single, without, got, full = (np.concatenate(column) for column in zip(*sums, strict=True))
    rng = np.random.default_rng(0)
    sample = rng.integers(len(full), size=(draws, len(full)))
    row: Row = {}
    for name, zero in (("gain", single), ("added", without)):
        top, bottom = got - zero, full - zero
        row[f"{name}_full"] = float(bottom.mean())
        row[f"{name}_onboarded"] = float(top.mean())
        if bottom.sum() > 0:
            row[f"{name}_share"] = float(top.sum() / bottom.sum())
        tops, bottoms = top[sample].sum(axis=1), bottom[sample].sum(axis=1)
        if np.all(bottoms > 0):
            low, high = np.quantile(tops / bottoms, [0.025, 0.975]).tolist()
            row[f"{name}_low"], row[f"{name}_high"] = low, high
    return row


def measure(
    pools: Sequence[str] = POOLS, seeds: int = 3, router: str = "cluster", *, curve: bool = True, rules: bool = True
) -> Iterator[Row]:
    """One row per pool, rule and number of probes. Without `curve` and `rules`: 64 probes, random and the house's."""
    arms = [(rule, PROBES) for rule in (RULES if rules else ("random", "balanced"))]
    arms += [(rule, count) for rule in ("random", "balanced") for count in COUNTS if curve and count != PROBES]
    for pool in pools:
        outcomes = read(pool)
        sums: dict[tuple[str, int], list[Sums]] = {arm: [] for arm in arms}
        for seed in range(seeds):
            parts = fold(outcomes, router, seed)
            for arm, found in judged(parts, router, arms, seed).items():
                sums[arm].append(found)
        left_out = len(models_of(outcomes))
        for (rule, count), found_sums in sums.items():
            # The sums are over models: back to the mean per model and query.
            scaled = [Sums(*(column / left_out for column in one)) for one in found_sums]
            yield {"pool": pool, "router": router, "rule": rule, "probes": count, "models": left_out} | shares(scaled)


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    """Shares at 64 probes, averaged over the pools where there is anything to gain."""
    bar: dict[str, float] = {}
    for rule, suffix in (("balanced", ""), ("random", "_random")):
        same = [row for row in rows if row["rule"] == rule and row["probes"] == PROBES]
        if not same:
            continue
        for name, key in (("gain", "onboarding_share_64"), ("added", "onboarding_added_share_64")):
            bottom, top = (fmean(row[f"{name}_{part}"] for row in same) for part in ("full", "onboarded"))
            bar[f"{key}{suffix}"] = top / bottom
            known = [row[f"{name}_share"] for row in same if f"{name}_share" in row]
            if known:
                bar[f"{key}_mean_of_pools{suffix}"] = fmean(known)
    return bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pools", nargs="*", default=POOLS, help=f"among {', '.join(POOLS)}; all if left out")
    parser.add_argument("--seeds", type=int, default=3, help="splits to average over")
    parser.add_argument("--router", default="cluster", help="the router that takes the new model in")
    parser.add_argument("--plain", action="store_true", help="the house's rule and random probes only, no curve")
    arguments = parser.parse_args()
    if not shared_folder().is_dir():
        print(f"skipped: there is no {shared_folder()}; set TOKAMAK_SHARED_DATA to the folder of the multi-LLM logs")
        sys.exit(0)
    rows = []
    table = Table(box=None, header_style="bold")
    for heading in ("pool", "rule", "probes", "gain share", "added share", "fully trained gain", "added"):
        table.add_column(heading)
    for row in measure(arguments.pools, arguments.seeds, arguments.router, curve=not arguments.plain,
                       rules=not arguments.plain):  # fmt: skip
        rows.append(row)
        told = [_told(row, name) for name in ("gain", "added")]
        points = [f"{100 * row[f'{name}_full']:+.2f}" for name in ("gain", "added")]
        table.add_row(row["pool"], row["rule"], str(row["probes"]), *told, *points)
        print(row["pool"], row["rule"], row["probes"], *told, *points, file=sys.stderr, flush=True)
    Console().print(table)
    name = "onboarding" if arguments.router == "cluster" else f"onboarding_{arguments.router}"
    write_result(name, " ".join(["python -m benchmarks.onboarding", *sys.argv[1:]]), rows, bar_of(rows))


def _told(row: Row, name: str) -> str:
    if f"{name}_share" not in row:
        return "nothing to gain"
    ends = f" [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]" if f"{name}_low" in row else ""
    return f"{row[f'{name}_share']:.2f}{ends}"


if __name__ == "__main__":
    main()
