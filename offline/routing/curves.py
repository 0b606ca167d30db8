"""Figures of merit of a way of choosing over a whole range of prices, and of how its choices are spread.

A router with a knob gives points (mean cost, mean quality). Two of them can be mixed by a draw, and nobody has to spend
more than is asked, so what a router offers is the concave, non-decreasing hull of its points (RouterBench, Hu et al.
2024). The *zero router* is the hull of the single arms: what mixing arms without looking at the query offers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]


class Hull(NamedTuple):
    """The corners of a concave, non-decreasing curve: `costs` [K] rising strictly, `qualities` [K] not falling."""

    costs: F64
    qualities: F64


class PairCurve(NamedTuple):
    """A strong and a weak arm: `share` [K] of queries that the strong one answers, 0 to 1, and `recovered` [K], the
    performance gap recovered (PGR): 0 is the weak arm alone, 1 the strong arm alone."""

    share: F64
    recovered: F64


def hull(costs: ArrayLike, qualities: ArrayLike) -> Hull:
    """The upper concave, non-decreasing hull of points, by the monotone chain in O(n log n).

    `costs`, `qualities`: [n], finite; costs not negative. Raises ValueError if there is none, or one is not finite.
    """
    x, y = np.asarray(costs, dtype=np.float64).ravel(), np.asarray(qualities, dtype=np.float64).ravel()
    if not len(x) or len(x) != len(y) or not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise ValueError(f"a hull needs finite points, as many costs as qualities; got {len(x)} and {len(y)}")
    order = np.lexsort((-y, x))
    corners: list[tuple[float, float]] = []
    for cost, quality in zip(x[order].tolist(), y[order].tolist(), strict=True):
        if corners and quality <= corners[-1][1]:
            continue
        while len(corners) > 1 and _at_or_below(corners[-2], corners[-1], (cost, quality)):
            corners.pop()
        corners.append((cost, quality))
    return Hull(*(np.array(column) for column in zip(*corners, strict=True)))


def _at_or_below(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    """Whether the middle point does not rise above the line between its neighbours."""
    across = (middle[0] - first[0]) * (last[1] - first[1]) - (middle[1] - first[1]) * (last[0] - first[0])
    return across >= 0.0


def quality_at(curve: Hull, costs: ArrayLike) -> F64:
    """What the curve offers for each cost [n].

    Beyond its dearest point a curve is flat. Below its cheapest one it can only be mixed with giving no answer, which
    costs nothing and is worth nothing: a router that never goes cheap is charged for that, not excused.
    """
    x, y = curve if curve.costs[0] <= 0 else hull([0.0, *curve.costs], [0.0, *curve.qualities])
    return np.asarray(np.interp(np.asarray(costs, dtype=np.float64), x, y))


def mean_over(curve: Hull, low: float, high: float) -> float:
    """AIQ (average improvement in quality): the mean of the curve over the costs from `low` to `high`.

    Use one interval for all routers of a comparison, the mean costs of the cheapest and of the dearest single arm. The
    curve is piecewise linear, so the integral over its corners is exact. Raises ValueError unless low < high.
    """
    if not low < high:
        raise ValueError(f"an interval of costs needs low < high, got {low} and {high}")
    inner = curve.costs[(curve.costs > low) & (curve.costs < high)]
    at = np.concatenate(([low], inner, [high]))
    return float(np.trapezoid(quality_at(curve, at), at) / (high - low))


def pair_curve(preferred: ArrayLike, strong: ArrayLike, weak: ArrayLike) -> PairCurve | None:
    """PGR by share of strong calls (RouteLLM): queries go to the strong arm in falling order of `preferred`.

    `preferred`, `strong`, `weak`: [n], how much a router prefers the strong arm, and what each arm's answer is worth.
    Equal preferences are broken by a draw, so the curve is straight across them. None if the strong arm is not better
    than the weak one on these queries: there is no gap to recover.
    """
    key, gain = np.asarray(preferred, dtype=np.float64), np.asarray(strong, float) - np.asarray(weak, float)
    gap, n = float(gain.sum()), len(gain)
    if gap <= 0:
        return None
    order = np.argsort(-key, kind="stable")
    last = np.flatnonzero(np.append(np.diff(key[order]) != 0, True))
    share = np.concatenate(([0.0], (last + 1) / n))
    return PairCurve(share, np.concatenate(([0.0], np.cumsum(gain[order])[last] / gap)))


def average_recovered(curve: PairCurve) -> float:
    """APGR: the area under the curve; 0.5 for a router that knows nothing."""
    return float(np.trapezoid(curve.recovered, curve.share))


def share_for(curve: PairCurve, recovered: float) -> float:
    """CPT: the smallest share of strong calls that recovers so much of the gap (0.5 or 0.8 as a rule)."""
    reached = int(np.flatnonzero(curve.recovered >= recovered - 1e-12)[0])
    if reached == 0:
        return 0.0
    (x0, x1), (y0, y1) = curve.share[reached - 1 : reached + 1], curve.recovered[reached - 1 : reached + 1]
    return float(x0 + (recovered - y0) / (y1 - y0) * (x1 - x0))


def gap_closed(value: float, best_single: float, oracle: float) -> float | None:
    """Share of the way from the best single arm to the oracle; None if there is no way to go."""
    return (value - best_single) / (oracle - best_single) if oracle > best_single else None


def choice_entropy(chosen: NDArray[np.integer], arms: int) -> float:
    """Entropy of the histogram of choices over its maximum: 0 always the same arm, 1 all arms equally often."""
    share = np.bincount(chosen, minlength=arms) / max(len(chosen), 1)
    used = share[share > 0]
    return float(-(used * np.log(used)).sum() / np.log(arms)) + 0.0 if arms > 1 else 0.0
