"""The picture of a run: where the questions went round by round, and what the pupil knew. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.bohdi.domains import PLACES, TAUGHT
from demo.bohdi.findings import Run
from demo.plot import PlotUnavailable

COLOURS = ("#4477aa", "#aaaaaa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#111111")


def draw(runs: Sequence[Run], path: Path) -> None:
    """Write a PNG with a column for each run: shares of questions above, accuracy below, resets as stars.

    Raises PlotUnavailable.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise PlotUnavailable("the picture needs matplotlib: pip install 'tokamak[learn]'") from error
    figure, axes = pyplot.subplots(
        2, len(runs), figsize=(1 + 4.2 * len(runs), 7), layout="constrained", sharex="col", sharey="row", squeeze=False
    )
    for column, run in enumerate(runs):
        _shares(axes[0][column], run)
        _accuracy(axes[1][column], run)
    axes[0][0].set_ylabel("share of the round's decided questions")
    axes[1][0].set_ylabel("accuracy on held-out questions")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _shares(axes: Any, run: Run) -> None:
    numbers = [seen.number for seen in run.rounds]
    totals = [max(sum(seen.found.asked.values()), 1) for seen in run.rounds]
    below = [0.0] * len(numbers)
    for colour, (family, place) in zip(COLOURS, PLACES.items(), strict=True):
        shares = [seen.found.asked.get(family, 0) / total for seen, total in zip(run.rounds, totals, strict=True)]
        axes.bar(numbers, shares, bottom=below, color=colour, width=0.9, label=place[1])
        below = [low + share for low, share in zip(below, shares, strict=True)]
    axes.set_title(f"{run.policy} (seed {run.seed})")
    axes.set_ylim(0, 1)


def _accuracy(axes: Any, run: Run) -> None:
    numbers = [0, *(seen.number for seen in run.rounds)]
    for colour, family in zip(COLOURS, PLACES, strict=True):
        if family not in TAUGHT:
            continue
        values = [run.before[family], *(seen.accuracy[family] for seen in run.rounds)]
        axes.plot(numbers, values, color=colour, marker=".")
        reborn = [seen.number for seen in run.rounds for reset in seen.found.resets if _is_leaf(reset.domain, family)]
        axes.scatter(reborn, [values[number] for number in reborn], marker="*", s=140, color=colour, zorder=3)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("round (stars: the drift test fired)")
    axes.grid(alpha=0.25)


def _is_leaf(domain: str, family: str) -> bool:
    return tuple(domain.split(" / ")) == PLACES[family]
