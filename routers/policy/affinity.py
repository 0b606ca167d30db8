"""Staying with a conversation's arm unless another one gains more than it costs to begin anew there. Pure.

A provider keeps the prefix of a conversation warm and sells it at the cached price. Another model has to read it cold:

    price of a switch = prefix tokens * (prompt price - cached price) of the other model, in utility, + a small margin.

The price comes off the utility of every arm of another model (`routers.policy.decide.Terms.penalty`), so the arm that
stays is simply the greedy one and propensities stay exact. Arms of the same model pay the margin alone: its prefix is
warm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from registry.arms import Arm, Prices

MARGIN = 0.01
"""Utility that any change of arm has to gain: less than this is within the error of every prediction."""


class Turn(NamedTuple):
    """What is remembered of a conversation: its last arm, the tokens it has read, and the caller's wish then."""

    arm: str
    prefix_tokens: int
    wish: Hashable = None


class Conversations:
    """The last turns of the conversations of one process, the least recently used forgotten first."""

    def __init__(self, size: int) -> None:
        """`size`: how many conversations are remembered, at least 1."""
        self._size = size
        self._turns: OrderedDict[Hashable, Turn] = OrderedDict()

    def __len__(self) -> int:
        return len(self._turns)

    def last(self, key: Hashable) -> Turn | None:
        """The last turn of a conversation, None if it is new or was forgotten."""
        return self._turns.get(key)

    def note(self, key: Hashable, turn: Turn) -> None:
        """A turn was answered."""
        self._turns[key] = turn
        self._turns.move_to_end(key)
        if len(self._turns) > self._size:
            self._turns.popitem(last=False)


def cold_prefix_usd(prices: Prices, prefix_tokens: int) -> float:
    """What a model asks more for a prefix it has not read before, in USD; 0 where it has no cached price."""
    if prices.prompt_per_1m is None or prices.cached_input_per_1m is None:
        return 0.0
    return prefix_tokens * max(prices.prompt_per_1m - prices.cached_input_per_1m, 0.0) / 1e6


def switch_prices(
    arms: Sequence[Arm], stays: int, prefix_tokens: int, utility_per_usd: float, most: float | None = None
) -> list[float]:
    """The price of leaving the arm with index `stays`, per arm, in utility.

    `utility_per_usd` changes USD into the policy's utility; `most` caps what a cold prefix can cost (with a preference,
    where cost lies in [0, 1], a prefix costs no more than the dearest answer).
    """
    model = arms[stays].model.name
    found = []
    for index, arm in enumerate(arms):
        cold = 0.0
        if arm.model.name != model:
            cold = cold_prefix_usd(arm.model.prices, prefix_tokens) * utility_per_usd
        found.append(0.0 if index == stays else MARGIN + (cold if most is None else min(cold, most)))
    return found
