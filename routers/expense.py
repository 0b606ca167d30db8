"""Expected cost and latency of every arm for a query, for routers that have no idea of their own about it.

    cost(q, m) = level_m * (1 + z(q) (g + d_m)),       the factor cut to [0.05, 20]

`level_m` is what the arm's answer to a typical query costs, learned as a ratio of sums so that it does not depend on
which queries the arm was asked. `g` is common to all arms (a long prompt is dear everywhere), `d_m` the arm's own
deviation; both are ridge regressions whose strengths are chosen by cross-validation, with plain arm means (no slope at
all) among the candidates. Cost and latency say nothing about who was asked: every observed answer counts once. After
CARROT (Somerstep et al., 2025): cost depends on the query through the lengths of prompt and answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from routers.cost_scale import CostScale
from routers.estimators.least_squares import F64, Normal, is_shared, normal, slopes, within
from routers.inputs import Inputs
from routers.protocol import F32, Outcomes
from routers.rows import folds

RANK = 32
COMMON = (np.inf, 300.0, 30.0)
OWN = (np.inf, 1000.0, 100.0)
"""Candidates of the ridge strength, in observations, of what is common to the arms and of what is an arm's own;
infinite is no slope."""
LOWEST, HIGHEST = 0.05, 20.0
FOLDS = 3
MIN_ROWS = 30
"""With fewer queries arm means are all that is learned."""
TURNS = 3


class Line(NamedTuple):
    """One quantity: `level` [M], NaN for an arm of which it was never observed, and `slope` [P, M] of its factor."""

    level: F64
    slope: F64


@dataclass(frozen=True, slots=True)
class Expense:
    """Predicts cost in USD and latency in seconds of M arms. `cost_scale` is learned from the same cells.

    Attributes
    ----------
    inputs: what is read of a query.
    slope: float32 [P, 2 M], of cost and then of latency.
    level: float32 [2 M], NaN where an arm's cost or latency was never observed.
    """

    inputs: Inputs
    slope: F32
    level: F32
    cost_scale: CostScale

    @classmethod
    def fit(cls, outcomes: Outcomes) -> Self:
        """Learn from prepared outcomes (`routers.rows.prepared`)."""
        inputs = Inputs.learned(outcomes, RANK)
        z = inputs.transform(outcomes.vectors, outcomes.features).astype(np.float64)
        fold_of = folds(outcomes, FOLDS, "expense")
        lines = [_line(z, values, fold_of) for values in (outcomes.cost_usd, outcomes.latency_s)]
        slope = np.hstack([line.slope for line in lines]).astype(np.float32)
        level = np.concatenate([line.level for line in lines]).astype(np.float32)
        return cls(inputs, np.ascontiguousarray(slope), level, CostScale.learned(outcomes.cost_usd))

    def predict(self, vectors: F32, features: F32 | None = None) -> tuple[F32, F32]:
        """(cost, latency), float32 [n, M] each, for vectors [n, d] and features [n, F]; [M] each for [d] and [F].

        NaN for an arm of which it was never observed; never negative.
        """
        factor = self.inputs.transform(vectors, features).dot(self.slope)
        factor += 1.0
        np.maximum(factor, LOWEST, out=factor)
        np.minimum(factor, HIGHEST, out=factor)
        factor *= self.level
        arms = len(self.level) // 2
        return factor[..., :arms], factor[..., arms:]

    def arrays(self, prefix: str = "expense_") -> dict[str, NDArray[Any]]:
        """Everything learned, under names that begin with `prefix`."""
        scale = np.array([self.cost_scale.low, self.cost_scale.high])
        own = {"slope": self.slope, "level": self.level, "cost_scale": scale}
        return {prefix + name: array for name, array in own.items()} | self.inputs.arrays(prefix + "inputs_")

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], prefix: str = "expense_") -> Self:
        """The inverse of `arrays`; other names are left alone."""
        low, high = arrays[prefix + "cost_scale"].tolist()
        inputs = Inputs.from_arrays(arrays, prefix + "inputs_")
        return cls(inputs, arrays[prefix + "slope"], arrays[prefix + "level"], CostScale(low, high))


def _line(z: F64, values: F32, fold_of: NDArray[np.intp]) -> Line:
    known = ~np.isnan(values)
    if len(z) < MIN_ROWS or not known.any():
        return _fitted(z, values, np.inf, np.inf)
    candidates = [(common, own) for common in COMMON for own in OWN]
    error = np.zeros(len(candidates))
    for fold in range(FOLDS):
        train, test = fold_of != fold, fold_of == fold
        for index, line in enumerate(_lines(z[train], values[train])):
            level = np.where(line.level > 0, line.level, np.nan)
            predicted = np.clip(1.0 + z[test] @ line.slope, LOWEST, HIGHEST)
            error[index] += np.nansum((values[test] / level - predicted) ** 2)
    return _fitted(z, values, *candidates[int(np.argmin(error))])


def _lines(z: F64, values: F32) -> list[Line]:
    """One for each pair of strengths, common first, after one turn."""
    means = _means(values, z.shape[1])
    cells = _Cells.of(values, means)
    if not cells.usable.any():
        return [means] * (len(COMMON) * len(OWN))
    statistics = cells.statistics(z, means.level)
    found = []
    for common in COMMON:
        for own in OWN:
            found.append(cells.levelled(z, slopes(statistics, cells.answers, common, own).T))
    return found


def _fitted(z: F64, values: F32, common: float, own: float) -> Line:
    line = _means(values, z.shape[1])
    cells = _Cells.of(values, line)
    if (common == np.inf and own == np.inf) or not cells.usable.any():
        return line
    for _ in range(TURNS):
        statistics = cells.statistics(z, line.level)
        line = cells.levelled(z, slopes(statistics, cells.answers, common, own).T)
    return line


def _means(values: F32, width: int) -> Line:
    count = (~np.isnan(values)).sum(axis=0)
    total = np.nansum(values.astype(np.float64), axis=0)
    return Line(np.where(count > 0, total / np.maximum(count, 1), np.nan), np.zeros((width, len(count))))


class _Cells(NamedTuple):
    """The observed cells; `usable` those of arms whose mean is above zero, `answers` their number per query."""

    values: F32
    known: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    answers: float

    @classmethod
    def of(cls, values: F32, means: Line) -> Self:
        known = ~np.isnan(values)
        usable = known & (means.level > 0)
        return cls(values, known, usable, usable.sum() / max(int(usable.any(axis=1).sum()), 1))

    def statistics(self, z: F64, level: F64) -> Normal:
        """Of the regression of value / level on `z`, within each arm: which queries it was asked plays no part."""
        ratio = np.where(self.usable, self.values / np.where(level > 0, level, 1.0), 0.0)
        once = self.usable.astype(np.float64)
        return within(normal(z, ratio, once, is_shared(once)), z, ratio, once)

    def levelled(self, z: F64, slope: F64) -> Line:
        """The levels that go with a slope: what was paid over what the slope expects, relative to a typical query."""
        expected = np.clip(1.0 + z @ slope, LOWEST, HIGHEST)
        weight = np.where(self.known, expected, 0.0).sum(axis=0)
        total = np.nansum(self.values.astype(np.float64), axis=0)
        return Line(np.where(weight > 0, total / np.maximum(weight, LOWEST), np.nan), slope)
