"""`make bench-templates-live`: thought templates end to end over HTTP, on models that can follow them.

    python -m benchmarks.templates_live [--router NAME] [--quick]

A model that knows a book of codes answers through the gateway, `tokamak templates build` makes templates of its right
answers, and a model that knows a quarter of the codes is asked the same held-out questions without templates, with
random ones, with those that are retrieved, and as a trained router decides. Sorting stands beside it, which that model
does better without. Secrets of eight tenants are then sought through templates of others. `--quick` asks fewer
questions and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.result_file import Figure, write_result
from demo.run import DEFAULT_FOLDER, Exit
from demo.stack import stop_children_when_terminated
from demo.thought import report
from demo.thought.experiment import Plan
from demo.thought.show import ROUTER, SHORT, proved
from encoders.catalogue import load_encoder
from offline.templates.probe_isolation import cross_tenant_hits

NOTES = {
    "units": "accuracy, shown and differences are shares in [0, 1]; live_uplift in percentage points",
    "live_uplift": "accuracy where the router decides minus accuracy without templates, on all questions, paired",
    "minus_without": "paired difference to the same questions without templates; _lo and _hi: 95 % bootstrap interval",
    "prices": "invented, in proportion to the size of the models",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the result file, and return the demo's exit code; nothing is written if the run broke off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--router", default=ROUTER)
    parser.add_argument("--quick", action="store_true", help="fewer questions; writes no result")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args(arguments)
    console = Console(width=120)
    stop_children_when_terminated()
    try:
        findings = proved(SHORT if options.quick else Plan(), options.router, options.out, console)
    except (RuntimeError, ValueError) as error:
        console.print(f"The benchmark could not be completed: {error}", markup=False)
        return Exit.FAILED
    with tempfile.TemporaryDirectory() as folder:
        probe = cross_tenant_hits(Path(folder), load_encoder("static"))
    rows: list[dict[str, Any]] = report.rows(findings)
    rows += [row | {"what": "worth"} for row in report.worth_rows(findings)]
    rows += [{"what": "template", "query": one.query, "text": one.text} for one in report.shown_examples(findings)]
    rows += [{"what": "run", **report.run_figures(findings)}, {"what": "isolation", **msgspec.to_builtins(probe)}]
    bar: dict[str, Figure] = {**report.figures(findings), "cross_tenant_hits": probe.cross_tenant_hits}
    if not options.quick:
        command = f"python -m benchmarks.templates_live --router {options.router}"
        console.print(f"Written: {write_result('templates_live', command, rows, bar, notes=NOTES)}", highlight=False)
    return Exit.HELPED if report.uplift(findings).low > 0 else Exit.DID_NOT_HELP


if __name__ == "__main__":
    sys.exit(main())
