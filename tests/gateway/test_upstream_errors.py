"""What does a client hear when its model's upstream fails and nobody else may answer? The last status decides."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import orjson
import pytest

from tests.gateway.live import ERROR_FIELDS, HI, Fleet, assert_error, fleet
from tests.upstream import Script, Stall, cut, error_in_stream, failing, fixed, raw_bytes, raw_stream, truncated
from tests.upstream.answers import DONE, answer
from tests.upstream.script import reset_before_headers, stall_before_headers


@pytest.fixture(scope="module")
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    short = {"first_byte_timeout_s": 0.3, "total_timeout_s": 1.0}
    with fleet(tmp_path_factory.mktemp("alone"), {"alpha": {}}, upstream_settings=short) as live:
        yield live


@pytest.fixture
def alone(_alone: Fleet) -> Fleet:
    _alone.forget()
    return _alone


CASES: dict[str, tuple[Script, int, str, str | None]] = {
    "408": (failing(408), 504, "api_error", "upstream_timeout"),
    "429": (failing(429), 429, "rate_limit_error", "rate_limit_exceeded"),
    "500": (failing(500), 502, "api_error", "upstream_error"),
    "502": (fixed(502, b"<html>"), 502, "api_error", "upstream_error"),
    "503": (failing(503), 503, "overloaded_error", "upstream_unavailable"),
    "504": (failing(504), 504, "api_error", "upstream_timeout"),
    "401": (failing(401, code="invalid_api_key"), 502, "api_error", "upstream_error"),
    "403": (failing(403), 502, "api_error", "upstream_error"),
    "404": (failing(404, code="model_not_found"), 502, "api_error", "upstream_error"),
    "empty 500": (fixed(500, b""), 502, "api_error", "upstream_error"),
    "null 200": (fixed(200, b"null"), 502, "api_error", "upstream_error"),
    "empty 200": (fixed(200, b""), 502, "api_error", "upstream_error"),
    "html 200": (fixed(200, b"<html>"), 502, "api_error", "upstream_error"),
    "reset": (reset_before_headers, 502, "api_error", "upstream_error"),
    "no http": (raw_bytes(b"garbage\r\n\r\n"), 502, "api_error", "upstream_error"),
    "silence": (stall_before_headers, 504, "api_error", "upstream_timeout"),
    "silence after the headers": (cut(answer("x"), 0, Stall()), 504, "api_error", "upstream_timeout"),
    "error in a 200": (error_in_stream(status=503), 503, "overloaded_error", "upstream_unavailable"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_class_of_the_error(alone: Fleet, name: str, stream: bool) -> None:
    script, status, kind, code = CASES[name]
    if name == "error in a 200" and not stream:
        script = fixed(200, b'{"error":{"message":"scripted","type":"x","param":null,"code":503}}')
    # Twice, because a connection that breaks while it is idle is replaced by a new one without a word.
    alone["alpha"].script(script, script)
    response = alone.chat("alpha", stream=stream)
    message = assert_error(response, status, kind, code)
    assert "alpha" in message
    assert ("retry-after" in response.headers) is (status in (429, 503))
    record = alone.record_of(response)
    assert (record.outcome, record.http_status, record.error_code) == ("failed", status, code)
    assert len(record.attempts) == 1
    assert record.attempts[0].error


@pytest.mark.parametrize("status", [400, 413, 415, 422])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_of_the_request_comes_back_as_the_upstream_said_it(alone: Fleet, status: int, stream: bool) -> None:
    body = orjson.dumps(
        {"error": {"message": "max_tokens is too large", "type": "invalid_request_error", "param": "max_tokens",
                   "code": "context_length_exceeded", "inner": 1.0}}
    )  # fmt: skip
    alone["alpha"].script(fixed(status, body))
    response = alone.chat("alpha", stream=stream)
    assert response.status_code == status
    assert response.content == body
    assert alone.record_of(response).http_status == status


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"bad tool"}}',
        b'{"error":"bad tool"}',
        b'{"object":"error","message":"bad tool","type":"BadRequestError","param":null,"code":400}',
        b'{"detail":[{"loc":["body"],"msg":"bad tool"}]}',
        b'{"detail":"bad tool"}',
        b"bad tool",
    ],
)
def test_a_refusal_in_another_shape_becomes_the_four_fields(alone: Fleet, body: bytes) -> None:
    alone["alpha"].script(fixed(400, body))
    response = alone.chat("alpha")
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == ERROR_FIELDS
    assert error["type"] == "invalid_request_error"
    assert "bad tool" in error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'{"error":null}', b'{"error":[]}', b"\xff\xfe", b'{"error":7}']
)
def test_a_refusal_without_a_word_becomes_the_four_fields(alone: Fleet, body: bytes) -> None:
    alone["alpha"].script(fixed(400, body))
    response = alone.chat("alpha")
    assert response.status_code == 400
    assert set(response.json()["error"]) == ERROR_FIELDS
    assert response.json()["error"]["message"]


def test_retry_after_is_passed_on(alone: Fleet) -> None:
    alone["alpha"].script(failing(429, retry_after="17"), failing(503, retry_after="9"))
    assert alone.chat("alpha").headers["retry-after"] == "17"
    assert alone.chat("alpha").headers["retry-after"] == "9"


@pytest.mark.parametrize("odd", ["soon", "-5", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
def test_an_odd_retry_after_is_replaced(alone: Fleet, odd: str) -> None:
    alone["alpha"].script(failing(429, retry_after=odd))
    response = alone.chat("alpha")
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1


def test_a_deadline_ends_the_wait(alone: Fleet) -> None:
    for stream in (False, True):
        alone["alpha"].script(stall_before_headers)
        response = alone.chat("alpha", stream=stream, routing={"deadline_ms": 50})
        assert_error(response, 504, "api_error", "deadline_exceeded")
        assert alone["alpha"].last.client_closed()
        record = alone.record_of(response)
        assert record.outcome == "failed"
        assert [attempt.outcome for attempt in record.attempts] == ["timeout"]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (failing(400), openai.BadRequestError),
        (failing(422), openai.UnprocessableEntityError),
        (failing(429), openai.RateLimitError),
        (failing(500), openai.InternalServerError),
        (failing(401), openai.InternalServerError),
        (fixed(200, b"null"), openai.InternalServerError),
        (truncated(answer("a longer answer")), openai.InternalServerError),
        (stall_before_headers, openai.InternalServerError),
    ],
)
def test_the_official_client_raises_the_right_class(
    alone: Fleet, script: Script, kind: type[openai.APIStatusError]
) -> None:
    alone["alpha"].script(script)
    with pytest.raises(kind) as raised:
        alone.client.chat.completions.create(model="alpha", messages=HI)
    assert set(raised.value.body or {}) >= {"message", "type", "param", "code"}  # type: ignore[call-overload]


def test_a_stream_that_ends_without_a_word_is_passed_on(alone: Fleet) -> None:
    alone["alpha"].script(raw_stream(DONE))
    response = alone.chat("alpha", stream=True)
    assert (response.status_code, response.content) == (200, DONE)


def test_a_defect_of_our_own_shows_no_trace(alone: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.serving import Serving

    async def broken(self: Serving, text: str) -> None:
        raise RuntimeError("the inside of the service")

    monkeypatch.setattr(Serving, "encode", broken)
    for stream in (False, True):
        response = alone.chat("auto", stream=stream)
        message = assert_error(response, 500, "api_error", "internal_error")
        assert "inside" not in message
        record = alone.record_of(response)
        assert (record.outcome, record.http_status) == ("failed", 500)
