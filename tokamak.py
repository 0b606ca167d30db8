"""The command line of Tokamak. Each command is thin: what it does lives in the layer that it belongs to."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from registry.config import Config

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="One endpoint in front of many LLMs, and then one model."
)
config_app = typer.Typer(no_args_is_help=True, help="Check the config file; print its schema.")
app.add_typer(config_app, name="config")

CONFIG_HELP = "Config file; else $TOKAMAK_CONFIG, else ./tokamak.yaml, else what is found on this machine."
ConfigPath = Annotated[Path | None, typer.Option("--config", "-c", help=CONFIG_HELP)]
NOTHING_FOUND = 4
"""Exit code of `discover` when nothing was found."""


@app.command()
def serve(
    config: ConfigPath = None,
    port: Annotated[int | None, typer.Option(help="Data port; overrides the config.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder; overrides the config.")] = None,
) -> None:
    """Serve the OpenAI-compatible API, and the admin API on its own port, until stopped."""
    # One request's products are too small to share; waking BLAS threads for them costs more than they do.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    from service.serve import serve as run

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    with _what_to_serve(config) as loaded:
        changes: dict[str, Any] = {} if port is None else {"port": port}
        folder, told = _data_folder(data_dir, loaded.server.data_dir)
        server = loaded.server.model_copy(update={**changes, "data_dir": folder})
        typer.echo(
            f"Tokamak serves {len(loaded.models)} models on http://{server.host}:{server.port}/v1 (ask for model "
            f'"auto"); admin API on http://{server.admin_host}:{server.admin_port}; data in {told}.',
            err=True,
        )
        code = run(loaded.model_copy(update={"server": server}))
    raise typer.Exit(code)


def _data_folder(named: Path | None, configured: str) -> tuple[str, str]:
    """The data folder, and how it is told: an option wins over $TOKAMAK_DATA_DIR, that over the config."""
    by = "--data-dir" if named is not None else "$TOKAMAK_DATA_DIR"
    folder = str(named) if named is not None else os.environ.get("TOKAMAK_DATA_DIR") or configured
    told = folder if folder == configured else f"{folder} (by {by}; server.data_dir, {configured}, is not used)"
    return folder, told


@contextmanager
def _what_to_serve(path: Path | None) -> Iterator[Config]:
    """The config named, the config found, what this machine has, or the demo fleet: the first that there is."""
    named = path or (Path(os.environ["TOKAMAK_CONFIG"]) if os.environ.get("TOKAMAK_CONFIG") else None)
    default = Path("tokamak.yaml")
    if named is not None or default.exists():
        yield _load(named or default)
        return
    from registry.discover import discover

    found = discover(os.environ)
    typer.echo(found.report(), err=True)
    if found.config is not None:
        yield found.config
        return
    from demo.serve import demo_fleet

    typer.echo(
        "Nothing to serve was found, so this serves the demo fleet: small models trained for the demo.", err=True
    )
    with demo_fleet(Path(os.environ.get("TOKAMAK_DATA_DIR", "tokamak-data"))) as config:
        yield config


def _load(path: Path) -> Config:
    from registry.config_file import ConfigError, load_config

    try:
        return load_config(path)
    except (ConfigError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@app.command("discover")
def discover_command() -> None:
    """Say which providers and local servers were found; exit code 4 if there are none."""
    from registry.discover import discover

    found = discover(os.environ)
    typer.echo(found.report())
    raise typer.Exit(0 if found.config is not None else NOTHING_FOUND)


@config_app.command("check")
def config_check(path: Annotated[Path, typer.Argument(help="The config file.")]) -> None:
    """Read a config file and report every mistake with its line; exit code 2 if there is one."""
    loaded = _load(path)
    typer.echo(f"{path}: valid; {len(loaded.models)} models on {len(loaded.upstreams)} upstreams.")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the config file, for editors."""
    from registry.config_file import config_json_schema

    typer.echo(json.dumps(config_json_schema(), indent=2))


