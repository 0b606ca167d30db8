"""`tokamak keys`: what an operator does with API keys, by the admin API."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from offline.admin_client import DEFAULT_ADMIN, Admin, AdminUrl
from offline.explaining import explaining

keys_app = typer.Typer(no_args_is_help=True, help="API keys: create, list, show, update, rotate, revoke, audit.")

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
KEYS = "/admin/keys"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Which = Annotated[str, typer.Argument(metavar="KEY", help="The id of a key, or the name of one that is not revoked.")]
Why = Annotated[str | None, typer.Option("--reason", help="Why; kept in the audit log.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="Glob over the models it may use; may be repeated.")]
KeyScopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="chat, completions, embeddings, models, route, feedback or metrics; may be repeated."),
]
PerMinute = Annotated[int | None, typer.Option("--requests-per-minute", help="More are refused with 429.")]
TokensPerMinute = Annotated[int | None, typer.Option("--tokens-per-minute", help="Of prompts and answers together.")]
Concurrent = Annotated[int | None, typer.Option("--max-concurrent", help="Requests at the same time.")]
UsdPerDay = Annotated[float | None, typer.Option("--usd-per-day", help="Budget, paced over the day (UTC).")]
WhenSpent = Annotated[str | None, typer.Option("--when-spent", help="`refuse`, or `cheapest`: go on with that arm.")]
ExpiresIn = Annotated[str | None, typer.Option("--expires-in", help="As 90d, 12h, 30m or 45s.")]


@keys_app.command("create")
@explaining
def create_command(
    name: Annotated[str, typer.Argument(help="What the key is for; unique among the keys that are not revoked.")],
    model: Models = None,
    scope: KeyScopes = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_concurrent: Concurrent = None,
    usd_per_day: UsdPerDay = None,
    when_spent: WhenSpent = None,
    expires_in: ExpiresIn = None,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret, which is never shown again. From then on every request needs a key."""
    body = {
        "name": name, "models": model or None, "scopes": scope or None, "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute, "max_concurrent": max_concurrent, "usd_per_day": usd_per_day,
        "when_spent": when_spent, "expires_at": _expires_at(expires_in),
    }  # fmt: skip
    _tell_secret(Admin(admin).post(KEYS, body), as_json)


