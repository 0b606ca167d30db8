"""Keys, rates and caps; breakers; routing options."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from registry.arms import Endpoint, Model, Upstream
from registry.config import KeyConfig, LimitsConfig
from service.backends.health import Health
from service.errors import ApiError
from service.limits import Key, Limits
from service.routing_options import RoutingOptions, routing_options
from service.wire import Body


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


def test_a_key_is_known_by_its_digest_or_its_variable() -> None:
    digest = hashlib.sha256(b"one").hexdigest()
    config = LimitsConfig(keys=[KeyConfig(id="a", sha256=digest), KeyConfig(id="b", key_env="B")])
    limits = Limits(config, {"B": "two"})
    assert limits.authenticate(bearer("one"), "chat").id == "a"
    assert limits.authenticate(bearer("two"), "chat").id == "b"


@pytest.mark.parametrize("headers", [{}, bearer("three"), {b"authorization": b"Basic b25l"}, bearer("")])
def test_no_key_or_a_wrong_one_is_401(headers: dict[bytes, bytes]) -> None:
    limits = Limits(LimitsConfig(keys=[KeyConfig(id="b", key_env="B")]), {"B": "two"})
    with pytest.raises(ApiError) as refused:
        limits.authenticate(headers, "chat")
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")


def test_a_key_that_names_no_secret_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="'key_env' naming a variable that is set"):
        Limits(LimitsConfig(keys=[KeyConfig(id="b", key_env="B")]), {})


def test_the_rate_limit_refills_with_time() -> None:
    clock = Clock()
    key = Key(KeyConfig(id="a", key_env="A", requests_per_minute=2), clock)
    for _ in range(2):
        key.admit()
    with pytest.raises(ApiError) as refused:
        key.admit()
    assert refused.value.status == 429
    assert refused.value.retry_after_s == pytest.approx(30.0)
    clock.now += 30.0
    key.admit()


def test_concurrency_is_given_back() -> None:
    key = Key(KeyConfig(id="a", key_env="A", max_concurrent=1))
    limits = Limits(LimitsConfig(max_concurrent=2), {})
    limits.admit(key)
    with pytest.raises(ApiError, match="its limit"):
        limits.admit(key)
    limits.release(key)
    limits.admit(key)


def test_a_full_or_draining_process_says_so() -> None:
    limits, key = Limits(LimitsConfig(max_concurrent=1), {}), Key(None)
    limits.admit(key)
    with pytest.raises(ApiError) as full:
        limits.admit(key)
    assert (full.value.status, full.value.code) == (503, "overloaded")
    limits.draining = True
    with pytest.raises(ApiError) as draining:
        limits.admit(key)
    assert draining.value.code == "draining"


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_call_try_again() -> None:
    clock = Clock()
    health = Health(2, 10.0, clock)
    endpoint = Endpoint(Upstream("u", "http://127.0.0.1:1"), "m")
    model = Model("m", (endpoint,))
    health.failed(endpoint)
    health.succeeded(endpoint)
    health.failed(endpoint)
    assert health.model_is_up(model)
    health.failed(endpoint)
    assert not health.model_is_up(model)
    assert health.down() == ["u/m"]
    clock.now += 10.0
    assert health.is_up(endpoint)
    health.starts(endpoint)
    assert not health.is_up(endpoint), "the others wait for the one that tries"
    health.succeeded(endpoint)
    assert health.is_up(endpoint)


def read(body: dict[str, Any], headers: dict[bytes, bytes] | None = None) -> RoutingOptions:
    return routing_options(Body(msgspec.json.encode(body)), headers or {})


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({}, {}, RoutingOptions()),
        ({"routing": {"preference": 0.3}}, {}, RoutingOptions(preference=0.3)),
        ({"routing": {"cost_quality": "cost"}}, {}, RoutingOptions(preference=0.2)),
        ({"routing": {"mode": "best"}}, {}, RoutingOptions(preference=1.0)),
        ({"routing": {"weights": {"quality": 3, "cost": 1}}}, {}, RoutingOptions(preference=0.75)),
        ({"routing": {"models": ["a*"], "explain": True}}, {}, RoutingOptions(models=("a*",), explain=True)),
        ({}, {b"x-tokamak-routing-models": b"a, b"}, RoutingOptions(models=("a", "b"))),
        ({}, {b"x-tokamak-routing-max-cost-usd": b"0.5"}, RoutingOptions(max_cost_usd=0.5)),
        ({}, {b"x-tokamak-routing-explain": b"true"}, RoutingOptions(explain=True)),
        ({"max_cost": 2}, {}, RoutingOptions(max_cost_usd=2.0)),
        ({"plugins": [{"id": "auto-router", "cost_quality_tradeoff": 10, "allowed_models": ["x/*"]}]}, {},
         RoutingOptions(preference=0.0, models=("x/*",))),
        ({"plugins": [{"id": "web"}]}, {}, RoutingOptions()),
        ({"routing": {"deadline_ms": 5}}, {b"x-tokamak-routing-deadline-ms": b"9"}, RoutingOptions(deadline_ms=5.0)),
    ],
)  # fmt: skip
def test_options_are_read_from_the_body_and_the_headers(
    body: dict[str, Any], headers: dict[bytes, bytes], expected: RoutingOptions
) -> None:
    assert read(body, headers) == expected


@pytest.mark.parametrize(
    ("routing", "says"),
    [
        ({"preferance": 1}, "Did you mean 'preference'"),
        ({"preference": 1.1}, "must lie in"),
        ({"preference": "speed"}, "one of performance"),
        ({"weights": {"quality": 0, "cost": 0}}, "cannot both be 0"),
        ({"weights": {"quality": 1}}, "two numbers"),
        ({"weights": {"quality": -1, "cost": 1}}, "must not be negative"),
        ({"models": []}, "non-empty array"),
        ({"exploration": 2}, "must lie in"),
        ({"max_cost_usd": 0}, "above 0"),
        ({"deadline_ms": "soon"}, "must be a number, got a string"),
        ({"explain": 1}, "true or false"),
        (3, "must be an object"),
    ],
)
def test_a_wrong_option_says_what_was_expected(routing: Any, says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        read({"routing": routing})
    assert refused.value.status == 400


def test_an_unknown_header_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(ApiError, match="Did you mean 'models'"):
        read({}, {b"x-tokamak-routing-model": b"a"})
