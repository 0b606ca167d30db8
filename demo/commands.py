"""`tokamak demo` on the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from demo.bohdi.show import run_bohdi
from demo.run import DEFAULT_FOLDER, DEFAULT_POOL, Fleet, run
from demo.stack import stop_children_when_terminated
from demo.thought.show import run_templates


class FleetName(StrEnum):
    """Which fleet answers."""

    REPLAY = "replay"
    MODELS = "models"
    ALL = "all"
    TEMPLATES = "templates"
    BOHDI = "bohdi"


LEARNING_FLEETS: dict[FleetName, Fleet] = {
    FleetName.REPLAY: "replay",
    FleetName.MODELS: "models",
    FleetName.ALL: "all",
}


def demo_command(
    fleet: Annotated[
        FleetName,
        typer.Argument(
            help="replay: logged answers of real LLMs; models: small models run here; all: both. templates: thought "
            "templates from a model that knows to one that follows them. bohdi: sources find what a target lacks, and "
            "it learns that."
        ),
    ] = FleetName.ALL,
    pool: Annotated[str, typer.Option(help="Replay sample: llmrouter14, mmlu_pro, or a log file.")] = DEFAULT_POOL,
    queries: Annotated[int | None, typer.Option(min=100, help="Use only this many of the replayed queries.")] = None,
    asks: Annotated[int | None, typer.Option(min=1, help="Of how many arms each training query is asked.")] = None,
    router: Annotated[str, typer.Option(help="The router to train.")] = "cluster",
    out: Annotated[Path, typer.Option(help="Folder for the tables, plots, logs and data.")] = DEFAULT_FOLDER,
) -> None:
    """Send traffic through the gateway, let it learn, and show accuracy and cost before and after.

    Exit code 0: learning helped; 1: it did not; 2: the demo could not be completed.
    """
    stop_children_when_terminated()
    if fleet is FleetName.BOHDI:
        raise typer.Exit(run_bohdi(out))
    which = LEARNING_FLEETS.get(fleet)
    if which is None:
        raise typer.Exit(run_templates(router, out))
    raise typer.Exit(run(fleet=which, pool=pool, queries=queries, asks=asks, router=router, out_dir=out))
