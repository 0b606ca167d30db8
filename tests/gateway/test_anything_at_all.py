"""Whatever a client or an upstream sends: a well-formed answer or a four-field error, never a 500, never a hang."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.live import ERROR_FIELDS, HI, Fleet, fleet
from tests.upstream import Close, fixed, raw_bytes, raw_stream
from tests.upstream.answers import DONE, chat_events

HARD = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/route", "/v1/feedback"]
FIELDS = [
    "model", "messages", "prompt", "input", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens",
    "tools", "functions", "tool_choice", "response_format", "logprobs", "routing", "plugins", "max_cost", "store",
    "metadata", "user", "request_id", "metric", "value", "verdict", "tags", "encoding_format", "dimensions",
]  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "explain", "models", "id"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
names = st.sampled_from(["auto", "alpha", "alpha#think", "auto:best", "tokamak-encoder-static"])
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=5)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    short = {"first_byte_timeout_s": 0.5, "total_timeout_s": 1.0}
    models: dict[str, Any] = {"alpha": {"ways": ["direct", "think", "thought"]}}
    with fleet(tmp_path_factory.mktemp("anything"), models, upstream_settings=short) as made:
        yield made


def dumps(value: object) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)


@HARD
@given(path=st.sampled_from(PATHS), model=names, sensible=st.booleans(), body=bodies)
def test_any_object(live: Fleet, path: str, model: str, sensible: bool, body: dict[str, Any]) -> None:
    whole = {"model": model, "messages": HI, "prompt": "x", "input": "x", **body} if sensible else body
    try:
        content = dumps(whole)
    except TypeError:  # Integers beyond 64 bits and lone surrogates: the encoder's limits, not the service's.
        return
    live.forget()
    check(live.post(path, content))


@HARD
@given(path=st.sampled_from(PATHS), body=st.binary(max_size=200))
def test_any_bytes(live: Fleet, path: str, body: bytes) -> None:
    live.forget()
    check(live.post(path, body))


def check(response: Any) -> None:
    assert response.status_code in (200, 400, 404, 413), (response.status_code, response.text)
    if response.status_code != 200:
        assert set(response.json()["error"]) == ERROR_FIELDS


@HARD
@given(body=st.binary(max_size=200) | values.map(dumps), status=st.sampled_from([200, 201, 204, 400, 429, 500, 599]))
def test_any_answer_of_an_upstream(live: Fleet, body: bytes, status: int) -> None:
    live.forget()
    live["alpha"].default = fixed(status, b"" if status == 204 else body)
    response = live.chat("alpha")
    if response.status_code == 200:
        assert response.content == body
        assert isinstance(response.json(), dict)
    else:
        assert response.status_code in (400, 429, 502, 503, 504), response.text
        assert set(response.json()["error"]) >= ERROR_FIELDS


@HARD
@given(junk=st.lists(st.binary(max_size=60), max_size=4), place=st.integers(0, 3), ended=st.booleans())
def test_any_bytes_in_a_stream(live: Fleet, junk: list[bytes], place: int, ended: bool) -> None:
    live.forget()
    events = chat_events()
    pieces = [piece for piece in (*events[:place], *junk, *events[place:], *((DONE,) if ended else ())) if piece]
    live["alpha"].default = raw_stream(*pieces)
    response = live.chat("alpha", stream=True)
    assert response.status_code in (200, 400, 429, 502, 503, 504), response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == ERROR_FIELDS
    elif "error" not in response.text:
        assert response.content == b"".join(pieces)


@HARD
@given(start=st.binary(max_size=100))
def test_any_bytes_in_place_of_http(live: Fleet, start: bytes) -> None:
    live.forget()
    live["alpha"].default = raw_bytes(b"HTTP/1.1 200 OK\r\n"[: len(start) % 18] + start, then=Close())
    response = live.chat("alpha", stream=len(start) % 2 == 0)
    assert response.status_code in (400, 429, 502, 503, 504), response.text
    assert set(response.json()["error"]) == ERROR_FIELDS
