"""A cascade: a cheap arm answers first, and a better one only if that answer does not look good enough.

Nothing of the first answer reaches the client before it is accepted; for a stream it is fetched whole and replayed as
events. Requests with tools have no cascade, because what a tool did cannot be taken back, nor have requests for
several answers. Every stage is an attempt with its own usage and cost, and the request's are their sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from registry.arms import Arm, Endpoint
from registry.config import CascadeConfig
from routers.policy.cascade import Escalations, holds_json, matches, mean_logprob, pays
from routers.policy.decide import drawn
from service.asgi import Send
from service.eligible import matches_globs
from service.errors import ApiError
from service.exchange import Exchange
from service.explanation import CascadePlan, Decided
from service.finishing import Finish, close_attempt, finishing, send_replay, send_whole
from service.openai_api.requests import ChatRequest, ModelRequest
from service.routing_options import RoutingOptions
from service.wire import NOT_DECODABLE

if TYPE_CHECKING:
    from service.gateway import Gateway

NEVER = frozenset({"tools", "n"})


class BodyFor(Protocol):
    def __call__(self, arm: Arm, endpoint: Endpoint, changes: Mapping[str, Any] = ...) -> bytes: ...


def planned(
    decided: Decided, config: CascadeConfig, request: ModelRequest, escalations: Escalations, draw: float
) -> None:
    """Put a cheap arm first and plan the escalation, if that is allowed here and pays.

    The first arm takes the greedy arm's place in the decision, with exploration on top as before, so the propensities
    stay exact. An arm that was drawn by exploration answers alone.
    """
    choice, prediction, serving = decided.choice, decided.prediction, decided.serving
    if not isinstance(request, ChatRequest) or NEVER & request.needs or len(choice.order) < 2:
        return
    if config.signal == "verifier" and config.pattern is None and "json_schema" not in request.needs:
        return
    quality, costs, latencies = (column.tolist() for column in (prediction.quality, prediction.cost_usd,
                                                                prediction.latency_s))  # fmt: skip
    able = [arm for arm in choice.order if _may_be_first(serving.arms[arm], config)]
    known = [arm for arm in able if costs[arm] == costs[arm]]
    if not known:
        return
    first = min(known, key=lambda arm: (costs[arm], -quality[arm]))
    ranking = sorted(choice.order, key=lambda arm: -choice.utility[arm])
    then = next((arm for arm in ranking if quality[arm] > quality[first]), None)
    value = decided.weighing.value_usd(serving.lineup.cost_scale)
    if then is None or math.isinf(value):
        return
    wait = latencies[first] if latencies[first] == latencies[first] else 0.0
    latency_price = decided.weighing.latency_weight * wait * value
    if not pays(quality[then] - quality[first], value, escalations.share, costs[first], latency_price):
        return
    rest = [arm for arm in ranking if arm not in (first, then)]
    decided.choice = drawn(
        [first, then, *rest], sorted(choice.order), choice.utility, decided.weighing.exploration, draw,
        decided.weighing.floor, choice.eliminated,
    )  # fmt: skip
    if not decided.choice.explored:
        decided.cascade = CascadePlan(config, first, then, escalations)


async def answer_in_stages(
    gateway: Gateway, exchange: Exchange, decided: Decided, path: str, body_for: BodyFor
) -> Finish:
    """The way to send the answer of the second stage if it was needed, else that of the first.

    If every later arm fails, the first answer is sent after all: it is one. Raises ApiError if there is none.
    """
    plan, request = decided.cascade, exchange.request
    assert plan is not None
    assert request is not None
    ranking = decided.ranking()
    first = await _first_stage(gateway, exchange, plan, ranking[0], path, body_for)
    plan.escalated = first is None or plan.value is None or plan.value < plan.least
    plan.escalations.note(plan.escalated)
    if first is not None and not plan.escalated:
        return partial(_send_first, gateway, exchange, decided, first)
    arm = exchange.trail.arm
    try:
        opened = await gateway.backends.open(ranking[1:], path, body_for, exchange.trail, stream=request.stream)
    except ApiError:
        if first is None:
            raise
        exchange.trail.arm = arm
        return partial(_send_first, gateway, exchange, decided, first)
    return finishing(gateway, exchange, opened, decided)


async def _first_stage(
    gateway: Gateway, exchange: Exchange, plan: CascadePlan, arm: Arm, path: str, body_for: BodyFor
) -> bytes | None:
    """The first arm's whole answer as the client may see it, with its signal in the plan; None if the arm failed."""
    request = exchange.request
    assert request is not None
    changes: dict[str, Any] = {"stream": False} if request.stream else {}
    add_logprobs = plan.config.signal == "logprob" and "logprobs" not in request.needs
    if add_logprobs:
        changes["logprobs"] = True
    try:
        opened = await gateway.backends.open(
            [arm], path, partial(body_for, changes=changes), exchange.trail, stream=False
        )
    except ApiError:
        return None
    exchange.reports(opened.answer.usage)
    exchange.staged = True
    close_attempt(exchange, opened, None)
    try:
        answer = msgspec.json.decode(opened.head)
        plan.value = signal_of(answer, plan.config, request)
    except (*NOT_DECODABLE, KeyError, IndexError, TypeError, AttributeError):
        return opened.head
    if not add_logprobs:
        return opened.head
    for choice in answer["choices"]:
        choice.pop("logprobs", None)
    return msgspec.json.encode(answer)


def signal_of(answer: Any, config: CascadeConfig, request: ModelRequest) -> float | None:
    """How good an answer looks, None if that cannot be told. Raises KeyError and the like for one of another shape."""
    choice = answer["choices"][0]
    if config.signal == "logprob":
        tokens = (choice.get("logprobs") or {}).get("content") or []
        return mean_logprob([float(token["logprob"]) for token in tokens])
    text = choice["message"].get("content") or ""
    if config.pattern is not None:
        return matches(text, config.pattern)
    wanted = request.body.mapping("response_format") or {}
    schema = (wanted.get("json_schema") or {}).get("schema")
    return holds_json(text, schema if isinstance(schema, dict) else None)


async def _send_first(
    gateway: Gateway, exchange: Exchange, decided: Decided, body: bytes, options: RoutingOptions, send: Send
) -> None:
    request = exchange.request
    assert request is not None
    if request.stream:
        await send_replay(gateway, exchange, body, decided, options, send)
    else:
        await send_whole(gateway, exchange, body, decided, options, send)


def _may_be_first(arm: Arm, config: CascadeConfig) -> bool:
    if config.signal == "logprob" and "logprobs" not in arm.model.capabilities:
        return False
    return config.first is None or matches_globs(arm, tuple(config.first))
