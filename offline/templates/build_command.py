"""`tokamak templates build`: from logged answers to templates, with a progress bar; interrupted, just run it again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from encoders.catalogue import load_encoder
from offline.admin_client import DEFAULT_ADMIN, AdminUrl, queue_job
from offline.answers import answers_from_file
from offline.best_answers import SELECTIONS, Selection
from offline.templates.build import BuildReport
from offline.templates.build_estimate import BuildEstimate
from offline.templates.build_work import Build, Writer, logged_answers
from offline.templates.options import DATA_DIR, AsJson, DataDir, EncoderName, explaining, if_there, opened
from offline.templates.summarize import SummarizerModel
from registry.arms import Prices
from registry.config import TemplatesConfig
from registry.config_file import build_pool, load_config
from templates_store.store import BuildRecord, TemplateStore
from templates_store.template import State

INCOMPLETE = 3
"""Exit code of a build that stopped or had failures; the same command again goes on with what is missing."""
DEFAULT_CONFIG = Path("tokamak.yaml")
GATEWAY = "http://127.0.0.1:8400/v1"
_REASONS = 5


Log = Annotated[str | None, typer.Option(help="Traffic log, a URL; the one in the data folder if left out.")]
Data = Annotated[Path | None, typer.Option(help="File of answers (Parquet, JSON lines) instead of a log.")]
BuilderName = Annotated[str, typer.Option(help="extractive (needs no model) or llm (a model writes).")]
Model = Annotated[str | None, typer.Option(help="The model that writes, for --builder llm.")]
BaseUrl = Annotated[str, typer.Option(help="Where that model is: any OpenAI-compatible endpoint, also this gateway's.")]
KeyEnv = Annotated[str | None, typer.Option(help="Environment variable that holds its API key.")]
Select = Annotated[str, typer.Option(help=f"How the best answers are chosen: {', '.join(SELECTIONS)}.")]
MaxUsd = Annotated[float | None, typer.Option(help="Stop before more than so many USD are spent.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what the build would take.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Look at no more than so many questions.")]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Questions worked on at the same time.")]
Shared = Annotated[bool, typer.Option("--shared", help="Show what is built from any key's traffic to all keys.")]
Candidate = Annotated[
    bool, typer.Option("--candidate", help="Put nothing into use before `tokamak templates approve`.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="TOKAMAK_CONFIG", help="Config with prices and `templates`; else ./tokamak.yaml."
    ),
]
AsJob = Annotated[bool, typer.Option("--job", help="Queue it at the service, which builds from its own log.")]


@explaining
def build_command(
    log: Log = None,
    data: Data = None,
    builder: BuilderName = "extractive",
    model: Model = None,
    base_url: BaseUrl = GATEWAY,
    api_key_env: KeyEnv = None,
    select: Select = "hybrid",
    max_usd: MaxUsd = None,
    dry_run: DryRun = False,
    encoder: EncoderName = "static",
    limit: Limit = None,
    concurrency: Concurrency = 4,
    shared: Shared = False,
    candidate: Candidate = False,
    config: ConfigFile = None,
    job: AsJob = False,
    admin: AdminUrl = DEFAULT_ADMIN,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Build templates from the best answers in the traffic log or in a file of answers.

    Exit code 3 says that something failed or that the build stopped: run it again and it goes on with what is missing.
    """
    selection = _selection(select)
    if job:
        approve = "manual" if candidate else None
        wanted = {"builder": builder, "model": model, "select": select, "max_usd": max_usd, "dry_run": dry_run}
        queue_job(
            admin,
            "/admin/templates/build",
            {**wanted, "limit": limit, "concurrency": concurrency, "approve": approve},
            as_json,
        )
        return
    if log is not None and data is not None:
        raise ValueError("give --log or --data, not both")
    known = _known(config, model)
    writer = _writer(builder, model, base_url, api_key_env, known.prices, max_usd)
    source = _Source(log, data, data_dir, shared, tuple(known.templates.shared_workloads))
    state: State = "candidate" if candidate or known.templates.approve == "manual" else "active"
    with if_there(data_dir) as kept:
        build = Build(source.answers(kept), load_encoder(encoder), select=selection, writer=writer, limit=limit)
        estimate = build.estimate(kept)
    if not _begins(build, estimate, dry_run, as_json):
        return
    with opened(data_dir, make=True) as store, _bar() as bar:
        advance = _advancing(bar, len(build.queries))
        report = asyncio.run(build.run(store, state=state, concurrency=concurrency, told=advance))
    _tell(report, build, as_json)
    if report.failed or report.stopped:
        raise typer.Exit(INCOMPLETE)


