"""The way of a request, top to bottom.

Everything that a request meets is called from `answer`, in order. Before the first byte of an answer has been sent any
failure may still become another arm's answer; after it nothing is retried, and a break is told to the client as such.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from encoders.features import Features, query_features
from encoders.protocol import Vectors
from registry.api_key_table import KeyScope
from registry.arms import Arm, Endpoint
from registry.config import RouteConfig
from routers.policy.affinity import Turn
from routers.policy.decide import Choice, NoEligibleArm
from routers.protocol import Prediction
from service.asgi import ClientLeft, DisconnectWatch, Receive, Scope, Send, read_body, send_error
from service.budgets import OVER_DAY
from service.cache.replay import send_kept
from service.cascading import answer_in_stages, planned
from service.controls import dealt, dealt_pinned
from service.conversations import Conversation, conversation_of, turn_of, was_answered
from service.duel import duel
from service.eligible import eligible_arms, no_template, nothing_eligible
from service.errors import ApiError
from service.exchange import Exchange
from service.explanation import Decided, response_headers
from service.finishing import finishing
from service.limits import Key
from service.openai_api.requests import ChatRequest, ModelRequest
from service.routing_options import RoutingOptions, routing_options
from service.serving import Serving, Target
from service.trial import deciding, predicted, shadow
from service.weighing import weighing, wish
from service.wire import ROUTING_FIELDS
from templates_store.augment import last_user_message
from templates_store.template import Hit
from templates_store.ways import BINDING_FIELDS, ask, format_bound

if TYPE_CHECKING:
    from service.gateway import Gateway

logger = logging.getLogger("tokamak.pipeline")

NO_CHANGES: Mapping[str, Any] = MappingProxyType({})
Parse = Callable[[bytes], ModelRequest]
NO_DEADLINE = nullcontext()
SCOPES: Mapping[str, KeyScope] = MappingProxyType(
    {"/chat/completions": "chat", "/completions": "completions", "/embeddings": "embeddings"}
)
"""What a key must be allowed to do, by endpoint."""
UNPAID = frozenset({"connect_error", "http_error"})
"""Outcomes of calls that no provider charges for."""


async def answer(gateway: Gateway, path: str, parse: Parse, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request for a completion, stream or not, and log it."""
    exchange = Exchange(path, scope["headers"])
    watch: DisconnectWatch | None = None
    admitted: Key | None = None
    try:
        exchange.key = key = gateway.limits.authenticate(exchange.headers, SCOPES[path], scope.get("client"))
        exchange.raw = await read_body(exchange.headers, receive, gateway.max_body_bytes)
        exchange.request = request = parse(exchange.raw)
        gateway.limits.admit(key)
        admitted = key
        exchange.reserved_tokens = key.reserve_tokens(request.prompt_tokens, request.answer_tokens)
        watch = DisconnectWatch(receive)

        serving = gateway.serving
        options = routing_options(request.body, exchange.headers)
        target = serving.target(request.model)
        if gateway.cache is not None and (arm := await gateway.cache.look_up(exchange, key, target, options, serving)):
            return await send_kept(gateway, exchange, arm, send)
        ranking, hits, decided = await ranked(gateway, serving, target, request, key, options, exchange)

        def body_for(arm: Arm, endpoint: Endpoint, changes: Mapping[str, Any] = NO_CHANGES) -> bytes:
            exchange.template_ids = ()
            return upstream_body(request, arm, endpoint, hits, gateway.templates_max_tokens, exchange, changes)

        exchange.outcome = "failed"
        async with NO_DEADLINE if options.deadline_ms is None else asyncio.timeout(options.deadline_ms / 1e3):
            if decided is not None and decided.cascade is not None:
                finish = await answer_in_stages(gateway, exchange, decided, path, body_for)
            else:
                opened = await gateway.backends.open(ranking, path, body_for, exchange.trail, stream=request.stream)
                finish = finishing(gateway, exchange, opened, decided)
        await finish(options, send)
    except ApiError as error:
        await refuse(exchange, error, send)
    except TimeoutError:
        await refuse(exchange, deadline_exceeded(), send)
    except ClientLeft:
        abandon(exchange)
    except asyncio.CancelledError:
        abandon(exchange)
        if watch is None or not watch.left:
            raise
    except Exception:
        logger.exception("request %s failed on a defect", exchange.id)
        exchange.outcome = "failed"
        if exchange.http_status == 200:
            raise
        await refuse(exchange, ApiError(500, "api_error", "internal_error", f"Internal error in {exchange.id}."), send)
    finally:
        if watch is not None:
            watch.stop()
        if admitted is not None:
            gateway.limits.release(admitted)
        settle(gateway, exchange)
        gateway.record(exchange)
        if gateway.cache is not None:
            await gateway.cache.keep(exchange)


