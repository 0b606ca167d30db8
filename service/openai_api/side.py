"""Everything on the data port that is not hot: models, dry runs, feedback, health, metrics. FastAPI."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.exceptions import HTTPException

from registry.api_key_table import KeyScope
from registry.arms import Model
from service.asgi import ClientLeft, read_body
from service.errors import ApiError, invalid, model_not_found, nearest
from service.exchange import Exchange
from service.explanation import considered, route_object
from service.limits import Key
from service.openai_api.requests import chat_request
from service.pipeline import permitted, route
from service.routing_options import routing_options
from service.serving import encoder_model
from traffic.records import Feedback, Interaction, Score

if TYPE_CHECKING:
    from service.gateway import Gateway

logger = logging.getLogger("tokamak.side")

MAX_TEXT = 10_000
"""Longest text of a feedback, in characters."""


class FeedbackBody(BaseModel):
    """A statement about an answer. At least one of `value`, `verdict` and `demonstration` must be there."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(min_length=1, description="`x-request-id`, `x-tokamak-decision-id` or the answer's `id`.")
    metric: str = Field("helpful", min_length=1, max_length=100, description="What the value measures.")
    value: bool | Annotated[float, Field(ge=0, le=1)] | Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    verdict: Literal["good_fit", "underpowered", "overprovisioned", "failed"] | None = None
    demonstration: dict[str, Any] | None = Field(None, description="An assistant message that would have been right.")
    episode_id: str | None = None
    tags: dict[str, str] = {}
    idempotency_key: str | None = None

    @field_validator("value", mode="before")
    @classmethod
    def _told_in_one(cls, value: Any) -> Any:
        """One error for the whole of the union, instead of one for each of its types."""
        known = value is None or isinstance(value, bool)
        number = isinstance(value, int | float) and 0 <= value <= 1
        if known or number or (isinstance(value, str) and len(value) <= MAX_TEXT):
            return value
        told = f"{len(value)} characters" if isinstance(value, str) else repr(value)[:100]
        raise ValueError(f"expected true or false, a number in [0, 1] or at most {MAX_TEXT} characters, got {told}")


