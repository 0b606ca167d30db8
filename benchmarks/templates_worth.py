"""What the control share finds out about templates: simulated traffic whose true uplifts are known.

    python -m benchmarks.templates_worth [--quick]

Three worlds. In the first each template is alone: how many requests until a harmful one is quarantined, and how many
harmless ones ever are, when the test is looked at again and again. In the second templates compete: each question finds
several of mixed worth, the best by similarity times learned worth is shown, and every poll measures and quarantines by
the code that serves (`offline.templates.worth.measure`, `templates_store.worth.factor`). In the third, three templates
drawn at random are shown together, and what each does has to be told from what its company does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.result_file import write_result
from offline.templates.trials import LoggedTrials
from offline.templates.worth import measure
from routers.evidence.off_policy import F64
from routers.evidence.uplift import ALPHA, Trials, evidence, moments
from templates_store.template import Template
from templates_store.worth import factor

SHARE = 0.05
"""The control share that is the default."""
EFFECTS = (0.1, 0.0, -0.1, -0.2, -0.3)
WITHOUT = 0.5
"""Chance of a right answer without templates; the hardest for the test, since the variance is largest."""
LONGEST = 16_000
LOOK_EVERY = 500
ALONE = 300
"""Simulated templates per effect."""


@dataclass(frozen=True, slots=True)
class World:
    """The second world: `subjects` questions' subjects with one template of each effect, and polls of `every`."""

    subjects: int = 4
    effects: tuple[float, ...] = (0.1, 0.0, -0.1)
    every: int = 3_000
    polls: int = 30


def alone(effect: float, templates: int = ALONE, longest: int = LONGEST, share: float = SHARE) -> dict[str, Any]:
    """How often and when templates with this uplift are quarantined, each by its own requests."""
    found: list[int] = []
    level = math.log(2.0 / ALPHA)
    for seed in range(templates):
        rng = np.random.default_rng((seed, round(100 * effect) + 100))
        shown = rng.random(longest) >= share
        score = (rng.random(longest) < WITHOUT + effect * shown).astype(np.float64)
        flat = np.full(longest, 0.5)
        trials = Trials(shown, np.full(longest, 1.0 - share), score, flat, flat, np.zeros(longest, dtype=np.intp))
        said = moments(trials)
        for look in range(LOOK_EVERY, longest + 1, LOOK_EVERY):
            if evidence(-said.h[:look], said.w[:look]) >= level:
                found.append(look)
                break
    row: dict[str, Any] = {
        "world": "alone", "control_share": share, "effect": effect, "templates": templates,
        "looks": longest // LOOK_EVERY, "requests": longest, "quarantined_share": len(found) / templates,
    }  # fmt: skip
    if 2 * len(found) >= templates:
        row["median_requests"] = int(np.median(found + [longest] * (templates - len(found))))
    return row


@dataclass(slots=True)
class Log:
    """What a world has logged so far, equally many templates a request."""

    shown: list[NDArray[np.bool_]] = field(default_factory=list)
    score: list[F64] = field(default_factory=list)
    template: list[NDArray[np.intp]] = field(default_factory=list)

    def trials(self, names: tuple[str, ...]) -> LoggedTrials:
        shown, score, template = np.concatenate(self.shown), np.concatenate(self.score), np.concatenate(self.template)
        n, together = len(shown), template.size // len(shown)
        flat = np.full(n, 0.5)
        return LoggedTrials(
            trials=Trials(shown, np.full(n, 1.0 - SHARE), score, flat, flat, np.zeros(n, dtype=np.intp)),
            models=("m",), created_at=np.zeros(n), queries=tuple(map(str, range(n))), encoders=("",) * n,
            templates=names, request=np.repeat(np.arange(n), together), template=template.ravel(),
            similarity=np.full(n * together, 0.8), counts={},
        )  # fmt: skip


def together(world: World, seed: int) -> dict[str, Any]:
    """Polls of the third world: three templates a request, whose effects add up."""
    rng = np.random.default_rng(seed)
    effects = np.tile(world.effects, world.subjects)
    names = tuple(f"t{place}" for place in range(len(effects)))
    templates = {name: _template(name, 0) for name in names}
    log, bad, good = Log(), 0, 0
    for _ in range(world.polls):
        used = np.array([int(name[1:]) for name in templates])
        company = used[np.argsort(rng.random((world.every, len(used))), axis=1)[:, :3]]
        shown = rng.random(world.every) >= SHARE
        score = (rng.random(world.every) < WITHOUT + shown * effects[company].sum(axis=1)).astype(np.float64)
        log.shown.append(shown)
        log.score.append(score)
        log.template.append(company)
        for row in measure(log.trials(names), templates, now=0.0).quarantined:
            harmful = effects[int(row.id[1:])] < 0
            bad, good = bad + harmful, good + (not harmful)
            del templates[row.id]
    return {
        "harmful_quarantined": int(bad), "harmless_quarantined": int(good),
        "harmful": int((effects < 0).sum()), "harmless": int((effects >= 0).sum()),
    }  # fmt: skip


