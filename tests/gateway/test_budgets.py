"""Do budgets in USD per day hold, and survive a restart?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.live import HI, MODELS, Fleet, assert_error, fleet
from tests.upstream import Gate, answer, gated

ENVIRON = {"TEAM": "sk-team"}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
GAMMA_USD = (1000 * 10 + 100 * 40) / 1e6


def with_key(folder: Path, usd_per_day: float, routes: dict[str, Any] | None = None, **key: Any) -> Any:
    keys = [{"id": "team", "key_env": "TEAM", "usd_per_day": usd_per_day, **key}]
    return fleet(folder, key="sk-team", environ=ENVIRON, limits={"keys": keys},
                 routes=routes or {"auto": {"preference": 1.0}})  # fmt: skip


def costly(live: Fleet) -> None:
    for upstream in live.upstreams.values():
        upstream.default = answer("x", usage=USAGE)


def test_a_spent_budget_refuses_and_says_until_when(tmp_path: Path) -> None:
    with with_key(tmp_path, 2.5 * GAMMA_USD) as live:
        costly(live)
        answered = [live.chat("gamma") for _ in range(3)]
        assert [r.status_code for r in answered] == [200] * 3
        response = live.chat("gamma")
        message = assert_error(response, 429, "rate_limit_error", "budget_exceeded")
        assert "'team'" in message
        assert 0 < int(response.headers["retry-after"]) <= 86_400
        assert_error(live.chat("auto"), 429, "rate_limit_error", "budget_exceeded")
        assert live.record_of(response).outcome == "rejected"


def test_a_route_has_a_budget_of_its_own_and_goes_on_with_the_cheapest_arm_if_told_to(tmp_path: Path) -> None:
    route = {"preference": 1.0, "usd_per_day": 0.5 * GAMMA_USD, "when_spent": "cheapest"}
    with fleet(tmp_path, routes={"auto": route, "free": {"preference": 1.0}}) as live:
        costly(live)
        live.chat("gamma")
        seen = [live.chat("auto:best").headers["x-tokamak-model"] for _ in range(3)]
        assert seen[-1] == "alpha"
        shown = live.post("/v1/route", {"model": "auto", "messages": HI}).json()
        assert "budget" in {c["arm"]: c["reason"] for c in shown["candidates"]}["gamma"]
        assert live.chat("free").headers["x-tokamak-model"] == "gamma"


def test_an_arm_that_costs_more_than_what_is_left_is_out(tmp_path: Path) -> None:
    """The predicted cost of gamma is that of 400 and 300 tokens; half of it is left."""
    typical = (400 * 10 + 300 * 40) / 1e6
    with with_key(tmp_path, 0.5 * typical) as live:
        costly(live)
        shown = live.post("/v1/route", {"model": "auto", "messages": HI}).json()
        assert shown["arm"] == "beta"


def test_the_price_of_money_rises_with_what_was_spent_and_is_shown(tmp_path: Path) -> None:
    with with_key(tmp_path, 10_000 * GAMMA_USD) as live:
        costly(live)
        assert live.chat("auto").headers["x-tokamak-model"] == "gamma"
        state = {"key:team": {"day": 10**9 // 86_400, "spent_usd": 0.0, "lambda_per_usd": 400.0, "spread_usd": 0.01,
                              "paced_at": 0.0, "requests": [0.0] * 24, "learned": [1.0] * 24}}  # fmt: skip
    (tmp_path / "budgets.json").write_text(json.dumps(state))
    with with_key(tmp_path, 10_000 * GAMMA_USD) as live:
        shown = live.post("/v1/route", {"model": "auto", "messages": HI}).json()
        assert shown["lambda_per_usd"] == pytest.approx(400, rel=0.5)
        assert shown["arm"] == "alpha"


def test_what_was_spent_today_outlives_the_process(tmp_path: Path) -> None:
    with with_key(tmp_path, 1.5 * GAMMA_USD) as live:
        costly(live)
        assert live.chat("gamma").status_code == 200
        assert live.chat("gamma").status_code == 200
    with with_key(tmp_path, 1.5 * GAMMA_USD) as live:
        assert_error(live.chat("gamma"), 429, "rate_limit_error", "budget_exceeded")


def test_a_file_that_cannot_be_read_begins_the_day_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "budgets.json").write_text("{torn")
    with with_key(tmp_path, 1.5 * GAMMA_USD) as live:
        assert live.chat("gamma").status_code == 200
    assert "budgets.json cannot be read" in caplog.text


def test_requests_under_way_hold_their_share(tmp_path: Path) -> None:
    gate = Gate()
    expected = (len(json.dumps(HI)) // 4 * 10 + 300 * 40) / 1e6
    with with_key(tmp_path, 0.9 * expected) as live:
        live["gamma"].script(gated(answer("x", usage=USAGE), gate, after=-1))
        import threading

        first: list[int] = []
        running = threading.Thread(target=lambda: first.append(live.chat("gamma").status_code))
        running.start()
        live["gamma"].wait_for(1)
        assert_error(live.chat("gamma"), 429, "rate_limit_error", "budget_exceeded")
        gate.open()
        running.join(10)
        assert first == [200]


def test_an_answer_without_usage_is_charged_what_was_expected_and_a_refused_one_nothing(tmp_path: Path) -> None:
    models = {"gamma": MODELS["gamma"], "blind": {"capabilities": ["chat"], "prices": MODELS["gamma"]["prices"]}}
    keys = [{"id": "team", "key_env": "TEAM", "usd_per_day": 0.011}]
    with fleet(tmp_path, models, key="sk-team", environ=ENVIRON, limits={"keys": keys}) as live:
        live["gamma"].default = answer("x", usage_place="absent")
        assert live.chat("gamma", stream="no").status_code == 400
        assert live.chat("gamma").status_code == 200
        assert_error(live.chat("gamma"), 429, "rate_limit_error", "budget_exceeded")
