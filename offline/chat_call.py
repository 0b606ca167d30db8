"""One chat completion of a model through its configured endpoints, with retries. What it may cost is not asked here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from encoders.query_text import content_text
from registry.arms import Endpoint, Model

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 20.0
PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same call may succeed later."""
REFUSED: Final = "refused"
"""The reason of a call that the model, or a filter in front of it, would not answer."""
_NEWER: Final = {"max_tokens": "max_completion_tokens"}
"""What a field is called by servers that do not take its old name."""
_OPTIONAL: Final = ("seed", "top_p", "temperature")
"""Fields that a server may not take, and that a call can do without."""
_UNUSABLE: Final = frozenset({400, 422})


class CallFailed(Exception):
    """A call failed for good; the message is the reason. `unpaid`: it surely cost nothing."""

    def __init__(self, reason: str, *, unpaid: bool) -> None:
        super().__init__(reason)
        self.unpaid = unpaid


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer. Token counts as the endpoint reported them, None if it did not; `served` is the model it named."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_s: float
    served: str | None


async def complete(
    client: httpx.AsyncClient,
    model: Model,
    body: Mapping[str, Any],
    *,
    attempts: int = 3,
    first_wait_s: float = FIRST_WAIT_S,
) -> Completion:
    """The answer of the first endpoint that gives one. `body` is the request without `model`.

    A field that a server says it does not take is left out, or sent under its newer name.

    Raises
    ------
    CallFailed: no endpoint answered in so many attempts, or one refused the call for good.
    """
    reason, unpaid, stated = "no endpoint", True, dict(body)
    for attempt in range(attempts):
        wait = first_wait_s * 2**attempt
        for endpoint in model.endpoints:
            started = time.monotonic()
            try:
                response, stated = await _sent(client, endpoint, stated)
            except httpx.HTTPError as error:
                reason = type(error).__name__
                unpaid = unpaid and isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                continue
            if response.status_code != 200:
                reason = f"HTTP {response.status_code}"
                if response.status_code not in PASSING:
                    raise CallFailed(reason, unpaid=unpaid)
                wait = max(wait, _retry_after(response))
                continue
            answer = _read(response, time.monotonic() - started)
            if answer is not None:
                return answer
            reason, unpaid = "no text in the answer", False
        if attempt + 1 < attempts:
            await asyncio.sleep(min(wait, LONGEST_WAIT_S))
    raise CallFailed(reason, unpaid=unpaid)


def timeout_of(models: list[Model]) -> httpx.Timeout:
    """The longest time-outs that any endpoint of these models is configured with."""
    upstreams = [endpoint.upstream for model in models for endpoint in model.endpoints]
    longest = max(upstream.total_timeout_s for upstream in upstreams)
    return httpx.Timeout(longest, connect=max(upstream.connect_timeout_s for upstream in upstreams), pool=None)


async def _sent(
    client: httpx.AsyncClient, endpoint: Endpoint, stated: dict[str, Any]
) -> tuple[httpx.Response, dict[str, Any]]:
    """The response, and the body as the server took it. Raises httpx.HTTPError."""
    while True:
        response = await client.post(
            f"{endpoint.upstream.base_url.rstrip('/')}/chat/completions",
            json={"model": endpoint.model, **stated},
            headers=_headers(endpoint),
        )
        accepted = _without_what_it_names(response, stated) if response.status_code in _UNUSABLE else None
        if accepted is None:
            return response, stated
        stated = accepted


def _without_what_it_names(response: httpx.Response, stated: dict[str, Any]) -> dict[str, Any] | None:
    """The body without the field that the error names; None if it names none that can be spared."""
    said = response.text
    for old, new in _NEWER.items():
        if old in stated and new in said:
            return {(new if name == old else name): value for name, value in stated.items()}
    for name in _OPTIONAL:
        if name in stated and name in said:
            return {key: value for key, value in stated.items() if key != name}
    return None


def _read(response: httpx.Response, seconds: float) -> Completion | None:
    """The answer in a response; None if there is no text in it. Raises CallFailed if the model refused."""
    try:
        body = response.json()
        choice = body["choices"][0]
        message = choice["message"]
        # Half of a surrogate pair, as a server that cuts an emoji in two sends it, cannot be stored.
        text = content_text(message.get("content")).encode(errors="replace").decode()
        finish = choice.get("finish_reason")
        if finish == "content_filter" or message.get("refusal"):
            raise CallFailed(REFUSED, unpaid=False)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    if not text.strip():
        return None
    usage = body.get("usage") if isinstance(body.get("usage"), Mapping) else {}
    served = body.get("model")
    return Completion(
        text=text,
        finish_reason=finish if isinstance(finish, str) else None,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        latency_s=seconds,
        served=served if isinstance(served, str) else None,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = dict(endpoint.upstream.headers)
    if endpoint.upstream.api_key:
        headers["authorization"] = f"Bearer {endpoint.upstream.api_key}"
    return headers


def _retry_after(response: httpx.Response) -> float:
    try:
        return max(float(response.headers.get("retry-after", 0.0)), 0.0)
    except ValueError:
        return 0.0
