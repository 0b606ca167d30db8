"""FusionFactory's scenario rewards: R = alpha * quality~ - beta * cost~, both normalised per task.

Minimum and maximum come from training outcomes alone (the public code takes those of the test set too), and where they
are equal the normalised figure is 0 (the public code gives NaN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32, Outcomes

SCENARIOS: Final = {"performance": (1.0, 0.0), "balanced": (0.5, 0.5), "cost": (0.2, 0.8)}
"""(alpha, beta) of each scenario; alpha is the preference of the policy of that name."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class RewardScale:
    """The lowest and highest quality and cost per task; `None` stands for tasks that training did not hold."""

    quality: dict[str | None, Range]
    cost: dict[str | None, Range]

    @classmethod
    def learned(cls, training: Outcomes) -> Self:
        """From the observed cells of the training part."""
        tasks = np.array(training.tasks if training.tasks is not None else [""] * len(training.query_ids))
        parts: list[tuple[str | None, NDArray[np.bool_]]] = [(str(task), tasks == task) for task in np.unique(tasks)]
        parts.append((None, np.ones(len(tasks), dtype=bool)))
        quality, cost = (
            {t: _range(matrix[rows]) for t, rows in parts} for matrix in (training.quality, training.cost_usd)
        )
        return cls(quality, cost)

    def rewards(self, outcomes: Outcomes, alpha: float, beta: float) -> NDArray[np.float64]:
        """R of every cell, [N, M]; NaN where the quality, or with beta > 0 the cost, was not observed."""
        names = outcomes.tasks if outcomes.tasks is not None else ("",) * len(outcomes.query_ids)
        found = alpha * _normalised(outcomes.quality, names, self.quality)
        return found - beta * _normalised(outcomes.cost_usd, names, self.cost) if beta > 0 else found


def _range(values: F32) -> Range:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)


def _normalised(values: F32, tasks: tuple[str, ...], ranges: dict[str | None, Range]) -> NDArray[np.float64]:
    low, high = np.array([ranges.get(task, ranges[None]) for task in tasks], dtype=np.float64).T[:, :, None]
    width = high - low
    scaled = np.where(width > 0, (values - low) / np.where(width > 0, width, 1.0), 0.0)
    return np.where(np.isnan(values), np.nan, scaled)