def competing(world: World, seed: int, *, learned: bool) -> dict[str, Any]:
    """Polls of the second world; without `learned` the most similar template is shown whatever it is worth."""
    rng = np.random.default_rng(seed)
    effects = np.tile(world.effects, world.subjects)
    names = tuple(f"t{place}" for place in range(len(effects)))
    templates = {name: _template(name, place // len(world.effects)) for place, name in enumerate(names)}
    used, times = np.ones(len(effects), dtype=np.bool_), np.ones(len(effects))
    log, gained, harmful_at = Log(), list[float](), dict[str, int]()
    for poll in range(world.polls):
        subject = rng.integers(world.subjects, size=world.every)
        mine = subject[:, None] * len(world.effects) + np.arange(len(world.effects))
        similarity = rng.uniform(0.7, 0.95, size=mine.shape)
        rank = np.where(used[mine], similarity * (times[mine] if learned else 1.0), -1.0)
        template = mine[np.arange(len(mine)), rank.argmax(axis=1)]
        have = used[template]
        shown = have & (rng.random(world.every) >= SHARE)
        score = (rng.random(world.every) < WITHOUT + effects[template] * shown).astype(np.float64)
        gained.append(float((effects[template] * have).mean()))
        log.shown.append(shown[have])
        log.score.append(score[have])
        log.template.append(template[have])
        if learned:
            report = measure(log.trials(names), templates, now=0.0)
            for row in report.templates:
                times[int(row.id[1:])] = factor(row.worth)
            for row in report.quarantined:
                del templates[row.id]
                used[int(row.id[1:])] = False
                harmful_at[row.id] = (poll + 1) * world.every
    quarantined = effects[~used]
    return {
        "first_gain": gained[0], "last_gain": float(np.mean(gained[-5:])), "mean_gain": float(np.mean(gained)),
        "harmful_quarantined": int((quarantined < 0).sum()), "harmless_quarantined": int((quarantined >= 0).sum()),
        "harmful": int((effects < 0).sum()), "harmless": int((effects >= 0).sum()),
    }  # fmt: skip


def _template(name: str, subject: int) -> Template:
    return Template(
        id=name, query=name, text=name, vector=b"", encoder="", created_at=0.0, builder="", task=f"subject {subject}"
    )


def measure_worth(*, quick: bool = False) -> list[dict[str, Any]]:
    """All rows: the first world by effect, the second with and without learning."""
    templates, longest = (40, 8_000) if quick else (ALONE, LONGEST)
    rows = [alone(effect, templates, longest) for effect in EFFECTS]
    world, seeds = World(polls=8 if quick else 30), range(2 if quick else 10)
    for learned in (False, True):
        runs = [competing(world, seed, learned=learned) for seed in seeds]
        means = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        rows.append({
            "world": "competing", "learned": learned, "runs": len(runs), "control_share": SHARE,
            "requests": world.every * world.polls, "requests_per_poll": world.every, "oracle_gain": max(world.effects),
            **means,
        })  # fmt: skip
    beside = World(subjects=10, every=6_000, polls=4 if quick else 16)
    runs = [together(beside, seed) for seed in range(1 if quick else 6)]
    rows.append({
        "world": "together", "runs": len(runs), "control_share": SHARE, "requests": beside.every * beside.polls,
        "requests_per_poll": beside.every, **{name: float(np.mean([run[name] for run in runs])) for name in runs[0]},
    })  # fmt: skip
    return rows


def bar_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures that the project is judged by."""
    by_effect = {row["effect"]: row for row in rows if row["world"] == "alone"}
    still, learned = (row for row in rows if row["world"] == "competing")
    found = {
        "false_quarantine_share": by_effect[0.0]["quarantined_share"],
        "harmful_10_points_found_share": by_effect[-0.1]["quarantined_share"],
        "rerank_gain": learned["last_gain"] - still["last_gain"],
    }
    for points, effect in ((10, -0.1), (20, -0.2), (30, -0.3)):
        if "median_requests" in by_effect[effect]:
            found[f"harmful_{points}_points_median_requests"] = by_effect[effect]["median_requests"]
    return found


def _told(value: object) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, writes nothing")
    quick = parser.parse_args().quick
    rows = measure_worth(quick=quick)
    for world in ("alone", "competing", "together"):
        mine = [row for row in rows if row["world"] == world]
        names = list(dict.fromkeys(name for row in mine for name in row))
        table = Table(*names, title=world)
        for row in mine:
            table.add_row(*(_told(row.get(name)) for name in names))
        Console(width=220).print(table)
    if not quick:
        path = write_result("templates_worth", "python -m benchmarks.templates_worth", rows, bar_of(rows))
        Console().print(str(path))


if __name__ == "__main__":
    main()
