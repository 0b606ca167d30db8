"""The admin API as the commands call it: token from the environment, errors in one line, ETags taken along."""

from __future__ import annotations

import os
from typing import Annotated, Any

import httpx
import msgspec
import typer

from registry.rollouts import operator

TOKEN_VARIABLE = "TOKAMAK_ADMIN_TOKEN"
DEFAULT_ADMIN = "http://127.0.0.1:8401"
TIMEOUT_S = 120.0
"""A report over a long log takes its time."""

AdminUrl = Annotated[str, typer.Option("--admin", envvar="TOKAMAK_ADMIN_URL", help="URL of the admin port.")]


class AdminError(ValueError):
    """The admin API refused, or is not there. The message says why."""


class Admin:
    """Calls of one admin port. Raises AdminError."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        token = os.environ.get(TOKEN_VARIABLE)
        self._headers = {"x-tokamak-operator": operator()}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def get(self, path: str, **query: Any) -> Any:
        stated = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", path, params=stated).json()

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Any:
        """`if_match="x"` and the like become headers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        stated = {name: value for name, value in body.items() if value is not None}
        return self._call("POST", path, json=stated, headers=named).json()

    def change(self, path: str, body: dict[str, Any], seen_at: str = "/admin/routers/rollout") -> Any:
        """Change what is at `seen_at` as it stands now; refused if somebody else changes it in between."""
        return self.post(path, body, if_match=self._etag(seen_at))

    def patch(self, path: str, body: dict[str, Any], seen_at: str) -> Any:
        """As `change`; a field that is None is sent as `null`."""
        return self._call("PATCH", path, json=body, headers={"if-match": self._etag(seen_at)}).json()

    def _etag(self, path: str) -> str:
        return str(self._call("GET", path).headers["etag"])

    def _call(self, method: str, path: str, **fields: Any) -> httpx.Response:
        headers = {**self._headers, **fields.pop("headers", {})}
        try:
            response = httpx.request(method, self._url + path, headers=headers, timeout=TIMEOUT_S, **fields)
        except httpx.TransportError as error:
            message = f"the admin port {self._url} does not answer ({error}); is `tokamak serve` running?"
            raise AdminError(message) from None
        if response.is_success:
            return response
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"it answered {response.status_code} without an error object; is {self._url} the admin port?"
        raise AdminError(message)


def queue_job(admin: str, path: str, arguments: dict[str, Any], as_json: bool) -> None:
    """Queue a job at the service and say so: what commands do with `--job`. Raises AdminError."""
    found = Admin(admin).post(path, arguments)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    job = found["job"]
    typer.echo(f"{job['id']} is {job['state']}; watch it by `tokamak jobs show {job['id']}`")
    typer.echo(found["worker"], err=True)
