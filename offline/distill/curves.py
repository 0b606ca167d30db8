"""The picture of a distillation: how the losses of its runs fell. Needs matplotlib (the extra `distill`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from offline.distill.training import read_curve
from registry.atomic_files import place_file

SMOOTHED = 0.05
"""Share of a curve's steps that one point is the mean of."""


def draw(runs: Mapping[str, Path], png: Path) -> bool:
    """Draw the curves of these runs (name to folder) side by side into `png`: CLM on the left, the fused loss on the
    right, in nats per token. False, and nothing is drawn, if no run has a curve yet."""
    curves = {name: list(read_curve(folder)) for name, folder in runs.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, points in curves.items():
        steps = [point.step for point in points]
        left.plot(steps, smoothed([point.clm for point in points]), label=name, linewidth=1.5)
        if any(point.fused > 0.0 for point in points):
            right.plot(steps, smoothed([point.fused for point in points]), label=name, linewidth=1.5)
    for axes, title in ((left, "next token of the reply (CLM)"), (right, "against the sources (fused)")):
        axes.set(title=title, xlabel="step", ylabel="nats per token")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    place_file(png, content.getvalue())
    return True


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value as the mean of those around it."""
    reach = int(SMOOTHED * len(values) / 2)
    return [
        sum(values[max(at - reach, 0) : at + reach + 1]) / len(values[max(at - reach, 0) : at + reach + 1])
        for at in range(len(values))
    ]
