"""`tokamak distill`: fuse source models into a target model, by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from offline.commands import AsJson
from offline.distill.checkpoints import CheckpointError
from offline.distill.distillation import CARD, Distilled, distill
from offline.distill.estimate import Estimate, estimate
from offline.distill.recipe import read_recipe
from offline.distill.signal_store import SignalStoreError
from offline.distill.teachers import TeacherError
from offline.distill.training import TrainingStopped
from offline.explaining import explaining_with

STOPPED = 130
NOT_RELEASED = 3
"""Exit code of a distillation that is done and must not be released."""


@explaining_with(lambda: (TeacherError, TrainingStopped, CheckpointError, SignalStoreError), extra="distill")
def distill_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file; docs/distill.md shows one.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have the sources of a recipe score its data, train the target on it, and judge the release.

    Killed at any point, the same command goes on where it stopped. Exit code 3: the model is trained but is worse than
    it must be, and must not be released; the report says where.
    """
    read = read_recipe(recipe)
    if dry_run:
        found = estimate(read)
        typer.echo(msgspec.json.encode(found).decode() if as_json else told(found))
        return
    made = distill(read, say=lambda line: typer.echo(line, err=True))
    if made is None:
        raise typer.Exit(STOPPED)
    if as_json:
        typer.echo(msgspec.json.encode(made.report, enc_hook=str).decode())
    else:
        typer.echo(outcome(made))
    raise typer.Exit(0 if made.report.verdict.released else NOT_RELEASED)


def told(found: Estimate) -> str:
    """The estimate for people."""
    cost = "unknown (a served source names no price)" if found.usd is None else f"{found.usd:.2f} USD"
    return "\n".join([
        f"{found.conversations} conversations of {found.tokens:,} tokens, {found.held_out} held out",
        f"{found.passes:.1f} passes over them; the target has {found.parameters:,} parameters",
        f"memory: about {found.memory_bytes / 2**30:.2f} GiB; signals on disk: {found.signal_bytes / 2**20:.1f} MiB",
        f"time on this machine: signals {found.signal_s / 60:.1f} min, training with its controls "
        f"{found.training_s / 60:.1f} min",
        f"cost: {cost}",
    ])  # fmt: skip


def outcome(made: Distilled) -> str:
    """The verdict for people."""
    report = made.report
    lines = [f"model: {report.model}", f"report: {made.folder / CARD}"]
    if report.verdict.released:
        return "\n".join(["may be released", *lines])
    return "\n".join(["must not be released:", *(f"  {reason}" for reason in report.verdict.reasons), *lines])
