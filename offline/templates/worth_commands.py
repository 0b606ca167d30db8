"""`tokamak templates worth` and `calibrate-floor`: what templates were seen to do, and from which similarity on."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from encoders.catalogue import load_encoder
from offline.templates.floor import calibrate
from offline.templates.options import DATA_DIR, AsJson, DataDir, EncoderName, explaining, opened
from offline.templates.trials import questions_of
from offline.templates.worth import GroupRow, WorthReport, apply, measured
from offline.templates.worth_job import read_trials
from templates_store.worth import write_floor

Log = Annotated[str | None, typer.Option(help="Traffic log, a URL; the one in the data folder if left out.")]
Since = Annotated[float, typer.Option(min=0, help="Unix time from which requests count.")]


@explaining
def worth_command(
    log: Log = None,
    since: Since = 0.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only measure: write nothing, quarantine nothing.")
    ] = False,
    quarantine: Annotated[bool, typer.Option(help="Take out of use what is found to do harm.")] = True,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Measure by the control share what each template is worth; quarantine those that do harm. May be run often."""
    with opened(data_dir) as store:
        logged = read_trials(log or f"sqlite:///{data_dir / 'traffic.db'}", questions_of(store), since)
        report = measured(store, logged)
        gone = [] if dry_run else apply(store, report, quarantine=quarantine)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    _print(report)
    for id_ in gone:
        typer.echo(
            f"quarantined {id_}; `tokamak templates activate {id_}` brings it back, with a fresh start", err=True
        )
    left_out = ", ".join(f"{n} {name}" for name, n in report.counts.items() if n and name not in ("read", "used"))
    typer.echo(f"{report.counts['used']} of {report.counts['read']} requests count ({left_out or 'all'})", err=True)


@explaining
def calibrate_floor_command(
    log: Log = None,
    since: Since = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the floor would be.")] = False,
    encoder: EncoderName = "static",
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Find the smallest similarity at which templates help; gateways take it in unless their config states one."""
    with opened(data_dir) as store:
        logged = read_trials(log or f"sqlite:///{data_dir / 'traffic.db'}", questions_of(store), since)
    found = calibrate(logged, load_encoder(encoder).hash)
    if not dry_run:
        write_floor(data_dir, found.floor)
    if as_json:
        typer.echo(msgspec.json.encode({"floor": found.floor, "levels": [x._asdict() for x in found.levels]}).decode())
        return
    table = Table("similarity from", "uplift", "95 % interval", "with", "without", box=None, header_style="bold")
    for level in found.levels:
        interval = f"{level.low:+.3f} to {level.high:+.3f}"
        table.add_row(f"{level.start:.3f}", f"{level.uplift:+.3f}", interval, str(level.shown), str(level.control))
    Console().print(table)
    typer.echo(f"floor {found.floor.min_similarity:.3f}")


def _print(report: WorthReport) -> None:
    table = Table("template", "with", "without", "uplift", "interval", "own part", "", box=None, header_style="bold")
    for row in report.templates:
        worth = row.worth
        known = worth.uplift is not None and worth.low is not None and worth.high is not None
        table.add_row(
            row.id, str(worth.shown), str(worth.control), f"{worth.uplift:+.3f}" if known else "-",
            f"{worth.low:+.3f} to {worth.high:+.3f}" if known else "too little is known",
            f"{worth.expected or 0.0:+.3f}", "harmful" if row.quarantined else "",
        )  # fmt: skip
    Console().print(table)
    groups = Table("cluster or arm", "with", "without", "uplift", "interval", box=None, header_style="bold")
    for group in (*report.clusters, *report.arms):
        groups.add_row(*_cells(group))
    Console().print(groups)


def _cells(group: GroupRow) -> list[str]:
    uplift = "-" if group.uplift is None else f"{group.uplift:+.3f}"
    return [group.name, str(group.shown), str(group.control), uplift, f"{group.low:+.3f} to {group.high:+.3f}"]
