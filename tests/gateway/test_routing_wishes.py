"""Preferences, the price of money, exploration floors, load and latency: does each change what is decided?"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from encoders.catalogue import load_encoder
from registry.artifacts import Artifacts
from registry.config_file import build_pool
from routers.catalogue import KIND
from routers.prior import prior_router
from tests.gateway.live import HI, MODELS, Fleet, assert_error, configured, fleet
from tests.upstream import Gate, answer, failing, gated
from tests.upstream.script import Pause, Received, Steps, stall_before_headers


def shown(live: Fleet, model: str = "auto", **routing: Any) -> Any:
    response = live.post("/v1/route", {"model": model, "messages": HI, "routing": routing})
    assert response.status_code == 200, response.text
    return response.json()


def decided(live: Fleet, model: str = "auto", **routing: Any) -> str:
    return str(shown(live, model, **routing)["arm"])


# Typical costs are .00016, .0016 and .016 USD, qualities .3, .6 and .9.
@pytest.mark.parametrize(("price", "expected"), [(0, "gamma"), (15, "gamma"), (100, "beta"), (300, "alpha")])
def test_lambda_is_quality_per_usd(abc: Fleet, price: float, expected: str) -> None:
    assert decided(abc, "auto", **{"lambda": price}) == expected
    route = abc.chat(headers={"x-tokamak-routing-lambda": str(price)}, routing={"explain": True}).json()["route"]
    assert (route["arm"], route["lambda_per_usd"]) == (expected, price)
    best = route["candidates"][0]
    assert best["utility"] == pytest.approx(best["quality"] - price * best["cost_usd"], abs=1e-6)


@pytest.mark.parametrize("other", ["preference", "cost_quality", "mode", "weights"])
def test_lambda_and_a_preference_exclude_each_other(abc: Fleet, other: str) -> None:
    value: Any = {"weights": {"quality": 1, "cost": 1}, "mode": "cost"}.get(other, 0.5)
    response = abc.chat(routing={"lambda": 1.0, other: value})
    message = assert_error(response, 400, "invalid_request_error", "invalid_value", "routing.lambda")
    assert "lambda" in message
    assert "preference" in message


def test_the_newer_wish_replaces_the_older_one(abc: Fleet) -> None:
    headers = {"x-tokamak-routing-preference": "0"}
    assert abc.chat(headers=headers, routing={"lambda": 0}).headers["x-tokamak-model"] == "gamma"
    headers = {"x-tokamak-routing-lambda": "1000"}
    assert abc.chat(headers=headers, routing={"preference": 1}).headers["x-tokamak-model"] == "gamma"
    assert decided(abc, "auto:cheap", **{"lambda": 0}) == "gamma"


@pytest.mark.parametrize("value", [-1, "much", True])
def test_a_wrong_lambda(abc: Fleet, value: Any) -> None:
    assert abc.chat(routing={"lambda": value}).status_code == 400


def test_an_unknown_option_names_the_nearest(abc: Fleet) -> None:
    message = assert_error(abc.chat(routing={"lamda": 1}), 400, "invalid_request_error", "unknown_parameter")
    assert "'lambda'" in message
    message = assert_error(abc.chat(routing={"afinity": True}), 400, "invalid_request_error", "unknown_parameter")
    assert "'affinity'" in message


@pytest.mark.parametrize(("price", "expected"), [(0.0, "gamma"), (300.0, "alpha")])
def test_a_route_has_a_price_of_money(tmp_path: Path, price: float, expected: str) -> None:
    with fleet(tmp_path, routes={"auto": {"lambda_per_usd": price}}) as live:
        assert decided(live) == expected
        assert decided(live, "auto:best") == "gamma"
        assert decided(live, preference=0.0) == "alpha"


def test_judge_needs_a_router_that_learned_from_a_judge(tmp_path: Path) -> None:
    with fleet(tmp_path, routers={"poll_s": 0.05}) as live:
        response = live.chat(routing={"preference": "judge"})
        message = assert_error(response, 400, "invalid_request_error", "no_judge_router", "routing.preference")
        assert "prior@0" in message


@pytest.mark.parametrize(("sources", "status"), [(["judge"], 200), (["judge", "feedback"], 400), (None, 400)])
def test_judge_asks_for_the_best_by_a_router_of_judge_scores(tmp_path: Path, sources: Any, status: int) -> None:
    pool = build_pool(configured(tmp_path, dict.fromkeys(MODELS, "http://127.0.0.1:9/v1"), MODELS), {})
    router = prior_router(pool, load_encoder("static").hash)
    artifacts = Artifacts(tmp_path / "artifacts")
    evidence = {"source": {"sources": sources}}
    artifacts.deploy(KIND, artifacts.publish(KIND, "prior", router.arrays(), router.meta(), evidence).version)
    with fleet(tmp_path) as live:
        response = live.chat(routing={"preference": "judge", "explain": True})
        assert response.status_code == status
        if status == 200:
            assert response.headers["x-tokamak-model"] == "gamma"
            assert response.json()["route"]["preference"] == 1.0


def test_every_arm_has_its_floor(tmp_path: Path) -> None:
    with fleet(tmp_path, routes={"auto": {"preference": 1.0, "exploration_floor": 0.05}}) as live:
        route = shown(live)
        assert {c["arm"]: c["propensity"] for c in route["candidates"]} == pytest.approx(
            {"gamma": 0.9, "beta": 0.05, "alpha": 0.05}
        )
        assert route["exploration"] == pytest.approx(0.15)
        more = shown(live, exploration=0.6)
        assert {c["arm"]: c["propensity"] for c in more["candidates"]}["alpha"] == pytest.approx(0.2)


def slow(seconds: float) -> Any:
    quick = answer("x")

    def bent(request: Received) -> Steps:
        return (Pause(seconds), *quick(request))

    return bent


def observe(live: Fleet, name: str, seconds: float, calls: int = 10) -> None:
    live[name].default = slow(seconds)
    for _ in range(calls):
        assert live.chat(name).status_code == 200


def test_latency_that_was_observed_counts_under_a_deadline_and_is_shown(tmp_path: Path) -> None:
    with fleet(tmp_path, routes={"auto": {"preference": 1.0}}) as live:
        assert decided(live, deadline_ms=50) == "gamma"
        observe(live, "gamma", 0.08)
        route = shown(live, deadline_ms=50)
        assert route["arm"] == "beta"
        gamma = {c["arm"]: c for c in route["candidates"]}["gamma"]
        assert "latency" in gamma["reason"]
        assert gamma["live"]["p50_s"] >= 0.07
        assert decided(live, deadline_ms=5000) == "gamma"


def test_a_second_of_latency_has_a_price(tmp_path: Path) -> None:
    with fleet(
        tmp_path, routes={"auto": {"preference": 1.0, "latency_weight": 10.0}, "patient": {"preference": 1.0}}
    ) as live:
        observe(live, "gamma", 0.08)
        observe(live, "beta", 0.0)
        assert decided(live) == "beta"
        assert decided(live, "patient") == "gamma"


def test_a_full_endpoint_loses_utility_smoothly(tmp_path: Path) -> None:
    """One call at a time is what gamma takes; it leads by .3 in quality, a full endpoint costs .5 * weight."""
    models = {name: {**model, "endpoints": [{"upstream": name, "concurrency": 1}]} for name, model in MODELS.items()}
    routes = {"auto": {"preference": 1.0, "load_weight": 0.8}, "deaf": {"preference": 1.0, "load_weight": 0.0}}
    gate = Gate()
    with fleet(tmp_path, models, routes=routes) as live:
        idle = shown(live)
        assert idle["arm"] == "gamma"
        live["gamma"].script(gated(answer("x"), gate, after=-1))
        running = threading.Thread(target=lambda: live.chat("gamma"))
        running.start()
        live["gamma"].wait_for(1)
        busy = shown(live)
        assert busy["arm"] == "beta"
        assert {c["arm"]: c["live"]["use"] for c in busy["candidates"]} == {"gamma": 1.0, "beta": 0.0, "alpha": 0.0}
        utility = {c["arm"]: c["utility"] for c in busy["candidates"]}
        assert utility["gamma"] == pytest.approx(0.9 - 0.4, abs=1e-6)
        assert decided(live, "deaf") == "gamma"
        gate.open()
        running.join(10)
        assert decided(live) == "gamma"


def test_calls_that_fail_or_are_left_do_not_stay_in_the_count(tmp_path: Path) -> None:
    models = {"gamma": {"endpoints": [{"upstream": "gamma", "concurrency": 1}]}}
    with fleet(tmp_path, models) as live:
        live["gamma"].script(failing(500), failing(400), stall_before_headers, answer("x"))
        assert live.chat("gamma").status_code == 502
        assert live.chat("gamma").status_code == 400
        assert live.chat("gamma", routing={"deadline_ms": 50}).status_code == 504
        assert live.chat("gamma", stream=True).status_code == 200
        assert [c["live"]["use"] for c in shown(live)["candidates"]] == [0.0]
