"""What the demo found, as a table for the terminal and as rows for a file."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from demo.comparison import Interval, interval
from demo.experiment import BEST, Findings, Measured

STYLES = {"before": "yellow", "after": "bold green", "random": "dim", "oracle": "cyan", "model": ""}
MOST_USED = 3


def table(findings: Findings) -> Table:
    """One line for each way of answering the test queries."""
    made = Table(title=f"{findings.workload}: {len(findings.rows[0].scores):,} test queries, never learned from")
    made.add_column("who answers", no_wrap=True)
    for heading in ("right %", "95 %", "USD/1k", "cost x"):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in findings.rows:
        _, low, high = interval(row.scores)
        made.add_row(
            row.name + (" *" if row is findings.best_single else ""),
            f"{100 * row.accuracy:.1f}",
            f"{100 * low:.1f} - {100 * high:.1f}",
            "unknown" if row.cost_per_1k is None else f"{row.cost_per_1k:.4f}",
            _ratio(row, findings.best_single),
            style=STYLES[row.kind],
        )
    made.caption = "* best single model, in hindsight; its cost is 1.00 x"
    return made


def summary(findings: Findings) -> str:
    """The sentences below the table."""
    verdict = findings.verdict()
    spent = findings.exploration_usd
    bill = "" if spent is None else f", which cost {spent:.3g} USD at list prices"
    lines = [
        *(f"{row.name}: {_arms(row)}." for row in findings.rows if row.kind in ("before", "after")),
        f"Learned from {findings.explored:,} scored answers to {findings.train_queries:,} other queries{bill}; "
        f"router {findings.trained_router}.",
        f"Learning {'helped' if verdict.helped else 'did not help'} ({BEST}): {verdict.reason}.",
        f"After minus the best single model: {points(findings.after_minus_best_single())}.",
        findings.note,
        "Seconds: " + ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in findings.seconds.items()) + ".",
    ]
    return "\n".join(lines)


def points(found: Interval) -> str:
    """An interval of differences in accuracy, in percentage points."""
    mean, low, high = (100 * value for value in found)
    return f"{mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def rows(findings: Findings) -> list[dict[str, Any]]:
    """The table as mappings, one for each row; a cost that is not known is left out."""
    made = []
    for row in findings.rows:
        mean, low, high = interval(row.scores)
        entry: dict[str, Any] = {
            "workload": findings.workload, "name": row.name, "kind": row.kind, "test_queries": len(row.scores),
            "accuracy": round(mean, 4), "accuracy_lo": round(low, 4), "accuracy_hi": round(high, 4),
        }  # fmt: skip
        if row.cost_per_1k is not None:
            entry["usd_per_1k"] = round(row.cost_per_1k, 6)
        if row.answered_by:
            entry["answered_by"] = dict(row.answered_by.most_common())
        made.append(entry)
    return made


def figures(findings: Findings, prefix: str) -> dict[str, float]:
    """The figures the project is judged by, under `<prefix>_*`; what was not measured is absent."""
    best, after = findings.best_single, findings.row("after", BEST)
    found = {
        "best_single": best.accuracy,
        "random": next(row.accuracy for row in findings.rows if row.kind == "random"),
        "before": findings.row("before", BEST).accuracy,
        "after": after.accuracy,
        "oracle": findings.row("oracle").accuracy,
        "after_minus_before_lo": findings.after_minus_before().low,
        "after_minus_best_single_lo": findings.after_minus_best_single().low,
    }
    if best.cost_per_1k and after.cost_per_1k is not None:
        found["cost_x_best_single"] = after.cost_per_1k / best.cost_per_1k
    return {f"{prefix}_{name}": round(value, 4) for name, value in found.items()}


def _ratio(row: Measured, best: Measured) -> str:
    if row.cost_per_1k is None or not best.cost_per_1k:
        return ""
    return f"{row.cost_per_1k / best.cost_per_1k:.2f}"


def _arms(row: Measured) -> str:
    total = row.answered_by.total()
    return ", ".join(f"{arm} {100 * count / total:.0f} %" for arm, count in row.answered_by.most_common(MOST_USED))