async def ranked(
    gateway: Gateway,
    serving: Serving,
    target: Target,
    request: ModelRequest,
    key: Key,
    options: RoutingOptions,
    exchange: Exchange,
) -> tuple[list[Arm], Sequence[Hit], Decided | None]:
    """The arms to try in order, the templates at hand, and the decision if one was taken. Draws on the budgets."""
    if target.pinned is not None:
        arm = permitted(target.pinned, key, request)
        exchange.bill = gateway.budgets.reserved_for(arm, key, request.prompt_tokens, request.answer_tokens)
        hits = await pinned_hits(gateway, serving, arm, request, key, exchange)
        exchange.route = "pinned"
        return [dealt_pinned(serving, target, arm, exchange, random.random())], hits, None
    decided, hits = await route(gateway, serving, target, request, key, options, exchange)
    exchange.decision = decided.record
    exchange.route = "single" if decided.cascade is None else "cascade"
    if exchange.bill is not None:
        exchange.bill.reserve(decided.expected_usd(), decided.spread_usd())
    return decided.ranking(), hits, decided


async def route(
    gateway: Gateway,
    serving: Serving,
    target: Target,
    request: ModelRequest,
    key: Key,
    options: RoutingOptions,
    exchange: Exchange,
) -> tuple[Decided, Sequence[Hit]]:
    """Encode once, find the eligible arms, predict, decide. Calls no upstream."""
    route_config = target.route
    assert route_config is not None
    conversation = conversation_of(request, exchange)
    champion, serving = serving, deciding(serving, conversation.known_by or exchange.id, exchange)
    allowed, eliminated, vector, hits = await candidates(
        gateway, serving, route_config, request, key, options, exchange
    )
    learned_as_asked(gateway, serving, options)
    affinity = route_config.affinity if options.affinity is None else options.affinity
    turn = remembered(gateway, target, request, conversation, options, exchange) if affinity else None
    exchange.bill = bill = gateway.budgets.bill(key, target.name, route_config)
    weighed = weighing(
        target, options, gateway.backends.load, serving, bill, turn,
        follows=turn is not None and request.follows_up(), stream=request.stream,
    )  # fmt: skip
    draw = random.random()
    features: Features | None = None

    def decided_by(version: Serving, prediction: Prediction) -> tuple[Choice, float | None]:
        if target.threshold is not None:
            return duel(version, target.threshold, prediction, allowed, vector, weighed, draw)
        return weighed.choose(version, prediction, allowed, draw), None

    def predicted_by(version: Serving) -> Prediction:
        nonlocal features
        if features is None and version.lineup.reads_features:
            features = query_features(exchange.query_text or "", request.shape(), exchange.workload())
        return version.lineup.predict(vector, features, exchange.query_text)

    serving, prediction = predicted(serving, champion, predicted_by)
    try:
        choice, win = decided_by(serving, prediction)
    except NoEligibleArm as none_left:
        if bill is not None and OVER_DAY in none_left.eliminated.values():
            raise bill.spent() from None
        raise nothing_eligible(serving, request, {**eliminated, **none_left.eliminated}) from None
    decided = Decided(
        exchange.id, target.name, serving, weighed.preference, choice.exploration, choice, prediction, eliminated,
        weighed, affinity, win, target.threshold,
    )  # fmt: skip
    if target.threshold is None and route_config.cascade is not None:
        planned(decided, route_config.cascade, request, gateway.escalations[target.base], draw)
    in_stages = decided.choice is not choice
    decided.control = dealt(serving, decided.choice, eliminated, options, random.random(), explored_only=in_stages)
    exchange.withheld_from = decided.withheld_from
    shadow(champion, exchange, lambda version: decided_by(version, predicted_by(version))[0], decided.control)
    return decided, hits


