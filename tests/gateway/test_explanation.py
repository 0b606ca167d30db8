"""Is a decision explained when asked for: in the answer, at the end of a stream, and by a dry run that calls nobody?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.live import HI, MODELS, Fleet, assert_error, payloads, streamed_text


def check(route: dict[str, Any], chosen: str) -> None:
    """Every candidate has its predictions, and every loser a reason."""
    assert route["arm"] == chosen
    candidates = {candidate["arm"]: candidate for candidate in route["candidates"]}
    assert set(candidates) == set(MODELS)
    for name, candidate in candidates.items():
        assert 0 <= candidate["quality"] <= 1
        assert candidate["cost_usd"] > 0
        assert "latency_s" in candidate
        assert candidate["reason"].startswith("chosen") is (name == chosen)
    assert candidates["gamma"]["quality"] > candidates["alpha"]["quality"]
    assert candidates["gamma"]["cost_usd"] > candidates["alpha"]["cost_usd"]


def test_an_answer_carries_the_decision_under_route(abc: Fleet) -> None:
    body = abc.chat("auto:best", routing={"explain": True}).json()
    check(body["route"], "gamma")
    assert body["choices"][0]["message"]["content"] == "Hello there."
    assert body["route"]["attempts"][0]["outcome"] == "ok"


def test_a_header_asks_for_it_too(abc: Fleet) -> None:
    check(abc.chat("auto:cheap", headers={"x-tokamak-routing-explain": "true"}).json()["route"], "alpha")


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_carries_it_on_the_final_chunk_only(abc: Fleet, usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    events = payloads(abc.chat("auto:best", stream=True, routing={"explain": True}, **options))
    assert events[-1] == "[DONE]"
    assert ["route" in event for event in events[:-1]] == [False] * (len(events) - 2) + [True]
    check(events[-2]["route"], "gamma")
    assert streamed_text(events) == "Hello there."
    assert sum(event.get("usage") is not None for event in events[:-1]) == int(usage)


def test_the_official_client_reads_an_explained_stream(abc: Fleet) -> None:
    extra = {"routing": {"explain": True}}
    chunks = list(abc.client.chat.completions.create(model="auto", messages=HI, stream=True, extra_body=extra))
    assert (chunks[-1].model_extra or {})["route"]["arm"] in MODELS
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Hello there."


@pytest.mark.parametrize("fields", [{}, {"routing": {"explain": False}}])
def test_nobody_who_did_not_ask_gets_it(abc: Fleet, fields: dict[str, Any]) -> None:
    assert "route" not in abc.chat(**fields).json()
    assert b"route" not in abc.chat(stream=True, **fields).content


def test_a_dry_run_explains_and_calls_no_upstream(abc: Fleet) -> None:
    response = abc.post("/v1/route", {"model": "auto:best", "messages": HI})
    assert response.status_code == 200, response.text
    check(response.json(), "gamma")
    assert abc.calls() == {"alpha": 0, "beta": 0, "gamma": 0}


def test_a_dry_run_takes_the_same_wishes_as_a_chat(abc: Fleet) -> None:
    body = {"model": "auto", "messages": HI, "stream": True, "routing": {"models": ["beta", "gamma"], "preference": 0}}
    route = abc.post("/v1/route", body).json()
    assert route["arm"] == "beta"
    reasons = {candidate["arm"]: candidate["reason"] for candidate in route["candidates"]}
    assert reasons["alpha"].startswith("eliminated")
    body["model"] = "nonsense"
    assert_error(abc.post("/v1/route", body), 404, "not_found_error", "model_not_found", "model")


def test_a_dry_run_agrees_with_the_chat_that_follows(abc: Fleet) -> None:
    for model in ("auto", "auto:cheap", "auto:balanced", "auto:best"):
        dry = abc.post("/v1/route", {"model": model, "messages": HI}).json()
        assert abc.chat(model).headers["x-tokamak-model"] == dry["arm"]
