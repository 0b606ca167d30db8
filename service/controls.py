"""Deals requests to the control group of the templates, and says so in their decisions."""

from __future__ import annotations

from collections.abc import Mapping

from registry.arms import Arm, twin_of
from registry.config import TemplatesConfig
from routers.policy.control import Control
from routers.policy.decide import Choice
from service.eligible import NOT_ON_ROUTE, matches_globs
from service.exchange import Exchange
from service.routing_options import RoutingOptions
from service.serving import Serving, Target
from traffic.records import Candidate, Decision

PINNED = "pinned"
"""The router of a decision that no router took."""


def dealt(
    serving: Serving,
    choice: Choice,
    eliminated: Mapping[int, str],
    options: RoutingOptions,
    draw: float,
    *,
    explored_only: bool,
) -> Control | None:
    """The control group of a decision; None if none of its arms has one.

    A `thought` arm has none where its model may not be asked directly because of a limit of the request, or because
    the request itself names the way (unless `templates.control_pinned`). That the route or the config leaves the direct
    way out does not matter: it is the same model and a shorter prompt. `explored_only`: the first arm is one of stages.
    """
    settings: TemplatesConfig = serving.config.templates
    if settings.control_share <= 0.0:
        return None
    twins = {arm: twin for arm, twin in serving.pool.twins.items() if arm in choice.order}
    if choice.eliminated or eliminated or options.models is not None:
        barred = {**eliminated, **choice.eliminated}
        twins = {arm: twin for arm, twin in twins.items() if _may_be_asked(serving, twin, barred, options)}
    if not twins:
        return None
    alone = choice.explored or not explored_only
    withheld = choice.chosen in twins and alone and draw < settings.control_share
    return Control(settings.control_share, twins, withheld, explored_only)


def _may_be_asked(serving: Serving, twin: Arm, barred: Mapping[int, str], options: RoutingOptions) -> bool:
    if options.models is not None and not matches_globs(twin, options.models):
        return serving.config.templates.control_pinned
    at = serving.arm_ids.index(twin.id) if twin.id in serving.arm_ids else None
    return at is None or barred.get(at, NOT_ON_ROUTE) == NOT_ON_ROUTE


def dealt_pinned(serving: Serving, target: Target, arm: Arm, exchange: Exchange, draw: float) -> Arm:
    """The arm that answers where a `thought` arm was asked for by name: itself, or as a control its twin."""
    settings = serving.config.templates
    if not settings.control_pinned or settings.control_share <= 0.0 or not exchange.selection.hits:
        return arm
    twin, share = twin_of(arm), settings.control_share
    withheld = draw < share
    chances = {arm.id: 1.0 - share, twin.id: share}
    answers = twin if withheld else arm
    exchange.withheld_from = arm.id if withheld else None
    exchange.decision = Decision(
        id=exchange.id, route=target.name, router=PINNED, encoder=serving.encoder.hash, preference=1.0,
        exploration=0.0, arm=answers.id, propensity=chances[answers.id], explored=False,
        candidates=tuple(Candidate(arm=name, propensity=chance) for name, chance in chances.items()),
        withheld_from=exchange.withheld_from,
    )  # fmt: skip
    return answers
