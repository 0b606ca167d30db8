"""Does a version on trial that fails cost nobody an answer and nothing a record?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from encoders.features import Shape, query_features
from routers.lineup import Lineup
from routers.protocol import Prediction
from service.app import create_app
from service.conversations import Conversation, conversation_of
from service.exchange import Exchange
from service.explanation import Decided
from service.gateway import Gateway
from service.openai_api.requests import chat_request
from service.pipeline import route
from service.routing_options import routing_options
from tests.gateway.live import configured
from tests.rollouts.test_admin_rollouts import published


class Failing(Lineup):
    """Loads, and then cannot predict."""

    def predict(self, *given: Any, **named: Any) -> Any:
        raise FloatingPointError("of all things")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    models = {name: {"quality_prior": prior} for name, prior in (("calc", 0.8), ("book", 0.4))}
    urls = dict.fromkeys(models, "http://127.0.0.1:9/v1")
    made = create_app(configured(tmp_path, urls, models, jobs={"worker": "external"}), {}).gateway
    await made.start()
    yield made
    await made.stop()


async def routed(gateway: Gateway, *contents: str, **fields: Any) -> tuple[Exchange, Decided]:
    exchange = Exchange("/chat/completions", [])
    exchange.key = key = gateway.limits.authenticate({}, "chat")
    messages = [{"role": "user", "content": content} for content in contents]
    exchange.raw = orjson.dumps({"model": "auto", "messages": messages, **fields})
    exchange.request = request = chat_request(exchange.raw)
    serving, options = gateway.serving, routing_options(request.body, exchange.headers)
    decided, _ = await route(gateway, serving, serving.target("auto"), request, key, options, exchange)
    exchange.decision = decided.record
    return exchange, decided


async def on_trial(gateway: Gateway, stage: str, failing: bool) -> str:
    version = published(gateway.data_dir, "tried")
    if stage == "shadow":
        gateway.versions.rollouts.shadow(version, by="anna", if_match="*")
    else:
        gateway.versions.rollouts.canary(version, 0.5, by="anna", if_match="*")
    assert await gateway.take_in()
    serving = gateway.serving
    if failing:
        assert serving.tried is not None
        broken = object.__new__(Failing)
        broken.__dict__.update(serving.tried.lineup.__dict__)
        gateway._serving = serving.trying(serving.trial, replace(serving.tried, lineup=broken))
    return version


async def test_the_record_of_a_shadow_holds_what_it_would_have_done(gateway: Gateway) -> None:
    version = await on_trial(gateway, "shadow", failing=False)
    exchange, decided = await routed(gateway, "hello")
    assert decided.record().shadow is None
    decision = exchange.record(keep_content=True).decision
    assert decision is not None
    assert decision.shadow is not None
    assert (decision.router, decision.arm) == ("prior@0", "calc")
    assert (decision.shadow.router, decision.shadow.arm, decision.shadow.propensity) == (version, "book", 0.0)


async def test_a_shadow_that_fails_is_told_in_the_record(gateway: Gateway) -> None:
    await on_trial(gateway, "shadow", failing=True)
    exchange, _ = await routed(gateway, "hello")
    decision = exchange.record(keep_content=True).decision
    assert decision is not None
    assert decision.shadow is not None
    assert (decision.shadow.arm, decision.arm) == (None, "calc")
    assert "of all things" in (decision.shadow.error or "")
    gateway.metrics.observe(exchange.record(keep_content=True))
    assert f'tokamak_shadow_total{{router="{decision.shadow.router}",agrees="failed"}} 1' in (
        gateway.render_metrics().decode()
    )


async def test_where_a_canary_fails_the_champion_decides(gateway: Gateway) -> None:
    await on_trial(gateway, "canary", failing=True)
    for number in range(20):
        exchange, decided = await routed(gateway, f"hello {number}")
        assert decided.serving.router == "prior@0"
        assert exchange.record(keep_content=True).decision is not None


async def test_the_version_that_decides_is_the_one_that_is_logged_with_its_own_propensities(gateway: Gateway) -> None:
    version = await on_trial(gateway, "canary", failing=False)
    seen = set()
    for number in range(40):
        exchange, _ = await routed(gateway, f"hello {number}", routing={"exploration": 0.2})
        decision = exchange.record(keep_content=True).decision
        assert decision is not None
        seen.add(decision.router)
        best = "book" if decision.router == version else "calc"
        assert {c.arm: c.propensity for c in decision.candidates}[best] == pytest.approx(0.9)
        assert decision.conversation is not None
    assert seen == {version, "prior@0"}


async def test_a_conversation_is_known_by_its_session_else_by_how_it_began(gateway: Gateway) -> None:
    async def known(*contents: str, **fields: Any) -> Conversation:
        exchange, _ = await routed(gateway, *contents, **fields)
        assert exchange.request is not None
        return conversation_of(exchange.request, exchange)

    assert await known("first") == await known("first", "second", "third")
    assert await known("first") != await known("other")
    named = {"metadata": {"session_id": "s"}}
    assert await known("first", **named) == await known("other", **named)
    assert await known("first", prompt_cache_key="s") == await known("first", **named)


class Watching(Lineup):
    """Notes the feature blocks that it is given."""

    seen: list[Any]

    def predict(self, vector: Any, features: Any = None, text: str | None = None) -> Prediction:
        self.seen.append(features)
        return super().predict(vector, features, text)


def watching(gateway: Gateway, *, reads: bool) -> list[Any]:
    lineup = object.__new__(Watching)
    lineup.__dict__.update({**gateway.serving.lineup.__dict__, "reads_features": reads, "seen": []})
    gateway._serving = replace(gateway.serving, lineup=lineup)
    return lineup.seen


async def test_only_a_router_that_learned_from_feature_blocks_is_given_one(gateway: Gateway) -> None:
    assert not gateway.serving.lineup.reads_features
    seen = watching(gateway, reads=False)
    await routed(gateway, "hello")
    assert seen == [None]
    seen = watching(gateway, reads=True)
    exchange, _ = await routed(gateway, "hello", "Add 2 and 2.", metadata={"workload": "sums"})
    expected = query_features(exchange.query_text or "", Shape(turns=2), "sums")
    np.testing.assert_array_equal(seen, [expected])
