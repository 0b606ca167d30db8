"""`make bench-demo`: the demo on both fleets, written as `benchmarks/results/demo.json`.

python -m benchmarks.demo [--fleet replay|models|all] [--pool NAME]

With only one fleet asked for, only its figures are in the file. Exits like `tokamak demo`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.result_file import Figure, write_result
from demo import report
from demo.run import DEFAULT_FOLDER, DEFAULT_POOL, Exit, Fleet, run_scenario, scenarios
from demo.stack import stop_children_when_terminated

PREFIXES = {"models": "fleet"}
"""Prefix of a scenario's figures; `replay` where none is given."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the result file, and return the demo's exit code; nothing is written if a run broke off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleet", choices=("replay", "models", "all"), default="all")
    parser.add_argument("--pool", default=DEFAULT_POOL)
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args(arguments)
    console = Console()
    stop_children_when_terminated()
    try:
        return measure(options.fleet, options.pool, options.out, console)
    except (RuntimeError, ValueError) as error:
        console.print(f"The benchmark could not be completed: {error}", markup=False)
        return Exit.FAILED


def measure(fleet: Fleet, pool: str, out_dir: Path, console: Console) -> int:
    """Run the scenarios of a fleet and write their figures. Raises what `demo.run.run_scenario` raises."""
    rows: list[dict[str, Any]] = []
    bar: dict[str, Figure] = {}
    codes = []
    for scenario in scenarios(fleet, pool, queries=None, asks=None):
        findings = run_scenario(scenario, "cluster", out_dir, console)
        prefix = PREFIXES.get(scenario.name, "replay")
        rows += report.rows(findings)
        bar |= report.figures(findings, prefix)
        if prefix == "replay":
            bar["replay_queries"] = findings.train_queries + len(findings.best_single.scores)
        codes.append(Exit.HELPED if findings.verdict().helped else Exit.DID_NOT_HELP)
    command = f"python -m benchmarks.demo --fleet {fleet} --pool {pool}"
    path = write_result("demo", command, rows, bar)
    console.print(f"Written: {path}", highlight=False)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
