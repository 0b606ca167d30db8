"""Every error a client can see: the OpenAI error object with its four fields, the status and the headers.

One function, `upstream_error`, maps what an upstream did to what the client is told. Nothing here carries a prompt, an
answer, a key or a stack trace.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec

from traffic.records import Attempt


class ApiError(Exception):
    """A request cannot be answered. `type` is OpenAI's class of error, `code` the precise reason."""

    def __init__(
        self,
        status: int,
        type_: str,
        code: str | None,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        raw_body: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.raw_body = raw_body

    def body(self) -> bytes:
        """The JSON error object; the upstream's own bytes where they already have the right shape."""
        if self.raw_body is not None:
            return self.raw_body
        return msgspec.json.encode({"error": self.fields()})

    def fields(self) -> dict[str, str | None]:
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


def invalid(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(400, "invalid_request_error", code, message, param=param)


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'a' or 'b'?` for close names, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def model_not_found(name: str, known: Iterable[str]) -> ApiError:
    names = sorted(known)
    hint = nearest(name, names) or f" Known models: {', '.join(names[:20])}."
    return ApiError(
        404, "not_found_error", "model_not_found", f"The model {name!r} does not exist.{hint}", param="model"
    )


class UpstreamFailed(Exception):
    """One attempt failed. `attempt` is its record; `status` the upstream's HTTP status or the one it amounts to.

    `retryable`: the same call may succeed on the same endpoint. `body` is a well-shaped OpenAI error object of the
    upstream, if it sent one.
    """

    def __init__(
        self,
        attempt: Attempt,
        *,
        status: int,
        retryable: bool,
        retry_after_s: float | None = None,
        body: bytes | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(attempt.error)
        self.attempt = attempt
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.body = body
        self.code = code


CLIENT_FAULTS = frozenset({400, 413, 415, 422})
"""Statuses by which an upstream says that the request is wrong; the client gets them as they are."""


def upstream_error(failure: UpstreamFailed) -> ApiError:
    """What the client is told when the last attempt failed; the last attempt decides the class."""
    where, why, status = failure.attempt.arm, failure.attempt.error or "no answer", failure.status
    if status in CLIENT_FAULTS:
        return ApiError(
            status, "invalid_request_error", failure.code, f"The model {where!r} refused the request: {why}",
            raw_body=failure.body,
        )  # fmt: skip
    if status == 429:
        return ApiError(
            429, "rate_limit_error", "rate_limit_exceeded", f"The upstream of {where!r} is rate limited: {why}",
            retry_after_s=failure.retry_after_s or 1.0,
        )  # fmt: skip
    if status in (408, 504):
        return ApiError(504, "api_error", "upstream_timeout", f"The upstream of {where!r} was too slow: {why}")
    if status == 503:
        return ApiError(
            503, "overloaded_error", "upstream_unavailable", f"The upstream of {where!r} is overloaded: {why}",
            retry_after_s=failure.retry_after_s or 1.0,
        )  # fmt: skip
    return ApiError(502, "api_error", "upstream_error", f"The upstream of {where!r} failed: {why}")
