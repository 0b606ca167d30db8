"""Runs the proof for somebody who watches: bars, a table, the verdict."""

from __future__ import annotations

from pathlib import Path

import orjson
from rich.console import Console

from demo.run import Exit, ShownProgress, bars, first_error
from demo.thought import report
from demo.thought.experiment import Plan
from demo.thought.run import Findings, Proof

ROUTER = "ensemble"
"""The one that `tokamak train` takes if none is named."""
NAME = "templates"
SHORT = Plan(explore_per_code=8, explore_sorting=120, test_per_code=4, test_sorting=120)
"""What the demo asks: enough to see it, in some minutes."""


def proved(plan: Plan, router: str, out_dir: Path, console: Console) -> Findings:
    """Run the proof in `out_dir/templates`, print what it found and write `findings.json` there.

    Raises StackError or TrafficError.
    """
    folder = (out_dir / NAME).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console.print(
        f"[bold]{NAME}[/]: a model that knows {len(plan.codes)} codes, and one that can follow a template. "
        "Starting their server and two gateways ..."
    )
    with bars(console) as shown:
        try:
            findings = Proof(plan, folder, router, ShownProgress(shown)).run()
        except ExceptionGroup as group:
            raise first_error(group) from group
    console.print(report.table(findings))
    console.print(report.summary(findings), highlight=False)
    written = orjson.dumps(report.rows(findings), option=orjson.OPT_INDENT_2)
    (folder / "findings.json").write_bytes(written + b"\n")
    return findings


def run_templates(router: str, out_dir: Path, console: Console | None = None, plan: Plan = SHORT) -> int:
    """What `tokamak demo templates` does. Returns an `Exit` code: 0 only if the uplift is told from chance."""
    console = console or Console()
    try:
        findings = proved(plan, router, out_dir, console)
    except (RuntimeError, ValueError) as error:
        console.print(f"The demo could not be completed: {error}", markup=False, style="bold red")
        return Exit.FAILED
    return Exit.HELPED if report.uplift(findings).low > 0 else Exit.DID_NOT_HELP
