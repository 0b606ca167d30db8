"""Does each key of the config that no other test is about change what the service does?"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.job_kinds import TEMPLATE_WORTH
from registry.jobs import Jobs
from tests.gateway.live import HI, WAIT_S, Fleet, Gateway, assert_error, configured, fleet, until
from tests.gateway.test_ways_of_asking import ASK, PLAN, QUESTION, add_template
from tests.upstream import answer, failing

THOUGHT = {"alpha": {"ways": ["thought"]}}


@pytest.mark.parametrize("fallbacks", [0, 1, 2])
def test_limits_fallbacks(tmp_path: Path, fallbacks: int) -> None:
    with fleet(tmp_path, limits={"fallbacks": fallbacks}) as live:
        for upstream in live.upstreams.values():
            upstream.default = failing(500)
        assert_error(live.chat("auto:best"), 502, "api_error", "upstream_error")
        assert len(live.called()) == fallbacks + 1


def test_routes_exploration(tmp_path: Path) -> None:
    with fleet(tmp_path, routes={"auto": {"exploration": 1.0}}) as live:
        seen = {live.chat().headers["x-tokamak-model"] for _ in range(60)}
        assert seen == {"alpha", "beta", "gamma"}
        assert live.chat("auto", routing={"exploration": 0, "preference": 1}).headers["x-tokamak-model"] == "gamma"


@pytest.mark.parametrize(("preference", "expected"), [(0.0, "alpha"), (1.0, "gamma")])
def test_routes_preference(tmp_path: Path, preference: float, expected: str) -> None:
    with fleet(tmp_path, routes={"auto": {"preference": preference}}) as live:
        assert live.chat().headers["x-tokamak-model"] == expected


def test_routes_models(tmp_path: Path) -> None:
    with fleet(tmp_path, routes={"auto": {"models": ["b*"]}}) as live:
        assert live.chat("auto:best").headers["x-tokamak-model"] == "beta"
        assert live.chat("gamma").status_code == 200


def test_models_quality_prior(tmp_path: Path) -> None:
    models = {"alpha": {"quality_prior": 0.9}, "beta": {"quality_prior": 0.1}}
    with fleet(tmp_path / "a", models) as live:
        assert live.chat("auto:best").headers["x-tokamak-model"] == "alpha"
    models = {"alpha": {"quality_prior": 0.1}, "beta": {"quality_prior": 0.9}}
    with fleet(tmp_path / "b", models) as live:
        assert live.chat("auto:best").headers["x-tokamak-model"] == "beta"


def test_models_prices_cached_input(tmp_path: Path) -> None:
    prices = {"prompt_per_1m": 10.0, "completion_per_1m": 20.0, "cached_input_per_1m": 1.0}
    usage = {
        "prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100,
        "prompt_tokens_details": {"cached_tokens": 800},
    }  # fmt: skip
    with fleet(tmp_path, {"alpha": {"prices": prices}}) as live:
        live["alpha"].script(answer("x", usage=usage))
        record = live.record_of(live.chat("alpha"))
        assert record.cost_usd == pytest.approx((200 * 10 + 800 * 1 + 100 * 20) / 1e6)


@pytest.mark.parametrize(("least", "status"), [(-1.0, 200), (0.999, 400)])
def test_templates_min_similarity(tmp_path: Path, least: float, status: int) -> None:
    add_template(tmp_path)
    near = [{"role": "user", "content": "If I buy nine pears and eat two pears, how many pears do I have?"}]
    with fleet(tmp_path, THOUGHT, templates={"min_similarity": least, "control_share": 0}) as live:
        assert live.chat(messages=near).status_code == status


@pytest.mark.parametrize("top_k", [1, 2])
def test_templates_top_k(tmp_path: Path, top_k: int) -> None:
    for text in ("Subtract what is eaten.", "Count first, then take away.", "Write down both numbers."):
        add_template(tmp_path, QUESTION, text)
    with fleet(tmp_path, THOUGHT, templates={"top_k": top_k, "control_share": 0}) as live:
        assert len(live.record_of(live.chat(messages=ASK)).template_ids) == top_k


def test_templates_retrieve(tmp_path: Path) -> None:
    for text in ("Subtract what is eaten.", "Count first, then take away.", "Write down both numbers."):
        add_template(tmp_path, QUESTION, text)
    with fleet(tmp_path, THOUGHT, templates={"retrieve": 2, "control_share": 0}) as live:
        assert len(live.record_of(live.chat(messages=ASK)).template_ids) == 2


@pytest.mark.parametrize(("every", "queued"), [(0.05, True), (None, False)])
def test_templates_worth_every_s(tmp_path: Path, every: float | None, queued: bool) -> None:
    """A request with templates makes a job due; without a worker it waits in the queue, where one can see it."""
    add_template(tmp_path)
    settings: dict[str, Any] = {"jobs": {"worker": "external", "lease_s": 0.2}, "routers": {"poll_s": 0.05}}
    with fleet(tmp_path, THOUGHT, templates={"worth_every_s": every}, **settings) as live:
        jobs = Jobs(live.gateway.data_dir)
        live.record_of(live.chat(messages=ASK))
        if queued:
            until(lambda: jobs.find(kind=TEMPLATE_WORTH), "nothing was queued")
        else:
            time.sleep(0.3)
            assert jobs.find(kind=TEMPLATE_WORTH) == []


def test_templates_max_tokens(tmp_path: Path) -> None:
    add_template(tmp_path, QUESTION, PLAN * 20)
    with fleet(tmp_path, THOUGHT, templates={"max_tokens": 600, "control_share": 0}) as live:
        assert live.record_of(live.chat(messages=ASK)).template_ids
    with fleet(tmp_path, THOUGHT, templates={"max_tokens": 30}) as live:
        assert "fits into `templates.max_tokens`" in assert_error(
            live.chat(messages=ASK), 400, "invalid_request_error", "no_eligible_model"
        )


def test_upstreams_connect_timeout(tmp_path: Path) -> None:
    """A listening socket whose queue is full swallows further attempts to connect."""
    settings: dict[str, Any] = {"connect_timeout_s": 0.2, "first_byte_timeout_s": 60.0}
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        urls = {"alpha": f"http://127.0.0.1:{full.getsockname()[1]}/v1"}
        gateway = stack.enter_context(Gateway(configured(tmp_path, urls, {"alpha": {}}, settings)))
        response = httpx.post(
            f"{gateway.url}/chat/completions", json={"model": "alpha", "messages": HI}, timeout=WAIT_S
        )
        assert response.status_code in (502, 504)
        record = gateway.record(response.headers["x-request-id"])
        assert [attempt.outcome for attempt in record.attempts] in (["connect_error"], ["timeout"])


def test_server_max_body_bytes_counts_for_what_is_large_and_legal(abc: Fleet) -> None:
    large = [{"role": "user", "content": "x" * 15_000_000}]
    assert abc.chat("alpha", messages=large).status_code == 200
    assert len(abc["alpha"].last.body) > 15_000_000
