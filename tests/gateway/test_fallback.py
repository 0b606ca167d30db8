"""Does every fault before the first byte become another arm's answer, without the client noticing?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.live import Fleet, assert_error, fleet, payloads, streamed_text
from tests.upstream import (
    Close,
    Script,
    Stall,
    answer,
    cut,
    error_in_stream,
    failing,
    fixed,
    raw_bytes,
    raw_stream,
    truncated,
)
from tests.upstream.answers import DONE
from tests.upstream.script import close_before_headers, reset_before_headers, stall_before_headers

FALLBACK_ORDER = ["gamma", "beta", "alpha"]
"""The ranking of `auto:best`."""

ALWAYS: dict[str, Script] = {
    "reset before headers": reset_before_headers,
    "close before headers": close_before_headers,
    "stall before headers": stall_before_headers,
    "500": failing(500),
    "502 with html": fixed(502, b"<html>bad gateway</html>", {"content-type": "text/html"}),
    "503": failing(503),
    "529": failing(529),
    "429": failing(429, retry_after="30"),
    "408": failing(408),
    "401 of the upstream": failing(401, code="invalid_api_key"),
    "403 of the upstream": failing(403),
    "404 of the upstream": failing(404, code="model_not_found"),
    "400 of the upstream": failing(400, kind="invalid_request_error"),
    "500 without a body": fixed(500, b""),
    "500 with a null": fixed(500, b"null"),
    "500 with an odd error": fixed(500, b'{"error":"boom"}'),
    "200 with nothing": fixed(200, b""),
    "200 with html": fixed(200, b"<html></html>", {"content-type": "text/html"}),
    "200 with an error object": fixed(200, b'{"error":{"message":"no","type":"x","param":null,"code":null}}'),
    "200 with a null": fixed(200, b"null"),
    "200 with a list": fixed(200, b"[1]"),
    "302": fixed(302, b"", {"location": "http://127.0.0.1:1/"}),
    "not http": raw_bytes(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "binary garbage": raw_bytes(bytes(range(256)) * 4),
    "an endless status line": raw_bytes(b"HTTP/1.1 200 " + b"x" * 200_000),
    "a bad content length": raw_bytes(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}"),
    "headers cut off": raw_bytes(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-le"),
}
WHOLE: dict[str, Script] = {
    **ALWAYS,
    "truncated": truncated(answer("an answer that is cut off in the middle")),
    "stall in the body": cut(answer("x"), 0, Stall()),
    "reset in the body": cut(answer("x"), 0),
    "invalid json": fixed(200, b'{"choices":[{"message":{"content":"x"}}]'),
    "chunked without an end": raw_bytes(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"a":\r\n'),
    "a bad chunk size": raw_bytes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
}
STREAMED: dict[str, Script] = {
    **ALWAYS,
    "reset after the headers": cut(answer("x"), 0),
    "close after the headers": cut(answer("x"), 0, Close()),
    "stall after the headers": cut(answer("x"), 0, Stall()),
    "error in the first event": error_in_stream(status=500),
    "a refusal in the first event": error_in_stream(status=400),
    "error after a comment": error_in_stream(b": processing\n\n", status=503),
    "an empty stream": raw_stream(),
    "only comments": raw_stream(b": ping\n\n", b": ping\n\n"),
    "no json in the first event": raw_stream(b"data: <html>\n\n", DONE),
    "half an event": raw_stream(b'data: {"id":"x","choices":[{"index":0,"del'),
    "a whole answer instead of a stream": lambda request: fixed(200, b'{"choices":[]}')(request),
}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Short waits, no retries: each fault costs one attempt."""
    short = {"first_byte_timeout_s": 0.3, "connect_timeout_s": 0.3}
    with fleet(tmp_path_factory.mktemp("hasty"), upstream_settings=short) as live:
        yield live


@pytest.mark.parametrize("fault", [pytest.param(script, id=name) for name, script in WHOLE.items()])
def test_a_fault_before_an_answer_falls_back(hasty: Fleet, fault: Script) -> None:
    hasty.forget()
    hasty["gamma"].script(fault)
    hasty["beta"].script(answer("from beta"))
    response = hasty.chat("auto:best")
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "from beta"
    check_record(hasty, response.headers["x-request-id"])
    assert response.headers["x-tokamak-model"] == "beta"
    assert response.headers["x-tokamak-attempts"] == "2"


@pytest.mark.parametrize("fault", [pytest.param(script, id=name) for name, script in STREAMED.items()])
def test_a_fault_before_the_first_event_of_a_stream_falls_back(hasty: Fleet, fault: Script) -> None:
    hasty.forget()
    hasty["gamma"].script(fault)
    hasty["beta"].script(answer("from ", "beta"))
    response = hasty.chat("auto:best", stream=True)
    assert response.status_code == 200, response.text
    events = payloads(response)
    assert streamed_text(events) == "from beta"
    assert events[-1] == "[DONE]"
    check_record(hasty, response.headers["x-request-id"])


