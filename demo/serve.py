"""`tokamak serve` where nothing else is found: small real models behind a router trained on their outcomes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from demo.fleet.config import OUTCOMES_FILE, fleet_config, fleet_models, spread_config
from demo.fleet.launch import running_server
from demo.fleet.vllm import running_vllm, vllm_python
from encoders.catalogue import load_encoder
from offline.outcome_file import outcomes_from_file
from offline.routing.train_router import train
from registry.artifacts import Artifacts
from registry.config import Config
from registry.config_file import build_pool
from routers.catalogue import KIND

MISSING_EXIT = 5
"""Exit code when the demo extra is not installed."""
VLLM_START_S = 600.0


@contextmanager
def demo_fleet(data_dir: Path) -> Iterator[Config]:
    """The config of the demo fleet while its server runs; `data_dir` gets a trained router if it has none."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        typer.echo(
            "The demo fleet needs torch and transformers, which are not installed. Run `make run`, or "
            "`pip install torch==2.13.0` and then `pip install 'tokamak[demo]'`; or name a config with --config.",
            err=True,
        )
        raise typer.Exit(MISSING_EXIT)
    with fleet_servers() as document:
        config = Config.model_validate({**document, "server": {"data_dir": str(data_dir)}})
        deploy_first_router(config, Artifacts(data_dir / "artifacts"))
        yield config


@contextmanager
def fleet_servers() -> Iterator[dict[str, Any]]:
    """The fleet's config while it is served: by vLLM where `make vllm` has set it up, else by the light server.

    `TOKAMAK_DEMO_SERVER=light` asks for the light server in any case: it starts in seconds, six vLLMs take minutes.
    """
    if vllm_python() is not None and os.environ.get("TOKAMAK_DEMO_SERVER") != "light":
        typer.echo("Starting a vLLM for each model of the demo fleet (a minute or more) ...", err=True)
        with running_vllm(list(fleet_models()), limit_s=VLLM_START_S) as urls:
            yield spread_config(urls)
        return
    typer.echo("Starting the demo fleet's light server ...", err=True)
    with running_server() as base_url:
        yield fleet_config(base_url)


def deploy_first_router(config: Config, artifacts: Artifacts) -> None:
    """Train a router on the outcomes that ship with the fleet, unless one is deployed already."""
    if artifacts.deployed(KIND) is not None:
        return
    typer.echo("Training a router on the fleet's measured outcomes ...", err=True)
    encoder = load_encoder(config.routers.encoder)
    prices = {name: model.prices for name, model in build_pool(config).models.items()}
    outcomes = outcomes_from_file(OUTCOMES_FILE, encoder, prices)
    manifest = train(outcomes, artifacts=artifacts, deploy=True, source={"file": OUTCOMES_FILE.name})
    typer.echo(f"Router {manifest.version} learned from {len(outcomes.query_ids)} questions.", err=True)
