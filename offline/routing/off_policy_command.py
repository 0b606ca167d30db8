"""`tokamak evaluate --off-policy`: what the log says of a router beside the one that serves, or that it cannot say."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from encoders.protocol import Encoder
from offline.routing.off_policy import LogDecisions, OffPolicyReport, compare_routers, decisions_from_log
from registry.artifacts import Artifacts, Manifest
from routers.catalogue import KIND, load_router
from routers.evidence.off_policy import Estimate
from traffic.stores import open_log

NO_VERDICT = 3
"""Exit code where the log says too little for a verdict."""
LOGGED: Final = "logged"


class Compared(NamedTuple):
    """Two versions, what the log says of them, and how many of its decisions may have taught the candidate."""

    candidate: str
    champion: str
    report: OffPolicyReport
    counts: dict[str, int]
    seen: int

    def to_json(self) -> bytes:
        return msgspec.json.encode(
            {
                "candidate_version": self.candidate,
                "champion_version": self.champion,
                "report": self.report,
                "counts": self.counts,
                "maybe_trained_on": self.seen,
            }
        )


def evaluate_off_policy(
    url: str,
    encoder: Encoder,
    artifacts: Artifacts,
    candidate: str | None,
    champion: str | None,
    preference: float,
    since: float,
    seed: int,
) -> Compared:
    """Judge a stored router by the log. The candidate is the newest version if none is named, the champion the one that
    serves; `logged`, or the candidate itself serving, stands for the decisions as they were taken.

    Raises
    ------
    ArtifactError, OffPolicyError, TrainingError, LogError: say what is wrong and what to do.
    """
    if not 0.0 <= preference <= 1.0:
        raise ValueError(f"--preference must lie in [0, 1], got {preference}")
    tried = artifacts.load(KIND, candidate if candidate is not None else _newest(artifacts).version)
    named = champion or artifacts.deployed(KIND) or LOGGED
    against = LOGGED if named == tried.manifest.version and champion is None else named
    router = load_router(tried, encoder.hash)
    other = None if against == LOGGED else load_router(artifacts.load(KIND, against), encoder.hash)
    found = asyncio.run(_read(url, encoder, since))
    report = compare_routers(found.decisions, router, other or LOGGED, preference=preference, seed=seed)
    return Compared(tried.manifest.version, against, report, found.counts, _seen(tried.manifest, found))


def _newest(artifacts: Artifacts) -> Manifest:
    versions = artifacts.versions(KIND)
    if not versions:
        raise ValueError(f"there is no router below {artifacts.root}; train one with `tokamak train`")
    return versions[-1]


async def _read(url: str, encoder: Encoder, since: float) -> LogDecisions:
    log = open_log(url)
    try:
        return decisions_from_log(log, encoder, since)
    finally:
        await log.close()


def _seen(manifest: Manifest, found: LogDecisions) -> int:
    """Decisions that a candidate which learned from a log was made after."""
    source: dict[str, Any] = manifest.evidence.get("source") or {}
    return int((found.decisions.created_at < manifest.created_at).sum()) if "log" in source else 0


def show(compared: Compared) -> None:
    """Print the estimates and the verdict."""
    report, console = compared.report, Console()
    left_out = {name: n for name, n in compared.counts.items() if n and name not in ("read", "used")}
    told = f" (left out: {', '.join(f'{n} {name}' for name, n in left_out.items())})" if left_out else ""
    typer.echo(f"read {compared.counts['used']} of {compared.counts['read']} interactions{told}", err=True)
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for heading in ("doubly robust", "estimate", "95 % interval"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "doubly robust" else "right")
    value = "quality" if report.preference == 1.0 else "utility"
    rows: tuple[tuple[str, Estimate | None, float], ...] = (
        (f"{value} of {compared.candidate}", report.candidate, 1.0),
        (f"{value} of {compared.champion}", report.champion, 1.0),
        (f"difference of {value}", report.difference, 1.0),
        ("difference of quality", None if report.preference == 1.0 else report.quality, 1.0),
        ("difference of USD per 1,000", report.cost_usd, 1000.0),
        ("difference of seconds", report.latency_s, 1.0),
    )
    for name, found, scale in rows:
        if found is not None:
            low, high = found.low * scale, found.high * scale
            table.add_row(name, f"{found.value * scale:+.4f}", f"[{low:+.4f}, {high:+.4f}]")
    console.print(table)
    typer.echo(
        f"{report.decisions:,} decisions, effective {report.effective:.0f}; both choose the same arm in "
        f"{report.agreement:.1%}"
    )
    if compared.seen:
        typer.echo(
            f"warning: {compared.seen:,} of the decisions are older than {compared.candidate} and may have taught it, "
            "which flatters it; use --since with a later time",
            err=True,
        )
    typer.echo(f"{report.verdict}: {report.reason}")


def off_policy_command(compared: Compared, as_json: bool) -> None:
    """Print, and exit with code 3 if there is no verdict."""
    if as_json:
        typer.echo(compared.to_json().decode())
    else:
        show(compared)
    if compared.report.verdict == "undecided":
        if compared.report.needed is not None:
            typer.echo(f"about {compared.report.needed:,} more decisions at this exploration are needed", err=True)
        raise typer.Exit(NO_VERDICT)
