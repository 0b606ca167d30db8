"""Does `auto` choose among the right arms, and do the caller's wishes about routing count?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.live import HI, MODELS, Fleet, assert_error, fleet

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SEE = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def chosen(live: Fleet, **fields: Any) -> str:
    headers = fields.pop("headers", None)
    response = live.chat(fields.pop("model", "auto"), headers=headers, **fields)
    assert response.status_code == 200, response.text
    assert live.called() == [response.headers["x-tokamak-model"].split("#")[0]]
    return live.called()[0]


@pytest.mark.parametrize(("model", "expected"), [("auto:best", "gamma"), ("auto:cheap", "alpha")])
def test_presets(abc: Fleet, model: str, expected: str) -> None:
    assert chosen(abc, model=model) == expected


@pytest.mark.parametrize(
    ("routing", "expected"),
    [
        ({"preference": 1.0}, "gamma"),
        ({"preference": 0.0}, "alpha"),
        ({"cost_quality": 1}, "gamma"),
        ({"cost_quality": 0}, "alpha"),
        ({"mode": "performance"}, "gamma"),
        ({"mode": "cost"}, "alpha"),
        ({"weights": {"quality": 1, "cost": 0}}, "gamma"),
        ({"models": ["beta"]}, "beta"),
        ({"models": ["*a"], "preference": 1}, "gamma"),
        ({"models": ["alpha", "bet*"], "preference": 1}, "beta"),
        ({"preference": 1, "max_cost_usd": 0.0000001, "models": None, "explain": False}, None),
    ],
)
def test_the_routing_object_decides_and_is_not_passed_on(abc: Fleet, routing: Any, expected: str | None) -> None:
    if expected is None:
        message = assert_error(abc.chat(routing=routing), 400, "invalid_request_error", "no_eligible_model")
        assert "alpha" in message
        assert abc.called() == []
        return
    assert chosen(abc, routing=routing) == expected
    assert "routing" not in abc[expected].last.json
    assert b"routing" not in abc[expected].last.raw


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-tokamak-routing-preference": "1"}, "gamma"),
        ({"x-tokamak-routing-cost-quality": "0.0"}, "alpha"),
        ({"x-tokamak-routing-mode": "performance"}, "gamma"),
        ({"X-Tokamak-Routing-Models": "beta"}, "beta"),
        ({"x-tokamak-routing-models": "alpha, beta", "x-tokamak-routing-preference": "1"}, "beta"),
    ],
)
def test_headers_are_an_equivalent(abc: Fleet, headers: dict[str, str], expected: str) -> None:
    assert chosen(abc, headers=headers) == expected


def test_the_body_counts_more_than_the_headers(abc: Fleet) -> None:
    headers = {"x-tokamak-routing-preference": "0"}
    assert chosen(abc, headers=headers, routing={"preference": 1}) == "gamma"


def test_names_that_other_routers_use_are_understood_and_not_passed_on(abc: Fleet) -> None:
    plugin = {"id": "auto-router", "allowed_models": ["beta"], "cost_quality_tradeoff": 0}
    assert chosen(abc, plugins=[plugin], max_cost=1.0) == "beta"
    assert {"plugins", "max_cost"}.isdisjoint(abc["beta"].last.json)


def test_exploration_draws_every_arm_and_logs_the_exact_propensity(abc: Fleet) -> None:
    seen = set()
    for _ in range(60):
        response = abc.chat(routing={"exploration": 1.0, "explain": True})
        route = response.json()["route"]
        seen.add(route["arm"])
        assert route["propensity"] == pytest.approx(1 / 3)
        assert sum(candidate["propensity"] for candidate in route["candidates"]) == pytest.approx(1)
    assert seen == set(MODELS)


def test_without_exploration_the_choice_is_certain(abc: Fleet) -> None:
    route = abc.chat(routing={"explain": True, "preference": 1}).json()["route"]
    assert (route["arm"], route["propensity"], route["explored"]) == ("gamma", 1.0, False)


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The weakest model can do everything, the strongest only chat, and windows grow the other way round."""
    talk = ["chat"]
    models = {
        "alpha": {**MODELS["alpha"], "capabilities": [*talk, "tools", "vision", "json_schema", "logprobs", "n"]},
        "beta": {**MODELS["beta"], "capabilities": [*talk, "tools", "json_schema"], "context_window": 8000},
        "gamma": {**MODELS["gamma"], "capabilities": talk, "context_window": 200},
    }
    routes = {"auto": {"preference": 1.0}, "small": {"models": ["alpha", "beta"], "preference": 1.0}}
    with fleet(tmp_path_factory.mktemp("able"), models, routes=routes) as live:
        yield live


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "gamma"),
        ({"tools": [TOOL]}, "beta"),
        ({"tools": []}, "gamma"),
        ({"response_format": FORMAT}, "beta"),
        ({"response_format": {"type": "text"}}, "gamma"),
        ({"logprobs": True}, "alpha"),
        ({"n": 2}, "alpha"),
        ({"n": 1}, "gamma"),
        ({"messages": SEE}, "alpha"),
        ({"messages": SEE, "tools": [TOOL]}, "alpha"),
        ({"messages": [{"role": "user", "content": "long " * 400}]}, "beta"),
        ({"messages": [{"role": "user", "content": "longer " * 10_000}]}, "alpha"),
        ({"max_tokens": 500}, "beta"),
        ({"max_completion_tokens": 9000}, "alpha"),
    ],
)
def test_what_an_arm_cannot_do_excludes_it_before_scoring(able: Fleet, fields: dict[str, Any], expected: str) -> None:
    able.forget()
    assert chosen(able, **fields) == expected


def test_a_route_of_the_config_is_a_model_with_presets(able: Fleet) -> None:
    able.forget()
    assert chosen(able, model="small") == "beta"
    able.forget()
    assert chosen(able, model="small:cheap") == "alpha"


def test_nothing_eligible_lists_every_arm_and_why(able: Fleet) -> None:
    able.forget()
    response = able.chat(messages=SEE, routing={"models": ["beta", "gamma"]})
    message = assert_error(response, 400, "invalid_request_error", "no_eligible_model")
    assert "beta" in message
    assert "vision" in message
    assert able.called() == []


def test_the_decision_is_the_same_for_the_same_query(abc: Fleet) -> None:
    models = {abc.chat(messages=HI).headers["x-tokamak-model"] for _ in range(5)}
    assert len(models) == 1
