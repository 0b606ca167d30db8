"""The floor under similarities, calibrated: the smallest similarity at which templates were seen to help.

Requests are put into bins by the similarity of their templates; the uplift of a bin is that of
`routers.evidence.uplift`, and along similarity it may only rise (isotonic regression). The floor is the lower edge of
the first level whose interval lies above zero. The intervals hold together with 95 % (Bonferroni over the bins), since
the best of many is looked for; joined bins are taken as if they had been chosen beforehand.

A template that was made from (nearly) the same question says nothing about how far templates carry; such requests are
left out of the trials (`offline.templates.trials`). Only what was shown can be measured: to learn about less similar
templates than today's floor lets pass, set `templates.min_similarity` lower for a while.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.templates.trials import LoggedTrials
from routers.evidence.off_policy import F64
from routers.evidence.uplift import moments
from templates_store.worth import Floor

BINS = 10
LEAST_SHOWN, LEAST_CONTROL = 100, 20
"""Requests of either kind that a bin needs."""


class Level(NamedTuple):
    """Similarities from `start` on where the uplift is the same: its value, its interval, and its requests."""

    start: float
    uplift: float
    low: float
    high: float
    shown: int
    control: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The levels by rising similarity, and the floor that they give."""

    levels: list[Level]
    floor: Floor


class NoFloor(ValueError):
    """The log does not say where templates begin to help. Says what is missing."""


def calibrate(logged: LoggedTrials, encoder: str, now: float | None = None) -> Calibration:
    """The floor for similarities of the encoder with this hash.

    Raises
    ------
    NoFloor: too few requests, or no similarity at which templates were seen to help.
    """
    pairs = np.array([logged.encoders[request] == encoder for request in logged.request.tolist()], dtype=np.bool_)
    request, similarity = logged.request[pairs], logged.similarity[pairs]
    shown = int(logged.trials.shown[np.unique(request)].sum())
    control = len(np.unique(request)) - shown
    if shown < 2 * LEAST_SHOWN or control < 2 * LEAST_CONTROL:
        raise NoFloor(
            f"{shown} scored requests with templates (near duplicates left out) and {control} without are too few; "
            f"at least {2 * LEAST_SHOWN} and {2 * LEAST_CONTROL} are needed, so {max(0, 2 * LEAST_SHOWN - shown)} and "
            f"{max(0, 2 * LEAST_CONTROL - control)} more; score more answers, or raise `templates.control_share`"
        )
    levels = _levels(logged, request, similarity)
    found = next((level for level in levels if level.low > 0.0), None)
    if found is None:
        raise NoFloor(_missing(levels))
    floor = Floor(
        min_similarity=found.start, encoder=encoder, uplift=found.uplift, low=found.low, high=found.high,
        exposures=shown + control, calibrated_at=time.time() if now is None else now,
    )  # fmt: skip
    return Calibration(levels, floor)


def _levels(logged: LoggedTrials, request: NDArray[np.intp], similarity: F64) -> list[Level]:
    """Bins of about equally many pairs, joined until their uplift rises with similarity."""
    found = moments(logged.trials)
    order = np.argsort(similarity, kind="stable")
    # A request speaks once, in parts for each of its templates.
    share = 1.0 / np.bincount(request, minlength=len(found.h))[request]
    parts: list[NDArray[np.intp]] = []
    taken: list[NDArray[np.intp]] = []
    for chunk in np.array_split(order, BINS):
        taken.append(chunk)
        if _enough(logged, request[np.concatenate(taken)]):
            parts.append(np.concatenate(taken))
            taken = []
    if taken:
        last = [parts.pop()] if parts else []
        parts.append(np.concatenate([*last, *taken]))
    z = NormalDist().inv_cdf(1.0 - 0.025 / len(parts))
    parts = _joined(parts, found.h[request] * share, found.w[request] * share)
    return [_level(logged, found.h, found.w, request, similarity, share, part, z) for part in parts]


def _enough(logged: LoggedTrials, request: NDArray[np.intp]) -> bool:
    shown = logged.trials.shown[np.unique(request)]
    return int(shown.sum()) >= LEAST_SHOWN and int((~shown).sum()) >= LEAST_CONTROL


def _joined(parts: list[NDArray[np.intp]], h: F64, w: F64) -> list[NDArray[np.intp]]:
    """Pool adjacent violators."""
    pooled: list[NDArray[np.intp]] = []
    for part in parts:
        pooled.append(part)
        while len(pooled) > 1 and _ratio(pooled[-2], h, w) >= _ratio(pooled[-1], h, w):
            above = pooled.pop()
            pooled[-1] = np.concatenate([pooled[-1], above])
    return pooled


def _ratio(part: NDArray[np.intp], h: F64, w: F64) -> float:
    return float(h[part].sum() / w[part].sum())


def _level(
    logged: LoggedTrials,
    h: F64,
    w: F64,
    request: NDArray[np.intp],
    similarity: F64,
    share: F64,
    part: NDArray[np.intp],
    z: float,
) -> Level:
    rows, weight = request[part], share[part]
    total = float((w[rows] * weight).sum())
    value = float((h[rows] * weight).sum()) / total
    # Templates of one request err together, so their errors are added before they are squared.
    errors = np.bincount(rows, (h[rows] - value * w[rows]) * weight)
    half = z * math.sqrt(float(np.square(errors).sum())) / total
    shown = logged.trials.shown[np.unique(rows)]
    return Level(
        float(similarity[part].min()), value, value - half, value + half, int(shown.sum()), int((~shown).sum())
    )


def _missing(levels: list[Level]) -> str:
    best = max(levels, key=lambda level: level.uplift)
    told = (
        f"templates were seen to help at no similarity: at {best.start:.2f} and above they change the score by "
        f"{best.uplift:+.3f} [{best.low:+.3f}, {best.high:+.3f}]"
    )
    if best.uplift <= 0.0:
        return f"{told}; the floor stays as it is"
    here = best.shown + best.control
    factor = ((best.high - best.low) / 2.0 / best.uplift) ** 2
    return f"{told}; if that is right, about {math.ceil(here * (factor - 1.0)):,} more scored requests would show it"
