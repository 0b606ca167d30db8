"""Hard filters before any prediction: which arms of a route may answer this request at all, and why the others not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from registry.arms import Arm, Capability
from registry.config import RouteConfig
from service.backends.health import Health
from service.errors import ApiError
from service.limits import Key, allows
from service.openai_api.requests import ModelRequest
from service.routing_options import RoutingOptions
from service.serving import Serving, Standing, refuse_window
from templates_store.choosing import Selection

NOT_ON_ROUTE = "not on this route"
NOT_WISHED = "not among the models that the request allows"
KEY_FORBIDS = "the API key may not use it"
WINDOW = "context window too small"
DOWN = "all its endpoints are failing"
NO_TEMPLATE = "no template is close enough"
NO_ROOM = "no template that is close enough fits into `templates.max_tokens`"


def eligible_arms(
    serving: Serving, route: RouteConfig, request: ModelRequest, key: Key, options: RoutingOptions, health: Health
) -> tuple[list[int], dict[int, str]]:
    """Indices into `serving.arms` of the arms that may answer, and the reason of every arm that may not."""
    kind = (tuple(route.models), key.models, request.needs)
    standing = serving.standings.get(kind) if options.models is None else None
    if standing is None:
        standing = _standing(serving.arms, *kind, options.models)
        if options.models is None:  # What callers wish has no bound.
            serving.standings[kind] = standing
    tokens = request.prompt_tokens + (request.answer_tokens or 0)
    allowed, eliminated = list(standing.allowed), dict(standing.eliminated)
    if tokens > standing.least_window or health.any_failed():
        for index in standing.allowed:
            model = serving.arms[index].model
            if model.context_window is not None and tokens > model.context_window:
                eliminated[index] = WINDOW
            elif not health.model_is_up(model):
                eliminated[index] = DOWN
        allowed = [index for index in allowed if index not in eliminated]
        eliminated = dict(sorted(eliminated.items()))
    return allowed, eliminated


def _standing(
    arms: Sequence[Arm],
    on_route: tuple[str, ...],
    of_key: tuple[str, ...],
    needs: frozenset[Capability],
    wished: tuple[str, ...] | None,
) -> Standing:
    allowed: list[int] = []
    eliminated: dict[int, str] = {}
    for index, arm in enumerate(arms):
        if not matches_globs(arm, on_route):
            eliminated[index] = NOT_ON_ROUTE
        elif wished is not None and not matches_globs(arm, wished):
            eliminated[index] = NOT_WISHED
        elif not allows(of_key, arm.model.name):
            eliminated[index] = KEY_FORBIDS
        elif not needs <= arm.model.capabilities:
            eliminated[index] = f"cannot: {', '.join(sorted(needs - arm.model.capabilities))}"
        elif "chat" not in needs and arm.way != "direct":
            eliminated[index] = "only chat can be asked this way"
        else:
            allowed.append(index)
    windows = [arms[index].model.context_window for index in allowed]
    return Standing(tuple(allowed), eliminated, min((w for w in windows if w is not None), default=math.inf))


def nothing_eligible(serving: Serving, request: ModelRequest, eliminated: dict[int, str]) -> ApiError:
    """The error when no arm is left: the context window if that is the reason, else the reasons one by one."""
    reasons = {serving.arms[index].id: reason for index, reason in eliminated.items()}
    if WINDOW in reasons.values():
        windows = [serving.arms[i].model.context_window or 0 for i, reason in eliminated.items() if reason == WINDOW]
        return refuse_window(request.prompt_tokens, request.answer_tokens, max(windows))
    listed = "; ".join(f"{arm}: {reason}" for arm, reason in list(reasons.items())[:20])
    transient = DOWN in reasons.values()
    return ApiError(
        503 if transient else 400, "overloaded_error" if transient else "invalid_request_error", "no_eligible_model",
        f"No arm can answer this request. {listed}.", retry_after_s=1.0 if transient else None,
    )  # fmt: skip


def no_template(selection: Selection) -> str:
    """Why a query has no templates to show."""
    return NO_ROOM if "over the token budget" in selection.fates.values() else NO_TEMPLATE


def matches_globs(arm: Arm, globs: tuple[str, ...]) -> bool:
    """Whether one of the globs matches the arm or its model."""
    return "*" in globs or any(fnmatchcase(arm.id, glob) or fnmatchcase(arm.model.name, glob) for glob in globs)
