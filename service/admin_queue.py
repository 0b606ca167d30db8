"""Queues a job for an operator: one way for every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from service.admin_body import answered, told
from service.gateway import Gateway


async def queued(
    gateway: Gateway, kind: str, arguments: Mapping[str, Any], *, target: str, by: str, key: str | None
) -> Response:
    """Queue the job and answer 202 with it. `target`: only one job of a kind works on a target at a time. `key`: an
    idempotency key; with one that was used before, the job of then is answered.

    Raises
    ------
    ApiError: another job of the kind works on the target, or the key was used for something else.
    """
    with told():
        # What was asked and scored before this call is what the job is to see.
        await gateway.log.flush()
        submitted = await asyncio.to_thread(
            gateway.jobs.submit, kind, dict(arguments), target=target, by=by, idempotency_key=key
        )
        await asyncio.to_thread(gateway.worker.ensure)
        missing = await asyncio.to_thread(gateway.worker.hint)
    job = submitted.job
    body = {"job": job, "created": submitted.created, "worker": missing or "a worker does it"}
    return answered(body, 202, location=f"/admin/jobs/{job.id}")
