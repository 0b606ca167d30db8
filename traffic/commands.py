"""The commands of the log: `tokamak log snapshot`, `tokamak log export` and `tokamak log stats`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from traffic.export import export_jsonl, write_training_rows
from traffic.log import LogError, TrafficLog
from traffic.snapshot import snapshot
from traffic.stores import open_log
from traffic.summary import summarize

log_app = typer.Typer(no_args_is_help=True, help="Look at the traffic log; take it out as files.")

REFUSED = 2
"""Exit code where the log or the output cannot be used."""


class Shape(StrEnum):
    """What `export` writes."""

    jsonl = "jsonl"
    training = "training"


LogUrl = Annotated[
    str | None,
    typer.Option("--log", help="sqlite:///FILE or redis://HOST:PORT/DB; the one in the data folder if left out."),
]
DataDir = Annotated[Path, typer.Option(envvar="TOKAMAK_DATA_DIR", help="Data folder of the service.")]
DATA_DIR = Path("tokamak-data")
Since = Annotated[str | None, typer.Option(help="First moment: 2026-11-21, 2026-11-21T10:00 (UTC) or Unix seconds.")]
Until = Annotated[str | None, typer.Option(help="First moment that is left out; in the same forms.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@log_app.command("snapshot")
def snapshot_command(
    out: Annotated[Path, typer.Argument(help="The folder to make; it must not exist yet.")],
    log: LogUrl = None,
    data_dir: DataDir = DATA_DIR,
    since: Since = None,
    until: Until = None,
    content: Annotated[bool, typer.Option(help="Whether prompts, answers and vectors are written.")] = True,
    as_json: AsJson = False,
) -> None:
    """Write a window of the log as Parquet files with a manifest."""
    with existing_log(log, data_dir) as opened:
        manifest = snapshot(opened, out, moment(since) or 0.0, moment(until), content=content)
    if as_json:
        typer.echo(msgspec.json.encode(manifest))
        return
    for name, table in manifest.tables.items():
        typer.echo(f"{name:13} {table.rows:>10,} rows  {sum(file.bytes for file in table.files):>14,} bytes")


@log_app.command("export")
def export_command(
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    log: LogUrl = None,
    data_dir: DataDir = DATA_DIR,
    shape: Annotated[
        Shape, typer.Option(help="jsonl: one object per interaction; training: scored answers for `tokamak train`.")
    ] = Shape.jsonl,
    since: Since = None,
    until: Until = None,
) -> None:
    """Write the stored interactions of a window as JSON lines, or the scored ones as a training file (Parquet)."""
    write = export_jsonl if shape is Shape.jsonl else write_training_rows
    with existing_log(log, data_dir) as opened:
        done = write(opened, out, moment(since) or 0.0, moment(until))
    typer.echo(f"{done.written:,} written to {out}, {done.left_out:,} left out")


@log_app.command("stats")
def stats_command(
    log: LogUrl = None,
    data_dir: DataDir = DATA_DIR,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Count a window of the log: outcomes, arms, tokens, cost, feedback and scores."""
    with existing_log(log, data_dir) as opened:
        found = summarize(opened, moment(since) or 0.0, moment(until))
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(found.outcomes.items()))
    typer.echo(f"{found.interactions:,} interactions ({outcomes or 'none'}), {found.without_content:,} without content")
    typer.echo(f"{found.feedback:,} feedback, {found.scores:,} scores")
    table = Table("arm", "requests", "ok", "prompt tokens", "answer tokens", "USD", "mean score", box=None)
    for arm in found.arms:
        table.add_row(
            arm.arm, f"{arm.requests:,}", f"{arm.ok:,}", _shown(arm.prompt_tokens), _shown(arm.completion_tokens),
            "-" if arm.cost_usd is None else f"{arm.cost_usd:.4f}",
            "-" if arm.mean_score is None else f"{arm.mean_score:.3f}",
        )  # fmt: skip
    Console().print(table)


@contextmanager
def existing_log(named: str | None, data_dir: Path) -> Iterator[TrafficLog]:
    """The log, which must exist; what goes wrong ends the command with a sentence instead of a trace."""
    url = named or f"sqlite:///{data_dir / 'traffic.db'}"
    path = Path(url.removeprefix("sqlite:///"))
    try:
        if url.startswith("sqlite:///") and not path.is_file():
            raise LogError(f"there is no log {path}; name it with --log sqlite:///FILE or --log redis://HOST:PORT/DB")
        opened = open_log(url)
        try:
            yield opened
        finally:
            asyncio.run(opened.close())
    except (LogError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(REFUSED) from error


def moment(text: str | None) -> float | None:
    """Unix seconds of a date, a date and time (UTC unless it says otherwise) or a number. Raises ValueError."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"expected a moment such as 2026-11-21T10:00 or Unix seconds, got {text!r}") from error
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _shown(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
