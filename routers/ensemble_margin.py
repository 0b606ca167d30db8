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
Integers = NDArray[np.intp]

MARGINS: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, np.inf)
STANDARD_ERRORS = 0.5
"""A margin is worth its mean gain less so many standard errors."""
STANDARD_ERRORS_NOVEL = 2.0
"""The same for novel queries: the next ones may be novel in another way."""
BEHIND = np.float32(1e-4)
"""An arm that is ahead by less than the margin is put this far behind the single arm."""
JUST_BELOW_ONE = np.float32(1.0 - 1e-6)


class Trust(NamedTuple):
    """How far the forest is believed: the margin of `familiar` queries, that of `novel` ones, the weight of the forest
    against the arms' means for a novel one (`belief`), and the variance `drift` that being novel adds to a mean."""

    familiar: float
    novel: float
    belief: float
    drift: float


def guarded(quality: F32, single: Integers | int, margin: F32 | float) -> F32:
    """`quality` ([M] or [n, M]) with every advantage over the arm `single` reduced by `margin`, down to just behind.

    `single` and `margin` are one for all, or, for a batch, of shape [n, 1].
    """
    at = np.full((*quality.shape[:-1], 1), single)
    base = np.take_along_axis(quality, at, -1)
    ahead = quality - base
    kept = np.where(ahead > margin, ahead - margin, np.minimum(ahead, np.where(np.asarray(margin) > 0, -BEHIND, 0.0)))
    np.put_along_axis(kept, at, 0.0, -1)
    clipped: F32 = np.clip(base + kept, 0.0, JUST_BELOW_ONE).astype(np.float32, copy=False)
    return clipped


def chosen_margin(unseen: F64, values: F64, inverse: F64, single: Integers, cluster: Integers | None = None) -> float:
    """The margin of the greatest gain over the single arm, less its uncertainty; infinite if none gains.

    `unseen` [n, M] are predictions for queries that were not learned from, `values` [n, M] what was observed, `inverse`
    [n, M] inverse propensities, 0 where nothing was; `single` [n] is the arm that the others must beat. The gain is
    doubly robust; with every arm observed it is plain. With `cluster` [n], queries of one cluster err together.
    """
    if len(unseen) == 0:
        return float("inf")
    worth = unseen + inverse * (values - unseen)
    rows = np.arange(len(worth))
    best, found = 0.0, float("inf")
    for margin in MARGINS:
        choice = np.argmax(guarded(unseen.astype(np.float32), single[:, None], margin), axis=1)
        gains = worth[rows, choice] - worth[rows, single]
        surplus = gains - gains.mean()
        errors = surplus if cluster is None else np.bincount(cluster, surplus)
        factor = STANDARD_ERRORS if cluster is None else STANDARD_ERRORS_NOVEL
        value = float(gains.mean() - factor * np.sqrt((errors**2).sum()) / len(gains))
        if value > best:
            best, found = value, float(margin)
    return found
