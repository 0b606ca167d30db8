"""`tokamak calibrate`: the model name that sends a wanted share of the traffic to the strong arm."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from offline.commands import (
    ARTIFACTS_FOLDER,
    DATA_DIR,
    AsJson,
    DataDir,
    Log,
    Since,
    log_url,
)
from offline.explaining import explaining  # fmt: skip
from offline.routing.calibrate import calibrate
from registry.artifacts import Artifacts
from routers.catalogue import KIND, load_router
from routers.protocol import TrainingError
from traffic.stores import open_log


@explaining
def calibrate_command(
    strong_share: Annotated[float, typer.Option(help="Share of queries for the strong arm, in [0, 1].")],
    strong: Annotated[str | None, typer.Option(help="The strong arm; else the dearest one.")] = None,
    weak: Annotated[str | None, typer.Option(help="The weak arm; else the cheapest one.")] = None,
    router: Annotated[str | None, typer.Option(help="A router version; else the one that serves.")] = None,
    log: Log = None,
    data_dir: DataDir = DATA_DIR,
    since: Since = 0.0,
    as_json: AsJson = False,
) -> None:
    """Print the model name `router-<name>-<threshold>` that sends this share of the logged queries to the strong arm.

    Name here the pair that `routers.pair` of the config names, if it names one. Exit code 2 if there is too little to
    calibrate on.
    """
    artifacts = Artifacts(data_dir / ARTIFACTS_FOLDER)
    version = router or artifacts.deployed(KIND)
    if version is None:
        raise TrainingError("no router is deployed; train one with `tokamak train --deploy`, or name a --router")
    artifact = artifacts.load(KIND, version)
    loaded = load_router(artifact, artifact.manifest.encoder or "")
    found = calibrate(loaded, open_log(log_url(log, data_dir)).read_interactions(since), strong_share, strong, weak)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    typer.echo(
        f"{found.reached_share:.1%} of {found.queries} logged queries go to the strong arm (asked for "
        f"{found.wanted_share:.1%})",
        err=True,
    )
    typer.echo(found.model)
