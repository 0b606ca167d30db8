"""Value regression: the quality of every arm is linear in the query.

    quality(q, m) = level_m + z(q) (g + d_m)

`g` is how hard the query is for all arms alike, `d_m` what the arm does better or worse than the others; both are ridge
regressions in closed form over the observed cells, weighted by inverse propensity. The two strengths are chosen by
cross-validation, with no slope at all (the arms' means) among the candidates. Where every arm answered every query one
factorisation serves all arms. FusionFactory and CARROT regress values likewise (one regression per arm, no pooling).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from routers.classic.regression import Ground, Lesson, RegressionRouter, levels, positive, squared_error
from routers.estimators.least_squares import F64, Normal, is_shared, normal, slopes, within
from routers.protocol import F32, Outcomes
from routers.rows import folds

RANK = 256
"""Principal directions of the vector, at most."""
COMMON = (np.inf, 10_000.0, 3000.0, 1000.0, 300.0, 100.0)
OWN = (np.inf, 30_000.0, 10_000.0, 3000.0, 1000.0, 300.0, 100.0)
"""Candidates of the strengths, in observations; infinite is no slope. `z` has variance 1 in every direction, so that a
strength of directions * noise / signal is about right."""
NO_SLOPE = 1e4
"""Strength that the standard error is computed with where no slope was learned."""
FOLDS = 3
MIN_ROWS = 30


class Linear(NamedTuple):
    """`level` [M] and `slope` [M, P]."""

    level: F64
    slope: F64

    def predicted(self, z: F64) -> F64:
        """Qualities [n, M], not cut."""
        return np.asarray(self.level + z @ self.slope.T)


class RidgeRouter(RegressionRouter):
    """Predicts by one product of a vector and a matrix."""

    name: ClassVar[str] = "ridge"

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`.

        Settings `common` and `own` (positive, in observations) fix the strengths that are otherwise cross-validated.
        """
        fixed = positive(cls.name, settings, ("common", "own"))
        lesson = Lesson.of(outcomes, RANK)
        common, own = strengths(lesson, fixed.get("common"), fixed.get("own"), f"ridge-{seed}")
        line = fitted(lesson, common, own)
        strength = min(common, own, NO_SLOPE)
        ground = Ground.under(lesson, np.clip(line.predicted(lesson.z), 0.0, 1.0), strength)
        arrays = {"level": line.level.astype(np.float32), "slope": np.ascontiguousarray(line.slope.T, dtype=np.float32)}
        chosen = {"common": common if common < np.inf else None, "own": own if own < np.inf else None}
        return cls(ground, arrays, chosen)

    def _quality(self, z: F32) -> F32:
        quality: F32 = z.dot(self.own["slope"]) + self.own["level"]
        return quality


def fitted(lesson: Lesson, common: float, own: float) -> Linear:
    """The regression with these strengths, infinite for no slope."""
    statistics = _statistics(lesson, is_shared(lesson.weight))
    return _line(lesson, statistics, common, own)


def strengths(lesson: Lesson, common: float | None, own: float | None, salt: str) -> tuple[float, float]:
    """The strengths of the lowest cross-validated squared error: of the common slope, then of the arms' own given it.

    What is given is kept. With too few queries to tell there is no slope.
    """
    if common is not None and own is not None:
        return common, own
    if len(lesson.z) < MIN_ROWS:
        return common or np.inf, own or np.inf
    fold_of, shared = folds(lesson.outcomes, FOLDS, salt), is_shared(lesson.weight)
    trained = [lesson.rows(fold_of != fold) for fold in range(FOLDS)]
    tested = [lesson.rows(fold_of == fold) for fold in range(FOLDS)]
    statistics = [_statistics(train, shared) for train in trained]

    def error(common: float, own: float) -> float:
        parts = zip(trained, statistics, tested, strict=True)
        return sum(squared_error(_line(train, s, common, own).predicted(test.z), test) for train, s, test in parts)

    if common is None:
        common = min(COMMON, key=lambda candidate: error(candidate, np.inf))
    return common, min(OWN, key=lambda candidate: error(common, candidate)) if own is None else own


def _statistics(lesson: Lesson, shared: bool) -> Normal:
    raw = normal(lesson.z, lesson.quality, lesson.weight, shared)
    return within(raw, lesson.z, lesson.quality, lesson.weight)


def _line(lesson: Lesson, statistics: Normal, common: float, own: float) -> Linear:
    seen = lesson.weight > 0
    answers = seen.sum() / max(int(seen.any(axis=1).sum()), 1)
    slope = slopes(statistics, answers, common, own)
    return Linear(levels(lesson.quality - lesson.z @ slope.T, lesson.weight), slope)
