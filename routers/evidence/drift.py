"""Whether an arm's quality has changed under its name: a sequential test that may be looked at after every answer.

What is watched are residuals: score minus the quality that the router predicted for that query, in [-1, 1]. As they are
conditional on the query, it does not matter which queries the policy sends to the arm; what matters is that answers are
scored without regard to how good they are. The mean residual of the first answers is the reference, so a router that is
off by a constant raises no alarm. After them an e-detector runs (Shin, Ramdas and Rinaldo, 2022): for each bet b and
both directions

    M <- (M + 1) * (1 + b / 2 * (distance of the residual beyond the reference and the tolerance)),

and the alarm is given when the mean of all M reaches the run length that was asked for. As long as the true mean stays
within the tolerance of the reference, the expected number of answers before a (false) alarm is at least that run
length, whatever the distribution of the scores. The tolerance holds what the reference, a mean of finitely many
answers, may be off by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REFERENCE = 1000
"""Answers of the reference, if there are so many before it must start; see `reference_of`."""
LEAST_REFERENCE = 200
RUN_LENGTH = 10_000.0
"""Expected number of scored answers of an unchanged arm before a false alarm, at least."""
TOLERANCE = 0.005
"""A change of mean quality smaller than this is none."""
REFERENCE_ERRORS = 1.0
"""Standard errors of the reference that are added to the tolerance."""
BETS = (0.02, 0.04, 0.08, 0.16, 0.32, 0.6)
"""Stakes, of half of a residual's range; a small one sees small changes late, a large one sees large changes soon. At
the largest the factors stay positive, since no residual is further than 2 + tolerance from the reference."""

F64 = NDArray[np.float64]
Residuals = Sequence[float] | F64


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was found.

    `alarm` and `start` are positions in the residuals: where it was seen, and where it is estimated to have begun.
    `effect` is the change of mean quality, `low` and `high` the ends of its 95 % interval (which takes the start as
    known, so it is somewhat narrow).
    """

    alarm: int
    start: int
    effect: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What an arm's residuals are when nothing has changed: mean, variance, number of answers; and the tolerance."""

    mean: float
    variance: float
    count: int
    tolerance: float


class Detector:
    """The test of one arm. Feed it one residual after the other; `evidence` reaches `run_length` at the alarm."""

    def __init__(self, reference: Reference, run_length: float = RUN_LENGTH) -> None:
        if not run_length > 1:
            raise ValueError(f"the run length must be more than 1 answer, got {run_length}")
        self.reference = reference
        self.run_length = run_length
        self._bets = [bet / 2.0 for bet in BETS]
        self._up = [0.0] * len(BETS)
        self._down = [0.0] * len(BETS)

    @property
    def evidence(self) -> float:
        """The mean of all M; under no change its expectation after n answers is at most n."""
        return (sum(self._up) + sum(self._down)) / (2 * len(self._bets))

    def see(self, residual: float) -> bool:
        """Take in one residual in [-1, 1]; True if the evidence has reached the run length."""
        if not -1.0 <= residual <= 1.0:
            raise ValueError(f"a residual must lie in [-1, 1], got {residual}")
        # Plain Python: a dozen numbers are multiplied sooner than arrays of them.
        distance = residual - self.reference.mean
        up, down = distance - self.reference.tolerance, -distance - self.reference.tolerance
        self._up = [(m + 1.0) * (1.0 + bet * up) for m, bet in zip(self._up, self._bets, strict=True)]
        self._down = [(m + 1.0) * (1.0 + bet * down) for m, bet in zip(self._down, self._bets, strict=True)]
        return self.evidence >= self.run_length


def reference_of(residuals: Residuals, tolerance: float = TOLERANCE) -> Reference:
    """The reference that residuals give, with the tolerance widened by its standard error.

    Raises
    ------
    ValueError: fewer than 200 residuals.
    """
    if len(residuals) < LEAST_REFERENCE:
        raise ValueError(f"a reference needs {LEAST_REFERENCE} scored answers, got {len(residuals)}")
    values = np.asarray(residuals, dtype=np.float64)
    variance = float(values.var(ddof=1))
    wide = tolerance + REFERENCE_ERRORS * math.sqrt(variance / len(values))
    return Reference(float(values.mean()), variance, len(values), wide)


def find_change(residuals: Residuals, reference: Reference, run_length: float = RUN_LENGTH) -> Change | None:
    """The first change in the residuals that come after the reference, oldest first; None if there is no alarm."""
    detector = Detector(reference, run_length)
    for position, residual in enumerate(residuals):
        if detector.see(residual):
            return located(np.asarray(residuals, dtype=np.float64), position, reference)
    return None


def located(residuals: F64, alarm: int, reference: Reference) -> Change:
    """Where the change behind an alarm began, and its size, from all residuals up to the last.

    The start is the maximum likelihood estimate, at or before the alarm, for a lasting change of mean under equal
    variance. Right after the alarm it rests on little; it gets better with every answer.
    """
    away = residuals - reference.mean
    after = np.cumsum(away[::-1])[::-1]
    counts = np.arange(len(away), 0, -1)
    start = int(np.argmax((after**2 / counts)[: alarm + 1]))
    changed = residuals[start:]
    spread = float(changed.var(ddof=1)) if len(changed) > 1 else reference.variance
    half = 1.96 * math.sqrt(spread / len(changed) + reference.variance / reference.count)
    effect = float(changed.mean()) - reference.mean
    return Change(alarm, start, effect, effect - half, effect + half)


def split_reference(residuals: Residuals, most: int = REFERENCE) -> int:
    """How many of the first residuals are the reference: at most `most`, and at most half of what there is, but 200.

    Raises
    ------
    ValueError: fewer than 200 residuals.
    """
    if len(residuals) < LEAST_REFERENCE:
        raise ValueError(f"a reference needs {LEAST_REFERENCE} scored answers, got {len(residuals)}")
    return max(LEAST_REFERENCE, min(most, len(residuals) // 2))
