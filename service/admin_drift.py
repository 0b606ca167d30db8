"""`GET /admin/drift`: the arms that were checked for a change of quality under their name, and what was found."""

from __future__ import annotations

from pathlib import Path

import msgspec
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool

from registry.drift_records import DriftRecord, read_drift
from service.errors import ApiError
from service.gateway import Gateway


def add_drift(app: FastAPI, gateway: Gateway) -> None:
    """Add the endpoint to the admin API."""
    data_dir = Path(gateway.config.server.data_dir)

    @app.get("/admin/drift")
    async def drift() -> Response:
        """The newest check of every router version and arm, as `tokamak drift` left it, and the arms that drifted."""
        try:
            records = await run_in_threadpool(read_drift, data_dir)
        except ValueError as error:
            raise ApiError(500, "api_error", "drift_records_unreadable", str(error)) from error
        found = {"drifted": drifted_arms(records), "records": records}
        return Response(msgspec.json.encode(found), media_type="application/json")


def drifted_arms(records: list[DriftRecord]) -> list[str]:
    """The arms with an alarm, in order."""
    return sorted({record.arm for record in records if record.drifted})
