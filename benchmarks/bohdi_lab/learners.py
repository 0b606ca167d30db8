"""P3: simulated learners. The error in a leaf falls with training, e(n) = floor + (start - floor) exp(-n / tau).

A sample also counts for each sibling inside a secondary domain, by a part (`TRANSFER`). What a question shows is only
whether a source beats the target: with the probability that the target errs and the source does not, and where answers
win by style also by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

BRANCHING = (4, 4, 4)
TRANSFER = 0.15
TAU = 30.0
ORACLE_STEP = 5

F64 = NDArray[np.float64]

KINDS = {
    "weak in parts": "errors differ by domain, by secondary domain and by leaf",
    "weak in leaves": "the same spread of errors, but neighbours say nothing of each other",
    "all alike": "every leaf starts with the same error, so an even draw is nearly the best there is",
    "won by style": "a quarter of the leaves cannot be learned, and there sources also win by style",
}


@dataclass(frozen=True, slots=True)
class Learner:
    """One target model; all arrays have one entry per leaf, shape (leaves,), but `counts_for`, (leaves, leaves)."""

    start: F64
    floor: F64
    tau: F64
    source_error: F64
    style: F64
    counts_for: F64

    def error(self, samples: F64) -> F64:
        """The error in each leaf after so many samples in each."""
        return self.floor + (self.start - self.floor) * np.exp(-(self.counts_for @ samples) / self.tau)

    def gain(self, samples: F64) -> F64:
        """The chance, in each leaf, that a source's answer is the best."""
        return np.clip(self.error(samples) * (1.0 - self.source_error) + self.style, 0.0, 1.0)

    def oracle(self, budget: int) -> F64:
        """The samples of one who knows everything: always where the mean error falls most."""
        samples = np.zeros(len(self.start))
        for _ in range(budget // ORACLE_STEP):
            falls = (self.error(samples) - self.floor) / self.tau
            samples[int((self.counts_for.T @ falls).argmax())] += ORACLE_STEP
        return samples


def learner(kind: str, seed: int) -> Learner:
    """A learner of one of `KINDS`."""
    rng = np.random.default_rng(seed)
    leaves = prod(BRANCHING)
    spreads = {"weak in parts": (0.8, 0.5, 0.5), "weak in leaves": (0.0, 0.0, 1.05), "all alike": (0.0, 0.0, 0.0)}
    logit = np.zeros(leaves)
    groups = 1
    for children, spread in zip(BRANCHING, spreads.get(kind, spreads["weak in parts"]), strict=True):
        groups *= children
        logit += np.repeat(rng.normal(0.0, spread, groups), leaves // groups)
    start = 0.1 + 0.8 / (1.0 + np.exp(-logit))
    floor = start * rng.uniform(0.05, 0.35, leaves)
    tau = TAU * np.exp(rng.normal(0.0, 0.4, leaves))
    source_error = rng.uniform(0.0, 0.15, leaves)
    style = np.zeros(leaves)
    if kind == "won by style":
        stuck = rng.random(leaves) < 0.25
        floor[stuck], style[stuck] = 0.9 * start[stuck], 0.15
    block = np.full((BRANCHING[-1], BRANCHING[-1]), TRANSFER)
    counts_for = np.kron(np.eye(leaves // BRANCHING[-1]), block)
    np.fill_diagonal(counts_for, 1.0)
    return Learner(start, floor, tau, source_error, style, counts_for)


def interval(differences: Sequence[float] | F64) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % interval (Student's t)."""
    values = np.asarray(differences, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean, mean
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half
