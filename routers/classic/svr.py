"""Support vector regression: a linear SVR per arm on what the arm does better or worse than its mean.

    quality(q, m) = level_m + share * (z(q) . w_m + c_m)

Errors within `MARGIN` cost nothing and larger ones their square, so that the regression aims at means (the absolute
loss of FusionFactory's SVM baseline aims at medians, which for right-or-wrong scores are labels). The strength C and
the share of the regression that is believed are chosen by validation. Scikit-learn fits it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from routers.classic.regression import Ground, Lesson, RegressionRouter, levels, positive, require, squared_error
from routers.estimators.least_squares import F64
from routers.protocol import F32, Outcomes
from routers.rows import positions

RANK = 64
MARGIN = 0.05
STRENGTHS = (2e-4, 1e-3, 5e-3)
"""Candidates of C, the weight of an observation against the penalty on w."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
HELD_OUT = 0.25
MIN_ROWS = 40
MIN_ANSWERS = 10
"""An arm with fewer answers has its mean alone."""


class SvrRouter(RegressionRouter):
    """Predicts by one product of a vector and a matrix."""

    name: ClassVar[str] = "svr"

    @classmethod
    def fit(cls, outcomes: Outcomes, *, seed: int = 0, **settings: Any) -> Self:
        """See `routers.protocol.Router.fit`. The setting `strength` (positive) fixes C."""
        require(cls.name, "sklearn")
        fixed = positive(cls.name, settings, ("strength",))
        lesson = Lesson.of(outcomes, RANK)
        strength, share = _chosen(lesson, fixed.get("strength"), seed)
        level = levels(lesson.quality, lesson.weight)
        slope, constant = _fitted(lesson, level, strength, seed)
        line = {"slope": share * slope, "level": level + share * constant}
        predicted = np.clip(line["level"] + lesson.z @ line["slope"], 0.0, 1.0)
        arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in line.items()}
        return cls(Ground.under(lesson, predicted, 1.0 / strength), arrays, {"strength": strength, "share": share})

    def _quality(self, z: F32) -> F32:
        quality: F32 = z.dot(self.own["slope"]) + self.own["level"]
        return quality


def _fitted(lesson: Lesson, level: F64, strength: float, seed: int) -> tuple[F64, F64]:
    """(slopes [P, M], constants [M])"""
    from sklearn.svm import LinearSVR

    slope, constant = np.zeros((lesson.z.shape[1], len(level))), np.zeros(len(level))
    for arm in range(len(level)):
        rows = np.flatnonzero(lesson.weight[:, arm] > 0)
        if len(rows) < MIN_ANSWERS:
            continue
        model = LinearSVR(epsilon=MARGIN, C=strength, loss="squared_epsilon_insensitive", dual=False, random_state=seed)
        # A column of ones that is scaled up is a constant that the penalty hardly touches.
        model.set_params(intercept_scaling=100.0)
        model.fit(lesson.z[rows], lesson.quality[rows, arm] - level[arm], sample_weight=lesson.weight[rows, arm])
        slope[:, arm], constant[arm] = model.coef_, model.intercept_[0]
    return slope, constant


def _chosen(lesson: Lesson, strength: float | None, seed: int) -> tuple[float, float]:
    """C and share of the lowest squared error on a held-out part; few queries leave all to the arms' means."""
    held_out = positions(lesson.outcomes.query_ids, f"svr-{seed}") < HELD_OUT
    train, test = lesson.rows(~held_out), lesson.rows(held_out)
    if len(lesson.z) < MIN_ROWS or not train.weight.any():
        return strength or STRENGTHS[0], 0.0
    level = levels(train.quality, train.weight)
    best, chosen = np.inf, (STRENGTHS[0], 0.0)
    for candidate in STRENGTHS if strength is None else (strength,):
        slope, constant = _fitted(train, level, candidate, seed)
        for share in SHARES:
            error = squared_error(level + share * (constant + test.z @ slope), test)
            if error < best:
                best, chosen = error, (candidate, share)
    return chosen
