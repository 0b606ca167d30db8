"""Is every kind of bad input answered with the right status, a helpful four-field error and a log record?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import orjson
import pytest

from tests.gateway.live import ERROR_FIELDS, HI, Fleet, assert_error, fleet, until

CHAT = "/v1/chat/completions"
INVALID = "invalid_request_error"


def refused(live: Fleet, path: str, body: bytes | dict[str, Any], status: int, kind: str, code: str) -> str:
    """Post, check the error, that nobody was called, and that the log has it; returns the message."""
    response = live.post(path, body)
    message = assert_error(response, status, kind, code)
    assert live.called() == []
    record = live.record_of(response)
    assert (record.outcome, record.http_status, record.error_code) == ("rejected", status, code)
    assert record.attempts == ()
    return message


NO_JSON = [
    b"", b" ", b"{", b"[", b"nonsense", b'{"model":"auto"', b'{"model":"auto",}', b"{'model':'auto'}", b"\xff\xfe{}",
    b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}', b'{"model":"auto"} {"model":"auto"}',
    b'{"model":"auto","messages":[{"role":"user","content":"x"}],"n":01}', b'{"model":"auto","x":NaN}',
    b"[" * 100_000, b'{"a":' * 100_000, b'{"model":"auto","messages":' + b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("body", NO_JSON, ids=[repr(body[:24]) for body in NO_JSON])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
def test_what_is_no_json(abc: Fleet, path: str, body: bytes) -> None:
    code = "invalid_json"
    if b'"messages"' in body and body.endswith(b"}") and path != CHAT and b"\xff" in body:
        code = "missing_required_parameter"  # Fields that an endpoint does not read are the upstream's to judge.
    assert refused(abc, path, body, 400, INVALID, code) != ""


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"text"', b"true", b'[{"model":"auto"}]'])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/route"])
def test_json_that_is_no_object(abc: Fleet, path: str, body: bytes) -> None:
    response = abc.post(path, body)
    message = assert_error(response, 400, INVALID, "invalid_json")
    assert "object" in message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": ["auto"]}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {"role": "user", "content": "x"}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [*HI, 7]}, "messages[1]"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": 7, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 10_000}, "n"),
        ({"n": "2"}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"tools": {}}, "tools"),
        ({"tools": "f"}, "tools"),
        ({"response_format": "json"}, "response_format"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"routing": "best"}, "routing"),
        ({"routing": []}, "routing"),
        ({"routing": {"preference": "splendid"}}, "routing.preference"),
        ({"routing": {"preference": 1.5}}, "routing.preference"),
        ({"routing": {"preference": True}}, "routing.preference"),
        ({"routing": {"cost_quality": -0.1}}, "routing.cost_quality"),
        ({"routing": {"mode": "turbo"}}, "routing.mode"),
        ({"routing": {"weights": {"quality": 1}}}, "routing.weights"),
        ({"routing": {"weights": {"quality": 0, "cost": 0}}}, "routing.weights"),
        ({"routing": {"models": "alpha"}}, "routing.models"),
        ({"routing": {"models": []}}, "routing.models"),
        ({"routing": {"models": [7]}}, "routing.models"),
        ({"routing": {"exploration": 2}}, "routing.exploration"),
        ({"routing": {"max_cost_usd": 0}}, "routing.max_cost_usd"),
        ({"routing": {"max_cost_usd": "cheap"}}, "routing.max_cost_usd"),
        ({"routing": {"deadline_ms": -1}}, "routing.deadline_ms"),
        ({"routing": {"explain": "yes"}}, "routing.explain"),
        ({"plugins": "auto-router"}, "plugins"),
        ({"max_cost": "much"}, "max_cost"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("model", ["auto", "alpha"])
def test_wrong_values_name_the_parameter(abc: Fleet, fields: dict[str, Any], param: str, model: str) -> None:
    body = {"model": model, "messages": HI, **fields}
    response = abc.post(CHAT, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == ERROR_FIELDS
    assert error["type"] == INVALID
    assert error["param"] == param
    assert param.split("[")[0].split(".")[-1] in error["message"]
    assert abc.called() == []
    assert abc.record_of(response).outcome == "rejected"


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_parameter(abc: Fleet, missing: str) -> None:
    body: dict[str, Any] = {"model": "auto", "messages": HI}
    del body[missing]
    response = abc.post(CHAT, body)
    assert missing in assert_error(response, 400, INVALID, "missing_required_parameter", missing)
    assert abc.called() == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": "alpha"}, "prompt"),
        ("/v1/completions", {"model": "alpha", "prompt": ""}, "prompt"),
        ("/v1/completions", {"model": "alpha", "prompt": {"a": 1}}, "prompt"),
        ("/v1/completions", {"prompt": "x"}, "model"),
        ("/v1/embeddings", {"model": "alpha"}, "input"),
        ("/v1/embeddings", {"model": "alpha", "input": []}, "input"),
        ("/v1/embeddings", {"input": "x"}, "model"),
        ("/v1/route", {"model": "auto", "messages": []}, "messages"),
        ("/v1/route", {"model": "auto", "messages": HI, "routing": {"explian": True}}, "routing.explian"),
    ],
)
def test_the_other_endpoints_validate_too(abc: Fleet, path: str, body: dict[str, Any], param: str) -> None:
    response = abc.post(path, body)
    assert response.status_code == 400, response.text
    assert set(response.json()["error"]) == ERROR_FIELDS
    assert response.json()["error"]["param"] == param
    assert abc.called() == []


@pytest.mark.parametrize(
    ("asked", "near"),
    [("alfa", "alpha"), ("Gamma", "gamma"), ("aut", "auto"), ("auto:chep", "cheap"), ("qwertyuiop", "alpha")],
)
def test_an_unknown_model_is_told_the_nearest_names(abc: Fleet, asked: str, near: str) -> None:
    response = abc.chat(asked)
    assert response.status_code in (400, 404)
    error = response.json()["error"]
    assert set(error) == ERROR_FIELDS
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert near in error["message"]
    assert abc.record_of(response).outcome == "rejected"
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        abc.client.chat.completions.create(model=asked, messages=HI)


@pytest.mark.parametrize("key", ["explian", "model", "cost-quality", "Explain", ""])
def test_an_unknown_routing_key_is_told_the_known_ones(abc: Fleet, key: str) -> None:
    body = {"model": "auto", "messages": HI, "routing": {key: True}}
    message = refused(abc, CHAT, body, 400, INVALID, "unknown_parameter")
    assert "explain" in message
    assert repr(key) in message


def test_an_unknown_routing_header_is_told_the_nearest(abc: Fleet) -> None:
    response = abc.chat(headers={"x-tokamak-routing-explian": "true"})
    message = assert_error(response, 400, INVALID, "unknown_parameter")
    assert "explain" in message


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Short windows, no `n`, and bodies of at most 10 kB."""
    able = ["chat", "completions"]
    models = {
        "alpha": {"context_window": 100, "capabilities": able},
        "beta": {"context_window": 1000, "capabilities": able},
    }
    with fleet(tmp_path_factory.mktemp("small"), models, server={"max_body_bytes": 10_000}) as live:
        yield live


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "word " * 1500}]},
        {"messages": HI, "max_tokens": 5000},
        {"messages": [{"role": "user", "content": "word " * 700}], "max_completion_tokens": 500},
    ],
)
def test_a_prompt_longer_than_every_window(small: Fleet, fields: dict[str, Any]) -> None:
    small.forget()
    message = refused(small, CHAT, {"model": "auto", **fields}, 400, INVALID, "context_length_exceeded")
    assert "1000" in message


