"""The admin port: router versions and their rollout. A change needs If-Match with the ETag that the caller has seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request, Response

from registry.artifacts import ArtifactError
from registry.rollout_report import RolloutReport, compare_versions, promotion_gate
from registry.rollouts import MAX_SHARE, Entry, Rollout, RolloutConflict
from routers.catalogue import KIND
from service.admin_body import answered, body_of, described, if_match_of, operator_of, told
from service.errors import ApiError, invalid
from service.gateway import Gateway
from service.versions import COLD_START


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, for the audit log."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)] | None = None


class CanaryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of the conversations that the version is to decide for."""

    share: Annotated[float, msgspec.Meta(gt=0, le=MAX_SHARE)] = 0.05
    reason: Annotated[str, msgspec.Meta(max_length=1000)] | None = None


class PromoteBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With `force` the evidence is not asked for; that takes a reason, and both are audited."""

    force: bool = False
    reason: Annotated[str, msgspec.Meta(max_length=1000)] | None = None


def add_routers(app: FastAPI, gateway: Gateway) -> None:
    _add_rollout(app, gateway)
    _add_changes(app, gateway)
    _add_versions(app, gateway)


def _add_rollout(app: FastAPI, gateway: Gateway) -> None:
    rollouts = gateway.versions.rollouts

    @app.get("/admin/routers/rollout")
    async def rollout() -> Response:
        """The champion, the version on trial and the stage of every version; its ETag is what changes need."""
        with told():
            found = await asyncio.to_thread(rollouts.read)
        return _shown(gateway, found)

    @app.get("/admin/routers/rollout/audit")
    async def audit() -> Response:
        """Who changed what, when and why, oldest first."""
        with told():
            return answered({"entries": await asyncio.to_thread(rollouts.audit)})

    @app.post("/admin/routers/roll-back", openapi_extra=described(Reason))
    async def roll_back(request: Request) -> Response:
        """End the trial; without one, let the version that served before serve again."""
        if_match, by, body = if_match_of(request), operator_of(request), await body_of(request, Reason)
        return await _changed(gateway, lambda: rollouts.roll_back(by=by, if_match=if_match, why=body.reason))

    @app.post("/admin/routers/take-in")
    async def take_in() -> dict[str, Any]:
        """Look for a newly deployed router and changed templates now instead of at the next poll."""
        changed = await gateway.take_in()
        return {"changed": changed, "serving": gateway.serving.router}


def _add_changes(app: FastAPI, gateway: Gateway) -> None:
    rollouts = gateway.versions.rollouts

    @app.post("/admin/routers/{version}/shadow", openapi_extra=described(Reason))
    async def shadow(version: str, request: Request) -> Response:
        """Let the version decide every request once more, after the answer, and log what it would have done."""
        if_match, by, body = if_match_of(request), operator_of(request), await body_of(request, Reason)
        return await _changed(gateway, lambda: rollouts.shadow(version, by=by, if_match=if_match, why=body.reason))

    @app.post("/admin/routers/{version}/canary", openapi_extra=described(CanaryBody))
    async def canary(version: str, request: Request) -> Response:
        """Let the version decide for a share of the conversations."""
        if_match, by, body = if_match_of(request), operator_of(request), await body_of(request, CanaryBody)
        return await _changed(
            gateway, lambda: rollouts.canary(version, body.share, by=by, if_match=if_match, why=body.reason)
        )

    @app.post("/admin/routers/{version}/promote", openapi_extra=described(PromoteBody))
    async def promote(version: str, request: Request) -> Response:
        """Make the version the champion, on evidence or by force."""
        if_match, by, body = if_match_of(request), operator_of(request), await body_of(request, PromoteBody)
        if body.force and not (body.reason or "").strip():
            raise invalid("'force' needs a 'reason'; it is kept in the audit log.", "reason")
        with told():
            why = body.reason if body.force else await _gated(gateway, version)
        return await _changed(
            gateway, lambda: rollouts.promote(version, by=by, if_match=if_match, why=why, forced=body.force)
        )


async def _gated(gateway: Gateway, version: str) -> str:
    # What was said before this call counts.
    await gateway.log.flush()
    return await asyncio.to_thread(_gate, gateway, version)


def _gate(gateway: Gateway, version: str) -> str:
    """Why the version may be promoted. Raises ApiError 409 if the evidence does not say so."""
    manifest, rollout = gateway.artifacts.manifest(KIND, version), gateway.versions.rollouts.read()
    if version == rollout.champion:
        raise RolloutConflict(f"{version} serves already")
    trial, report = rollout.trial, None
    if trial is not None and trial.version == version and trial.stage == "canary":
        report = compare_versions(gateway.log, version, rollout.champion or COLD_START, trial.since)
    gate = promotion_gate(manifest, rollout.champion, report)
    if not gate.open:
        raise ApiError(
            409, "invalid_request_error", "not_enough_evidence",
            f"{version} is not promoted: {gate.why}. To promote it all the same: "
            '{"force": true, "reason": "..."}.',
        )  # fmt: skip
    return gate.why


async def _changed(gateway: Gateway, change: Callable[[], Rollout]) -> Response:
    """Make the change, and have this process serve by it before it is answered."""
    with told():
        rollout = await asyncio.to_thread(change)
    await gateway.take_in()
    return _shown(gateway, rollout)


def _shown(gateway: Gateway, rollout: Rollout) -> Response:
    found: dict[str, Any] = msgspec.to_builtins(rollout)
    return answered(found | {"serving": gateway.serving.router}, etag=rollout.etag)


def _add_versions(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/admin/routers")
    async def routers() -> Response:
        """Every version with its evidence and stage, and the one that serves."""
        with told():
            return answered(await asyncio.to_thread(_listed, gateway))

    @app.get("/admin/routers/{version}")
    async def router(version: str) -> Response:
        """One version, with everything that was done with it."""
        with told():
            return answered(await asyncio.to_thread(_version, gateway, version))

    @app.get("/admin/routers/{version}/report")
    async def report(version: str) -> Response:
        """The version's trial so far (or as it was) beside the champion of that time, from the log."""
        with told():
            await gateway.log.flush()
            return answered(await asyncio.to_thread(_report, gateway, version))


