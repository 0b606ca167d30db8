"""How far an arm must be ahead of the best single arm to be put above it.

Choosing the highest of many uncertain predictions favours the luckiest. A margin, learned from the choices of trees
that had not seen the query, makes up for that: nothing is lost where the best single arm is best everywhere.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32

F64 = NDArray[np.float64]

MARGINS: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, np.inf)
STANDARD_ERRORS = 0.5
"""A margin gains for sure its mean gain less so many standard errors; it is nearly as good as another if it loses to
that no more than so many of their difference."""
EDGES: Final = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)
"""Candidates of the share of the least familiar queries that get the best single arm."""
LEAST_ROWS = 100
BEHIND = np.float32(1e-4)
"""An arm that is ahead by less than the margin is put this far behind the single arm."""
JUST_BELOW_ONE = np.float32(1.0 - 1e-6)


class Trust(NamedTuple):
    """How far the forest is believed. `margin` is that of queries like the others; a novel query gets the best single
    arm. `belief` is the weight of the forest against the arms' means for a novel one, `drift` the variance that being
    novel adds to a predicted mean. A query whose nearness (`routers.ensemble.novelty.Novelty.nearest`) is below `edge`
    gets the best single arm too, though it is not novel."""

    margin: float
    belief: float
    drift: float
    edge: float = -2.0


def guarded(quality: F32, single: int, margin: F32 | float) -> F32:
    """`quality` ([M] or [n, M]) with every advantage over the arm `single` reduced by `margin`, down to just behind.

    `margin` is one for all, or, for a batch, of shape [n, 1].
    """
    base = quality[..., single : single + 1]
    ahead = quality - base
    behind = np.minimum(ahead, np.where(np.greater(margin, 0), -BEHIND, np.float32(0.0)))
    kept = np.where(ahead > margin, ahead - margin, behind)
    kept[..., single] = 0.0
    clipped: F32 = np.minimum(np.maximum(base + kept, np.float32(0.0)), JUST_BELOW_ONE).astype(np.float32, copy=False)
    return clipped


def gained(unseen: F64, values: F64, inverse: F64, single: int, margin: float) -> F64:
    """What choosing with this margin gained over the arm `single` on each query, [n]; see `chosen_margin`."""
    worth = unseen + inverse * (values - unseen)
    choice = np.argmax(guarded(unseen.astype(np.float32), single, margin), axis=1)
    gain: F64 = worth[np.arange(len(worth)), choice] - worth[:, single]
    return gain


def chosen_edge(gains: F64, nearness: F64, least: float) -> float:
    """The nearness of the largest of the shares `EDGES` of the least familiar queries on which nothing was gained on
    average; at least `least`.

    `gains` [n] are of choices for queries that were not learned from, `nearness` [n] is theirs.
    """
    edge = least
    if len(gains) >= LEAST_ROWS:
        for share in EDGES:
            candidate = float(np.quantile(nearness, share))
            part = gains[nearness < candidate]
            if len(part) and part.mean() <= 0:
                edge = max(edge, candidate)
    return edge


def chosen_margin(unseen: F64, values: F64, inverse: F64, single: int) -> float:
    """The largest margin that is nearly as good as the best one; infinite if none gains anything for sure.

    `unseen` [n, M] are predictions for queries that were not learned from, `values` [n, M] what was observed, `inverse`
    [n, M] inverse propensities, 0 where nothing was; `single` is the arm that the others must beat. The gain over it is
    doubly robust; with every arm observed it is plain.
    """
    if len(unseen) == 0:
        return float("inf")
    gains = np.stack([gained(unseen, values, inverse, single, margin) for margin in MARGINS])
    sure = gains.mean(axis=1) - STANDARD_ERRORS * gains.std(axis=1) / np.sqrt(len(unseen))
    best = int(np.argmax(sure))
    if sure[best] <= 0:
        return float("inf")
    lost = gains[best] - gains
    near = lost.mean(axis=1) <= STANDARD_ERRORS * lost.std(axis=1) / np.sqrt(len(unseen))
    return float(max(margin for margin, fine in zip(MARGINS, near & (sure > 0), strict=True) if fine))
