"""`tokamak bohdi ...`: grow a knowledge tree, look at it, take training sets out of it.

What learning needs is imported by the command that needs it: the list of commands must not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from offline.admin_client import DEFAULT_ADMIN, AdminUrl, queue_job
from offline.commands import DATA_DIR, DataDir, EncoderName, Log, log_url
from offline.explaining import explaining_with
from registry.bohdi_status import BohdiUnreadable
from registry.bohdi_trees import SHARED, tree_of, trees

if TYPE_CHECKING:
    from offline.bohdi.settings import Settings
    from offline.bohdi.tree_work import Place
    from registry.arms import Pool

bohdi_app = typer.Typer(no_args_is_help=True, help="Find what the target model lacks, and make training data there.")

STOPPED = 3
"""Exit code of a round that its budget has ended, or of a picture or export that there is nothing for."""
DEFAULT_CONFIG = Path("tokamak.yaml")

TreeName = Annotated[str, typer.Option("--tree", help="Name of the tree.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Id of an API key: its own tree, instead of --tree.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Depth = Annotated[int | None, typer.Option(min=1, help="Show no domains below this level.")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="YAML file; kept with the tree, so later rounds need none.")
]
Rounds = Annotated[int | None, typer.Option(min=1, help="So many rounds; as the settings say if left out.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="TOKAMAK_CONFIG", help="Config with the models; else ./tokamak.yaml."),
]
AsJob = Annotated[bool, typer.Option("--job", help="Queue it at the service, whose worker does it.")]
Size = Annotated[int, typer.Option(min=1, help="Examples, at most.")]
Seed = Annotated[int, typer.Option(min=0, help="Equal seeds give equal sets.")]
Replay = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share from earlier versions of the target; else as the settings say."),
]
SourceShare = Annotated[float, typer.Option(min=0.01, max=1, help="Unchecked answers of one source, at most.")]
AllKeys = Annotated[bool, typer.Option("--all-keys", help="Map the queries of all API keys to the shared tree.")]


def _faults() -> tuple[type[Exception], ...]:
    from offline.bohdi.errors import EpisodeLogError
    from offline.bohdi.fan_out import FanOutUnavailable
    from offline.bohdi.plot import PlotUnavailable

    return BohdiUnreadable, EpisodeLogError, FanOutUnavailable, PlotUnavailable


explaining = explaining_with(_faults)


@bohdi_app.command("status")
@explaining
def status_command(
    tree: TreeName = SHARED,
    tenant: Tenant = None,
    depth: Depth = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Show the domains with what the target lacks there, the rounds, resets, judges and costs."""
    from offline.bohdi.status_text import domains, headline, remarks, rounds

    place = _place(data_dir, tree, tenant)
    with place.grown_log() as log:
        status = place.refresh(log)
    if as_json:
        typer.echo(msgspec.json.encode(status).decode())
        return
    console = Console()
    typer.echo(headline(status))
    console.print(domains(status, depth))
    if status.rounds:
        console.print(rounds(status))
    for line in remarks(status):
        typer.echo(line)
    others = [name for name in trees(data_dir) if name != place.tree]
    if others:
        typer.echo(f"other trees: {', '.join(others)}", err=True)