async def candidates(
    gateway: Gateway,
    serving: Serving,
    route_config: RouteConfig,
    request: ModelRequest,
    key: Key,
    options: RoutingOptions,
    exchange: Exchange,
) -> tuple[list[int], dict[int, str], Vectors, Sequence[Hit]]:
    """The arms that may answer, by index, why the others may not, the query's vector, and the templates for it."""
    allowed, eliminated = eligible_arms(serving, route_config, request, key, options, gateway.backends.health)
    vector = await encoded(serving, request, exchange)
    hits: Sequence[Hit] = ()
    thought = [index for index in serving.pool.twins if index in allowed]
    if thought:
        hits = found_templates(gateway, serving, vector, request, key, exchange)
        if not hits:
            eliminated.update(dict.fromkeys(thought, no_template(exchange.selection)))
            allowed = [index for index in allowed if index not in eliminated]
    if not allowed:
        raise nothing_eligible(serving, request, eliminated)
    return allowed, eliminated, vector, hits


def remembered(
    gateway: Gateway,
    target: Target,
    request: ModelRequest,
    conversation: Conversation,
    options: RoutingOptions,
    exchange: Exchange,
) -> Turn | None:
    """The last turn of the request's conversation; from now on this request is its last one."""
    if conversation.known_by is None:
        return None
    owned = (None if exchange.key is None else exchange.key.id, target.name, conversation.known_by)
    exchange.conversation = (owned, wish(target, options))
    return gateway.conversations.last(owned) if conversation.named or was_answered(request) else None


def learned_as_asked(gateway: Gateway, serving: Serving, options: RoutingOptions) -> None:
    """With the preference `judge` only a router that learned from a judge's scores may decide. Raises ApiError 400."""
    if not options.judge:
        return
    sources = gateway.score_sources(serving.router)
    if sources != ("judge",):
        learned = "no scores yet" if sources is None else f"scores of: {', '.join(sources) or 'any source'}"
        raise ApiError(
            400, "invalid_request_error", "no_judge_router",
            f"The preference 'judge' needs a router that learned from a judge's scores alone; {serving.router} learned "
            f"from {learned}. Train one with the score source 'judge' and deploy it, or ask for 'performance'.",
            param="routing.preference",
        )  # fmt: skip


def settle(gateway: Gateway, exchange: Exchange) -> None:
    """The request is over: true up its budgets and its tokens, and remember the arm that its conversation had."""
    if exchange.trail.running is not None:
        end_running(exchange, "aborted")
    if exchange.bill is not None:
        exchange.bill.settle(exchange.cost_usd, answered=was_paid(exchange))
    if exchange.key is not None and exchange.reserved_tokens is not None:
        exchange.key.settle_tokens(exchange.reserved_tokens, exchange.tokens_used(answered=was_paid(exchange)))
    if exchange.conversation is not None:
        conversation, wished = exchange.conversation
        turn = turn_of(exchange, wished)
        if turn is not None:
            gateway.conversations.note(conversation, turn)


def was_paid(exchange: Exchange) -> bool:
    """Whether a provider may charge for any of the calls."""
    return any(attempt.outcome not in UNPAID for attempt in exchange.trail.attempts)


async def pinned_hits(
    gateway: Gateway, serving: Serving, arm: Arm, request: ModelRequest, key: Key, exchange: Exchange
) -> Sequence[Hit]:
    """The templates of an arm that was asked for by name; only a thought arm needs any, and the encoder for them."""
    if arm.way != "thought":
        exchange.query_text = request.query()
        return ()
    return found_templates(gateway, serving, await encoded(serving, request, exchange), request, key, exchange)


