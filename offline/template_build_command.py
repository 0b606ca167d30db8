"""`tokamak templates build`: from logged answers to templates, with a progress bar; interrupted, just run it again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from encoders.protocol import Encoder, load_encoder
from offline.answers import answers_from_file, answers_from_log
from offline.best_answers import KEEP, STAGE_ONE, SolvedQuery, best_answers, collapse
from offline.build_templates import BuildReport, build_templates
from offline.extract_template import ExtractiveBuilder
from offline.summarize import Summarizer, SummarizerModel, estimated_tokens
from offline.template_options import DATA_DIR, DataDir, EncoderName, explaining, opened
from templates_store.store import BuildRecord, TemplateStore
from templates_store.template import State
from traffic.log import open_log

INCOMPLETE = 3
"""Exit code of a build that stopped or had failures; the same command again goes on with what is missing."""
_REASONS = 5


@explaining
def build_command(
    log: Annotated[str | None, typer.Option(help="Traffic log, a URL; the one in the data folder if left out.")] = None,
    data: Annotated[Path | None, typer.Option(help="File of answers (Parquet, JSON lines) instead of a log.")] = None,
    builder: Annotated[str, typer.Option(help="extractive (needs no model) or llm (a model writes).")] = "extractive",
    model: Annotated[str | None, typer.Option(help="The model that writes, for --builder llm.")] = None,
    base_url: Annotated[
        str, typer.Option(help="Where that model is: any OpenAI-compatible endpoint, also this gateway's.")
    ] = "http://127.0.0.1:8400/v1",
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds its API key.")] = None,
    encoder: EncoderName = "static",
    limit: Annotated[int | None, typer.Option(min=1, help="Look at no more than so many questions.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions worked on at the same time.")] = 4,
    shared: Annotated[
        bool, typer.Option("--shared", help="Show what is built from any key's traffic to all keys.")
    ] = False,
    candidate: Annotated[
        bool, typer.Option("--candidate", help="Put nothing into use before `tokamak templates activate`.")
    ] = False,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Build templates from the best answers in the traffic log or in a file of answers.

    Exit code 3 says that something failed or that the build stopped: run it again and it goes on with what is missing.
    """
    summarizer = _summarizer(builder, model, base_url, api_key_env)
    reader = load_encoder(encoder)
    queries = _solved(log, data, data_dir, shared=shared, keep=KEEP if summarizer else STAGE_ONE)
    queries = collapse(queries, reader)[:limit]
    if not queries:
        typer.echo("no question has an answer that is known to be good; nothing to build from", err=True)
        return
    if summarizer:
        tokens = estimated_tokens(queries)
        typer.echo(
            f"{len(queries)} questions, about {tokens:,} prompt tokens for {model} (less what is done)", err=True
        )
    state: State = "candidate" if candidate else "active"
    with opened(data_dir, make=True) as store, _bar() as bar:
        advance = _advancing(bar, len(queries))
        report = asyncio.run(_build(store, queries, summarizer, reader, concurrency, state, advance))
    _tell(report)
    if report.failed or report.stopped:
        raise typer.Exit(INCOMPLETE)


async def _build(
    store: TemplateStore,
    queries: list[SolvedQuery],
    summarizer: Summarizer | None,
    reader: Encoder,
    concurrency: int,
    state: State,
    on_progress: Callable[[BuildRecord | None], None],
) -> BuildReport:
    if summarizer is None:
        builder = ExtractiveBuilder(queries)
        return await build_templates(
            store, queries, builder, reader, concurrency=1, state=state, on_progress=on_progress
        )
    async with summarizer:
        return await build_templates(
            store, queries, summarizer, reader, concurrency=concurrency, state=state, on_progress=on_progress
        )


def _summarizer(builder: str, model: str | None, base_url: str, api_key_env: str | None) -> Summarizer | None:
    if builder == "extractive":
        return None
    if builder != "llm":
        raise ValueError(f"--builder must be extractive or llm, not {builder!r}")
    if not model:
        raise ValueError("--builder llm needs --model, the name of a model at --base-url")
    key = None if api_key_env is None else os.environ.get(api_key_env)
    if api_key_env is not None and not key:
        raise ValueError(f"the environment variable {api_key_env} is not set; it should hold the API key")
    return Summarizer(SummarizerModel(base_url, model, key))


def _solved(log: str | None, data: Path | None, data_dir: Path, *, shared: bool, keep: int) -> list[SolvedQuery]:
    if log is not None and data is not None:
        raise ValueError("give --log or --data, not both")
    if data is not None:
        return best_answers(answers_from_file(data), keep=keep)
    file = data_dir / "traffic.db"
    if log is None and not file.exists():
        raise ValueError(f"there is no traffic log {file}; give --log URL or --data FILE")
    return asyncio.run(_from_log(log or f"sqlite:///{file}", shared=shared, keep=keep))


async def _from_log(url: str, *, shared: bool, keep: int) -> list[SolvedQuery]:
    traffic = open_log(url)
    try:
        return best_answers(answers_from_log(traffic, shared=shared), keep=keep)
    finally:
        await traffic.close()


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


def _tell(report: BuildReport) -> None:
    typer.echo(
        f"{report.built} built, {report.rejected} rejected, {report.failed} failed, {report.skipped} done before"
    )
    for reason, count in report.reasons[:_REASONS]:
        typer.echo(f"  {count} x {reason}", err=True)
    if report.stopped:
        typer.echo(f"stopped: {report.stopped}", err=True)
