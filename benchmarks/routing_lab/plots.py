"""One picture per pool: quality against cost where costs are known, and every router's gain with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing_lab.contenders import ORACLE, RANDOM, SINGLE, default_router
from benchmarks.routing_lab.kept import Cell
from benchmarks.routing_lab.splits import IN_DISTRIBUTION, KINDS
from benchmarks.routing_lab.summary import Row
from benchmarks.routing_lab.trial import Trial
from offline.routing.curves import hull, quality_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

F64 = NDArray[np.float64]
OURS, PUBLISHED, RULER, PLAIN = "#b2182b", "#2166ac", "#999999", "#404040"
TITLES: Final = {"in": "in distribution", "out": "out of distribution"}
STEPS = 200


def plotted(pool: str, rows: Sequence[Row], found: Mapping[Cell, Trial | str], folder: Path) -> Path | None:
    """Draw `<folder>/<pool>.png`; None if no contender has a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if "gain_best_single" in row]
    kinds = [kind for kind in KINDS if any(row["split"] == kind for row in rows)]
    trials = _trials(found)
    priced = any(len(trial.curve) for trial in trials.get(SINGLE, []))
    if not kinds:
        return None
    panels = len(kinds) + priced
    tallest = max(sum(row["split"] == kind for row in rows) for kind in kinds)
    figure = Figure(figsize=(4.4 * panels, 1.6 + 0.19 * max(tallest, 12)), dpi=64, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if priced:
        _curves(axes.pop(0), rows, trials)
    for kind, axis in zip(kinds, axes, strict=True):
        _gains(axis, [row for row in rows if row["split"] == kind], kind)
    figure.suptitle(pool)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{pool}.png"
    figure.savefig(path, metadata={"Software": None})
    return path


def _trials(found: Mapping[Cell, Trial | str]) -> dict[str, list[Trial]]:
    """The trials in distribution by contender."""
    by_name: dict[str, list[Trial]] = {}
    for cell, trial in found.items():
        if cell.kind == IN_DISTRIBUTION and not isinstance(trial, str):
            by_name.setdefault(cell.contender.name, []).append(trial)
    return by_name


def _curves(axis: Axes, rows: Sequence[Row], trials: Mapping[str, list[Trial]]) -> None:
    arms = np.mean([trial.curve for trial in trials[SINGLE]], axis=0)
    costs = np.linspace(arms[:, 0].min(), arms[:, 0].max(), STEPS)
    published = next((str(row["router"]) for row in rows if row.get("best_published") and row["split"] == "in"), "")
    lines = (
        (ORACLE, "oracle", RULER, ":"),
        (default_router(), f"ours ({default_router()})", OURS, "-"),
        (published, f"best published ({published})", PUBLISHED, "--"),
        (SINGLE, "zero router: mixtures of single models", PLAIN, "-."),
    )
    for name, label, colour, style in lines:
        if name in trials:
            axis.plot(1000 * costs, _mean_quality(trials[name], costs), style, color=colour, label=label)
    axis.plot(1000 * arms[:, 0], arms[:, 1], "o", color=PLAIN, markersize=4, label="single models")
    if published in trials:
        points = np.mean([trial.curve for trial in trials[published]], axis=0)
        axis.plot(1000 * points[:, 0], points[:, 1], "s", color=PUBLISHED, markersize=4)
    axis.set_xlabel("USD per 1,000 queries")
    axis.set_ylabel("score")
    axis.legend(fontsize=7, loc="lower right")
    axis.grid(alpha=0.3)


def _mean_quality(trials: Sequence[Trial], costs: F64) -> F64:
    curves = [hull(trial.curve[:, 0], trial.curve[:, 1]) for trial in trials]
    return np.asarray(np.mean([quality_at(curve, costs) for curve in curves], axis=0))


def _gains(axis: Axes, rows: Sequence[Row], kind: str) -> None:
    shown = [row for row in rows if row["router"] not in (RANDOM, ORACLE)]
    shown.sort(key=lambda row: row["gain_best_single"])
    for place, row in enumerate(shown):
        low, mean, high = (100 * row[f"gain_best_single{end}"] for end in ("_lo", "", "_hi"))
        colour = {"published": PUBLISHED, "ruler": RULER}.get(row["group"], PLAIN)
        colour = OURS if row["router"] == default_router() else colour
        axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, markersize=3, capsize=2)
    axis.axvline(0.0, color=PLAIN, linewidth=0.8)
    axis.set_yticks(range(len(shown)), [row["router"] for row in shown], fontsize=7)
    axis.set_xlabel(f"points over the best single model, {TITLES[kind]}", fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    lowest = min((100 * row["gain_best_single_lo"] for row in shown), default=0.0)
    if lowest < -12.0:
        # A baseline that loses thirty points would press all others into one line.
        axis.set_xscale("symlog", linthresh=4.0)
        axis.set_xticks([-30, -10, -4, -2, 0, 2, 4, 10], ["-30", "-10", "-4", "-2", "0", "2", "4", "10"], fontsize=7)
