"""`make bench-bohdi-live`: the live proof of Bohdi with several seeds, written as `benchmarks/results/bohdi_live.json`.

python -m benchmarks.bohdi_live [--seeds 5] [--policies ours uniform published] [--out FOLDER]

Real models over HTTP, three policies, paired by seed. Runs that the folder holds, of the same plan, are not run again;
so several processes may share the seeds (`--only-runs`), and the last one writes the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import get_args

from rich.console import Console

from benchmarks.result_file import RESULTS, Figure, write_result
from demo.bohdi import report
from demo.bohdi.findings import Run
from demo.bohdi.policies import POLICIES, Plan, Policy
from demo.bohdi.show import all_runs, picture
from demo.run import DEFAULT_FOLDER

NOTES = {
    "worst": "accuracy of the worst family on held-out questions after the last round, in [0, 1]",
    "spread": "standard deviation of the accuracy over the families after the last round",
    "wasted_share": "share of the questions on products, which no source masters",
    "following": "correlation of where decided questions went with what the pupil lacked before it (1 - accuracy); "
    "dropped questions are not counted, and those are mostly of the domains that sources ask about badly",
    "questions": "contests with a reward, of 640 walks; all policies have the same walks and the same training steps",
    "processes": "in the recorded run, `published` ran in processes of its own: its sources were sampled anew",
    "resets_after_learning": "rebirths in domains of which the pupil had learned something: 20 points or more",
    "interval": "paired over seeds, Student's t, 95 %",
}


def figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """The figures of the bar that these runs allow."""
    found: dict[str, Figure] = {}
    measures = {"worst_family": report.worst, "mean": report.mean, "spread": report.spread}
    for other in POLICIES[1:]:
        for name, measure in measures.items():
            try:
                gain = report.paired(runs, "ours", other, measure)
            except ValueError:
                continue
            key = f"live_{name}_gain" if other == "uniform" else f"live_{name}_gain_vs_{other}"
            found |= {key: gain.mean, f"{key}_lo": gain.low, f"{key}_hi": gain.high, "live_seeds": gain.seeds}
    for policy in POLICIES:
        those = [run for run in runs if run.policy == policy]
        followed = [value for run in those if (value := report.following(run)) is not None]
        if those:
            found[f"live_worst_family_{policy}"] = fmean(run.worst for run in those)
            found[f"live_mean_{policy}"] = fmean(run.mean for run in those)
            found[f"live_wasted_share_{policy}"] = fmean(report.wasted(run) for run in those)
        if followed:
            found[f"live_following_{policy}"] = fmean(followed)
        reborn = [report.resets(run) for run in those]
        if sum(one.all for one in reborn):
            right = sum(one.after_learning for one in reborn)
            found[f"live_resets_after_learning_{policy}"] = right / sum(one.all for one in reborn)
            found[f"live_resets_{policy}"] = sum(one.all for one in reborn)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, write the result and the picture, and return 0; 1 if it could not be completed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--policies", nargs="+", choices=get_args(Policy), default=list(POLICIES))
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER / "bohdi-live")
    parser.add_argument("--only-runs", action="store_true", help="leave the runs in the folder and write no result")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        runs = all_runs(options.policies, options.seeds, Plan(), options.out, console)
    except (RuntimeError, ValueError, OSError) as error:
        console.print(f"The benchmark could not be completed: {error}", markup=False)
        return 1
    console.print(report.table(runs))
    if options.only_runs:
        return 0
    for sentence in report.sentences(runs):
        console.print(sentence, highlight=False)
    seeds = " ".join(map(str, options.seeds))
    command = f"python -m benchmarks.bohdi_live --seeds {seeds} --policies {' '.join(options.policies)}"
    path = write_result("bohdi_live", command, report.rows(runs), figures(runs), notes=NOTES)
    picture([run for run in runs if run.seed == options.seeds[0]], RESULTS / "bohdi_live.png", console)
    console.print(f"Written: {path}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
