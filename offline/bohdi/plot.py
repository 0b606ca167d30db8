"""A picture of a tree: its domains with their posteriors, where the questions went, resets, and cost. Needs matplotlib.

Made from a status alone, and the same bytes for the same status, as far as matplotlib is the same.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from registry.bohdi_status import NodeStatus, RoundStatus, TreeStatus

MOST_ROWS: Final = 60
"""Domains that are shown as rows, at most; the deepest levels of a larger tree are left out."""
MOST_COLOURS: Final = 9
"""Main domains that get a colour of their own; the others share one."""
OTHERS: Final = "others"
FORMATS: Final = (".svg", ".png")
_FONTS: Final = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Arial Unicode MS")
_CHARS: Final = 34
_GREY, _RED, _BLUE = "#8a8a8a", "#b2182b", "#2166ac"


class PlotUnavailable(RuntimeError):
    """The picture cannot be made. The message says what is missing."""


def plot(status: TreeStatus, path: Path) -> None:
    """Write the picture as an SVG or PNG file, by the name's ending. Raises PlotUnavailable."""
    if path.suffix not in FORMATS:
        raise PlotUnavailable(f"a picture is named *{' or *'.join(FORMATS)}, not {path.name!r}")
    try:
        import matplotlib as mpl
        from matplotlib import font_manager
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotUnavailable("the picture needs matplotlib: pip install 'tokamak[learn]'") from error
    there = {font.name for font in font_manager.fontManager.ttflist}
    style = {
        "font.family": [name for name in _FONTS if name in there],
        "font.size": 8.0,
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "tokamak",
    }
    rows = _rows(status)
    with mpl.rc_context(style):
        figure = Figure(figsize=(13.0, max(5.5, 1.6 + 0.21 * len(rows))), layout="constrained")
        FigureCanvasAgg(figure)
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.45, 1.0))
        left, right = halves
        tree_axes, posterior_axes = left.subplots(1, 2, sharey=True, width_ratios=(2.2, 1.0))
        allocation, reward, cost = right.subplots(3, 1, sharex=True)
        _tree(tree_axes, status, rows)
        _posteriors(posterior_axes, rows)
        _allocation(allocation, status)
        _rewards(reward, status)
        _costs(cost, status)
        figure.suptitle(
            f"{status.tree}: what {status.target} ({status.target_version}) lacks - {status.contests:,} contests, "
            f"{len(status.rounds)} rounds, {len(status.resets)} resets"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        dated = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with warnings.catch_warnings():
            # What no font here has shows as boxes in a PNG file; in SVG it is text, which the reader's fonts show.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(path, dpi=110, metadata=dated)


def _rows(status: TreeStatus) -> list[NodeStatus]:
    """The domains that are rows, in the tree's order: the deepest level that fits, and what ends above it."""
    active = [node for node in status.nodes if node.status == "active"]
    for deepest in range(status.levels, 0, -1):
        shown = [node for node in active if node.level <= deepest]
        parents = {node.parent for node in shown}
        rows = [node for node in shown if node.id not in parents]
        if len(rows) <= MOST_ROWS:
            break
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda node: -node.asked)[:MOST_ROWS]
    return sorted(rows, key=lambda node: node.path)


def _tree(axes: Any, status: TreeStatus, rows: Sequence[NodeStatus]) -> None:
    known = {node.id: node for node in status.nodes}
    height: dict[str, float] = {}
    below: dict[str, list[str]] = {}
    for place, row in enumerate(rows):
        node, height[row.id] = row, float(-place)
        while node.parent in known:
            if node.id not in below.setdefault(node.parent, []):
                below[node.parent].append(node.id)
            node = known[node.parent]
    for parent in sorted(below, key=lambda id_: -known[id_].level):
        height[parent] = sum(height[child] for child in below[parent]) / len(below[parent])
    most = max((known[id_].asked for id_ in height), default=1) or 1
    for id_, y in height.items():
        node = known[id_]
        if node.parent in height:
            axes.plot([node.level - 1, node.level], [height[node.parent], y], color="#cccccc", linewidth=0.7, zorder=1)
        size = 14.0 + 110.0 * node.asked / most
        dots = axes.scatter(
            [node.level], [y], s=size, c=[node.mean], cmap="RdYlBu_r", vmin=0.0, vmax=1.0, edgecolors="#555555",
            linewidths=0.4, zorder=2,
        )  # fmt: skip
        mark = f" *{node.resets}" if node.resets else ""
        axes.annotate(
            _short(node.name) + mark, (node.level, y), (5, 0 if id_ not in below else 7), textcoords="offset points",
            va="center", fontsize=7, zorder=3,
        )  # fmt: skip
    if height:
        bar = axes.figure.colorbar(dots, ax=axes, location="bottom", shrink=0.6, pad=0.02)
        bar.set_label("P(a source beats the target); size: questions asked; *n: resets")
    axes.set_xlim(0.8, status.levels + 0.95)
    axes.set_ylim(-max(len(rows), 1) + 0.3, 0.9)
    axes.set_axis_off()