def test_a_prompt_that_fits_one_window_goes_there(small: Fleet) -> None:
    small.forget()
    assert small.chat(messages=[{"role": "user", "content": "word " * 200}]).status_code == 200
    assert small.called() == ["beta"]


def test_several_answers_where_no_model_gives_them(small: Fleet) -> None:
    small.forget()
    message = refused(small, CHAT, {"model": "auto", "messages": HI, "n": 2}, 400, INVALID, "no_eligible_model")
    assert "n" in message
    assert "alpha" in message


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/route", "/v1/feedback"])
def test_a_body_over_the_limit(small: Fleet, path: str) -> None:
    small.forget()
    body = {"model": "alpha", "messages": [{"role": "user", "content": "x" * 20_000}], "prompt": "x", "input": "x"}
    response = small.post(path, body)
    message = assert_error(response, 413, INVALID, "request_too_large")
    assert "10000" in message
    if path.startswith(CHAT):
        assert small.record_of(response).outcome == "rejected"
    assert small.chat().status_code == 200


def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(small: Fleet) -> None:
    small.forget()
    pieces = (b"x" * 4000 for _ in range(5))
    message = assert_error(small.http.post(CHAT, content=pieces), 413, INVALID, "request_too_large")
    assert "10000" in message
    assert small.called() == []