def _mount_training(target: typer.Typer) -> None:
    from offline.commands import deploy_command, evaluate_command, train_command

    target.command("train")(train_command)
    target.command("evaluate")(evaluate_command)
    target.command("deploy")(deploy_command)


def _mount_calibrate(target: typer.Typer) -> None:
    from offline.routing.calibrate_command import calibrate_command

    target.command("calibrate")(calibrate_command)


def _mount_templates(target: typer.Typer) -> None:
    from offline.templates.commands import templates_app

    target.add_typer(templates_app, name="templates")


def _mount_bohdi(target: typer.Typer) -> None:
    from offline.bohdi.commands import bohdi_app

    target.add_typer(bohdi_app, name="bohdi")


def _mount_curate(target: typer.Typer) -> None:
    from offline.curate_command import curate_command

    target.command("curate")(curate_command)


def _mount_distill(target: typer.Typer) -> None:
    from offline.distill.commands import distill_command

    target.command("distill")(distill_command)


def _mount_worker(target: typer.Typer) -> None:
    from offline.worker_command import worker_command

    target.command("worker")(worker_command)


def _mount_rollouts(target: typer.Typer) -> None:
    from offline.routing.rollout_commands import jobs_app, rollout_app

    target.add_typer(rollout_app, name="rollout")
    target.add_typer(jobs_app, name="jobs")


def _mount_keys(target: typer.Typer) -> None:
    from offline.key_commands import keys_app

    target.add_typer(keys_app, name="keys")


def _mount_onboard(target: typer.Typer) -> None:
    from offline.routing.onboard_command import onboard_command

    target.command("onboard")(onboard_command)


def _mount_drift(target: typer.Typer) -> None:
    from offline.routing.drift_command import drift_command

    target.command("drift")(drift_command)


def _mount_log(target: typer.Typer) -> None:
    from traffic.commands import export_command, snapshot_command, stats_command

    log_app = typer.Typer(no_args_is_help=True, help="Snapshot, export and count the traffic log.")
    for name, command in (("snapshot", snapshot_command), ("export", export_command), ("stats", stats_command)):
        log_app.command(name)(command)
    target.add_typer(log_app, name="log")


def _mount_demo(target: typer.Typer) -> None:
    from demo.commands import demo_command

    target.command("demo")(demo_command)


_GROUPS: tuple[tuple[tuple[str, ...], Callable[[typer.Typer], None]], ...] = (
    (("train", "evaluate", "deploy"), _mount_training),
    (("calibrate",), _mount_calibrate),
    (("templates",), _mount_templates),
    (("bohdi",), _mount_bohdi),
    (("curate",), _mount_curate),
    (("distill",), _mount_distill),
    (("worker",), _mount_worker),
    (("rollout", "jobs"), _mount_rollouts),
    (("keys",), _mount_keys),
    (("onboard",), _mount_onboard),
    (("drift",), _mount_drift),
    (("log",), _mount_log),
    (("demo",), _mount_demo),
)
_LIGHT = ("serve", "config", "discover")
"""Commands that load nothing of the others: the gateway starts in about a second."""


def main() -> None:
    """Run the command line. Only the group that is asked for is imported; without one, all are, to list them."""
    mount_groups(app, sys.argv[1] if len(sys.argv) > 1 else "")
    app()


def mount_groups(target: typer.Typer, asked: str) -> None:
    """Mount the group of the command `asked`, or every group that can be imported if there is no such command.

    Raises
    ------
    ImportError: the group that was asked for cannot be imported.
    """
    known = (*_LIGHT, *(name for names, _ in _GROUPS for name in names))
    for names, mount in _GROUPS:
        if asked in names:
            mount(target)
        elif asked not in known:
            try:
                mount(target)
            except ImportError as error:
                typer.echo(f"left out {', '.join(names)}: {error}", err=True)


if __name__ == "__main__":
    main()
