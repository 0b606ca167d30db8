"""The admin port: what operators read and do. A listener of its own, on loopback by default, with its own token."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import Depends, FastAPI, Request, Response

from service.admin_bohdi import add_bohdi
from service.admin_cache import add_cache
from service.admin_distill import add_distill
from service.admin_drift import add_drift
from service.admin_jobs import add_jobs
from service.admin_keys import add_keys
from service.admin_routers import add_routers
from service.admin_templates import add_templates
from service.errors import ApiError
from service.explanation import route_object
from service.gateway import Gateway
from service.guessing import Guesses, too_many_guesses
from service.openai_api.side import add_errors
from traffic.records import Interaction

TOKEN_VARIABLE = "TOKAMAK_ADMIN_TOKEN"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def admin_application(gateway: Gateway, environ: Mapping[str, str]) -> FastAPI:
    """The admin API. With `TOKAMAK_ADMIN_TOKEN` set, every call needs it as a bearer token.

    Without it anybody on this machine may read and act, but no web page that a browser here has opened, and nobody from
    elsewhere may act.
    """
    token = environ.get(TOKEN_VARIABLE, "").encode()
    local = gateway.config.server.admin_host in LOOPBACK
    guesses = Guesses()

    def authorised(request: Request) -> None:
        sent, source = request.headers.get("authorization", "").encode(), request.scope.get("client")
        wait_s = guesses.wait_s(source)
        if token and wait_s > 0.0:
            raise too_many_guesses(wait_s)
        if token and not hmac.compare_digest(sent, b"Bearer " + token):
            if sent:
                guesses.wrong(source)
            raise ApiError(
                401, "authentication_error", "invalid_admin_token",
                f"The admin API needs the token of {TOKEN_VARIABLE} as 'Authorization: Bearer <token>'.",
            )  # fmt: skip
        if not token and request.method != "GET" and ("origin" in request.headers or not local):
            raise ApiError(
                403, "permission_error", "admin_token_needed",
                f"Set {TOKEN_VARIABLE} to change anything from a browser, or on an address other than loopback.",
            )  # fmt: skip

    app = FastAPI(title="Tokamak admin", version="1", docs_url=None, redoc_url=None, dependencies=[Depends(authorised)])
    add_errors(app)
    _add_state(app, gateway)
    # The training's path looks like a version's to the routes after it.
    add_jobs(app, gateway)
    add_keys(app, gateway)
    add_routers(app, gateway)
    add_drift(app, gateway)
    add_cache(app, gateway)
    add_templates(app, gateway)
    add_bohdi(app, gateway)
    add_distill(app, gateway)
    _add_decisions(app, gateway)
    return app


def _add_state(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(gateway.render_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/admin/backends")
    async def backends() -> dict[str, Any]:
        """Endpoints of every model, and which of them are left out now."""
        down = set(gateway.backends.health.down())
        return {
            "endpoints": [
                {"model": model.name, "endpoint": endpoint.id, "up": endpoint.id not in down}
                for model in gateway.serving.pool.models.values()
                for endpoint in model.endpoints
            ]
        }

    @app.get("/admin/log/stats")
    async def log_stats() -> Response:
        """Running counters of the traffic log."""
        return Response(msgspec.json.encode(gateway.log.stats()), media_type="application/json")


def _add_decisions(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/admin/decisions/{decision_id}")
    async def decision(decision_id: str) -> Response:
        """Why a logged request was answered by the arm that answered it."""
        found: Interaction | None = await gateway.log.interaction(decision_id)
        if found is None or found.decision is None:
            what = "was not routed" if found is not None else "is not in the log"
            raise ApiError(404, "not_found_error", "decision_not_found", f"The request {decision_id!r} {what}.")
        explained = route_object(found.decision, found.attempts, found.arm)
        return Response(msgspec.json.encode(explained), media_type="application/json")
