"""`tokamak worker`: run what is queued."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from offline.routing.automatic import Automatic
from offline.worker import Worker
from registry.config_file import ConfigError, load_config
from registry.worker_settings import WorkerSettings, settings_from, settings_of

DEFAULT_CONFIG = Path("tokamak.yaml")
MISTAKE = 2
NICENESS = 10
"""Training gives way to whatever else runs on the machine, the gateway first of all."""


def worker_command(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="TOKAMAK_CONFIG", help="Config file of the service.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="TOKAMAK_DATA_DIR", help="Data folder of the service, without a config.")
    ] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Stop when no job waits.")] = False,
    poll_s: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks at the queue.")] = 1.0,
) -> None:
    """Do the jobs that are queued, such as the training of a router, until stopped. Several may run at once."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = _settings(config, data_dir)
    except (ConfigError, ValueError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(MISTAKE) from None
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    Worker(settings, poll_s=poll_s, between=Automatic(settings)).run(until_idle=until_idle)


def _settings(config: Path | None, data_dir: Path | None) -> WorkerSettings:
    """What is named wins; else what a gateway handed over; else the config in this folder."""
    handed_over = settings_from(os.environ) if config is None else None
    if handed_over is not None:
        return handed_over
    if config is not None or (data_dir is None and DEFAULT_CONFIG.exists()):
        found = load_config(config or DEFAULT_CONFIG)
        if data_dir is not None:
            server = found.server.model_copy(update={"data_dir": str(data_dir)})
            found = found.model_copy(update={"server": server})
        return settings_of(found)
    folder = (data_dir or Path("tokamak-data")).absolute()
    return WorkerSettings(data_dir=folder, log_url=f"sqlite:///{folder / 'traffic.db'}")