def _posteriors(axes: Any, rows: Sequence[NodeStatus]) -> None:
    for place, row in enumerate(rows):
        axes.plot([row.low, row.high], [-place, -place], color=_GREY, linewidth=1.2)
        axes.plot([row.mean], [-place], "o", color=_RED if row.low > 0.5 else _BLUE, markersize=3.5)
        axes.annotate(f"{row.asked}", (1.02, -place), fontsize=6, va="center", annotation_clip=False)
    axes.set_xlim(0.0, 1.0)
    axes.set_yticks([])
    axes.axvline(0.5, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_xlabel("90 % interval, questions")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def _allocation(axes: Any, status: TreeStatus) -> None:
    """Where the contests of each round went, by main domain."""
    names = {node.id: node.name for node in status.nodes if node.level == 1}
    totals: Counter[str] = Counter()
    for one in status.rounds:
        totals.update(one.allocation)
    own = [id_ for id_, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:MOST_COLOURS]]
    numbers = [one.number for one in status.rounds]
    base = [0.0] * len(numbers)
    for place, id_ in enumerate([*own, OTHERS]):
        shares = [_share(one, id_, own) for one in status.rounds]
        if any(shares):
            label = _short(names.get(id_, OTHERS))
            colour = f"C{place}" if id_ != OTHERS else "#cccccc"
            axes.bar(numbers, shares, bottom=base, width=0.9, label=label, color=colour)
            base = [low + high for low, high in zip(base, shares, strict=True)]
    if any(base):
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.set_ylabel("share of contests")
    axes.set_ylim(0.0, 1.0)
    _versions(axes, status)


def _share(one: RoundStatus, id_: str, own: Sequence[str]) -> float:
    count = (
        one.allocation.get(id_, 0)
        if id_ != OTHERS
        else sum(one.allocation.values()) - sum(one.allocation.get(known, 0) for known in own)
    )
    return count / max(one.contests, 1)


def _rewards(axes: Any, status: TreeStatus) -> None:
    """The mean reward of each round, with the resets after it."""
    held = [one for one in status.rounds if one.reward is not None]
    axes.plot([one.number for one in held], [one.reward for one in held], "o-", color=_BLUE, markersize=3)
    resets = Counter(reset.round for reset in status.resets)
    for number, count in sorted(resets.items()):
        axes.annotate(
            f"{count}", (number, 1.0), ha="center", va="top", fontsize=7, color=_RED,
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": _RED, "lw": 0.7},
        )  # fmt: skip
    axes.set_ylabel("mean reward (circles: resets)")
    axes.set_ylim(0.0, 1.05)
    _versions(axes, status)


def _costs(axes: Any, status: TreeStatus) -> None:
    """What the rounds cost together, and how many contests they held."""
    numbers = [one.number for one in status.rounds]
    spent, contests, sums, counts = 0.0, 0, [], []
    for one in status.rounds:
        spent += one.cost_usd or 0.0
        contests += one.contests
        sums.append(spent)
        counts.append(contests)
    axes.step(numbers, counts, where="mid", color=_GREY)
    axes.set_ylabel("contests", color=_GREY)
    axes.set_xlabel("round (dashed: the target was trained after it)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    priced = axes.twinx()
    priced.step(numbers, sums, where="mid", color=_RED, linestyle="--")
    priced.set_ylabel("USD" if not status.unpriced_rounds else "USD of the priced rounds", color=_RED)
    priced.set_ylim(bottom=0.0)
    axes.set_ylim(bottom=0.0)
    _versions(axes, status)


def _versions(axes: Any, status: TreeStatus) -> None:
    for number, _ in status.versions:
        axes.axvline(number + 0.5, color=_GREY, linewidth=0.8, linestyle="--")


def _short(name: str) -> str:
    return name if len(name) <= _CHARS else f"{name[: _CHARS - 1]}…"
