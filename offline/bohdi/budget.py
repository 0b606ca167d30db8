"""What a round may cost, in USD and in tokens. Each call is held at its most before it is made and settled after."""

from __future__ import annotations

from dataclasses import dataclass

from registry.arms import Prices
from templates_store.augment import estimate_tokens

FRAME_TOKENS = 8
"""What a chat template adds to a prompt, about."""


@dataclass(frozen=True, slots=True)
class Most:
    """The most that a call can use. `usd` is None without prices."""

    tokens: int
    usd: float | None


def most_of(prompt: str, max_tokens: int, prices: Prices) -> Most:
    """What a call with this prompt uses if its answer is as long as it may be."""
    asked = estimate_tokens(prompt) + FRAME_TOKENS
    return Most(asked + max_tokens, prices.cost(asked, max_tokens))


class Budget:
    """The account of one round.

    Attributes
    ----------
    tokens: used so far, prompts and answers.
    usd: spent so far by list prices; a lower bound if not `priced`.
    priced: every call so far had a price.
    """

    def __init__(self, max_usd: float | None = None, max_tokens: int | None = None) -> None:
        self.max_usd = max_usd
        self.max_tokens = max_tokens
        self.tokens = 0
        self.usd = 0.0
        self.priced = True
        self._held_tokens = 0
        self._held_usd = 0.0

    def hold(self, most: Most) -> bool:
        """Set aside what a call may use; False if it could pass the cap, and then nothing is set aside."""
        if not self.affords(most):
            return False
        self._held_tokens += most.tokens
        self._held_usd += most.usd or 0.0
        return True

    def affords(self, most: Most) -> bool:
        """Whether so much is left."""
        if self.max_tokens is not None and self.tokens + self._held_tokens + most.tokens > self.max_tokens:
            return False
        return self.max_usd is None or self.usd + self._held_usd + (most.usd or 0.0) <= self.max_usd

    def settle(self, most: Most, tokens: int | None, usd: float | None) -> None:
        """A call has ended. What is not known of it counts as `most`."""
        self._held_tokens -= most.tokens
        self._held_usd -= most.usd or 0.0
        self.tokens += most.tokens if tokens is None else tokens
        spent = most.usd if usd is None else usd
        if spent is None:
            self.priced = False
        else:
            self.usd += spent
