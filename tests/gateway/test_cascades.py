"""Does a cascade ask the cheap arm first, escalate on its signal alone, and tell the whole bill?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.gateway.live import HI, MODELS, Fleet, fleet, payloads, streamed_text
from tests.gateway.test_auto import FORMAT, TOOL
from tests.upstream import Script, answer, failing, fixed
from tests.upstream.answers import Answer

SURE, UNSURE = -0.05, -2.0
LOGPROB = {"signal": "logprob", "threshold": -0.5}
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def said(text: str, logprob: float | None = None) -> Script:
    """A whole answer whose tokens have this log probability."""
    body = Answer((text,), usage=USAGE).body("alpha", chat=True)
    if logprob is not None:
        body["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": logprob}] * 3, "refusal": None}
    return fixed(200, orjson.dumps(body))


def cascading(folder: Path, cascade: dict[str, Any] = LOGPROB, **route: Any) -> Any:
    return fleet(folder, routes={"auto": {"preference": 0.8, "cascade": cascade, **route}})


def check_bill(live: Fleet, response: Any, stages: list[str], costs: list[float]) -> None:
    record = live.record_of(response)
    assert [attempt.arm for attempt in record.attempts] == stages
    assert [attempt.cost_usd for attempt in record.attempts] == pytest.approx(costs)
    assert record.cost_usd == pytest.approx(sum(costs))
    assert record.usage is not None
    assert record.usage.prompt_tokens == 100 * len(stages)
    assert record.usage.completion_tokens == 10 * len(stages)
    assert (record.route, record.outcome) == ("cascade", "ok")


ALPHA_USD, GAMMA_USD = (100 * 0.1 + 10 * 0.4) / 1e6, (100 * 10 + 10 * 40) / 1e6


@pytest.mark.parametrize("stream", [False, True])
def test_a_sure_answer_of_the_cheap_arm_is_enough(tmp_path: Path, stream: bool) -> None:
    with cascading(tmp_path) as live:
        live["alpha"].default = said("Paris.", SURE)
        options = {"stream_options": {"include_usage": True}} if stream else {}
        response = live.chat(stream=stream, routing={"explain": True}, **options)
        assert live.called() == ["alpha"]
        sent = live["alpha"].last.json
        assert (sent["logprobs"], sent.get("stream", False)) == (True, False)
        assert "stream_options" not in sent
        if stream:
            events = payloads(response)
            assert streamed_text(events) == "Paris."
            assert events[-1] == "[DONE]"
            assert events[-2]["route"]["cascade"]["escalated"] is False
            assert [e["usage"] for e in events if isinstance(e, dict) and e.get("usage")] == [USAGE]
            assert [e["choices"][0]["finish_reason"] for e in events if isinstance(e, dict) and e["choices"]] == [
                None, "stop",
            ]  # fmt: skip
        else:
            assert "logprobs" not in response.json()["choices"][0]
            cascade = response.json()["route"]["cascade"]
            assert (cascade["value"], cascade["escalated"]) == (pytest.approx(SURE), False)
        assert response.headers["x-tokamak-model"] == "alpha"
        check_bill(live, response, ["alpha"], [ALPHA_USD])


@pytest.mark.parametrize("stream", [False, True])
def test_an_unsure_answer_is_never_seen_and_the_better_arm_answers(tmp_path: Path, stream: bool) -> None:
    with cascading(tmp_path, preference=0.9) as live:
        live["alpha"].default = said("Maybe Lyon?", UNSURE)
        live["beta"].default = live["gamma"].default = answer("Paris.", usage=USAGE)
        response = live.chat(stream=stream)
        assert "Lyon" not in response.text
        assert "Paris." in (streamed_text(payloads(response)) if stream else response.text)
        second = live.called()[1]
        assert (live.called()[0], second) == ("alpha", response.headers["x-tokamak-model"])
        assert live[second].last.json.get("stream", False) is stream
        assert "logprobs" not in live[second].last.json
        prices = MODELS[second]["prices"]
        check_bill(
            live, response, ["alpha", second],
            [ALPHA_USD, (100 * prices["prompt_per_1m"] + 10 * prices["completion_per_1m"]) / 1e6],
        )  # fmt: skip
        decision = live.record_of(response).decision
        assert decision is not None
        assert decision.cascade is not None
        assert (decision.arm, decision.propensity) == ("alpha", 1.0)
        assert (decision.cascade.then, decision.cascade.value) == (second, pytest.approx(UNSURE))


def test_logprobs_stay_where_the_client_asked_for_them(tmp_path: Path) -> None:
    with cascading(tmp_path) as live:
        live["alpha"].default = said("Paris.", SURE)
        response = live.chat(logprobs=True)
        assert response.json()["choices"][0]["logprobs"]["content"][0]["logprob"] == SURE
        assert response.content == live.record_of(response).response


def test_an_answer_without_a_signal_or_a_failed_arm_escalates(tmp_path: Path) -> None:
    with cascading(tmp_path) as live:
        live["alpha"].default = answer("no logprobs here", usage=USAGE)
        assert live.chat().headers["x-tokamak-model"] != "alpha"
        live["alpha"].default = failing(500)
        response = live.chat()
        assert response.headers["x-tokamak-model"] != "alpha"
        record = live.record_of(response)
        assert [attempt.outcome for attempt in record.attempts] == ["http_error", "ok"]
        assert record.cost_usd is not None


@pytest.mark.parametrize("stream", [False, True])
def test_if_the_better_arms_fail_the_first_answer_is_better_than_none(tmp_path: Path, stream: bool) -> None:
    with cascading(tmp_path) as live:
        live["alpha"].default = said("Maybe Lyon?", UNSURE)
        live["beta"].default = live["gamma"].default = failing(500)
        response = live.chat(stream=stream)
        assert response.status_code == 200
        assert "Lyon" in response.text
        assert live.record_of(response).arm == "alpha"


@pytest.mark.parametrize("fields", [{"tools": [TOOL]}, {"n": 2}])
def test_tools_and_several_answers_have_no_cascade(tmp_path: Path, fields: dict[str, Any]) -> None:
    with cascading(tmp_path, preference=0.95) as live:
        response = live.chat(routing={"explain": True}, **fields)
        assert response.json()["route"]["cascade"] is None
        assert len(live.called()) == 1


@pytest.mark.parametrize("routing", [{"preference": 1.0}, {"lambda": 0.0}, {"lambda": 1e6}])
def test_no_cascade_where_money_has_no_price_or_does_not_pay(tmp_path: Path, routing: dict[str, Any]) -> None:
    with cascading(tmp_path) as live:
        response = live.chat(routing={**routing, "explain": True})
        assert response.json()["route"]["cascade"] is None


@pytest.mark.parametrize(("text", "arms"), [("It is 42.", 1), ("I do not know.", 2)])
def test_a_pattern_verifies(tmp_path: Path, text: str, arms: int) -> None:
    with cascading(tmp_path, {"signal": "verifier", "pattern": r"\b\d+\b"}) as live:
        live["alpha"].default = answer(text)
        live.chat()
        assert len(live.called()) == arms
        assert "logprobs" not in live["alpha"].last.json


@pytest.mark.parametrize(("text", "arms"), [('{"a": 1}', 1), ("Sorry, no JSON.", 2)])
def test_json_that_was_asked_for_verifies(tmp_path: Path, text: str, arms: int) -> None:
    with cascading(tmp_path, {"signal": "verifier"}) as live:
        live["alpha"].default = answer(text)
        live.chat(response_format=FORMAT)
        assert len(live.called()) == arms
        plain = live.chat(routing={"explain": True})
        assert plain.json()["route"]["cascade"] is None


def test_the_first_arm_can_be_named(tmp_path: Path) -> None:
    with cascading(tmp_path, {**LOGPROB, "first": ["b*"]}, preference=0.95) as live:
        live["beta"].default = said("Paris.", SURE)
        assert live.chat().headers["x-tokamak-model"] == "beta"


def test_exploration_goes_on_beside_a_cascade_with_exact_propensities(tmp_path: Path) -> None:
    with cascading(tmp_path, exploration=0.5) as live:
        live["alpha"].default = said("Paris.", SURE)
        seen = set()
        for _ in range(40):
            route = live.post("/v1/route", {"model": "auto", "messages": HI}).json()
            propensities = {c["arm"]: c["propensity"] for c in route["candidates"]}
            assert propensities == pytest.approx({"alpha": 0.5 + 0.5 / 3, "beta": 0.5 / 3, "gamma": 0.5 / 3})
            assert (route["cascade"] is None) is route["explored"]
            seen.add(route["explored"])
        assert seen == {True, False}