def _begins(build: Build, estimate: BuildEstimate, dry_run: bool, as_json: bool) -> bool:
    """Say what the build would take; whether it is to begin."""
    unsolved = build.unsolved()
    if unsolved is not None:
        typer.echo(unsolved, err=True)
    if not build.queries:
        typer.echo("no question has an answer that is known to be good; nothing to build from", err=True)
        return False
    if dry_run:
        typer.echo(msgspec.json.encode(estimate).decode() if as_json else estimate.told())
    else:
        typer.echo(estimate.told(), err=True)
    return not dry_run


@dataclass(frozen=True, slots=True)
class _Known:
    """What the config says, if there is one."""

    templates: TemplatesConfig
    prices: Prices


def _known(path: Path | None, model: str | None) -> _Known:
    if path is None and not DEFAULT_CONFIG.exists():
        return _Known(TemplatesConfig(), Prices())
    config = load_config(path or DEFAULT_CONFIG)
    found = build_pool(config).models.get(model or "")
    return _Known(config.templates, Prices() if found is None else found.prices)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the answers come from."""

    log: str | None
    data: Path | None
    data_dir: Path
    shared: bool
    shared_workloads: tuple[str, ...]

    def answers(self, store: TemplateStore | None) -> Any:
        if self.data is not None:
            return answers_from_file(self.data)
        file = self.data_dir / "traffic.db"
        if self.log is None and not file.exists():
            raise ValueError(f"there is no traffic log {file}; give --log URL or --data FILE")
        url = self.log or f"sqlite:///{file}"
        return asyncio.run(logged_answers(url, store, shared=self.shared, shared_workloads=self.shared_workloads))


def _selection(name: str) -> Selection:
    for selection in SELECTIONS:
        if name == selection:
            return selection
    raise ValueError(f"--select must be {', '.join(SELECTIONS)}, not {name!r}")


def _writer(
    builder: str, model: str | None, base_url: str, api_key_env: str | None, prices: Prices, max_usd: float | None
) -> Writer | None:
    if builder == "extractive":
        return None
    if builder != "llm":
        raise ValueError(f"--builder must be extractive or llm, not {builder!r}")
    if not model:
        raise ValueError("--builder llm needs --model, the name of a model at --base-url")
    key = None if api_key_env is None else os.environ.get(api_key_env)
    if api_key_env is not None and not key:
        raise ValueError(f"the environment variable {api_key_env} is not set; it should hold the API key")
    return Writer(SummarizerModel(base_url, model, key), prices, max_usd)


def _bar() -> Progress:
    return Progress(
        TextColumn("building"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[done]}"),
        console=Console(stderr=True),
    )


def _advancing(bar: Progress, total: int) -> Callable[[BuildRecord | None], None]:
    task = bar.add_task("building", total=total, done="")
    counts = {"built": 0, "rejected": 0, "failed": 0, "skipped": 0}

    def advance(record: BuildRecord | None) -> None:
        counts["skipped" if record is None else record.outcome] += 1
        bar.update(task, advance=1, done=", ".join(f"{count} {name}" for name, count in counts.items() if count))

    return advance


def _tell(report: BuildReport, build: Build, as_json: bool) -> None:
    usd = None if build.spending is None else build.spending.usd
    if as_json:
        counts = {name: getattr(report, name) for name in ("built", "rejected", "failed", "skipped", "stopped")}
        told = counts | {"reasons": dict(report.reasons), "unsolved_tasks": build.selected.unsolved_tasks, "usd": usd}
        typer.echo(msgspec.json.encode(told).decode())
        return
    typer.echo(
        f"{report.built} built, {report.rejected} rejected, {report.failed} failed, {report.skipped} done before"
    )
    if usd is not None:
        typer.echo(f"{usd:.4f} USD were spent", err=True)
    for reason, count in report.reasons[:_REASONS]:
        typer.echo(f"  {count} x {reason}", err=True)
    if report.stopped:
        typer.echo(f"stopped: {report.stopped}", err=True)