def side_application(gateway: Gateway) -> FastAPI:
    """The FastAPI application of the cold endpoints. Errors have the same four fields as everywhere."""
    app = FastAPI(title="Tokamak", version="1", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    add_errors(app)
    _add_models(app, gateway)
    _add_route(app, gateway)
    _add_feedback(app, gateway)
    _add_health(app, gateway)
    return app


def _key(gateway: Gateway, request: Request, scope: KeyScope) -> Key:
    return gateway.limits.authenticate(dict(request.scope["headers"]), scope, request.scope.get("client"))


def _add_models(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """Every name that may be asked for: routes, routes with a preset, models, and the service's own encoder."""
        key = _key(gateway, request, "models")
        return {"object": "list", "data": [_described(gateway, name) for name in _names(gateway, key)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        names = _names(gateway, _key(gateway, request, "models"))
        if name not in names:
            raise model_not_found(name, names)
        return _described(gateway, name)


def _names(gateway: Gateway, key: Key) -> list[str]:
    serving = gateway.serving
    found = [name for name, target in serving.targets.items() if target.pinned is None]
    found += [name for name in serving.pool.models if key.may_use(name)]
    return [*found, encoder_model(serving.encoder)]


def _described(gateway: Gateway, name: str) -> dict[str, Any]:
    serving = gateway.serving
    model = serving.pool.models.get(name)
    if model is not None:
        detail, owner = _model_detail(model), model.endpoints[0].upstream.name
    elif name in serving.targets:
        target = serving.targets[name]
        detail, owner = {"kind": "route", "preference": target.preference, "router": serving.router}, "tokamak"
    else:
        detail, owner = {"kind": "encoder", "dim": serving.encoder.dim, "hash": serving.encoder.hash}, "tokamak"
    return {"id": name, "object": "model", "created": 0, "owned_by": owner, "tokamak": detail}


def _model_detail(model: Model) -> dict[str, Any]:
    return {
        "kind": "model", "ways": list(model.ways), "capabilities": sorted(model.capabilities),
        "context_window": model.context_window,
        "prices": {name: getattr(model.prices, name) for name in type(model.prices).__slots__},
        "endpoints": [endpoint.id for endpoint in model.endpoints],
    }  # fmt: skip


def _add_route(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/route")
    async def dry_run(request: Request) -> Response:
        """Which arm would answer this chat request, and why. Calls no upstream and spends nothing."""
        exchange = Exchange("/route", request.scope["headers"])
        key = _key(gateway, request, "route")
        chat = chat_request(await _body(gateway, request))
        exchange.key, exchange.request = key, chat
        options = replace(routing_options(chat.body, exchange.headers), explain=True)
        serving = gateway.serving
        target = serving.target(chat.model)
        if target.pinned is not None:
            arm = permitted(target.pinned, key, chat)
            found: dict[str, Any] = {"route": "pinned", "arm": arm.id, "propensity": 1.0, "candidates": []}
        else:
            decided, _ = await route(gateway, serving, target, chat, key, options, exchange)
            found = route_object(decided.record(), live=decided.live())
            found["templates"] = considered(exchange.selection, withheld=decided.withheld_from is not None)
        return Response(msgspec.json.encode(found), media_type="application/json")


async def _body(gateway: Gateway, request: Request) -> bytes:
    """The body, read no further than the limit."""
    try:
        return await read_body(dict(request.scope["headers"]), request.receive, gateway.max_body_bytes)
    except ClientLeft:
        raise HTTPException(400, "The client left before its request was complete.") from None


def _add_feedback(app: FastAPI, gateway: Gateway) -> None:
    schema = {"required": True, "content": {"application/json": {"schema": FeedbackBody.model_json_schema()}}}

    @app.post("/v1/feedback", openapi_extra={"requestBody": schema})
    async def feedback(request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> dict[str, str]:
        """Say how good an answer was. Late and repeated feedback is welcome; an idempotency key makes it count once."""
        key = _key(gateway, request, "feedback")
        try:
            body = FeedbackBody.model_validate_json(await _body(gateway, request))
        except ValidationError as error:
            raise _validation_error(error) from None
        if body.value is None and body.verdict is None and body.demonstration is None:
            raise invalid("Feedback needs at least one of 'value', 'verdict' and 'demonstration'.", "value")
        once = body.idempotency_key or idempotency_key
        if once is not None:
            earlier = await gateway.log.feedback_by_idempotency_key(once)
            if earlier is not None and earlier.key_id == key.id:
                return {"feedback_id": earlier.id}
        about = await gateway.log.interaction(body.request_id)
        if about is None or about.key_id != key.id:
            raise ApiError(
                404, "not_found_error", "request_not_found",
                f"No logged request has the id {body.request_id!r}. Use the x-request-id header or the answer's id.",
                param="request_id",
            )  # fmt: skip
        record = _feedback_record(body, about, key, once)
        gateway.log.append(record)
        _score(gateway, record, about)
        return {"feedback_id": record.id}


def _feedback_record(body: FeedbackBody, about: Interaction, key: Key, once: str | None) -> Feedback:
    keep = about.stored or not isinstance(body.value, str)
    return Feedback(
        id="fb_" + os.urandom(12).hex(), interaction_id=about.id, created_at=time.time(), metric=body.metric,
        value=body.value if keep else None, verdict=body.verdict,
        demonstration=msgspec.json.encode(body.demonstration) if body.demonstration and about.stored else None,
        episode_id=body.episode_id, tags=body.tags, idempotency_key=once, key_id=key.id,
    )  # fmt: skip


def _score(gateway: Gateway, record: Feedback, about: Interaction) -> None:
    """A number or a yes or no is a score of the answer; a text is not."""
    if isinstance(record.value, bool | float | int):
        if about.decision is not None:
            gateway.metrics.scored(about.decision.router, float(record.value))
        gateway.log.append(
            Score(
                interaction_id=record.interaction_id,
                source="feedback",
                value=float(record.value),
                created_at=record.created_at,
                scorer=record.metric,
            )
        )


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, Any]:
        """503 until everything is loaded, and while draining."""
        response.status_code = 200 if gateway.ready else 503
        return {"ready": gateway.ready, "router": gateway.serving.router if gateway.ready else None}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus' text format. Asks for a key where keys are configured."""
        _key(gateway, request, "metrics")
        return Response(gateway.render_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_errors(app: FastAPI) -> None:
    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _error_response(error)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _error_response(_validation_error(error))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            known = sorted(
                {getattr(r, "path", "") for r in app.routes}
                | {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
            )
            hint = nearest(request.url.path, known)
            return _error_response(
                ApiError(404, "not_found_error", "unknown_url", f"No endpoint {request.url.path!r}.{hint}")
            )
        code = "method_not_allowed" if error.status_code == 405 else None
        return _error_response(
            ApiError(error.status_code, "invalid_request_error", code, str(error.detail)), error.headers
        )

    async def on_defect(request: Request, error: Exception) -> Response:
        return _error_response(
            ApiError(500, "api_error", "internal_error", "Internal error; the log of the service has it.")
        )

    handlers: list[tuple[Any, Callable[[Request, Exception], Awaitable[Response]]]] = [
        (ApiError, on_api_error),
        (RequestValidationError, on_validation),
        (HTTPException, on_http),
        (Exception, on_defect),
    ]
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)


def _validation_error(error: RequestValidationError | ValidationError) -> ApiError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return invalid(
            f"The request body is not valid JSON: {first.get('ctx', {}).get('error', '')}", None, "invalid_json"
        )
    known = FeedbackBody.model_fields if isinstance(error, ValidationError) else ()
    hint = nearest(where, known) if first["type"] == "extra_forbidden" else ""
    return invalid(f"{where or 'body'!r}: {first['msg']}.{hint}", where or None)


def _error_response(error: ApiError, headers: Any = None) -> Response:
    out = dict(headers or {})
    if error.retry_after_s is not None:
        out["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        out["www-authenticate"] = "Bearer"
    return Response(error.body(), error.status, media_type="application/json", headers=out)