@keys_app.command("list")
@explaining
def list_command(
    revoked: Annotated[bool, typer.Option("--revoked", help="Revoked keys too.")] = False,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """List the keys, oldest first, without their secrets."""
    found = Admin(admin).get(KEYS)
    found["keys"] = [key for key in found["keys"] if revoked or key["state"] != "revoked"]
    if as_json:
        typer.echo(_json(found))
        return
    table = Table("id", "name", "state", "secret", "models", "limits", "expires")
    for key in found["keys"]:
        hints = " ".join(secret["hint"] for secret in key["secrets"])
        table.add_row(
            key["id"], key["name"], key["state"], hints, " ".join(key["models"]), _limits(key), _when(key["expires_at"])
        )
    Console().print(table)
    if found["configured"]:
        typer.echo(f"and of the config: {', '.join(found['configured'])}")


@keys_app.command("show")
@explaining
def show_command(key: Which, admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Show a key with all its limits, without its secrets."""
    client = Admin(admin)
    found = client.get(f"{KEYS}/{_id(client, key)}")
    if as_json:
        typer.echo(_json(found))
        return
    for name, value in found.items():
        shown = _when(value) if name.endswith("_at") else value
        typer.echo(f"{name}: {shown if isinstance(shown, str) else _json(shown)}")


@keys_app.command("update")
@explaining
def update_command(
    key: Which,
    name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    model: Models = None,
    scope: KeyScopes = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_concurrent: Concurrent = None,
    usd_per_day: UsdPerDay = None,
    when_spent: WhenSpent = None,
    expires_in: ExpiresIn = None,
    unlimited: Annotated[
        list[str] | None, typer.Option(help="A limit to take away, as `usd_per_day` or `expires_at`; may be repeated.")
    ] = None,
    reason: Why = None,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Change what a key may do. What is not said stays."""
    stated = {
        "name": name, "models": model or None, "scopes": scope or None, "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute, "max_concurrent": max_concurrent, "usd_per_day": usd_per_day,
        "when_spent": when_spent, "expires_at": _expires_at(expires_in), "reason": reason,
    }  # fmt: skip
    changes = {name: value for name, value in stated.items() if value is not None}
    client = Admin(admin)
    path = f"{KEYS}/{_id(client, key)}"
    _tell(client.patch(path, {**dict.fromkeys(unlimited or ()), **changes}, seen_at=path), as_json)


@keys_app.command("rotate")
@explaining
def rotate_command(
    key: Which,
    grace: Annotated[str, typer.Option(help="How long the old secret goes on, as 24h; 0s ends it at once.")] = "24h",
    reason: Why = None,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and print it. The old one goes on for the grace time."""
    client = Admin(admin)
    path = f"{KEYS}/{_id(client, key)}"
    body = {"grace_s": _seconds(grace), "reason": reason}
    _tell_secret(client.change(f"{path}/rotate", body, seen_at=path), as_json)


@keys_app.command("revoke")
@explaining
def revoke_command(key: Which, reason: Why = None, admin: AdminUrl = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """End a key for ever, in every process of the service within a second."""
    client = Admin(admin)
    path = f"{KEYS}/{_id(client, key)}"
    _tell(client.change(f"{path}/revoke", {"reason": reason}, seen_at=path), as_json)


@keys_app.command("audit")
@explaining
def audit_command(
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="One key; all if left out.")] = None,
    admin: AdminUrl = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """List who changed which key, when and why."""
    client = Admin(admin)
    entries = client.get(f"{KEYS}/audit", key=None if key is None else _id(client, key))["entries"]
    if as_json:
        typer.echo(_json(entries))
        return
    for entry in entries:
        why = f": {entry['why']}" if entry["why"] else ""
        typer.echo(f"{_when(entry['at'])}  {entry['by']}  {entry['action']} {entry['name']} ({entry['key']}){why}")


def _id(client: Admin, named: str) -> str:
    keys = client.get(KEYS)["keys"]
    for key in keys:
        if named == key["id"] or (named == key["name"] and key["state"] != "revoked"):
            return str(key["id"])
    names = ", ".join(key["name"] for key in keys if key["state"] != "revoked")
    raise ValueError(f"there is no key {named!r}; there are: {names or 'none'}")


def _tell_secret(made: Any, as_json: bool) -> None:
    """The secret alone on stdout, so that it can be piped into a vault; what it belongs to on stderr."""
    if as_json:
        typer.echo(_json(made))
        return
    typer.echo(made["secret"])
    key = made["key"]
    typer.echo(f"{key['id']}: key {key['name']!r}. Keep the secret: it is not shown again.", err=True)


def _tell(key: Any, as_json: bool) -> None:
    typer.echo(_json(key) if as_json else f"{key['id']}: key {key['name']!r} is {key['state']}; {_limits(key)}")


def _limits(key: Any) -> str:
    units = {
        "requests_per_minute": "requests/min", "tokens_per_minute": "tokens/min", "max_concurrent": "at a time",
        "usd_per_day": "USD/day",
    }  # fmt: skip
    return ", ".join(f"{key[name]} {unit}" for name, unit in units.items() if key[name] is not None) or "no limits"


def _seconds(told: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", told.strip())
    if found is None:
        raise ValueError(f"expected a time as 90d, 12h, 30m or 45s, got {told!r}")
    return float(found[1]) * UNITS_S[found[2]]


def _expires_at(told: str | None) -> float | None:
    return None if told is None else time.time() + _seconds(told)


def _when(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _json(found: Any) -> str:
    return msgspec.json.encode(found).decode()
