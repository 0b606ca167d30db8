"""The demo's plot: cost on x, accuracy on y. Needs matplotlib (the extra `learn`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo.experiment import Findings, Kind, Measured

STYLES: dict[Kind, tuple[str, str, int]] = {
    "after": ("#1a8f3c", "*", 220),
    "before": ("#d98c00", "s", 70),
    "oracle": ("#1f6fb2", "^", 80),
    "random": ("#444444", "X", 70),
    "model": ("#888888", "o", 45),
}
"""Colour, marker and size of each kind, in the order in which they choose the places of their labels."""
PLACES = tuple((side * 8, height) for height in (0, 10, -10, 20, -20, 30, -30) for side in (1, -1))
"""Offsets of a label from its point, in points; the first where it covers no other label or point is taken."""


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
    known = [(row, row.cost_per_1k) for kind in STYLES for row in findings.rows if row.kind == kind if row.cost_per_1k]
    if not known:
        raise PlotUnavailable("no cost is known, so there is nothing to plot accuracy against")
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for row, cost in known:
        colour, marker, size = STYLES[row.kind]
        axes.scatter(cost, 100 * row.accuracy, s=size, c=colour, marker=marker, zorder=3)
    axes.axhline(100 * findings.best_single.accuracy, color="#bbbbbb", linewidth=0.8, linestyle="--", zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("cost in USD per 1,000 queries (list prices, log scale)")
    axes.set_ylabel("accuracy in %")
    axes.set_title(f"{findings.workload}: {len(findings.rows[0].scores):,} test queries (dashed: best single model)")
    axes.grid(alpha=0.25)
    axes.margins(x=0.08, y=0.12)
    _label(figure, axes, known)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _label(figure: Any, axes: Any, known: list[tuple[Measured, float]]) -> None:
    """Name every point, where the name covers no other name and no point, if there is such a place."""
    figure.canvas.draw()
    renderer, area = figure.canvas.get_renderer(), axes.get_window_extent()
    points = [axes.transData.transform((cost, 100 * row.accuracy)) for row, cost in known]
    taken: list[Any] = []
    for row, cost in known:
        weight = "bold" if row.kind == "after" else "normal"
        label = axes.annotate(
            row.name, (cost, 100 * row.accuracy), PLACES[0], textcoords="offset points", va="center",
            fontsize=8, color=STYLES[row.kind][0], fontweight=weight, zorder=4,
        )  # fmt: skip
        for place in PLACES:
            label.set_position(place)
            label.set_ha("left" if place[0] > 0 else "right")
            box = label.get_window_extent(renderer)
            inside = area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1
            if inside and not box.count_overlaps(taken) and not any(box.contains(*point) for point in points):
                break
        taken.append(label.get_window_extent(renderer))