@bohdi_app.command("grow")
@explaining
def grow_command(
    settings: SettingsFile = None,
    rounds: Rounds = None,
    tree: TreeName = SHARED,
    tenant: Tenant = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what a round would take.")] = False,
    job: AsJob = False,
    config: ConfigFile = None,
    encoder: EncoderName = "static",
    admin: AdminUrl = DEFAULT_ADMIN,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Run rounds: find domains, ask questions there, have all models answer, judge. A stopped round is gone on with.

    Exit code 3 says that the budget of a round was used up.
    """
    place = _place(data_dir, tree, tenant)
    if job:
        wanted: dict[str, Any] = {"tree": place.tree, "rounds": rounds, "tenant": tenant, "dry_run": dry_run or None}
        wanted["settings"] = None if settings is None else msgspec.to_builtins(_known(place, settings))
        queue_job(admin, "/admin/bohdi/rounds", wanted, as_json)
        return
    known, pool = _known(place, settings), _pool(config)
    _estimate(known, pool, as_json, dry_run)
    if dry_run:
        return
    place.keep_settings(known)
    from encoders.catalogue import load_encoder
    from offline.bohdi.round_text import told
    from offline.bohdi.tree_work import grow

    budget_ended = False
    for report in grow(place, pool, load_encoder(encoder), rounds or known.rounds, tenant=tenant or ""):
        budget_ended |= report.stopped_by == "budget"
        typer.echo(msgspec.json.encode(report).decode() if as_json else told(report))
    if budget_ended:
        raise typer.Exit(STOPPED)


@bohdi_app.command("export")
@explaining
def export_command(
    size: Size = 1000,
    seed: Seed = 0,
    replay_share: Replay = None,
    licensed: Annotated[bool, typer.Option("--licensed", help="Only what licences are known to allow.")] = False,
    source_share: SourceShare = 1.0,
    tree: TreeName = SHARED,
    tenant: Tenant = None,
    job: AsJob = False,
    admin: AdminUrl = DEFAULT_ADMIN,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Draw a training set, fresh, deduplicated and decontaminated, and write it as chat and preference files."""
    place = _place(data_dir, tree, tenant)
    if job:
        wanted: dict[str, Any] = {"tree": place.tree, "size": size, "seed": seed, "replay_share": replay_share}
        wanted |= {"licensed": licensed or None, "source_share": source_share}
        queue_job(admin, "/admin/bohdi/export", wanted, as_json)
        return
    from offline.bohdi.tree_work import draw_set

    folder, manifest = draw_set(
        place, size, seed=seed, replay_share=replay_share, licensed=licensed, source_share=source_share
    )
    if as_json:
        typer.echo(msgspec.json.encode({"folder": str(folder), "set": manifest}).decode())
        return
    typer.echo(
        f"{manifest.fresh} fresh and {manifest.replay} replayed examples of {len(manifest.leaves)} domains and "
        f"{manifest.pairs} preference pairs are in {folder}"
    )
    for reason, count in manifest.left_out.items():
        typer.echo(f"  left out: {count} x {reason}", err=True)
    if manifest.may_train is not True:
        told_why = "forbid it" if manifest.may_train is False else "are not all known; state `licences` in the settings"
        typer.echo(f"  may it train a model? The licences {', '.join(manifest.licences)} {told_why}", err=True)


@bohdi_app.command("plot")
@explaining
def plot_command(
    out: Annotated[Path, typer.Argument(help="The picture: *.svg or *.png.")] = Path("bohdi.svg"),
    tree: TreeName = SHARED,
    tenant: Tenant = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Draw the tree with its posteriors, where the questions went, the resets and the cost."""
    from offline.bohdi.plot import plot

    place = _place(data_dir, tree, tenant)
    with place.grown_log() as log:
        status = place.refresh(log)
    plot(status, out)
    typer.echo(f"drawn to {out}")


@bohdi_app.command("map-traffic")
@explaining
def map_traffic_command(
    log: Log = None,
    all_keys: AllKeys = False,
    tree: TreeName = SHARED,
    tenant: Tenant = None,
    encoder: EncoderName = "static",
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Count logged queries at the domains that they are near, by their vectors alone. No text is read or kept."""
    from encoders.catalogue import load_encoder
    from offline.bohdi.tree_work import steer

    found = steer(_place(data_dir, tree, tenant), load_encoder(encoder), log_url(log, data_dir), all_keys=all_keys)
    if as_json:
        counts = {"matched": found.matched, "unmatched": found.unmatched, "read": found.read}
        typer.echo(msgspec.json.encode(counts | {"left_out": found.left_out}).decode())
        return
    typer.echo(f"{found.matched:,.0f} queries are near a leaf, {found.unmatched:,.0f} near none")
    for reason, count in found.left_out.items():
        typer.echo(f"  left out: {count} x {reason}", err=True)


@bohdi_app.command("trained")
@explaining
def trained_command(
    version: Annotated[str, typer.Argument(help="Name of the version that the target is now.")],
    tree: TreeName = SHARED,
    tenant: Tenant = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Say that the target was trained: rewards from now on are about this version, and resets become possible."""
    from offline.bohdi.tree_work import change_target

    change_target(_place(data_dir, tree, tenant), version)
    typer.echo(f"the target is {version}")


@bohdi_app.command("end-round")
@explaining
def end_round_command(tree: TreeName = SHARED, tenant: Tenant = None, data_dir: DataDir = DATA_DIR) -> None:
    """End a round that was stopped as it is, where it cannot be gone on with: its prompts or models are others now."""
    from offline.bohdi.rounds import end_open_round

    place = _place(data_dir, tree, tenant)
    with place.grown_log() as log:
        ended = end_open_round(log)
        place.refresh(log)
    typer.echo("the round is ended with what it had" if ended else "no round was stopped before its end")


@bohdi_app.command("retire")
@explaining
def retire_command(
    node: Annotated[str, typer.Argument(help="Id of the domain, as `status --json` shows it.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the log.")] = "an operator's wish",
    tree: TreeName = SHARED,
    tenant: Tenant = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Take a domain and all below it out of use for good. What was asked there is not trained on any more."""
    from offline.bohdi.tree_work import retire

    found = retire(_place(data_dir, tree, tenant), node, reason)
    typer.echo(f"{found.name} is retired")


def _estimate(settings: Settings, pool: Pool, as_json: bool, dry_run: bool) -> None:
    from offline.bohdi.rounds import estimate

    expected = estimate(settings, pool)
    if as_json and dry_run:
        typer.echo(msgspec.json.encode(expected).decode())
        return
    usd = "cost not known (no prices)" if expected.usd is None else f"{expected.usd:.4f} USD"
    most = "" if expected.most_usd is None else f", {expected.most_usd:.4f} USD at most"
    typer.echo(
        f"a round of {expected.contests} contests: about {expected.calls:,} calls, {expected.tokens:,} tokens, "
        f"{usd}{most}",
        err=not dry_run,
    )


def _place(data_dir: Path, tree: str, tenant: str | None) -> Place:
    from offline.bohdi.tree_work import Place

    return Place(data_dir, tree if tenant is None else tree_of(tenant))


def _known(place: Place, file: Path | None) -> Settings:
    """The settings in a file, with its paths made absolute, so that they hold wherever the tree is grown next."""
    from offline.bohdi.settings import read_settings

    if file is None:
        return place.settings()
    found, beside = read_settings(file), file.absolute().parent
    prompts = beside / found.prompts
    return msgspec.structs.replace(
        found,
        benchmarks=tuple(str(beside / name) for name in found.benchmarks),
        prompts=str(prompts) if prompts.is_dir() else found.prompts,
    )


def _pool(config: Path | None) -> Pool:
    from registry.config_file import build_pool, load_config

    file = config or DEFAULT_CONFIG
    if not file.exists():
        raise ValueError(f"there is no config {file} that says where the models are; name one with --config")
    return build_pool(load_config(file))