def check_record(live: Fleet, request_id: str) -> None:
    """The log tells of both attempts; the decision is still for the arm that failed."""
    record = live.gateway.record(request_id)
    assert (record.outcome, record.http_status, record.arm, record.model) == ("ok", 200, "beta", "beta")
    assert [(a.ordinal, a.arm) for a in record.attempts] == [(0, "gamma"), (1, "beta")]
    assert record.attempts[0].outcome not in ("ok", "aborted")
    assert record.attempts[0].error
    assert record.attempts[1].outcome == "ok"
    assert record.decision is not None
    assert record.decision.arm == "gamma"
    assert live.calls() == {"alpha": 0, "beta": 1, "gamma": 1}


def test_a_refused_connection_falls_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    with fleet(tmp_path_factory.mktemp("refused")) as live:
        live["gamma"].refuse()
        assert live.chat("auto:best").headers["x-tokamak-model"] == "beta"
        live["beta"].refuse()
        response = live.chat("auto:best", stream=True)
        assert response.headers["x-tokamak-model"] == "alpha"
        assert [a.outcome for a in live.record_of(response).attempts] == ["connect_error", "connect_error", "ok"]
        live["alpha"].refuse()
        assert_error(live.chat("auto:best"), 502, "api_error", "upstream_error")
        live["gamma"].listen()
        assert live.chat("auto:best").headers["x-tokamak-model"] == "gamma"


def test_fallbacks_follow_the_ranking_and_end(abc: Fleet) -> None:
    for upstream in abc.upstreams.values():
        upstream.default = failing(500)
    response = abc.chat("auto:best")
    assert_error(response, 502, "api_error", "upstream_error")
    record = abc.record_of(response)
    assert [attempt.arm for attempt in record.attempts] == FALLBACK_ORDER
    assert (record.outcome, record.http_status, record.cost_usd) == ("failed", 502, None)


def test_a_concrete_model_never_falls_back_to_another(abc: Fleet) -> None:
    abc["gamma"].script(failing(500))
    assert_error(abc.chat("gamma"), 502, "api_error", "upstream_error")
    assert abc.calls() == {"alpha": 0, "beta": 0, "gamma": 1}


def test_fallbacks_stay_within_what_the_caller_allowed(abc: Fleet) -> None:
    abc["gamma"].script(failing(500))
    response = abc.chat("auto:best", routing={"models": ["gamma", "alpha"]})
    assert response.headers["x-tokamak-model"] == "alpha"
    assert abc.calls()["beta"] == 0


def test_a_failure_that_may_pass_is_retried_at_the_same_endpoint_first(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with fleet(tmp_path_factory.mktemp("retries"), limits={"retries": 1}) as live:
        live["gamma"].script(failing(503), answer("second try"))
        response = live.chat("auto:best")
        assert response.json()["choices"][0]["message"]["content"] == "second try"
        assert live.calls() == {"alpha": 0, "beta": 0, "gamma": 2}
        live.forget()
        live["gamma"].script(failing(400), answer("never"))
        assert live.chat("auto:best").headers["x-tokamak-model"] == "beta"
        assert live.calls() == {"alpha": 0, "beta": 1, "gamma": 1}


def test_a_model_moves_to_its_next_endpoint(tmp_path_factory: pytest.TempPathFactory) -> None:
    models = {
        "one": {"endpoints": [{"upstream": "one"}, {"upstream": "two", "model": "one-b"}]},
        "two": {"endpoints": [{"upstream": "two"}]},
    }
    with fleet(tmp_path_factory.mktemp("endpoints"), models) as live:
        live["one"].script(failing(500))
        response = live.chat("one")
        assert response.status_code == 200
        assert live["two"].last.json["model"] == "one-b"
        assert [a.endpoint for a in live.record_of(response).attempts] == ["one/one", "two/one-b"]


def test_an_endpoint_that_keeps_failing_is_left_out_and_comes_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits = {"breaker_failures": 2, "breaker_cooldown_s": 0.5}
    with fleet(tmp_path_factory.mktemp("breaker"), limits=limits) as live:
        live["gamma"].script(failing(500), failing(500))
        for _ in range(3):
            assert live.chat("auto:best").headers["x-tokamak-model"] == "beta"
        assert live.calls()["gamma"] == 2
        route = live.post("/v1/route", {"model": "auto:best", "messages": [{"role": "user", "content": "x"}]}).json()
        assert route["arm"] == "beta"

        from tests.gateway.live import until

        until(lambda: live.chat("auto:best").headers["x-tokamak-model"] == "gamma", "gamma did not come back")


def test_a_stale_kept_alive_connection_is_not_an_error(abc: Fleet) -> None:
    """The upstream closes an idle connection just before the next request: that is nobody's failure."""
    for _ in range(3):
        abc["alpha"].script(lambda request: (*answer("x")(request), Close()))
        assert abc.chat("alpha").status_code == 200
    assert abc.calls()["alpha"] == 3
