"""Can a client say how good an answer was, once or late or twice, and is nonsense refused?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.live import Fleet, assert_error, until
from traffic.records import Feedback


def stored(abc: Fleet, feedback_id: str) -> Feedback:
    return until(
        lambda: next((row for row in abc.gateway.feedback() if row.id == feedback_id), None), "feedback in the log"
    )


@pytest.mark.parametrize("name", ["x-request-id", "x-tokamak-decision-id"])
def test_feedback_names_an_answer_by_its_request_or_decision_id(abc: Fleet, name: str) -> None:
    answered = abc.chat()
    said = {"request_id": answered.headers[name], "metric": "helpful", "value": True, "tags": {"team": "a"}}
    response = abc.post("/v1/feedback", said)
    assert response.status_code == 200, response.text
    row = stored(abc, response.json()["feedback_id"])
    assert (row.metric, row.value, row.tags) == ("helpful", True, {"team": "a"})
    assert row.interaction_id == abc.record_of(answered).id


def test_feedback_by_the_answers_own_id_and_by_the_clients(abc: Fleet) -> None:
    abc.chat("beta", headers={"x-request-id": "of-the-client"})
    for name in ("chatcmpl-scripted", "of-the-client"):
        response = abc.post("/v1/feedback", {"request_id": name, "metric": "helpful", "value": 0.5})
        assert response.status_code == 200, response.text


def test_feedback_may_come_before_the_record_is_committed(abc: Fleet) -> None:
    for _ in range(5):
        said = {"request_id": abc.chat().headers["x-request-id"], "metric": "helpful", "value": 1.0}
        assert abc.post("/v1/feedback", said).status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        {"metric": "helpful", "value": 0.25},
        {"metric": "helpful", "value": False},
        {"metric": "comment", "value": "too long"},
        {"verdict": "underpowered"},
        {"verdict": "good_fit", "episode_id": "e1"},
        {"metric": "demonstration", "demonstration": {"role": "assistant", "content": "Paris."}},
    ],
)
def test_every_kind_of_statement_is_stored(abc: Fleet, said: dict[str, Any]) -> None:
    response = abc.post("/v1/feedback", {"request_id": abc.chat().headers["x-request-id"], **said})
    assert response.status_code == 200, response.text
    row = stored(abc, response.json()["feedback_id"])
    assert row.value == said.get("value")
    assert row.verdict == said.get("verdict")
    assert (row.demonstration is not None) is ("demonstration" in said)


def test_the_same_idempotency_key_is_stored_once(abc: Fleet) -> None:
    said = {"request_id": abc.chat().headers["x-request-id"], "metric": "helpful", "value": True}
    said["idempotency_key"] = f"once-{said['request_id']}"
    first, second = (abc.post("/v1/feedback", said).json()["feedback_id"] for _ in range(2))
    assert first == second
    stored(abc, first)
    del said["idempotency_key"]
    third = abc.post("/v1/feedback", said).json()["feedback_id"]
    assert third != first
    stored(abc, third)
    assert sum(row.interaction_id == stored(abc, first).interaction_id for row in abc.gateway.feedback()) == 2


def test_the_idempotency_key_may_be_a_header(abc: Fleet) -> None:
    said = {"request_id": abc.chat().headers["x-request-id"], "metric": "helpful", "value": True}
    headers = {"idempotency-key": f"h-{said['request_id']}"}
    first, second = (abc.post("/v1/feedback", said, headers).json()["feedback_id"] for _ in range(2))
    assert first == second


def test_an_unknown_request_is_not_found(abc: Fleet) -> None:
    response = abc.post("/v1/feedback", {"request_id": "no-such-id", "metric": "helpful", "value": True})
    message = assert_error(response, 404, "not_found_error", "request_not_found", "request_id")
    assert "no-such-id" in message


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"metric": "helpful", "value": 1.5}, "value"),
        ({"metric": "helpful", "value": -0.1}, "value"),
        ({"metric": "helpful", "value": [1]}, "value"),
        ({"metric": "comment", "value": "x" * 10_001}, "value"),
        ({"metric": 7, "value": True}, "metric"),
        ({"verdict": "splendid"}, "verdict"),
        ({"metric": "helpful", "value": True, "tags": {"a": 1}}, "tags"),
        ({"metric": "demonstration", "demonstration": "Paris"}, "demonstration"),
        ({"metric": "helpful", "value": True, "valeu": 1}, "valeu"),
        ({}, None),
    ],
)
def test_nonsense_is_refused(abc: Fleet, said: dict[str, Any], param: str | None) -> None:
    response = abc.post("/v1/feedback", {"request_id": abc.chat().headers["x-request-id"], **said})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    if param is not None:
        assert str(error["param"]).startswith(param)
    if param == "value":
        assert "expected true or false, a number in [0, 1] or at most 10000 characters, got" in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b'{"request_id":7}', b'{"metric":"helpful"}'])
def test_bodies_that_are_no_feedback_are_refused(abc: Fleet, body: bytes) -> None:
    response = abc.post("/v1/feedback", body)
    assert response.status_code == 400, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
