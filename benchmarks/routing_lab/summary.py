"""From trials to the table: one row per pool, kind of split and contender, means over the seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing_lab.contenders import ORACLE, SINGLE, Contender, default_router
from benchmarks.routing_lab.kept import Cell
from benchmarks.routing_lab.pools import Pool
from benchmarks.routing_lab.trial import Trial
from offline.paired_bootstrap import RESAMPLES, intervals
from offline.routing.curves import gap_closed, hull, mean_over, quality_at
from offline.routing.metrics import Interval

Row = dict[str, Any]
F64 = NDArray[np.float64]
SHARES_OF_DEAREST = {"acc_at_33pct_cost": 0.33, "acc_at_7pct_cost": 0.07}
DIGITS = 6
"""Decimals of a figure in the rows: more than any interval can tell apart."""
AVERAGED = ("train_queries", "entropy", "ece", "fit_s", "predict_us", "bytes", "apgr", "cpt_50", "cpt_80")


@dataclass(frozen=True, slots=True)
class Standing:
    """What one contender's trials on one kind of split came to: by seed, and the reasons why some seeds have none."""

    contender: Contender
    trials: dict[int, Trial]
    failures: tuple[str, ...]


def rows_of(pool: Pool, found: Mapping[Cell, Trial | str], resamples: int = RESAMPLES) -> list[Row]:
    """The rows of a pool, in the order of the contenders; kinds of split that it does not allow have none."""
    rows: list[Row] = []
    for kind in dict.fromkeys(cell.kind for cell in found):
        standings = _standings({cell: trial for cell, trial in found.items() if cell.kind == kind})
        rows += _kind_rows(pool, kind, standings, resamples)
    return rows


def _standings(found: Mapping[Cell, Trial | str]) -> list[Standing]:
    by_name: dict[str, Standing] = {}
    for cell, trial in found.items():
        name = cell.contender.name
        before = by_name.get(name, Standing(cell.contender, {}, ()))
        if isinstance(trial, str):
            by_name[name] = Standing(before.contender, before.trials, (*before.failures, trial))
        else:
            by_name[name] = Standing(before.contender, {**before.trials, cell.seed: trial}, before.failures)
    return list(by_name.values())


def _kind_rows(pool: Pool, kind: str, standings: list[Standing], resamples: int) -> list[Row]:
    named = {standing.contender.name: standing for standing in standings}
    single, oracle = named[SINGLE], named[ORACLE]
    judged = [standing for standing in standings if standing.trials]
    for ruler in (single, oracle):
        if ruler.failures:
            raise RuntimeError(f"{pool.name} has no {ruler.contender.name} to compare with: {ruler.failures[0]}")
    published = best_of([each for each in judged if each.contender.group == "published"], single)
    other = best_of([each for each in judged if each.contender.group == "router" and not is_ours(each)], single)
    baselines = {"best_single": single}
    baselines |= {
        name: best for name, best in (("best_published", published), ("best_other", other)) if best is not None
    }
    gains = _gains(judged, baselines, resamples)
    rows = []
    for standing in standings:
        row: Row = {
            "pool": pool.name,
            "split": kind,
            "router": standing.contender.name,
            "group": standing.contender.group,
            "arms": len(pool.outcomes.arms),
            "seeds": len(standing.trials),
        }
        if standing.failures:
            row["failed"] = f"{len(standing.failures)} of {len(standing.failures) + len(standing.trials)} trials: "
            row["failed"] += standing.failures[0]
        if standing.trials:
            row |= _means(standing)
            row |= _against_rulers(standing, single, oracle)
            for name, baseline in baselines.items():
                interval = gains.get((standing.contender.name, baseline.contender.name))
                if interval is not None:
                    row |= {f"gain_{name}": interval.mean, f"gain_{name}_lo": interval.low}
                    row |= {f"gain_{name}_hi": interval.high}
        row = {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in row.items()}
        row |= {name: True for name, best in baselines.items() if best is standing and name != "best_single"}
        rows.append(row)
    return rows


def is_ours(standing: Standing) -> bool:
    return standing.contender.name == default_router()


def best_of(group: list[Standing], single: Standing) -> Standing | None:
    """The one of the highest mean gain over the best single arm in this very run.

    Choosing it by its results on test favours it, so what is claimed against it is claimed conservatively.
    """
    return max(group, key=lambda standing: _mean_gain(standing, single), default=None)


def _mean_gain(standing: Standing, baseline: Standing) -> float:
    shared = standing.trials.keys() & baseline.trials.keys()
    return fmean(float(standing.trials[s].scores[0].mean() - baseline.trials[s].scores[0].mean()) for s in shared)


