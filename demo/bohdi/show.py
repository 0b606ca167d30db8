"""`tokamak demo bohdi`: serves the models, runs the policies, shows where the questions went and what it brought."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from demo.bohdi import report
from demo.bohdi.findings import Run
from demo.bohdi.policies import POLICIES, Plan, Policy
from demo.plot import PlotUnavailable
from demo.run import Exit

NAME = "bohdi"


class ModelsMissing(RuntimeError):
    """What the models of the live proof need is not installed. The message says what to do."""


def run_bohdi(
    out_dir: Path, console: Console | None = None, plan: Plan | None = None, policies: Sequence[Policy] = POLICIES
) -> int:
    """What `tokamak demo bohdi` does: each policy once, with one seed. Writes below `out_dir/bohdi`.

    Returns an `Exit` code: 0 only if the pupil learned under our policy and its questions followed what it lacked.
    """
    console, plan = console or Console(), plan or Plan()
    folder = (out_dir / NAME).absolute()
    try:
        runs = all_runs(policies, [1], plan, folder, console)
    except (RuntimeError, ValueError, OSError) as error:
        console.print(f"The demo could not be completed: {error}", markup=False, style="bold red")
        return Exit.FAILED
    console.print(report.table(runs))
    picture(runs, folder / "allocation.png", console)
    ours = next(run for run in runs if run.policy == "ours")
    followed, rise = report.following(ours), ours.mean - sum(ours.before.values()) / len(ours.before)
    said = "not known" if followed is None else f"{followed:.2f}"
    console.print(
        f"Under our policy the pupil's mean accuracy rose by {100 * rise:.0f} points; where it was asked "
        f"correlates with what it lacked by {said}.",
        highlight=False,
    )
    return Exit.HELPED if rise > 0 and followed is not None and followed > 0 else Exit.DID_NOT_HELP


def picture(runs: Sequence[Run], path: Path, console: Console) -> None:
    """Draw the runs, or say why that is not possible."""
    from demo.bohdi.picture import draw

    try:
        draw(runs, path)
        console.print(f"Picture: {path}", highlight=False)
    except PlotUnavailable as reason:
        console.print(f"No picture: {reason}", highlight=False)


def all_runs(policies: Sequence[Policy], seeds: Sequence[int], plan: Plan, folder: Path, console: Console) -> list[Run]:
    """Every policy with every seed; a run that `folder` holds, of the same plan, is read instead.

    Raises ModelsMissing or FileNotFoundError for what is not there, and what a round raises.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise ModelsMissing("the models need torch and transformers: run `make demo`, or `pip install 'tokamak[demo]'`")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from demo.bohdi.stage import Stage

    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(msgspec.json.encode(plan)).hexdigest()[:8]
    files = {(policy, seed): folder / f"{policy}-{seed}-{digest}.json" for seed in seeds for policy in policies}
    missing = [key for key, file in files.items() if not file.exists()]
    if missing:
        with Stage(console) as stage:
            for policy, seed in missing:
                files[policy, seed].write_bytes(msgspec.json.encode(stage.run(policy, plan, seed)))
    return [msgspec.json.decode(file.read_bytes(), type=Run) for file in files.values()]
