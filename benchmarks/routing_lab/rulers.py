"""What routers are measured against: choices that need no learning, or know what no router is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.features import TAG, tag_code
from routers.estimators.shrinkage import Means, group_sums, quality_means, ratio_means
from routers.protocol import F32, Outcomes, Prediction
from routers.rows import weights


class TaskTable(NamedTuple):
    """The mean of every arm per task, shrunk: a router that is told the name of the task, which no request carries.

    `cells` [T + 1, M]; the last row, the arms' overall means, stands for tasks that training did not hold.
    """

    tasks: tuple[str, ...]
    cells: Prediction

    @classmethod
    def fit(cls, outcomes: Outcomes) -> TaskTable:
        names = outcomes.tasks if outcomes.tasks is not None else ("",) * len(outcomes.query_ids)
        tasks = tuple(sorted(set(names)))
        places = {task: place for place, task in enumerate(tasks)}
        groups = np.array([places[name] for name in names], dtype=np.intp)
        parts = [_means(outcomes, groups, len(tasks)), _means(outcomes, np.zeros_like(groups), 1)]
        return cls(tasks, Prediction(*(np.concatenate(columns) for columns in zip(*parts, strict=True))))

    def predict(self, names: Sequence[str] | None, queries: int) -> Prediction:
        """Of each query by the name of its task, [n, M]."""
        places = {task: place for place, task in enumerate(self.tasks)}
        rows = [places.get(name, len(self.tasks)) for name in names or ("",) * queries]
        return Prediction(*(column[rows] for column in self.cells))


def _means(outcomes: Outcomes, groups: NDArray[np.intp], count: int) -> Prediction:
    cell_weights = weights(outcomes)
    quality: Means = quality_means(group_sums(outcomes.quality, cell_weights, groups, count))
    once = np.ones_like(cell_weights)
    cost = ratio_means(group_sums(outcomes.cost_usd, once, groups, count))
    latency = ratio_means(group_sums(outcomes.latency_s, once, groups, count))
    found: tuple[F32, ...] = tuple(
        np.asarray(column, dtype=np.float32) for column in (quality.cells, np.sqrt(quality.variance), cost, latency)
    )
    return Prediction(*found)


def truth(outcomes: Outcomes) -> Prediction:
    """The oracle's prediction: what every arm's answer turned out to be."""
    nothing = np.zeros_like(outcomes.quality)
    return Prediction(outcomes.quality, nothing, outcomes.cost_usd, outcomes.latency_s)


def tagged(outcomes: Outcomes) -> Outcomes:
    """The outcomes with the name of each query's task as its tag, as a caller may send it; needs features and tasks."""
    if outcomes.features is None or outcomes.tasks is None:
        raise ValueError("tagging needs features and tasks")
    features = outcomes.features.copy()
    features[:, TAG] = [tag_code(task) for task in outcomes.tasks]
    return replace(outcomes, features=features)
