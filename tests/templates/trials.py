"""What a gateway would have logged of requests that were dealt to having templates or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tests.off_policy.logs import decision
from tests.offline_routers.interactions import ENCODER, interaction, score
from traffic.records import Interaction, Score

Retrieved = tuple[tuple[str, float], ...]


def dealt(
    number: int, retrieved: Retrieved, value: float, *, shown: bool, share: float = 0.5, **changes: Any
) -> list[Interaction | Score]:
    """One request of the model `m` and its score."""
    arm = "m#thought" if shown else "m"
    chances = {"m#thought": 1.0 - share, "m": share}
    fields: dict[str, Any] = {
        "model": "m",
        "retrieved": retrieved,
        "template_ids": tuple(id_ for id_, _ in retrieved) if shown else (),
        "withheld": not shown,
        "decision": decision(arm, chances, withheld_from=None if shown else "m#thought"),
        "text": f"question {number}",
        "encoder": ENCODER,
    }
    return [interaction(number, **(fields | {"arm": arm} | changes)), score(number, value)]


def traffic(
    companies: Sequence[Sequence[str]],
    chance_of: Callable[[Sequence[str], bool], float],
    n: int,
    *,
    seed: int = 0,
    share: float = 0.5,
    similarity: float = 0.9,
    start: int = 0,
) -> Iterable[Interaction | Score]:
    """n requests, each of which would be shown one of the companies of templates, in turn.

    `chance_of` a company, shown or not, is the chance of a right answer.
    """
    rng = np.random.default_rng(seed)
    records: list[Interaction | Score] = []
    for number in range(start, start + n):
        company = companies[number % len(companies)]
        shown = bool(rng.random() >= share)
        value = float(rng.random() < chance_of(company, shown))
        records += dealt(number, tuple((id_, similarity) for id_ in company), value, shown=shown, share=share)
    return records
