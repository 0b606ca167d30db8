"""P3: what an allocation is worth. Loops of 90 questions and 180 training samples, until 1,980 samples are spent.

Every contender asks and draws by its own rule; the domains are given, so that what is compared is the allocation. Its
regret is its mean error less that of an oracle, which knows every curve. Seeds are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bohdi_lab.learners import BRANCHING, KINDS, Learner, interval, learner
from benchmarks.bohdi_lab.planted import (
    NO_SPROUTS,
    Path,
    Row,
    begin_round,
    change_target,
    end_round,
    planted,
    settings_of,
    walk,
    weigh,
)
from offline.bohdi.branches import draw_leaves
from offline.bohdi.leaf_means import posterior_means
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree

LOOPS = 11
QUESTIONS = 90
SAMPLES = 180
MAIN = "weak in parts"

F64 = NDArray[np.float64]
Draw = Callable[[Tree, list[Path], int, np.random.Generator], F64]
"""Samples for each leaf, from the tree, its paths, the loop and chance."""

PUBLISHED: dict[str, Any] = {"rule": "published", "window": 20}
RULES: dict[str, dict[str, Any]] = {
    "uniform": {"rule": "uniform"},
    "fixed mix, guessed": {"rule": "uniform"},
    "fixed mix, of the first loop": {"rule": "uniform"},
    "published": {**PUBLISHED, "drift": "published"},
    "published without resets": {**PUBLISHED, "drift": "none"},
    "ours, nothing forgotten": {"drift": "none"},
    "ours, discounted": {"drift": "discounted"},
    "ours, resets alone": {"discount": 1.0},
    "ours, forgetting at each training": {"discount": 1.0, "carry": 0.7},
    "ours, always the best arm": {"breadth": 0.001, "even_share": 0.0},
    "ours with learning progress": {"learning_progress": 1.0},
    "ours": {},
}


def contest(name: str, target: Learner, seed: int, loops: int = LOOPS) -> F64:
    """The samples that a contender has spent on each leaf."""
    settings = settings_of(**RULES[name], leaf_questions=NO_SPROUTS)
    rng = np.random.default_rng(seed)
    tree, paths = planted(settings, BRANCHING)
    samples = np.zeros(len(paths))
    mix: F64 | None = None
    for loop in range(loops):
        begin_round(tree, settings, QUESTIONS)
        if loop:
            change_target(tree)
        _ask(tree, target.gain(samples), paths, settings, rng)
        end_round(tree, settings)
        if name == "uniform":
            samples += SAMPLES / len(paths)
        elif name.startswith("fixed mix"):
            mix = _mix(name, tree, paths, rng) if mix is None else mix
            samples += SAMPLES * mix
        else:
            place = {path[-1]: position for position, path in enumerate(paths)}
            np.add.at(samples, [place[leaf] for leaf in draw_leaves(tree, SAMPLES, rng, settings)], 1.0)
    return samples


def _ask(tree: Tree, target: F64, paths: list[Path], settings: Settings, rng: np.random.Generator) -> None:
    """A loop's questions; `target`: the chance in each leaf that a source wins."""
    gain = {path: float(chance) for path, chance in zip(paths, target, strict=True)}
    for _ in range(QUESTIONS):
        path = walk(tree, settings, rng)
        weigh(tree, path, float(rng.random() < gain[path]))


def _mix(name: str, tree: Tree, paths: list[Path], rng: np.random.Generator) -> F64:
    """Shares fixed before the first training: guessed per main domain, or in proportion to the first loop's gains."""
    if name == "fixed mix, guessed":
        shares = np.repeat(rng.dirichlet(np.full(BRANCHING[0], 4.0)), len(paths) // BRANCHING[0])
    else:
        means = posterior_means(tree)
        shares = np.array([means[path[-1]] for path in paths])
    fixed: F64 = shares / shares.sum()
    return fixed


def measure(seeds: int, kinds: Sequence[str] = tuple(KINDS), loops: int = LOOPS) -> list[Row]:
    """One row for each kind of learner and contender, with paired intervals against uniform and the published rule."""
    rows: list[Row] = []
    for kind in kinds:
        targets = [learner(kind, 1000 + seed) for seed in range(seeds)]
        errors = {
            name: [target.error(contest(name, target, seed, loops)) for seed, target in enumerate(targets)]
            for name in RULES
        }
        errors["oracle"] = [target.error(target.oracle(SAMPLES * loops)) for target in targets]
        rows += [
            {"what": "allocation", "learner": kind, "rule": name, "seeds": seeds} | _compared(found, errors)
            for name, found in errors.items()
        ]
    return rows


def _compared(found: list[F64], errors: dict[str, list[F64]]) -> Row:
    row: Row = {
        "mean error": fmean(float(error.mean()) for error in found),
        "spread": fmean(float(error.std()) for error in found),
        "worst leaf": fmean(float(error.max()) for error in found),
        "regret": fmean(float(e.mean() - o.mean()) for e, o in zip(found, errors["oracle"], strict=True)),
    }
    for other in ("uniform", "fixed mix, guessed", "fixed mix, of the first loop", "published"):
        pairs = list(zip(errors[other], found, strict=True))
        row[f"error gain on {other}"] = interval([float(theirs.mean() - own.mean()) for theirs, own in pairs])
        row[f"spread gain on {other}"] = interval([float(theirs.std() - own.std()) for theirs, own in pairs])
    return row


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    """Lower ends of the intervals of ours on the main kind of learner, and the regrets."""
    main = {row["rule"]: row for row in rows if row["learner"] == MAIN}
    ours = main["ours"]
    return {
        "error_gain_vs_uniform_lo": ours["error gain on uniform"][1],
        "spread_gain_vs_uniform_lo": ours["spread gain on uniform"][1],
        "error_gain_vs_published_lo": ours["error gain on published"][1],
        "spread_gain_vs_published_lo": ours["spread gain on published"][1],
        "error_gain_vs_fixed_mix_lo": ours["error gain on fixed mix, guessed"][1],
        "spread_gain_vs_fixed_mix_lo": ours["spread gain on fixed mix, guessed"][1],
        "regret": ours["regret"],
        "regret_uniform": main["uniform"]["regret"],
        "regret_published": main["published"]["regret"],
    }
