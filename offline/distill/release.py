"""Decides whether a fused model may be released: better than its controls, and worse than the base nowhere.

Interference (arXiv 2505.23844's measure) is the number of domains in which a model is worse than another by a paired
bootstrap over held-out conversations: the whole 95 % interval of the difference lies below zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from offline.paired_bootstrap import intervals

F64 = NDArray[np.float64]
LEAST = 10
"""Held-out conversations that a domain needs to be judged."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate minus another model, in one domain: the mean with its 95 % interval, over `n` conversations."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def worse(self) -> bool:
        return self.high < 0.0

    @property
    def better(self) -> bool:
        return self.low > 0.0


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate against one other model. `average` is over domains, each counted alike."""

    other: str
    domains: dict[str, Difference]
    average: Difference

    @property
    def interference(self) -> list[str]:
        """The domains in which the candidate is worse."""
        return sorted(name for name, difference in self.domains.items() if difference.worse)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`released`: whether the model may be deployed; `reasons` says why not. `means` by model and domain."""

    released: bool
    reasons: tuple[str, ...]
    comparisons: dict[str, Comparison]
    means: dict[str, dict[str, float]]
    not_judged: tuple[str, ...] = ()


def compare(candidate: F64, other: F64, domain: Sequence[str], name: str, seed: int = 0) -> Comparison:
    """Scores [n] of two models on the same conversations; NaN where one could not be asked, and both are left out.

    Raises
    ------
    ValueError: no domain has `LEAST` conversations that both were judged on.
    """
    both = np.isfinite(candidate) & np.isfinite(other)
    labels = np.asarray(domain)
    found = {
        label: _difference(candidate[here] - other[here], seed)
        for label in sorted(set(domain))
        if (here := both & (labels == label)).sum() >= LEAST
    }
    if not found:
        raise ValueError(
            f"expected at least {LEAST} held-out conversations in a domain, got fewer in each of {len(set(domain))}; "
            "hold out more"
        )
    return Comparison(other=name, domains=found, average=_average(candidate - other, labels, list(found), both, seed))


def _difference(values: F64, seed: int) -> Difference:
    made = intervals(values[:, None], np.ones((len(values), 1)), seed=seed)[0]
    return Difference(mean=made.mean, low=made.low, high=made.high, n=len(values))


def _average(
    values: F64, labels: NDArray[np.str_], judged: list[str], both: NDArray[np.bool_], seed: int
) -> Difference:
    """The mean over domains: every conversation counts by one over its domain's size."""
    chosen = both & np.isin(labels, judged)
    sizes = {label: int((chosen & (labels == label)).sum()) for label in judged}
    share = np.array([1.0 / sizes[label] for label in labels[chosen]])
    made = intervals((values[chosen] * share)[:, None], share[:, None], seed=seed)[0]
    return Difference(mean=made.mean, low=made.low, high=made.high, n=int(chosen.sum()))


def judge(
    scores: Mapping[str, F64],
    domain: Sequence[str],
    *,
    candidate: str,
    base: str,
    controls: Sequence[str],
    seed: int = 0,
) -> Verdict:
    """Whether `candidate` may be released.

    It must be worse than `base` in no domain, better than `base` on average, and on average no lower than any of
    `controls`. Other models in `scores` (the sources) are reported and decide nothing.

    Raises
    ------
    ValueError: no domain can be judged.
    """
    mine = scores[candidate]
    made = {name: compare(mine, other, domain, name, seed) for name, other in scores.items() if name != candidate}
    reasons = []
    against = made[base]
    for label in against.interference:
        reasons.append(f"worse than the base in {label}: {_told(against.domains[label])}")
    if not against.average.better:
        reasons.append(f"not better than the base on average: {_told(against.average)}")
    for name in controls:
        if made[name].average.mean < 0.0:
            reasons.append(f"lower than the control {name} on average: {_told(made[name].average)}")
    labels = np.asarray(domain)
    means = {
        name: {label: float(np.nanmean(values[labels == label])) for label in against.domains}
        for name, values in scores.items()
    }
    return Verdict(
        released=not reasons, reasons=tuple(reasons), comparisons=made, means=means,
        not_judged=tuple(sorted(set(domain) - set(against.domains))),
    )  # fmt: skip


def _told(difference: Difference) -> str:
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
