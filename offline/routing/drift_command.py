"""`tokamak drift`: which arms answer better or worse than when the router that serves was made."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from encoders.catalogue import load_encoder
from offline.commands import ARTIFACTS_FOLDER, DATA_DIR, AsJson, DataDir, EncoderName, Log, log_url
from offline.explaining import explaining
from offline.routing.watch_drift import lines, watch
from registry.artifacts import Artifacts
from registry.drift_records import DriftRecord, write_drift
from routers.catalogue import KIND, load_router
from routers.evidence.drift import RUN_LENGTH
from traffic.stores import open_log

DRIFTED = 3
"""Exit code of `tokamak drift` when an arm has changed, for timers and alerts."""


@explaining
def drift_command(
    log: Log = None,
    router: Annotated[str | None, typer.Option(help="Router version to compare with; else the deployed one.")] = None,
    since: Annotated[float | None, typer.Option(help="Unix time; else when that version was made.")] = None,
    run_length: Annotated[
        float, typer.Option(min=2.0, help="Scored answers of an unchanged arm per false alarm, at least.")
    ] = RUN_LENGTH,
    data_dir: DataDir = DATA_DIR,
    encoder: EncoderName = "static",
    as_json: AsJson = False,
) -> None:
    """Test every arm for a change of quality under its name, since the router that serves was made.

    What is found is kept: `GET /admin/drift` shows it, and `tokamak train` leaves out what a changed arm answered
    before. Exit code 3 if an arm has changed, 2 if there is no log, or no router to compare with.
    """
    artifacts = Artifacts(data_dir / ARTIFACTS_FOLDER)
    version = router or artifacts.deployed(KIND)
    if version is None:
        raise ValueError("no router is deployed to compare with; `tokamak train --deploy` makes one")
    artifact = artifacts.load(KIND, version)
    loaded = load_router(artifact, load_encoder(encoder).hash)
    start = artifact.manifest.created_at if since is None else since

    async def read() -> list[DriftRecord]:
        traffic = open_log(log_url(log, data_dir))
        try:
            return watch(traffic, loaded, version, start, run_length=run_length)
        finally:
            await traffic.close()

    records = asyncio.run(read())
    write_drift(data_dir, records)
    if as_json:
        typer.echo(msgspec.json.encode(records).decode())
    elif not records:
        typer.echo(f"no scored answer of {', '.join(loaded.arms)} since {version} was made; nothing to test yet")
    else:
        for line in lines(records):
            typer.echo(line)
    if any(record.drifted for record in records):
        raise typer.Exit(DRIFTED)
