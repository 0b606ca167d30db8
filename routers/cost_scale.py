"""The fixed normaliser of cost: USD to [0, 1], learned once from training data and stored with the router.

Costs of different arms differ by factors, so the scale is logarithmic, and it is winsorised at the 1st and 99th
percentile of the training costs, so that one runaway answer does not set it (fusionfactory.md 1.3). It is fixed with
the router and versioned: the same prediction and preference give the same decision tomorrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

VERSION = 1
LOWEST, HIGHEST = 1e-6, 1e-1
"""USD per answer that stand for 0 and 1 where no cost was ever observed."""


@dataclass(frozen=True, slots=True)
class CostScale:
    """`low` and `high` in USD per answer, `0 < low <= high`, map to 0 and 1; what lies outside is clipped."""

    low: float = LOWEST
    high: float = HIGHEST

    @classmethod
    def learned(cls, costs: NDArray[Any]) -> Self:
        """From observed costs in USD; NaN and zero (a free arm, which maps to 0 anyway) are left out."""
        known = costs[np.isfinite(costs) & (costs > 0)]
        if known.size == 0:
            return cls()
        low, high = np.exp(np.quantile(np.log(known.astype(np.float64)), [0.01, 0.99]))
        return cls(float(low), float(high))

    def places(self, costs: Sequence[float]) -> list[float]:
        """Where each cost lies, in [0, 1]; NaN stays NaN. Plain Python: faster than NumPy for one query's arms."""
        low, high = self.low, self.high
        offset = log(low)
        factor = 1.0 / (log(high) - offset) if high > low else 0.0
        return [0.0 if c <= low else 1.0 if c >= high else (log(c) - offset) * factor for c in costs]

    def positions(self, costs: NDArray[Any]) -> NDArray[np.float64]:
        """`places` for arrays of any shape."""
        floored = np.clip(costs.astype(np.float64), self.low, self.high)
        if self.high == self.low:
            return np.where(np.isnan(costs), np.nan, (costs > self.high).astype(np.float64))
        return np.asarray(np.log(floored / self.low) / np.log(self.high / self.low))

    def to_meta(self) -> dict[str, Any]:
        return {"version": VERSION, "low": self.low, "high": self.high}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Self:
        if meta["version"] != VERSION:
            raise ValueError(f"cost scale has version {meta['version']}, this program reads {VERSION}; update it")
        return cls(float(meta["low"]), float(meta["high"]))
