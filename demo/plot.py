"""The demo's plot: cost on x, accuracy on y. Needs matplotlib (the extra `learn`)."""

from __future__ import annotations

import math
from pathlib import Path

from demo.experiment import Findings, Measured

COLOURS = {"model": "#888888", "random": "#444444", "before": "#d98c00", "after": "#1a8f3c", "oracle": "#1f6fb2"}
MARKERS = {"model": "o", "random": "X", "before": "s", "after": "*", "oracle": "^"}
SIZES = {"model": 45, "random": 70, "before": 70, "after": 220, "oracle": 80}


class PlotUnavailable(RuntimeError):
    """matplotlib is not installed, or no cost is known. The message says which."""


def draw(findings: Findings, path: Path) -> None:
    """Write the plot as a PNG file. Raises PlotUnavailable."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise PlotUnavailable("the plot needs matplotlib: pip install 'tokamak[learn]'") from error
    known = [(row, row.cost_per_1k) for row in findings.rows if row.cost_per_1k]
    if not known:
        raise PlotUnavailable("no cost is known, so there is nothing to plot accuracy against")
    costs = [cost for _, cost in known]
    edge = math.sqrt(min(costs) * max(costs))
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for row, cost in known:
        size, colour, marker = SIZES[row.kind], COLOURS[row.kind], MARKERS[row.kind]
        axes.scatter(cost, 100 * row.accuracy, s=size, c=colour, marker=marker, zorder=3)
        weight = "bold" if row.kind == "after" else "normal"
        right = cost > edge
        axes.annotate(
            row.name, (cost, 100 * row.accuracy), _offset(row, right), textcoords="offset points",
            ha="right" if right else "left", fontsize=8, color=colour, fontweight=weight,
        )  # fmt: skip
    axes.axhline(100 * findings.best_single.accuracy, color="#bbbbbb", linewidth=0.8, linestyle="--", zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("cost in USD per 1,000 queries (list prices, log scale)")
    axes.set_ylabel("accuracy in %")
    axes.set_title(f"{findings.workload}: {len(findings.rows[0].scores):,} test queries (dashed: best single model)")
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _offset(row: Measured, right: bool) -> tuple[float, float]:
    """Where the label stands: names of models below their point, everything else above it, towards the middle."""
    return (-6 if right else 6, -10 if row.kind == "model" else 6)
