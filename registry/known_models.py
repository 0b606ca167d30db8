"""Facts about well-known remote models: list prices and windows as their makers published them in 2025.

Only what is certain stands here; a model that is absent has no price until the user writes one. Prices change: what
stands in the user's config file always wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """USD per million prompt, cached prompt and completion tokens; tokens of the window; whether it reads images."""

    prompt: float
    cached: float
    completion: float
    context_window: int
    vision: bool = True


KNOWN_MODELS: dict[str, Known] = {
    "gpt-4o": Known(2.5, 1.25, 10, 128_000),
    "gpt-4o-mini": Known(0.15, 0.075, 0.6, 128_000),
    "gpt-4.1": Known(2, 0.5, 8, 1_047_576),
    "gpt-4.1-mini": Known(0.4, 0.1, 1.6, 1_047_576),
    "gpt-4.1-nano": Known(0.1, 0.025, 0.4, 1_047_576),
    "gpt-5": Known(1.25, 0.125, 10, 400_000),
    "gpt-5-mini": Known(0.25, 0.025, 2, 400_000),
    "gpt-5-nano": Known(0.05, 0.005, 0.4, 400_000),
    "o3": Known(2, 0.5, 8, 200_000),
    "o4-mini": Known(1.1, 0.275, 4.4, 200_000),
    "claude-opus-4-1": Known(15, 1.5, 75, 200_000),
    "claude-sonnet-4": Known(3, 0.3, 15, 200_000),
    "claude-sonnet-4-5": Known(3, 0.3, 15, 200_000),
    "claude-haiku-4-5": Known(1, 0.1, 5, 200_000),
}

_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|20\d{6})$")


def known_model(name: str) -> Known | None:
    """The facts about a model by its id at its maker's API; a dated snapshot counts as its undated name."""
    return KNOWN_MODELS.get(undated(name))


def undated(name: str) -> str:
    """The name without the date of a snapshot (`gpt-4o-2024-11-20` is a `gpt-4o`)."""
    return _DATE.sub("", name)
