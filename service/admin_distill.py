"""The admin port: distillations. Which recipes and reports there are, and queuing one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, Response

from registry.distill_jobs import DISTILL, RECIPES, DistillArguments
from service.admin_body import answered, body_of, described, operator_of
from service.admin_queue import queued
from service.errors import ApiError
from service.gateway import Gateway


def add_distill(app: FastAPI, gateway: Gateway) -> None:
    """Add the endpoints under `/admin/distill`."""
    folder = gateway.data_dir / RECIPES

    @app.get("/admin/distill")
    async def listed() -> Response:
        """The recipes that can be run, and the last jobs that ran one."""
        jobs = await asyncio.to_thread(gateway.jobs.find, kind=DISTILL, states=(), limit=20)
        return answered({"recipes": await asyncio.to_thread(_recipes, folder), "jobs": jobs})

    @app.post("/admin/distill", status_code=202, openapi_extra=described(DistillArguments))
    async def distill(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        """Queue a recipe of the data folder. The model that comes of it serves nobody before it is deployed."""
        wanted: DistillArguments = await body_of(request, DistillArguments)
        name = wanted.recipe.removesuffix(".yaml")
        there = await asyncio.to_thread(_recipes, folder)
        if name not in there:
            message = f"There is no recipe {name!r} in {folder}; there are: {', '.join(there) or 'none'}."
            raise ApiError(404, "not_found_error", "recipe_not_found", message)
        stated: dict[str, Any] = DistillArguments(recipe=name, dry_run=wanted.dry_run).to_json()
        return await queued(gateway, DISTILL, stated, target=name, by=operator_of(request), key=idempotency_key)


def _recipes(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))
