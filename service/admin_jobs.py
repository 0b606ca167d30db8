"""The admin port: jobs. Queuing and watching only; a worker does them, in another process."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Query, Request, Response

from registry.job_kinds import TRAIN_ROUTER, TrainArguments
from registry.jobs import Job, Jobs, State
from routers.catalogue import KIND, ROUTERS
from service.admin_body import answered, body_of, described, operator_of, told
from service.admin_queue import queued
from service.errors import ApiError, invalid, nearest
from service.gateway import Gateway


def add_jobs(app: FastAPI, gateway: Gateway) -> None:
    _add_training(app, gateway)
    _add_jobs(app, gateway.jobs, gateway)


def _add_training(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/admin/routers/train", status_code=202, openapi_extra=described(TrainArguments))
    async def train(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        """Queue the training of a router from the log. It becomes a candidate; nothing that serves changes."""
        wanted = await body_of(request, TrainArguments)
        if wanted.router is not None and wanted.router not in ROUTERS:
            hint = nearest(wanted.router, ROUTERS) or f" There are {', '.join(ROUTERS)}."
            raise invalid(f"No router is called {wanted.router!r}.{hint}", "router")
        return await queued(
            gateway, TRAIN_ROUTER, wanted.to_json(), target=KIND, by=operator_of(request), key=idempotency_key
        )


def _add_jobs(app: FastAPI, jobs: Jobs, gateway: Gateway) -> None:
    @app.get("/admin/jobs")
    async def listed(
        kind: str | None = None, state: State | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> Response:
        """Jobs, newest first, and the workers that have shown themselves."""
        with told():
            found = await asyncio.to_thread(jobs.find, kind=kind, states=() if state is None else (state,), limit=limit)
            workers = await asyncio.to_thread(jobs.workers)
            hint = await asyncio.to_thread(gateway.worker.hint)
        return answered({"jobs": found, "workers": workers, "hint": hint})

    @app.get("/admin/jobs/{job_id}")
    async def job(job_id: str) -> Response:
        """One job with its log, and what keeps it from being done."""
        with told():
            found = _found(job_id, await asyncio.to_thread(jobs.get, job_id))
            lines = await asyncio.to_thread(jobs.lines, job_id)
            hint = await asyncio.to_thread(gateway.worker.hint) if found.state == "queued" else None
        shown: dict[str, Any] = msgspec.to_builtins(found)
        return answered(shown | {"log": lines, "hint": hint})

    @app.post("/admin/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> Response:
        """Cancel a job. A running one ends as soon as its worker hears of it, within a quarter of a lease."""
        with told():
            found = _found(job_id, await asyncio.to_thread(jobs.cancel, job_id))
        if found.state in ("succeeded", "failed"):
            raise ApiError(409, "invalid_request_error", "job_ended", f"The job {job_id} has {found.state} already.")
        return answered(found)


def _found(job_id: str, job: Job | None) -> Job:
    if job is None:
        raise ApiError(
            404, "not_found_error", "job_not_found", f"There is no job {job_id!r}; GET /admin/jobs lists them."
        )
    return job