def _gains(
    judged: list[Standing], baselines: Mapping[str, Standing], resamples: int
) -> dict[tuple[str, str], Interval]:
    """The gain of every contender over every baseline at preference 1, on the seeds that both have."""
    ids = {query for standing in judged for trial in standing.trials.values() for query in trial.query_ids}
    places = {query: place for place, query in enumerate(sorted(ids))}
    rows = {
        seed: np.array([places[query] for query in trial.query_ids], dtype=np.intp)
        for standing in judged
        for seed, trial in standing.trials.items()
    }
    pairs, sums, counts = [], [], []
    for standing in judged:
        for baseline in baselines.values():
            shared = standing.trials.keys() & baseline.trials.keys()
            if standing is baseline or not shared:
                continue
            total, count = np.zeros(len(places)), np.zeros(len(places))
            for seed in shared:
                total[rows[seed]] += standing.trials[seed].scores[0] - baseline.trials[seed].scores[0]
                count[rows[seed]] += 1.0
            pairs.append((standing.contender.name, baseline.contender.name))
            sums.append(total)
            counts.append(count)
    found = intervals(np.stack(sums, axis=1), np.stack(counts, axis=1), resamples) if pairs else []
    return dict(zip(pairs, found, strict=True))


def _means(standing: Standing) -> Row:
    """What stands in a trial by itself, averaged over the seeds."""
    trials = list(standing.trials.values())
    row: Row = {"test_queries": len({query for trial in trials for query in trial.query_ids})}
    for place, scenario in enumerate(trials[0].scenarios):
        end = "" if scenario == "performance" else f"_{scenario}"
        row[f"score{end}"] = fmean(float(trial.scores[place].mean()) for trial in trials)
        if np.all(np.isfinite(trials[0].costs)):
            row[f"usd_per_1000{end}"] = 1000 * fmean(float(trial.costs[place].mean()) for trial in trials)
        row[f"reward_{scenario}"] = fmean(float(trial.rewards[place].mean()) for trial in trials)
    for name in AVERAGED:
        known = [trial.figures[name] for trial in trials if name in trial.figures]
        if known:
            row[name] = fmean(known)
    return row


def _against_rulers(standing: Standing, single: Standing, oracle: Standing) -> Row:
    """What is read against the best single arm and the oracle of the same seeds."""
    seeds = [seed for seed in standing.trials if seed in single.trials and seed in oracle.trials]
    score, best, most = (
        fmean(float(each.trials[seed].scores[0].mean()) for seed in seeds) for each in (standing, single, oracle)
    )
    closed = gap_closed(score, best, most)
    row: Row = {"v_b": score / best} if best > 0 else {}
    if closed is not None:
        row["gap_closed"] = closed
    return row | _curve_figures(standing, single, seeds)


def _curve_figures(standing: Standing, single: Standing, seeds: list[int]) -> Row:
    """AIQ and quality at a price, on the interval of costs that the single arms of the same seed span."""
    figures: dict[str, list[float]] = {}
    for seed in seeds:
        points, arms = standing.trials[seed].curve, single.trials[seed].curve
        if not len(points) or not len(arms):
            return {}
        curve, low, high = hull(points[:, 0], points[:, 1]), float(arms[:, 0].min()), float(arms[:, 0].max())
        if low < high:
            figures.setdefault("aiq", []).append(mean_over(curve, low, high))
        for name, share in SHARES_OF_DEAREST.items():
            figures.setdefault(name, []).append(float(quality_at(curve, [share * high])[0]))
    return {name: fmean(values) for name, values in figures.items()}


def bar_of(rows: list[Row], ours: str) -> dict[str, float]:
    """The figures of the contract for one pool's rows, in units of score; `ood_` before what is out of distribution."""
    bar: dict[str, float] = {}
    for kind, before in (("in", ""), ("out", "ood_")):
        named = {row["router"]: row for row in rows if row.get("split") == kind and "score" in row}
        mine = named.get(ours)
        if mine is None:
            continue
        pool = mine["pool"]
        best_published_row = next((row for row in named.values() if row.get("best_published")), None)
        bar[f"{pool}.{before}best_single"] = named[SINGLE]["score"]
        bar[f"{pool}.{before}ours"] = mine["score"]
        bar[f"{pool}.{before}oracle"] = named[ORACLE]["score"]
        if best_published_row is not None:
            bar[f"{pool}.{before}best_published"] = best_published_row["score"]
        for key, source in (
            ("gap_closed", "gap_closed"),
            ("minus_best_single_lo", "gain_best_single_lo"),
            ("minus_best_published_lo", "gain_best_published_lo"),
            ("minus_best_other_lo", "gain_best_other_lo"),
            *((figure, figure) for figure in ("aiq", *SHARES_OF_DEAREST, "apgr")),
        ):
            if source in mine:
                bar[f"{pool}.{before}{key}"] = mine[source]
    return bar
