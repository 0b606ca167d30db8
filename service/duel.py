"""The models `router-<name>-<threshold>`: a strong and a weak arm, and the serving router's odds between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from encoders.protocol import Vectors
from routers.policy.decide import Choice, NoEligibleArm
from routers.policy.threshold import Duellist, Pair, choose, default_pair, win_probability
from routers.protocol import Prediction
from service.errors import ApiError
from service.serving import Serving
from service.weighing import Weighing


class Duel(NamedTuple):
    """The choice, and the probability that the strong arm beats the weak one; None if only one arm was left."""

    choice: Choice
    win: float | None


def duel(
    serving: Serving,
    threshold: float,
    prediction: Prediction,
    allowed: Sequence[int],
    vector: Vectors,
    weighed: Weighing,
    draw: float,
) -> Duel:
    """Strong iff its chance to win is at least the threshold. If one of the two may not answer, the other one does.

    Limits of the request and budgets remove arms as they do anywhere; preference and lambda have no part.

    Raises
    ------
    NoEligibleArm: neither may answer.
    ApiError: 400 if there is no pair: no `routers.pair`, and no costs to tell dear from cheap.
    """
    pair = _pair(serving, prediction, allowed)
    alone = weighed.choose(serving, prediction, [arm for arm in pair if arm in allowed], draw)
    if len(alone.order) < 2:
        return Duel(alone, None)
    win = _win(serving, prediction, pair, vector)
    choice = choose(pair, win, threshold, len(serving.arms), weighed.exploration, draw, weighed.floor)
    return Duel(choice._replace(eliminated=alone.eliminated), win)


def _pair(serving: Serving, prediction: Prediction, allowed: Sequence[int]) -> Pair:
    named = serving.config.routers.pair
    if named is not None:
        return Pair(serving.arm_ids.index(named.strong), serving.arm_ids.index(named.weak))
    if not allowed:
        raise NoEligibleArm({})
    found = default_pair(prediction, list(allowed))
    if found is None:
        raise ApiError(
            400, "invalid_request_error", "no_pair",
            "A threshold model needs a strong and a weak arm, and fewer than two eligible arms have a known cost. "
            "Set `routers.pair` in the config, or prices.", param="model",
        )  # fmt: skip
    return found


def _win(serving: Serving, prediction: Prediction, pair: Pair, vector: Vectors) -> float:
    router = serving.lineup.router
    strong, weak = serving.arm_ids[pair.strong], serving.arm_ids[pair.weak]
    if isinstance(router, Duellist) and {strong, weak} <= set(router.arms):
        return float(router.win_probability(vector, strong, weak))
    return win_probability(float(prediction.quality[pair.strong]), float(prediction.quality[pair.weak]))
