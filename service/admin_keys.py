"""The admin port: API keys. A secret is answered once, to the one who asks for it; a change of a key needs If-Match."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from msgspec import UNSET, UnsetType

from registry.api_key_table import ApiKey, Count, Globs, KeySettings, Name, Scopes, Usd, WhenSpent
from registry.api_keys import Created
from service.admin_body import answered, body_of, described, if_match_of, operator_of, told
from service.errors import invalid
from service.gateway import Gateway

GRACE_S = 86_400.0
NO_STORE = "no-store"
Why = Annotated[str, msgspec.Meta(max_length=1000)]


class KeyUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields to set; what is left out stays, and `null` takes a limit away."""

    name: Name | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    models: Globs | UnsetType = UNSET
    requests_per_minute: Count | UnsetType | None = UNSET
    tokens_per_minute: Count | UnsetType | None = UNSET
    max_concurrent: Count | UnsetType | None = UNSET
    usd_per_day: Usd | UnsetType | None = UNSET
    when_spent: WhenSpent | UnsetType = UNSET
    expires_at: float | UnsetType | None = UNSET
    reason: Why | None = None

    def changes(self) -> dict[str, Any]:
        return {
            name: value
            for name in KeySettings.__struct_fields__
            if not isinstance(value := getattr(self, name), UnsetType)
        }


class RotateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how many seconds the old secret goes on beside the new one; 0 ends it at once."""

    grace_s: float = GRACE_S
    reason: Why | None = None


class RevokeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, for the audit log."""

    reason: Why | None = None


def add_keys(app: FastAPI, gateway: Gateway) -> None:
    _add_reading(app, gateway)
    _add_creation(app, gateway)
    _add_changes(app, gateway)


def _add_reading(app: FastAPI, gateway: Gateway) -> None:
    store = gateway.keys.store

    @app.get("/admin/keys")
    async def keys() -> Response:
        """Every created key, oldest first, revoked ones too; and the ids of the config's keys."""
        with told():
            found = await asyncio.to_thread(store.read)
        created = [] if found is None else [_shown(key) for key in found.keys]
        return answered({"keys": created, "configured": [key.id for key in gateway.config.limits.keys]})

    # Its path looks like a key's to the route after it.
    @app.get("/admin/keys/audit")
    async def audit(key: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000) -> Response:
        """Who changed which key, when and why, oldest first."""
        with told():
            return answered({"entries": await asyncio.to_thread(store.audit, key, limit)})

    @app.get("/admin/keys/{key_id}")
    async def key(key_id: str) -> Response:
        """One key; its ETag is what changes need."""
        with told():
            return _answered(await asyncio.to_thread(store.get, key_id))


def _add_creation(app: FastAPI, gateway: Gateway) -> None:
    store = gateway.keys.store

    @app.post("/admin/keys", openapi_extra=described(KeySettings))
    async def create(request: Request) -> Response:
        """Make a key; 201 with its secret, which is never shown again. From now on every request needs a key."""
        by, settings = operator_of(request), await body_of(request, KeySettings)
        _payable(gateway, settings.usd_per_day)
        with told():
            made = await asyncio.to_thread(lambda: store.create(settings, by=by))
        return await _with_secret(gateway, made, 201)

    @app.post("/admin/keys/{key_id}/rotate", openapi_extra=described(RotateBody))
    async def rotate(key_id: str, request: Request) -> Response:
        """Give the key a new secret; the old one goes on for the grace time, a day if not said."""
        if_match, by, body = _if_match(request, key_id), operator_of(request), await body_of(request, RotateBody)
        with told():
            made = await asyncio.to_thread(
                lambda: store.rotate(key_id, body.grace_s, by=by, if_match=if_match, why=body.reason)
            )
        return await _with_secret(gateway, made, 200)


def _add_changes(app: FastAPI, gateway: Gateway) -> None:
    store = gateway.keys.store

    @app.patch("/admin/keys/{key_id}", openapi_extra=described(KeyUpdate))
    async def update(key_id: str, request: Request) -> Response:
        """Change what the key may do; its secrets and what it has used up stay."""
        if_match, by, body = _if_match(request, key_id), operator_of(request), await body_of(request, KeyUpdate)
        changes = body.changes()
        if not changes:
            raise invalid(f"Nothing is to be changed; give at least one of {', '.join(KeySettings.__struct_fields__)}.")
        _payable(gateway, changes.get("usd_per_day"))
        return await _changed(gateway, lambda: store.update(key_id, changes, by=by, if_match=if_match, why=body.reason))

    @app.post("/admin/keys/{key_id}/revoke", openapi_extra=described(RevokeBody))
    async def revoke(key_id: str, request: Request) -> Response:
        """End the key for ever."""
        if_match, by, body = _if_match(request, key_id), operator_of(request), await body_of(request, RevokeBody)
        return await _changed(gateway, lambda: store.revoke(key_id, by=by, if_match=if_match, why=body.reason))


def _if_match(request: Request, key_id: str) -> str:
    return if_match_of(request, "a key", f"/admin/keys/{key_id}")


def _payable(gateway: Gateway, usd_per_day: float | None) -> None:
    """Raise ApiError 400 for a budget that nothing would ever be charged to."""
    models = gateway.serving.pool.models.values()
    if usd_per_day is not None and all(model.prices.cost(1, 1) is None for model in models):
        raise invalid("'usd_per_day' needs prices, and none of the models has any in the config.", "usd_per_day")


async def _changed(gateway: Gateway, change: Callable[[], ApiKey]) -> Response:
    """Make the change, and have this process hold it before it is answered."""
    with told():
        key = await asyncio.to_thread(change)
        await gateway.keys.take_in()
    return _answered(key)


async def _with_secret(gateway: Gateway, made: Created, status: int) -> Response:
    with told():
        await gateway.keys.take_in()
    body = {"secret": made.secret, "key": _shown(made.key)}
    return answered(body, status, etag=made.key.etag, cache_control=NO_STORE, location=f"/admin/keys/{made.key.id}")


def _answered(key: ApiKey) -> Response:
    return answered(_shown(key), etag=key.etag)


def _shown(key: ApiKey) -> dict[str, Any]:
    """A key as it may be shown: how its secrets end, never they or their digests."""
    settings: dict[str, Any] = msgspec.to_builtins(key.settings)
    now = time.time()
    return {
        "id": key.id, **settings, "state": key.state(now), "etag": key.etag, "created_at": key.created_at,
        "created_by": key.created_by, "revoked_at": key.revoked_at,
        "secrets": [
            {"hint": secret.hint, "created_at": secret.created_at, "valid_until": secret.valid_until}
            for secret in key.secrets
            if secret.valid_until is None or secret.valid_until > now
        ],
    }  # fmt: skip
