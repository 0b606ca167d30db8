"""A router version on trial, beside a request: in canary it may decide, in shadow it only says what it would do."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import partial

import msgspec

from registry.rollouts import Trial
from routers.policy.control import Control, asked
from routers.policy.decide import Choice
from routers.protocol import Prediction
from service.exchange import Exchange
from service.serving import Serving
from traffic.records import Decision, Shadow

logger = logging.getLogger("tokamak.trial")

Decide = Callable[[Serving], Choice]
"""Takes the decision again, with the router of the given snapshot."""


def deciding(serving: Serving, conversation: str, exchange: Exchange) -> Serving:
    """The snapshot whose router decides this request: the canary's for its share of the conversations."""
    trial, tried = serving.trial, serving.tried
    if trial is None or tried is None or trial.stage != "canary":
        return serving
    exchange.on_trial = partial(_dealt, conversation=conversation)
    return tried if dealt_to_canary(trial, conversation) else serving


def predicted(
    serving: Serving, champion: Serving, predict: Callable[[Serving], Prediction]
) -> tuple[Serving, Prediction]:
    """The prediction, and the snapshot that made it: the champion's where the canary's router fails."""
    if serving is champion:
        return serving, predict(serving)
    try:
        return serving, predict(serving)
    except Exception as error:  # noqa: BLE001  Whatever is wrong with a version on trial must not cost a request.
        logger.error("router %s failed in canary, %s decides instead: %r", serving.router, champion.router, error)
        return champion, predict(champion)


def shadow(serving: Serving, exchange: Exchange, decide: Decide, control: Control | None = None) -> None:
    """Have the version in shadow, if there is one, decide the same request when its record is written.

    The control group is the same.
    """
    trial, tried = serving.trial, serving.tried
    if trial is not None and tried is not None and trial.stage == "shadow":
        exchange.on_trial = partial(_shadowed, tried=tried, decide=decide, control=control)


def dealt_to_canary(trial: Trial, conversation: str) -> bool:
    """Whether a conversation is the canary's: the same answer in every process, for as long as the trial lasts.

    A larger share keeps the conversations that the canary has.
    """
    digest = hashlib.blake2b(conversation.encode(), digest_size=8, key=trial.id.encode()).digest()
    return int.from_bytes(digest, "big") < trial.share * 2**64


def _dealt(decision: Decision, *, conversation: str) -> Decision:
    return msgspec.structs.replace(decision, conversation=hashlib.sha256(conversation.encode()).hexdigest()[:24])


def _shadowed(decision: Decision, *, tried: Serving, decide: Decide, control: Control | None) -> Decision:
    try:
        choice = decide(tried)
        chance = asked(choice, tried.arm_ids, control).get(decision.arm, 0.0)
        best = max(choice.order, key=lambda arm: choice.utility[arm])
        found = Shadow(router=tried.router, arm=tried.arm_ids[best], propensity=chance)
    except Exception as error:  # noqa: BLE001  Whatever is wrong with a version on trial must not cost a record.
        logger.warning("router %s failed in shadow: %r", tried.router, error)
        found = Shadow(router=tried.router, error=repr(error)[:200])
    return msgspec.structs.replace(decision, shadow=found)
