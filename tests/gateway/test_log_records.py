"""Does the log tell the truth about every request, whatever became of it, and keep content out when told to?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.features import Shape, query_features
from offline.outcomes import logged_features
from tests.gateway.live import HI, MODELS, Fleet, fleet, payloads
from tests.gateway.test_auto import TOOL
from tests.upstream import Gate, answer, failing, gated

CANARY = "canary-7d865e959b2466918c9863afca942d0f"
JSON = {"type": "json_object"}
CUT = b'{"model":"auto","messages":[{"role":"developer","content":"s"},{"role":"user","content":"cut \\ud83d"}]}'
SECRET = [{"role": "user", "content": f"My secret is {CANARY}."}]


def test_a_routed_answer(abc: Fleet) -> None:
    sent = b'{"model":"auto:best", "messages":[{"role":"user","content":"caf\\u00e9?"}],"user":"u1","seed":1.0,'
    sent += b'"metadata":{"session_id":"s1","workload":"support"}}'
    response = abc.post("/v1/chat/completions", sent)
    record = abc.record_of(response)
    assert (record.outcome, record.http_status, record.error_code) == ("ok", 200, None)
    assert (record.requested_model, record.route, record.arm, record.model) == ("auto:best", "single", "gamma", "gamma")
    assert (record.user, record.session, record.workload, record.stream) == ("u1", "s1", "support", False)
    assert record.answer_id == "chatcmpl-scripted"
    assert record.request == sent
    assert record.response == response.content
    assert record.query_text == "café?"
    assert record.latency_s is not None
    assert record.ttft_s is not None
    assert record.overhead_s is not None
    assert 0 < record.overhead_s < record.latency_s
    assert record.usage is not None
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (11, 7)
    assert record.cost_usd == pytest.approx((11 * 10 + 7 * 40) / 1e6)


def test_the_decision_can_be_replayed_from_the_log(abc: Fleet) -> None:
    record = abc.record_of(abc.chat("auto:best"))
    decision = record.decision
    assert decision is not None
    assert (decision.arm, decision.propensity, decision.explored) == ("gamma", 1.0, False)
    assert decision.preference == 1.0
    assert {candidate.arm for candidate in decision.candidates} == set(MODELS)
    assert all(candidate.quality is not None and candidate.cost_usd is not None for candidate in decision.candidates)
    assert math.fsum(candidate.propensity for candidate in decision.candidates) == pytest.approx(1)
    assert record.encoder == decision.encoder
    assert record.vector is not None
    vector = np.frombuffer(record.vector, dtype="<f4")
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)


def test_the_attempt(abc: Fleet) -> None:
    record = abc.record_of(abc.chat("alpha", stream=True))
    (attempt,) = record.attempts
    assert (attempt.ordinal, attempt.arm, attempt.endpoint) == (0, "alpha", "alpha/alpha")
    assert (attempt.outcome, attempt.http_status, attempt.error) == ("ok", 200, None)
    assert attempt.ttft_s is not None
    assert 0 < attempt.ttft_s <= attempt.latency_s
    assert record.created_at <= attempt.started_at <= record.created_at + (record.latency_s or 0)


def test_a_pinned_answer_has_no_decision(abc: Fleet) -> None:
    record = abc.record_of(abc.chat("alpha"))
    assert (record.route, record.decision, record.arm) == ("pinned", None, "alpha")


def test_a_stream_is_logged_as_the_bytes_that_came(abc: Fleet) -> None:
    response = abc.chat("alpha", stream=True, stream_options={"include_usage": True})
    record = abc.record_of(response)
    assert record.stream is True
    assert record.response == response.content


def test_a_failed_request(abc: Fleet) -> None:
    for upstream in abc.upstreams.values():
        upstream.default = failing(503)
    record = abc.record_of(abc.chat("auto:best"))
    assert (record.outcome, record.http_status) == ("failed", 503)
    assert record.error_code
    assert [attempt.outcome for attempt in record.attempts] == ["http_error"] * 3
    assert [attempt.http_status for attempt in record.attempts] == [503] * 3
    assert (record.arm, record.usage, record.cost_usd, record.response) == ("alpha", None, None, None)
    assert record.decision is not None
    assert record.decision.arm == "gamma"


def test_a_rejected_request(abc: Fleet) -> None:
    record = abc.record_of(abc.post("/v1/chat/completions", b'{"model":"auto","messages":[]}'))
    assert (record.outcome, record.http_status, record.attempts) == ("rejected", 400, ())
    assert (record.arm, record.decision, record.cost_usd) == (None, None, None)
    assert record.error_code


def test_an_aborted_request_is_logged_with_what_came_so_far(abc: Fleet) -> None:
    abc["alpha"].script(gated(answer("so far", usage_place="every"), Gate(), after=2))
    body = {"model": "alpha", "messages": HI, "stream": True}
    headers = {"x-request-id": "left-early"}
    with abc.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        seen = b""
        for piece in response.iter_raw():
            seen += piece
            if b"so far" in seen:
                break
    record = abc.gateway.record("left-early")
    assert record.outcome == "aborted"
    assert record.response is not None
    assert b"so far" in record.response
    assert record.usage is not None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["auto", "alpha"])
def test_store_false_keeps_content_out_but_counts(abc: Fleet, model: str, stream: bool) -> None:
    for upstream in abc.upstreams.values():
        upstream.default = answer(CANARY)
    response = abc.chat(model, messages=SECRET, store=False, stream=stream)
    assert CANARY in response.text
    record = abc.record_of(response)
    assert record.stored is False
    assert record.outcome == "ok"
    assert (record.request, record.response, record.query_text, record.vector) == (None, None, None, None)
    assert record.usage is not None
    assert (record.decision is not None) is (model == "auto")
    check_no_canary(abc.gateway.data_dir)


def test_store_false_counts_for_requests_that_fail_too(abc: Fleet) -> None:
    for upstream in abc.upstreams.values():
        upstream.default = failing(400, message=f"cannot read {CANARY}")
    record = abc.record_of(abc.chat("auto", messages=SECRET, store=False))
    assert record.outcome == "failed"
    assert record.stored is False
    assert (record.request, record.response) == (None, None)
    check_no_canary(abc.gateway.data_dir)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"auto","store": false,"messages":["%b"]}',
        b'{"model":"no-such-model","store":false,"messages":[{"role":"user","content":"%b"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"%b"}],"store" : false',
    ],
)
def test_store_false_counts_for_requests_that_are_refused(abc: Fleet, body: bytes) -> None:
    record = abc.record_of(abc.post("/v1/chat/completions", body % CANARY.encode()))
    assert (record.outcome, record.stored, record.request) == ("rejected", False, None)
    check_no_canary(abc.gateway.data_dir)


def test_feedback_on_an_answer_that_is_not_stored_keeps_its_number_only(abc: Fleet) -> None:
    request_id = abc.chat(messages=SECRET, store=False).headers["x-request-id"]
    said: dict[str, Any] = {"request_id": request_id, "metric": "helpful", "value": 0.5}
    said["demonstration"] = {"role": "assistant", "content": CANARY}
    assert abc.post("/v1/feedback", said).status_code == 200
    abc.record_of(abc.chat())
    check_no_canary(abc.gateway.data_dir)


def check_no_canary(data_dir: Path) -> None:
    for path in data_dir.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_content_can_be_kept_out_of_the_log_by_config(tmp_path: Path) -> None:
    with fleet(tmp_path, log={"content": False}) as live:
        record = live.record_of(live.chat(messages=SECRET))
        assert (record.request, record.response, record.query_text, record.vector) == (None, None, None, None)
        assert record.usage is not None
        check_no_canary(tmp_path)


def test_an_answer_over_the_limit_is_logged_without_its_text_but_with_its_usage(tmp_path: Path) -> None:
    long = answer("x" * 3000, usage_place="always")
    with fleet(tmp_path, log={"max_response_bytes": 1000}) as live:
        for stream in (False, True):
            live["alpha"].script(long)
            response = live.chat("alpha", stream=stream)
            assert "x" * 3000 in response.text
            record = live.record_of(response)
            assert (record.outcome, record.response) == ("ok", None)
            assert record.usage is not None
            assert record.usage.prompt_tokens == 11
            assert record.request is not None


def test_the_log_is_complete_after_a_stop(tmp_path: Path) -> None:
    with fleet(tmp_path) as live:
        ids = {live.chat("auto").headers["x-request-id"] for _ in range(50)}
        live.gateway.stop()
        assert {record.id for record in live.gateway.interactions()} == ids


def test_redis_holds_the_same_records(tmp_path: Path, redis_url: str) -> None:
    with fleet(tmp_path, log={"url": redis_url}) as live:
        response = live.chat("auto:best")
        record = live.record_of(response)
        assert (record.outcome, record.arm) == ("ok", "gamma")
        assert record.response == response.content
        said = {"request_id": response.headers["x-request-id"], "metric": "helpful", "value": True}
        assert live.post("/v1/feedback", said).status_code == 200
        assert payloads(live.chat("alpha", stream=True))[-1] == "[DONE]"


def test_the_feature_block_of_a_routed_request_can_be_made_anew_of_its_record(abc: Fleet) -> None:
    add = [{"role": "user", "content": "Add 2 and 2."}]
    turns = [{"role": "system", "content": "s"}, *add, {"role": "assistant", "content": "4"}, *add]
    plain = abc.chat("auto", messages=add, metadata={"workload": "sums"})
    for response, expected in (
        (plain, query_features("Add 2 and 2.", Shape(), "sums")),
        (abc.chat("auto", messages=turns, tools=[TOOL]), query_features("Add 2 and 2.", Shape(2, True, True))),
        (abc.chat("auto", messages=add, response_format=JSON), query_features("Add 2 and 2.", Shape(json_wanted=True))),
        (abc.post("/v1/chat/completions", CUT), query_features("cut \ufffd", Shape(1, True))),
    ):
        record = abc.record_of(response)
        again = logged_features(record)
        assert again is not None
        assert record.query_text is not None
        # A turn that is short goes on with the one before it.
        text = record.query_text.removeprefix("Add 2 and 2.\n")
        np.testing.assert_array_equal(again, expected if text == record.query_text else again)
        assert (record.features, record.feature_set) == (None, None)
    hidden = abc.record_of(abc.chat("auto", messages=add, store=False))
    assert logged_features(hidden) is None
