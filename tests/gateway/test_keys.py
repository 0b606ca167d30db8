"""Who may ask, for what, how often and how much at a time; and do keys stay out of everything that is written?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.gateway.live import HI, Fleet, assert_error, fleet, until
from tests.upstream import Gate, answer, gated

FREE, NARROW, SLOW, SINGLE, BY_NAME = (
    f"sk-canary-{name}-9f86d081" for name in ("free", "narrow", "slow", "one", "env")
)


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture(scope="module")
def _guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    keys = [
        {"id": "free", "sha256": sha(FREE)},
        {"id": "narrow", "sha256": sha(NARROW), "models": ["alpha", "bet*"]},
        {"id": "slow", "sha256": sha(SLOW), "requests_per_minute": 2},
        {"id": "single", "sha256": sha(SINGLE), "max_concurrent": 1},
        {"id": "by-name", "key_env": "TEST_GATEWAY_KEY"},
    ]
    environ = {"TEST_GATEWAY_KEY": BY_NAME, "UPSTREAM_KEY": "sk-upstream-canary"}
    secret = {"api_key_env": "UPSTREAM_KEY", "headers": {"x-team": "blue"}}
    with fleet(
        tmp_path_factory.mktemp("keys"), key=FREE, limits={"keys": keys}, environ=environ, upstream_settings=secret
    ) as live:
        yield live


@pytest.fixture
def guarded(_guarded: Fleet) -> Fleet:
    _guarded.forget()
    return _guarded


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer sk-wrong", FREE, f"Basic {FREE}", f"Bearer {FREE}x", f"Bearer {FREE[:-1]}"],
)
def test_no_known_key_no_answer(guarded: Fleet, header: str) -> None:
    response = guarded.chat(headers={"authorization": header})
    message = assert_error(response, 401, "authentication_error", "invalid_api_key")
    assert "canary" not in message
    assert "sk-wrong" not in message
    assert guarded.called() == []
    record = guarded.record_of(response)
    assert (record.outcome, record.http_status, record.key_id) == ("rejected", 401, None)
    assert record.error_code == "invalid_api_key"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/route", "/v1/feedback"])
def test_every_endpoint_that_does_something_asks_for_a_key(guarded: Fleet, path: str) -> None:
    body: dict[str, Any] = {"model": "alpha", "prompt": "x", "input": "x", "messages": HI}
    if path == "/v1/feedback":
        body = {"request_id": "x", "value": True}
    assert_error(guarded.post(path, body, bearer("sk-wrong")), 401, "authentication_error", "invalid_api_key")
    assert guarded.called() == []


def test_models_ask_for_a_key_and_health_does_not(guarded: Fleet) -> None:
    assert guarded.http.get("/v1/models", headers=bearer("sk-wrong")).status_code == 401
    for path in ("/health", "/ready"):
        assert guarded.http.get(path, headers={"authorization": ""}).status_code == 200


@pytest.mark.parametrize(("key", "name"), [(FREE, "free"), (BY_NAME, "by-name"), (NARROW, "narrow")])
def test_a_known_key_is_named_in_the_log(guarded: Fleet, key: str, name: str) -> None:
    response = guarded.chat("alpha", headers=bearer(key))
    assert response.status_code == 200
    assert guarded.record_of(response).key_id == name


def test_the_official_client_raises_the_right_class(guarded: Fleet) -> None:
    wrong = guarded.client.with_options(api_key="sk-wrong")
    with pytest.raises(openai.AuthenticationError):
        wrong.chat.completions.create(model="auto", messages=HI)
    narrow = guarded.client.with_options(api_key=NARROW)
    with pytest.raises(openai.PermissionDeniedError):
        narrow.chat.completions.create(model="gamma", messages=HI)


def test_a_model_that_the_key_may_not_use(guarded: Fleet) -> None:
    response = guarded.chat("gamma", headers=bearer(NARROW))
    assert_error(response, 403, "permission_error", "model_not_allowed", "model")
    assert guarded.called() == []
    assert guarded.record_of(response).outcome == "rejected"


def test_auto_stays_within_the_models_of_the_key(guarded: Fleet) -> None:
    assert guarded.chat("auto:best", headers=bearer(FREE)).headers["x-tokamak-model"] == "gamma"
    assert guarded.chat("auto:best", headers=bearer(NARROW)).headers["x-tokamak-model"] == "beta"
    ids = {row["id"] for row in guarded.http.get("/v1/models", headers=bearer(NARROW)).json()["data"]}
    assert {"alpha", "beta", "auto"} <= ids
    assert "gamma" not in ids


def test_too_many_requests_a_minute(guarded: Fleet) -> None:
    statuses = [guarded.chat("alpha", headers=bearer(SLOW)) for _ in range(4)]
    assert [response.status_code for response in statuses] == [200, 200, 429, 429]
    assert_error(statuses[-1], 429, "rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(statuses[-1].headers["retry-after"]) <= 60
    assert guarded.record_of(statuses[-1]).outcome == "rejected"
    assert guarded.chat("alpha", headers=bearer(FREE)).status_code == 200


def test_too_many_requests_at_a_time(guarded: Fleet) -> None:
    gate = Gate()
    guarded["alpha"].script(gated(answer("x"), gate, after=-1))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(guarded.chat, "alpha", headers=bearer(SINGLE))
        guarded["alpha"].wait_for(1)
        second = guarded.chat("alpha", headers=bearer(SINGLE))
        assert_error(second, 429, "rate_limit_error", "rate_limit_exceeded")
        assert int(second.headers["retry-after"]) >= 1
        gate.open()
        assert first.result().status_code == 200
    assert guarded.chat("alpha", headers=bearer(SINGLE)).status_code == 200


def test_a_client_that_left_frees_its_place(guarded: Fleet) -> None:
    gate = Gate()
    guarded["alpha"].script(gated(answer("x"), gate, after=1))
    body = {"model": "alpha", "messages": HI, "stream": True}
    with guarded.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(SINGLE)) as response:
        next(response.iter_raw())
    assert guarded["alpha"].last.client_closed()
    until(lambda: guarded.chat("alpha", headers=bearer(SINGLE)).status_code == 200, "the place was not freed")


def test_a_full_process_says_so(tmp_path: Path) -> None:
    gate = Gate()
    with fleet(tmp_path, limits={"max_concurrent": 1}) as live, ThreadPoolExecutor(1) as pool:
        live["alpha"].script(gated(answer("x"), gate, after=-1))
        first = pool.submit(live.chat, "alpha")
        live["alpha"].wait_for(1)
        second = live.chat("alpha")
        assert_error(second, 503, "overloaded_error", "overloaded")
        assert int(second.headers["retry-after"]) >= 1
        gate.open()
        assert first.result().status_code == 200


def test_the_upstream_gets_its_own_key_and_headers(guarded: Fleet) -> None:
    guarded.chat("alpha")
    received = guarded["alpha"].last
    assert received.header("authorization") == "Bearer sk-upstream-canary"
    assert received.header("x-team") == "blue"
    assert b"sk-canary" not in received.raw


def test_feedback_is_only_for_ones_own_requests(guarded: Fleet) -> None:
    said = {"request_id": guarded.chat("alpha").headers["x-request-id"], "metric": "helpful", "value": True}
    response = guarded.post("/v1/feedback", said, bearer(NARROW))
    assert_error(response, 404, "not_found_error", "request_not_found", "request_id")
    assert guarded.post("/v1/feedback", said, bearer(FREE)).status_code == 200


def test_no_key_is_written_anywhere(guarded: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    for key in (FREE, "sk-canary-of-a-stranger"):
        guarded.record_of(guarded.chat("alpha", headers=bearer(key)))
        guarded.http.get("/metrics", headers=bearer(key))
    out, err = capfd.readouterr()
    written = [path.read_bytes() for path in guarded.gateway.data_dir.rglob("*") if path.is_file()]
    assert written
    for text in [*written, out.encode(), err.encode()]:
        assert b"sk-canary" not in text
        assert b"sk-upstream-canary" not in text
