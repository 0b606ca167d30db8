"""The table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.routing_lab.summary import Row

HEADINGS = (
    "pool", "split", "router", "score", "gain, points", "over published", "gap closed", "USD/1k", "AIQ", "balanced",
    "cost first", "APGR", "ECE", "fit s", "us",
)  # fmt: skip


def printed(rows: Sequence[Row]) -> None:
    """Print every row of a contender."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        if "split" in row:
            table.add_row(*(row["pool"], row["split"], row["router"]), *_figures(row))
    Console(width=190).print(table)


def _figures(row: Row) -> list[str]:
    if "score" not in row:
        return [row.get("failed", "")]
    return [
        number(row, "score", ".4f"),
        interval(row, "gain_best_single"),
        interval(row, "gain_best_published"),
        number(row, "gap_closed", ".1%"),
        number(row, "usd_per_1000", ".3f"),
        number(row, "aiq", ".4f"),
        number(row, "reward_balanced", ".4f"),
        number(row, "reward_cost", ".4f"),
        number(row, "apgr", ".3f"),
        number(row, "ece", ".3f"),
        number(row, "fit_s", ".2f"),
        number(row, "predict_us", ".0f"),
    ]


def number(row: Row, name: str, form: str) -> str:
    """A figure of the row, or nothing where it does not apply."""
    return format(row[name], form) if name in row else ""


def interval(row: Row, name: str) -> str:
    """A gain in points with its interval, or nothing."""
    if name not in row:
        return ""
    return f"{100 * row[name]:+.2f} [{100 * row[name + '_lo']:+.2f}, {100 * row[name + '_hi']:+.2f}]"