def found_templates(
    gateway: Gateway, serving: Serving, vector: Vectors, request: ModelRequest, key: Key, exchange: Exchange
) -> Sequence[Hit]:
    """The templates to be shown, also noted for the log; none if the conversation has no place for any."""
    if not isinstance(request, ChatRequest) or last_user_message(request.messages) is None:
        return ()
    exchange.selection = gateway.find_templates(serving, vector, key)
    return exchange.selection.hits


async def encoded(serving: Serving, request: ModelRequest, exchange: Exchange) -> Vectors:
    """The vector of the request's query, kept for the log."""
    exchange.query_text = text = request.query()
    vector = await serving.encode(text)
    exchange.vector, exchange.encoder = vector.tobytes(), serving.encoder.hash
    return vector


def permitted(arm: Arm, key: Key, request: ModelRequest) -> Arm:
    """The pinned arm, if the key may use it and it can do what is asked."""
    if not key.may_use(arm.model.name):
        raise ApiError(
            403,
            "permission_error",
            "model_not_allowed",
            f"Key {key.id!r} may not use {arm.model.name!r}.",
            param="model",
        )
    kind = request.needs & {"chat", "completions", "embeddings"}
    if not kind <= arm.model.capabilities:
        raise ApiError(
            400, "invalid_request_error", "unsupported_model",
            f"The model {arm.model.name!r} is not served for {', '.join(kind)}.", param="model",
        )  # fmt: skip
    return arm


def upstream_body(
    request: ModelRequest,
    arm: Arm,
    endpoint: Endpoint,
    hits: Sequence[Hit],
    max_tokens: int,
    exchange: Exchange,
    further: Mapping[str, Any] = NO_CHANGES,
) -> bytes:
    """The request as this arm's endpoint gets it: model name, way of asking, usage on streams; all else as it came.

    `further` are fields to set besides, as the first stage of a cascade needs them.
    """
    changes: dict[str, Any] = dict(further)
    if endpoint.model != request.model:
        changes["model"] = endpoint.model
    if arm.way != "direct" and isinstance(request, ChatRequest):
        asked = ask(
            arm.way, request.messages, hits, max_tokens=max_tokens,
            bound=format_bound({name: request.body.peek(name) for name in BINDING_FIELDS if name in request.body}),
        )  # fmt: skip
        changes["messages"] = asked.messages
        exchange.template_ids = asked.template_ids
    without: tuple[str, ...] = ROUTING_FIELDS
    if further.get("stream") is False:
        without = (*ROUTING_FIELDS, "stream_options")
    elif request.stream and not request.usage_wanted:
        options = request.body.mapping("stream_options") or {}
        changes["stream_options"] = {**options, "include_usage": True}
    return request.body.edited(changes, without=without)


def deadline_exceeded() -> ApiError:
    return ApiError(504, "api_error", "deadline_exceeded", "No answer came within 'deadline_ms'.")


async def refuse(exchange: Exchange, error: ApiError, send: Send) -> None:
    """Tell the client what went wrong; nothing of an answer has been sent yet."""
    exchange.error, exchange.http_status = error, error.status
    end_running(exchange, "timeout" if error.code == "deadline_exceeded" else "aborted")
    await send_error(send, error, response_headers(exchange, None, complete=False))


def abandon(exchange: Exchange) -> None:
    """The client is gone, or the process is stopping: keep what is known."""
    exchange.outcome, exchange.http_status = "aborted", 499
    exchange.error = ApiError(499, "api_error", "client_closed_request", "The client closed the connection.")
    end_running(exchange, "aborted")


def end_running(exchange: Exchange, outcome: Any) -> None:
    """Close the record of a call that was cut off."""
    running, load = exchange.trail.running, exchange.trail.load
    if running is None:
        return
    attempt = running.record(outcome)
    exchange.trail.ends(attempt)
    if outcome == "timeout" and load is not None and exchange.request is not None:
        # It took at least so long: without this an arm that is too slow for every deadline would look fast.
        load.answered(running.arm, attempt.latency_s, stream=exchange.request.stream)
