"""`DELETE /admin/cache`: throw away every kept answer, as after a wrong one or where somebody's data is to go."""

from __future__ import annotations

from fastapi import FastAPI

from service.cache.stores import StoreAway
from service.errors import ApiError
from service.gateway import Gateway


def add_cache(app: FastAPI, gateway: Gateway) -> None:
    """Add the endpoint to the admin API."""

    @app.delete("/admin/cache")
    async def clear() -> dict[str, int]:
        """Remove all kept answers: of this process, or with `cache.exact.url` those of all replicas."""
        if gateway.cache is None:
            raise ApiError(409, "invalid_request_error", "no_cache", "No cache is configured; set `cache.exact`.")
        try:
            return {"removed": await gateway.cache.store.clear()}
        except StoreAway as error:
            raise ApiError(
                503, "api_error", "cache_unavailable", f"Not all answers could be removed, try again: {error}"
            ) from error
