"""How far an arm must be ahead of the best single arm to be put above it.

Choosing the highest of many uncertain predictions favours the luckiest. A margin, learned from the choices of trees
that had not seen the query, makes up for that: nothing is lost where the best single arm is best everywhere.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32

F64 = NDArray[np.float64]

MARGINS: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, np.inf)
STANDARD_ERRORS = 0.5
"""A margin is worth its mean gain less so many standard errors."""
BEHIND = np.float32(1e-4)
"""An arm that is ahead by less than the margin is put this far behind the single arm."""
JUST_BELOW_ONE = np.float32(1.0 - 1e-6)


def guarded(quality: F32, single: int, margin: float) -> F32:
    """`quality` ([M] or [n, M]) with every advantage over the arm `single` reduced by `margin`, down to just behind."""
    if margin == 0.0:
        return np.minimum(quality, JUST_BELOW_ONE)
    base = quality[..., single : single + 1]
    ahead = quality - base
    kept = np.where(ahead > margin, ahead - np.float32(margin), np.minimum(ahead, -BEHIND))
    kept[..., single] = 0.0
    clipped: F32 = np.clip(base + kept, 0.0, JUST_BELOW_ONE)
    return clipped


def chosen_margin(unseen: F64, values: F64, inverse: F64, single: int) -> float:
    """The margin of the greatest gain over the single arm, less its uncertainty; infinite if none gains.

    `unseen` [n, M] are predictions for queries that were not learned from, `values` [n, M] what was observed, `inverse`
    [n, M] inverse propensities, 0 where nothing was. The gain is doubly robust; with every arm observed it is plain.
    """
    if len(unseen) == 0:
        return float("inf")
    worth = unseen + inverse * (values - unseen)
    rows = np.arange(len(worth))
    best, found = 0.0, float("inf")
    for margin in MARGINS:
        choice = np.argmax(guarded(unseen.astype(np.float32), single, margin), axis=1)
        gains = worth[rows, choice] - worth[:, single]
        value = float(gains.mean() - STANDARD_ERRORS * gains.std() / np.sqrt(len(gains)))
        if value > best:
            best, found = value, float(margin)
    return found
