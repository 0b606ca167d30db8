"""What the endpoints of the admin port read and answer: JSON bodies, preconditions, and errors of the parts behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from fastapi import Request, Response

from registry.api_key_table import ApiKeysError
from registry.api_keys import ApiKeyConflict, ApiKeyMissing, ApiKeyStale
from registry.artifacts import ArtifactError, ArtifactMissing
from registry.jobs import JobConflict, JobsError
from registry.rollouts import RolloutConflict, RolloutError, RolloutStale
from service.errors import ApiError, invalid
from traffic.log import LogError

T = TypeVar("T")

JSON = "application/json"
OPERATOR_HEADER = "x-tokamak-operator"
MAX_NAME = 100


async def body_of(request: Request, type_: type[T]) -> T:
    """The body as a struct; an empty one stands for all defaults. Raises ApiError 400."""
    raw = await request.body()
    try:
        return msgspec.json.decode(raw or b"{}", type=type_)
    except msgspec.ValidationError as error:
        raise invalid(f"The body is wrong: {error}.") from None
    except msgspec.DecodeError as error:
        raise invalid(f"The request body is not valid JSON: {error}.", None, "invalid_json") from None


def described(type_: type[Any]) -> dict[str, Any]:
    """The schema of a body, for the OpenAPI document."""
    schema = msgspec.json.schema(type_, ref_template="#/components/schemas/{name}")
    definition = schema.get("$defs", {}).get(type_.__name__, schema)
    return {"requestBody": {"required": False, "content": {JSON: {"schema": definition}}}}


def if_match_of(request: Request, what: str = "the rollout", seen_at: str = "/admin/routers/rollout") -> str:
    """The ETag that the caller has seen of `what`. Raises ApiError 428 if none is given."""
    found = request.headers.get("if-match")
    if found is None:
        raise ApiError(
            428, "invalid_request_error", "if_match_required",
            f"A change of {what} needs If-Match with the ETag of GET {seen_at} (or * for any state).",
        )  # fmt: skip
    return found.strip()


def operator_of(request: Request) -> str:
    """Who is named as the one who acts, for the audit log."""
    named = "".join(c for c in request.headers.get(OPERATOR_HEADER, "") if c.isprintable())
    return named[:MAX_NAME] or "admin API"


def answered(found: Any, status: int = 200, **headers: str) -> Response:
    """JSON of structs and plain values; `e_tag="x"` becomes the header `e-tag`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(msgspec.json.encode(found), status, media_type=JSON, headers=named)


@contextmanager
def told() -> Iterator[None]:
    """What the registry and the log refuse, as errors of the API."""
    try:
        yield
    except RolloutStale as error:
        raise ApiError(412, "invalid_request_error", "stale_etag", str(error)) from error
    except RolloutConflict as error:
        raise ApiError(409, "invalid_request_error", "rollout_conflict", str(error)) from error
    except RolloutError as error:
        raise ApiError(500, "api_error", "rollout_unreadable", str(error)) from error
    except ArtifactMissing as error:
        raise ApiError(404, "not_found_error", "version_not_found", str(error)) from error
    except ArtifactError as error:
        raise ApiError(409, "invalid_request_error", "version_unfit", str(error)) from error
    except ApiKeyMissing as error:
        raise ApiError(404, "not_found_error", "key_not_found", str(error)) from error
    except ApiKeyStale as error:
        raise ApiError(412, "invalid_request_error", "stale_etag", str(error)) from error
    except ApiKeyConflict as error:
        raise ApiError(409, "invalid_request_error", "key_conflict", str(error)) from error
    except ApiKeysError as error:
        raise ApiError(500, "api_error", "keys_unusable", str(error)) from error
    except JobConflict as error:
        raise ApiError(409, "invalid_request_error", "job_conflict", str(error), param=error.job.id) from error
    except JobsError as error:
        raise ApiError(500, "api_error", "jobs_unusable", str(error)) from error
    except LogError as error:
        raise ApiError(503, "api_error", "log_unusable", str(error)) from error
    except ValueError as error:
        raise invalid(str(error)) from error
