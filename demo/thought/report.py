"""What the proof found: a table for the terminal, rows for a file, and the figures the project is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from demo.comparison import F64
from demo.thought.experiment import KINDS, WAYS, Measured, Way, kind_of
from demo.thought.run import Findings
from offline.paired_bootstrap import intervals
from offline.routing.metrics import Interval

ALL, CODES = "all", "all codes"
HARM = "sorting"
LABELS = {"codes it does not know": "new codes", "codes it knows": "known codes"}
EXAMPLES = 3


class Line(NamedTuple):
    """One way of answering one kind of question. `minus` is its paired difference to `without`, with its interval."""

    kind: str
    way: Way
    questions: int
    accuracy: float
    minus: Interval | None
    shown: float
    usd_per_1k: float


def lines(findings: Findings) -> list[Line]:
    """Every kind of question and every way, and both taken together."""
    kinds = np.array([kind_of(asked) for asked in findings.questions])
    members: dict[str, NDArray[np.bool_]] = {kind: kinds == kind for kind in KINDS}
    masks: dict[str, NDArray[np.bool_]] = {**members, CODES: kinds != HARM, ALL: np.ones(len(kinds), dtype=bool)}
    return [
        _line(kind, row, mask, findings.row("without"))
        for kind, mask in masks.items()
        if mask.any()
        for row in (findings.row(way) for way in WAYS)
    ]


def _line(kind: str, row: Measured, mask: Any, without: Measured) -> Line:
    minus = None if row is without else difference(row.scores[mask], without.scores[mask])
    cost = 1000 * float(row.costs[mask].mean())
    return Line(
        kind, row.way, int(mask.sum()), float(row.scores[mask].mean()), minus, float(row.shown[mask].mean()), cost
    )


def difference(scores: F64, others: F64) -> Interval:
    """The mean of the paired differences of [n] scores, with its 95 % bootstrap interval."""
    gains = (scores - others)[:, None]
    return intervals(gains, np.ones_like(gains))[0]


def table(findings: Findings) -> Table:
    """One line for each kind of question and way of asking."""
    made = Table(
        title=f"{len(findings.questions):,} held-out questions, each asked in every way", box=None, header_style="bold"
    )
    for heading in ("questions", "templates"):
        made.add_column(heading, no_wrap=True)
    for heading in ("right", "minus without (95 %)", "shown", "USD/1k"):
        made.add_column(heading, justify="right", no_wrap=True)
    for line in lines(findings):
        asked = f"{line.questions} {LABELS.get(line.kind, line.kind)}" if line.way == WAYS[0] else ""
        made.add_row(
            asked, line.way, f"{100 * line.accuracy:.1f}", points(line.minus), f"{100 * line.shown:.0f}",
            f"{line.usd_per_1k:.4f}", end_section=line.way == WAYS[-1],
        )  # fmt: skip
    made.caption = "right, shown and differences in percent; the follower does not know the new codes"
    return made


def points(found: Interval | None) -> str:
    """A difference in percentage points."""
    if found is None:
        return ""
    mean, low, high = (100 * value for value in found)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def summary(findings: Findings) -> str:
    """The sentences below the table."""
    harmful = [row["id"] for row in findings.worth["templates"] if row["quarantined"]]
    about = {template.id: template.task or template.query for template in findings.templates}
    gone = "; ".join(about.get(id_, id_) for id_ in harmful) or "none"
    harm = harm_avoided(findings)
    examples = [f"  {template.query}\n    {template.text}" for template in shown_examples(findings)]
    return "\n".join((
        f"The sage was asked {findings.sage_asked} questions and was right {findings.sage_right} times; "
        f"{len(findings.templates)} templates were built of its answers.",
        f"{findings.router} learned from {findings.explored} questions, with a template or without by chance.",
        f"Uplift where the router decides: {points(uplift(findings))} points.",
        f"On sorting templates change {points(harm[0])} points; where the router decides, {points(harm[1])}.",
        f"Put in quarantine for what the log says of them, templates made for: {gone}",
        "Templates:", *examples,
        "Seconds: " + ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in findings.seconds.items()) + ".",
    ))  # fmt: skip


def shown_examples(findings: Findings) -> Sequence[Any]:
    """A few of the templates, one for sorting among them if there is one."""
    sorting = [template for template in findings.templates if template.query.lower().find("sort") >= 0]
    others = [template for template in findings.templates if template not in sorting]
    return [*others[: EXAMPLES - 1], *sorting[:1]]


def uplift(findings: Findings) -> Interval:
    """Accuracy on all questions where the router decides, minus that without templates."""
    return difference(findings.row("routed").scores, findings.row("without").scores)


def harm_avoided(findings: Findings) -> tuple[Interval, Interval]:
    """On sorting: retrieved minus without, and routed minus without."""
    mask = np.array([kind_of(asked) == HARM for asked in findings.questions])
    without = findings.row("without").scores[mask]
    retrieved, routed = (findings.row(way).scores[mask] for way in ("retrieved", "routed"))
    return difference(retrieved, without), difference(routed, without)


def rows(findings: Findings) -> list[dict[str, Any]]:
    """The table as mappings; shares in [0, 1]."""
    made = []
    for line in lines(findings):
        row: dict[str, Any] = {
            "questions": line.kind, "templates": line.way, "n": line.questions, "accuracy": round(line.accuracy, 4),
            "shown": round(line.shown, 4), "usd_per_1k": round(line.usd_per_1k, 6),
        }  # fmt: skip
        if line.minus is not None:
            names = ("minus_without", "minus_without_lo", "minus_without_hi")
            row |= {name: round(value, 4) for name, value in zip(names, line.minus, strict=True)}
        made.append(row)
    return made


def figures(findings: Findings) -> dict[str, float]:
    """Figures in percentage points: the uplift on all questions, and what becomes of sorting."""
    mean, low, _ = uplift(findings)
    always, routed = harm_avoided(findings)
    found = {
        "live_uplift_points": mean, "live_uplift_lo": low, "sorting_always_shown_points": always.mean,
        "sorting_routed_points": routed.mean,
    }  # fmt: skip
    return {name: round(100 * value, 2) for name, value in found.items()}


def run_figures(findings: Findings) -> dict[str, Any]:
    """What was asked and built, by whom, and how long it took."""
    built = {name: findings.built[name] for name in ("built", "rejected", "failed")}
    return {
        "sage_asked": findings.sage_asked, "sage_right": findings.sage_right, "explored": findings.explored,
        "templates": len(findings.templates), "build": built, "router": findings.router,
        "seconds": findings.seconds,
    }  # fmt: skip


def worth_rows(findings: Findings) -> list[dict[str, Any]]:
    """What the log says of each template and of the arm as a whole, as `tokamak templates worth` measures it."""
    made = []
    about = {template.id: template.query for template in findings.templates}
    for row in findings.worth["templates"]:
        made.append(
            {"template_for": about.get(row["id"], row["id"]), "quarantined": row["quarantined"], **row["worth"]}
        )
    for row in findings.worth["arms"]:
        made.append({"arm": row["name"], **{key: row[key] for key in ("shown", "control", "uplift", "low", "high")}})
    return made
