"""The fixed normaliser of cost: USD to [0, 1], learned once from training data and stored with the router.

It is linear between the 1st and the 99th percentile of the training costs, so that one runaway answer does not set it
(FusionFactory normalises by the extremes), and it is fixed with the router and versioned: the same prediction and the
same preference give the same decision tomorrow. It is linear in USD, not in their logarithm: on a logarithmic scale a
balanced preference pays as much for a step from very cheap to cheap as from dear to very dear, and ends at the cheapest
arm whatever its quality (measured on RouterBench: quality .56 where the linear scale reaches .80 at 7 % of the cost).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

VERSION = 1
HIGHEST = 0.02
"""USD per answer that stand for 1 where no cost was ever observed."""


@dataclass(frozen=True, slots=True)
class CostScale:
    """`low` and `high` in USD per answer, `0 <= low < high`, map to 0 and 1; what lies outside is clipped."""

    low: float = 0.0
    high: float = HIGHEST

    @classmethod
    def learned(cls, costs: NDArray[Any]) -> Self:
        """From observed costs in USD; NaN is left out. Costs that hardly differ are measured from zero."""
        known = costs[np.isfinite(costs)]
        if known.size == 0 or not np.any(known > 0):
            return cls()
        low, high = np.quantile(known.astype(np.float64), [0.01, 0.99]).tolist()
        if high <= 0:
            high = float(known.max())
        return cls(low if high - low > 0.01 * high else 0.0, high)

    def places(self, costs: Sequence[float]) -> list[float]:
        """Where each cost lies, in [0, 1]; NaN stays NaN. Plain Python: faster than NumPy for one query's arms."""
        low, high = self.low, self.high
        factor = 1.0 / (high - low)
        # NaN comes out of both ways as NaN, and a first one makes the comparison false.
        if costs and low < min(costs) and max(costs) < high:
            return [(c - low) * factor for c in costs]
        return [0.0 if c <= low else 1.0 if c >= high else (c - low) * factor for c in costs]

    def positions(self, costs: NDArray[Any]) -> NDArray[np.float64]:
        """`places` for arrays of any shape."""
        return np.asarray((np.clip(costs.astype(np.float64), self.low, self.high) - self.low) / (self.high - self.low))

    def to_meta(self) -> dict[str, Any]:
        return {"version": VERSION, "low": self.low, "high": self.high}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Self:
        if meta["version"] != VERSION:
            raise ValueError(f"cost scale has version {meta['version']}, this program reads {VERSION}; update it")
        return cls(float(meta["low"]), float(meta["high"]))