def test_a_chunked_body_within_the_limit_is_accepted(small: Fleet) -> None:
    small.forget()
    body = orjson.dumps({"model": "alpha", "messages": HI})
    response = small.http.post(CHAT, content=iter([body[:9], body[9:30], body[30:]]))
    assert response.status_code == 200
    assert small["alpha"].last.body == body


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/route", "/v1/feedback"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_method_that_is_not_served(abc: Fleet, method: str, path: str) -> None:
    response = abc.http.request(method, path)
    assert_error(response, 405, INVALID, "method_not_allowed")
    assert "POST" in response.headers["allow"]


def test_posting_to_what_is_only_read(abc: Fleet) -> None:
    response = abc.post("/v1/models", {})
    assert_error(response, 405, INVALID, "method_not_allowed")
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v1/chat/completion", "/chat/completions", "/v1/%00", "/é"])
def test_a_path_that_is_not_served(abc: Fleet, path: str) -> None:
    assert_error(abc.post(path, {"model": "auto", "messages": HI}), 404, "not_found_error", "unknown_url")
    assert abc.called() == []


def test_a_near_miss_of_a_path_is_told(abc: Fleet) -> None:
    message = assert_error(abc.post("/v1/chat/completion", {}), 404, "not_found_error", "unknown_url")
    assert "/v1/chat/completions" in message


@pytest.mark.parametrize(
    "start",
    [b"NONSENSE\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n", b"\x16\x03\x01\x02"],
)
def test_bytes_that_are_no_http_do_no_harm(abc: Fleet, start: bytes) -> None:
    with socket.create_connection(("127.0.0.1", abc.gateway.port), timeout=5) as client:
        client.sendall(start)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert b"Traceback" not in answer
    assert abc.chat().status_code == 200


@pytest.mark.parametrize("sent", ["with space", "é", "x" * 1000, "", "a\tb"])
def test_an_odd_request_id_harms_nothing(abc: Fleet, sent: str) -> None:
    headers = [(b"x-request-id", sent.encode("utf-8")), (b"content-type", b"application/json")]
    body = orjson.dumps({"model": "auto", "messages": HI})
    response = httpx.post(f"{abc.gateway.root}{CHAT}", content=body, headers=headers)
    assert response.status_code == 200
    assert abc.record_of(response).outcome == "ok"


def test_content_types_do_not_matter(abc: Fleet) -> None:
    body = orjson.dumps({"model": "alpha", "messages": HI})
    for kind in ("text/plain", "application/json; charset=utf-8", ""):
        assert abc.post(CHAT, body, {"content-type": kind}).status_code == 200


def test_odd_but_legal_messages_pass(abc: Fleet) -> None:
    odd: tuple[list[Any], ...] = (
        [{"role": "assistant", "content": None, "tool_calls": []}],
        [{"role": "system", "content": "only a system prompt"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "text"}, {"type": "new_kind", "data": 1}, "bare"]}],
        [{"role": "role_of_tomorrow", "content": "x", "extra": {"a": 1}}],
        [{"role": "user", "content": "\u0000\ud83d\ude00" * 10}],
    )
    for messages in odd:
        body = orjson.dumps({"model": "alpha", "messages": HI}).replace(orjson.dumps(HI), dumps(messages))
        assert abc.post(CHAT, body).status_code == 200, messages
        routed = abc.post(CHAT, body.replace(b'"alpha"', b'"auto"'))
        # A part that is not text needs an arm with vision, which none here has.
        assert routed.status_code == (400 if b"new_kind" in body else 200), messages
    until(lambda: len(abc.gateway.interactions()) == 14, "a record for each")


def dumps(value: Any) -> bytes:
    """JSON with ASCII escapes, lone surrogates included."""
    import json

    return json.dumps(value).encode()
