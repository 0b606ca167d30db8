"""Do models named `router-<name>-<threshold>` choose between a strong and a weak arm?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.live import HI, MODELS, Fleet, assert_error, fleet

# The cold start predicts .3 for alpha and .9 for gamma: gamma wins with .9 * .7 / (.9 * .7 + .3 * .1).
GAMMA_WINS = 0.63 / 0.66


@pytest.mark.parametrize(
    ("threshold", "expected"), [("0.95", "gamma"), ("0.96", "alpha"), ("0", "gamma"), ("1", "alpha")]
)
def test_strong_iff_its_odds_reach_the_threshold(abc: Fleet, threshold: str, expected: str) -> None:
    response = abc.chat(f"router-prior-{threshold}", routing={"explain": True})
    assert response.headers["x-tokamak-model"] == expected
    route = response.json()["route"]
    assert (route["win_probability"], route["threshold"]) == (pytest.approx(GAMMA_WINS), float(threshold))
    record = abc.record_of(response)
    assert record.decision is not None
    assert (record.decision.threshold, record.decision.propensity) == (float(threshold), 1.0)
    assert abc.called() == [expected]


def test_the_openai_client_can_ask_for_it(abc: Fleet) -> None:
    assert abc.client.chat.completions.create(model="router-prior-0.5", messages=HI).model == "gamma"


def test_exploration_is_over_the_two(abc: Fleet) -> None:
    shown = abc.post("/v1/route", {"model": "router-prior-0.5", "messages": HI, "routing": {"exploration": 0.4}}).json()
    assert {c["arm"]: c["propensity"] for c in shown["candidates"]} == pytest.approx(
        {"alpha": 0.2, "beta": 0.0, "gamma": 0.8}
    )


def test_a_router_that_does_not_serve_is_not_found_and_the_one_that_does_is_named(abc: Fleet) -> None:
    message = assert_error(abc.chat("router-mf-0.11593"), 404, "not_found_error", "model_not_found", "model")
    assert "'prior'" in message
    assert "router-prior-0.11593" in message


@pytest.mark.parametrize("name", ["router-prior", "router-prior-x", "router-0.5"])
def test_other_names_are_not_found(abc: Fleet, name: str) -> None:
    message = assert_error(abc.chat(name), 404, "not_found_error", "model_not_found", "model")
    assert name in message
    assert abc.called() == []


def test_a_threshold_is_a_probability(abc: Fleet) -> None:
    message = assert_error(abc.chat("router-prior-1.5"), 400, "invalid_request_error", "invalid_value", "model")
    assert "must lie in [0, 1], got 1.5" in message
    assert abc.called() == []


def test_limits_of_the_request_hold_and_one_that_is_left_answers_alone(abc: Fleet) -> None:
    assert abc.chat("router-prior-0.1", routing={"max_cost_usd": 0.001}).headers["x-tokamak-model"] == "alpha"
    assert_error(
        abc.chat("router-prior-0.1", routing={"max_cost_usd": 1e-9}), 400, "invalid_request_error", "no_eligible_model"
    )


def test_the_pair_can_be_named(tmp_path: Path) -> None:
    pair = {"strong": "beta", "weak": "alpha"}
    with fleet(tmp_path, routers={"pair": pair}) as live:
        assert live.chat("router-prior-0.5").headers["x-tokamak-model"] == "beta"


def test_without_prices_the_pair_must_be_named(tmp_path: Path) -> None:
    models = {name: {"quality_prior": model["quality_prior"]} for name, model in MODELS.items()}
    with fleet(tmp_path, models) as live:
        message = assert_error(live.chat("router-prior-0.5"), 400, "invalid_request_error", "no_pair")
        assert "routers.pair" in message