def _listed(gateway: Gateway) -> dict[str, Any]:
    rollout = gateway.versions.rollouts.read()
    rows: list[dict[str, Any]] = []
    for version in gateway.artifacts.names(KIND):
        try:
            rows.append(msgspec.to_builtins(gateway.artifacts.manifest(KIND, version)))
        except ArtifactError as error:
            rows.append({"version": version, "created_at": 0.0, "fault": str(error)})
        rows[-1]["stage"] = rollout.stage(version)
    rows.sort(key=lambda row: (row["created_at"], row["version"]))
    return {"serving": gateway.serving.router, "rollout": rollout, "versions": rows}


def _version(gateway: Gateway, version: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(gateway.artifacts.manifest(KIND, version))
    rollouts = gateway.versions.rollouts
    history = [entry for entry in rollouts.audit() if entry.version == version]
    return found | {"stage": rollouts.read().stage(version), "history": history}


def _report(gateway: Gateway, version: str) -> RolloutReport:
    gateway.artifacts.manifest(KIND, version)
    began, ended = _last_trial(gateway.versions.rollouts.audit(), version)
    if began is None:
        raise ApiError(
            409, "invalid_request_error", "never_tried", f"{version} was never in shadow or canary; there is no report."
        )
    until = None if ended is None else ended.at
    return compare_versions(gateway.log, version, began.champion or COLD_START, began.at, until)


def _last_trial(entries: list[Entry], version: str) -> tuple[Entry | None, Entry | None]:
    """The entries that began and ended the last stage in which the version was on trial; a new share begins none."""
    began: Entry | None = None
    ended: Entry | None = None
    for entry in entries:
        if entry.version != version:
            continue
        if entry.action in ("shadow", "canary"):
            if began is None or ended is not None or began.action != entry.action:
                began, ended = entry, None
        elif began is not None and ended is None:
            ended = entry
    return began, ended
