"""`tokamak rollout` and `tokamak jobs`: what an operator does with trained routers, by the admin API."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from offline.admin_client import DEFAULT_ADMIN, Admin, AdminUrl
from offline.commands import AsJson
from offline.explaining import explaining

rollout_app = typer.Typer(no_args_is_help=True, help="Try a trained router, promote it, roll it back.")
jobs_app = typer.Typer(no_args_is_help=True, help="Queued work, such as the training of routers.")

LATEST = "latest"
Version = Annotated[
    str, typer.Argument(help="A version, as `tokamak rollout status` lists it; `latest` is the newest.")
]
JobId = Annotated[str, typer.Argument(help="The id of a job; `latest` is the newest.")]
Why = Annotated[str | None, typer.Option("--reason", help="Why; kept in the audit log.")]


@rollout_app.command("status")
@explaining
def status_command(admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Say which router serves, which is on trial, and what every version is worth."""
    found = Admin(admin).get("/admin/routers")
    if as_json:
        typer.echo(_json(found))
        return
    table = Table("version", "stage", "held-out gain", "off-policy")
    for row in found["versions"]:
        evidence = row.get("evidence", {})
        table.add_row(row["version"], row["stage"], _gain(evidence), evidence.get("off_policy", {}).get("verdict", ""))
    Console().print(table)
    trial = found["rollout"]["trial"]
    typer.echo(f"{found['serving']} serves{'' if trial is None else f'; {_trial(trial)}'}")


@rollout_app.command("shadow")
@explaining
def shadow_command(
    version: Version, reason: Why = None, admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False
) -> None:
    """Let a version decide beside the router that serves, without serving anybody."""
    _say(_change(admin, version, "shadow", {"reason": reason}), as_json)


@rollout_app.command("canary")
@explaining
def canary_command(
    version: Version,
    share: Annotated[float, typer.Option(help="Share of the conversations, above 0 and at most 0.5.")] = 0.05,
    reason: Why = None,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Let a version serve a share of the conversations."""
    _say(_change(admin, version, "canary", {"share": share, "reason": reason}), as_json)


@rollout_app.command("promote")
@explaining
def promote_command(
    version: Version,
    force: Annotated[bool, typer.Option("--force", help="Without evidence; needs --reason.")] = False,
    reason: Why = None,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Let a version serve everybody, if the evidence against the router that serves is good enough."""
    body = {"force": force or None, "reason": reason}
    _say(_change(admin, version, "promote", body), as_json)


@rollout_app.command("roll-back")
@explaining
def roll_back_command(reason: Why = None, admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """End the trial; without one, let the router that served before serve again."""
    _say(Admin(admin).post("/admin/routers/roll-back", {"reason": reason}, if_match="*"), as_json)


@rollout_app.command("report")
@explaining
def report_command(version: Version, admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Compare a version on trial with the router that serves, by what the log says of both."""
    client = Admin(admin)
    found = client.get(f"/admin/routers/{_version(client, version)}/report")
    if as_json:
        typer.echo(_json(found))
        return
    table = Table("", "requests", "failed", "scored", "quality", "cost in USD", "latency in s")
    for side in ("candidate", "champion"):
        row = found[side]
        numbers = [_number(row[name]) for name in ("quality", "cost_usd", "latency_s")]
        table.add_row(row["router"], str(row["requests"]), str(row["failed"]), str(row["scored"]), *numbers)
    Console().print(table)
    typer.echo(f"{found['verdict']}: {found['reason']}")


@rollout_app.command("audit")
@explaining
def audit_command(admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """List who changed what, when and why."""
    entries = Admin(admin).get("/admin/routers/rollout/audit")["entries"]
    if as_json:
        typer.echo(_json(entries))
        return
    for entry in entries:
        forced = " (forced)" if entry["forced"] else ""
        why = f": {entry['why']}" if entry["why"] else ""
        typer.echo(f"{_when(entry['at'])}  {entry['by']}  {entry['action']}{forced} {entry['version']}{why}")


@jobs_app.command("list")
@explaining
def list_command(
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    found = Admin(admin).get("/admin/jobs", state=state)
    if as_json:
        typer.echo(_json(found))
        return
    for job in found["jobs"]:
        typer.echo(f"{job['id']}  {job['kind']}  {_state(job)}")
    if found["hint"]:
        typer.echo(found["hint"], err=True)


@jobs_app.command("show")
@explaining
def show_command(
    job: JobId = LATEST,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the job has ended.")] = False,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Show a job with its log. With --wait the exit code is 1 unless it has succeeded."""
    client = Admin(admin)
    job = _job(client, job)
    found = client.get(f"/admin/jobs/{job}")
    hint = _hinted(found, None)
    while wait and found["state"] in ("queued", "running"):
        time.sleep(0.5)
        found = client.get(f"/admin/jobs/{job}")
        hint = _hinted(found, hint)
    if as_json:
        typer.echo(_json(found))
    else:
        typer.echo(f"{found['id']}  {found['kind']}  {_state(found)}")
        for line in found["log"]:
            typer.echo(f"{_when(line['at'])}  {line['text']}")
    if wait and found["state"] != "succeeded":
        raise typer.Exit(1)


def _hinted(found: Any, before: str | None) -> str | None:
    """Tell what keeps the job waiting, where that has not been told yet."""
    hint: str | None = found["hint"]
    if hint is not None and before is None:
        typer.echo(hint, err=True)
    return hint or before


@jobs_app.command("cancel")
@explaining
def cancel_command(job: JobId, admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Cancel a job that is queued or running."""
    client = Admin(admin)
    found = client.post(f"/admin/jobs/{_job(client, job)}/cancel", {})
    typer.echo(_json(found) if as_json else f"{found['id']}  {_state(found)}")


def _change(admin: str, version: str, change: str, body: dict[str, Any]) -> Any:
    client = Admin(admin)
    return client.change(f"/admin/routers/{_version(client, version)}/{change}", body)


def _version(client: Admin, version: str) -> str:
    if version != LATEST:
        return version
    versions = client.get("/admin/routers")["versions"]
    if not versions:
        raise ValueError("there is no version yet; `tokamak train --job` makes one")
    return str(versions[-1]["version"])


def _job(client: Admin, job: str) -> str:
    if job != LATEST:
        return job
    jobs = client.get("/admin/jobs")["jobs"]
    if not jobs:
        raise ValueError("there is no job yet; `tokamak train --job` queues one")
    return str(jobs[0]["id"])


def _say(rollout: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(_json(rollout))
        return
    trial = rollout["trial"]
    typer.echo(f"{rollout['serving']} serves{'' if trial is None else f'; {_trial(trial)}'}")


def _trial(trial: Any) -> str:
    share = f" for {trial['share']:.1%} of the conversations" if trial["stage"] == "canary" else ""
    return f"{trial['version']} is in {trial['stage']}{share}"


def _state(job: Any) -> str:
    told = str(job["state"])
    if job["state"] == "running":
        told += f" {job['progress']:.0%} ({job['step']})" + (", to be cancelled" if job["cancel_wanted"] else "")
    if job["result"] is not None:
        told += f" {job['result'].get('version', '')}"
    return f"{told} {job['error']}" if job["error"] else told


def _gain(evidence: Any) -> str:
    try:
        gain = evidence["evaluation"]["routers"][-1]["scenarios"]["performance"]["gain"]
    except (KeyError, IndexError):
        return ""
    return "" if gain is None else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * number for number in gain))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _json(found: Any) -> str:
    return msgspec.json.encode(found).decode()
