"""Hard filters before any prediction: which arms of a route may answer this request at all, and why the others not."""

from __future__ import annotations

from fnmatch import fnmatchcase

from registry.arms import Arm
from registry.config import RouteConfig
from service.backends.health import Health
from service.errors import ApiError
from service.limits import Key
from service.openai_api.requests import ModelRequest
from service.routing_options import RoutingOptions
from service.serving import Serving, refuse_window
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
    chat = "chat" in request.needs
    on_route = tuple(route.models)
    tokens = request.prompt_tokens + (request.answer_tokens or 0)
    allowed: list[int] = []
    eliminated: dict[int, str] = {}
    for index, arm in enumerate(serving.arms):
        model = arm.model
        reason: str | None = None
        if not matches_globs(arm, on_route):
            reason = NOT_ON_ROUTE
        elif options.models is not None and not matches_globs(arm, options.models):
            reason = NOT_WISHED
        elif not key.may_use(model.name):
            reason = KEY_FORBIDS
        elif not request.needs <= model.capabilities:
            reason = f"cannot: {', '.join(sorted(request.needs - model.capabilities))}"
        elif not chat and arm.way != "direct":
            reason = "only chat can be asked this way"
        elif model.context_window is not None and tokens > model.context_window:
            reason = WINDOW
        elif not health.model_is_up(model):
            reason = DOWN
        if reason is None:
            allowed.append(index)
        else:
            eliminated[index] = reason
    return allowed, eliminated


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
