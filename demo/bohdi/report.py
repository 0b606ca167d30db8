"""What the runs of the live proof say: a table, paired differences between policies, and where the questions went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from rich.table import Table

from demo.bohdi.domains import PLACES, TAUGHT
from demo.bohdi.findings import RoundSeen, Run
from demo.bohdi.policies import POLICIES, Policy

STUDENT_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % points of Student's t by degrees of freedom."""
NOBODY = "multiply"
"""The family that no source masters."""
LEARNED = 0.2
"""A rise of accuracy that is a change of the target, for the question whether the drift test fired rightly."""

Measure = Callable[[Run], float]


class Gain(NamedTuple):
    """The mean of the paired differences over seeds, with the ends of its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float
    seeds: int


def paired(runs: Sequence[Run], one: Policy, other: Policy, measure: Measure) -> Gain:
    """`measure` under policy `one` minus under `other`, over the seeds that both were run with.

    Raises ValueError for fewer than two such seeds.
    """
    by_seed = {(run.policy, run.seed): measure(run) for run in runs}
    seeds = [seed for policy, seed in by_seed if policy == one and (other, seed) in by_seed]
    if len(seeds) < 2:
        raise ValueError(f"expected at least two seeds with both {one!r} and {other!r}, found {len(seeds)}")
    gains = [by_seed[one, seed] - by_seed[other, seed] for seed in seeds]
    margin = STUDENT_975.get(len(gains) - 1, 1.96) * stdev(gains) / math.sqrt(len(gains))
    mean = fmean(gains)
    return Gain(mean, mean - margin, mean + margin, len(gains))


def worst(run: Run) -> float:
    return run.worst


def mean(run: Run) -> float:
    return run.mean


def spread(run: Run) -> float:
    """The standard deviation of the accuracy over the families at the end."""
    values = list(run.after.values())
    centre = fmean(values)
    return math.sqrt(fmean([(value - centre) ** 2 for value in values]))


def wasted(run: Run) -> float:
    """The share of the questions that went to the family that nobody can teach."""
    asked = sum(sum(seen.found.asked.values()) for seen in run.rounds)
    return sum(seen.found.asked.get(NOBODY, 0) for seen in run.rounds) / asked if asked else 0.0


def following(run: Run) -> float | None:
    """How far the questions follow the need: the correlation, over families and rounds from the third on, of the share
    of a round's questions with what the pupil lacked before it (1 - accuracy). None where nothing varies."""
    needs, shares = list[float](), list[float]()
    for before, seen in zip(run.rounds[1:], run.rounds[2:], strict=False):
        asked = sum(seen.found.asked.get(family, 0) for family in TAUGHT)
        for family in TAUGHT:
            needs.append(1.0 - before.accuracy[family])
            shares.append(seen.found.asked.get(family, 0) / asked if asked else 0.0)
    return _correlation(needs, shares)


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    a, b = fmean(one), fmean(other)
    both = sum((x - a) * (y - b) for x, y in zip(one, other, strict=True))
    return both / math.sqrt(sum((x - a) ** 2 for x in one) * sum((y - b) ** 2 for y in other))


class Resets(NamedTuple):
    """Rebirths of a run: all of them, and those where a family of the domain had risen by `LEARNED` before."""

    all: int
    after_learning: int


def resets(run: Run) -> Resets:
    """The rebirths of a run, and how many of them are in domains that the pupil had learned something of."""
    count = right = 0
    for place, seen in enumerate(run.rounds):
        known = run.rounds[place - 1].accuracy if place else run.before
        for reset in seen.found.resets:
            names = tuple(reset.domain.split(" / "))
            families = [family for family, names_of in PLACES.items() if names_of[: len(names)] == names]
            rises = [known[family] - run.before[family] for family in families if family in known]
            count += 1
            right += bool(rises) and max(rises) >= LEARNED
    return Resets(count, right)


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each run."""
    return [_row(run) for run in runs]


def _row(run: Run) -> dict[str, Any]:
    reborn = resets(run)
    row: dict[str, Any] = {
        "policy": run.policy, "seed": run.seed, "worst": run.worst, "mean": run.mean, "spread": spread(run),
        "before": run.before, "after": run.after,
        "questions": sum(sum(seen.found.asked.values()) for seen in run.rounds),
        "examples": sum(sum(seen.trained.values()) for seen in run.rounds),
        "wasted_share": wasted(run), "resets": reborn.all, "resets_after_learning": reborn.after_learning,
        "dropped": sum(seen.found.dropped for seen in run.rounds),
        "stray": sum(seen.found.stray for seen in run.rounds),
        "meditation_s": round(sum(seen.meditation_s for seen in run.rounds), 1),
        "training_s": round(sum(seen.training_s for seen in run.rounds), 1),
        "rounds": [_round(seen) for seen in run.rounds],
    }  # fmt: skip
    followed = following(run)
    return row if followed is None else {**row, "following": followed}


def _round(seen: RoundSeen) -> dict[str, Any]:
    return {
        "asked": seen.found.asked, "trained": seen.trained, "accuracy": seen.accuracy,
        "resets": [reset.domain for reset in seen.found.resets],
    }  # fmt: skip


def table(runs: Sequence[Run]) -> Table:
    """The end of every run, by family."""
    shown = Table(title="Accuracy on held-out questions after the last round, in %")
    for name in ("policy", "seed", *TAUGHT, "worst", "mean", "wasted", "resets"):
        shown.add_column(name, justify="left" if name == "policy" else "right")
    start = runs[0].before
    shown.add_row("(before)", "", *(f"{100 * start[family]:.0f}" for family in TAUGHT), "", "", "", "")
    for run in sorted(runs, key=lambda run: (POLICIES.index(run.policy), run.seed)):
        cells = [f"{100 * run.after[family]:.0f}" for family in TAUGHT]
        ends = [f"{100 * run.worst:.0f}", f"{100 * run.mean:.0f}", f"{100 * wasted(run):.0f}"]
        shown.add_row(run.policy, str(run.seed), *cells, *ends, str(resets(run).all))
    return shown


_OTHERS: tuple[Policy, ...] = ("uniform", "published")


def sentences(runs: Sequence[Run]) -> list[str]:
    """The paired differences in words; none for policies that share fewer than two seeds."""
    said = []
    for other in _OTHERS:
        for name, measure in (("worst family", worst), ("mean", mean)):
            try:
                gain = paired(runs, "ours", other, measure)
            except ValueError:
                continue
            said.append(
                f"{name}: ours minus {other} {100 * gain.mean:+.1f} points "
                f"(95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}, {gain.seeds} seeds)"
            )
    return said
