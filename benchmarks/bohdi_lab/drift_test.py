"""P1: how often the drift tests reset a node that has not changed, and how surely they find one that has.

A node is asked about 100 times; then the target is trained after every 30 questions about it, and one of three things
happens at the first training: nothing, its rate falls from 0.7 to 0.3, or from 0.7 to 0.5. Tests may be looked at after
every 10 questions. The published test looks every time; ours sits its exam where 30 rewards have come since a training.
Each stream's p-values are recorded once, so that every threshold is judged on the same streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bohdi_lab.planted import Row, begin_round, change_target, end_round, planted, settings_of, weigh
from offline.bohdi.introspection import exams
from offline.bohdi.settings import Settings
from routers.evidence.window_test import published, two_sample

BEFORE = 100
LOOK_EVERY = 10
TRAINED_EVERY = 30
LATER = 100
UNCHANGED = (0.3, 0.5, 0.7, 0.9)
FALLS = {"0.7 to 0.3 within 40": (0.7, 0.3, 40), "0.7 to 0.5 within 100": (0.7, 0.5, 100)}
THRESHOLDS = (0.2, 0.1, 0.05, 0.02, 0.015, 0.01, 0.005, 0.002)
RATES = (0.2, 0.1, 0.05, 0.02, 0.01)
TESTED_AT = 0.2
NODES = 20

F64 = NDArray[np.float64]
Looks = list[tuple[int, float]]
"""Questions since the change, and the p-value then."""
Watch = Callable[[F64], Looks]


def every_look(window: int, test: str) -> Watch:
    """Look every 10 questions at the last `window` rewards, whether or not the target was trained."""

    def watch(rewards: F64) -> Looks:
        looks = []
        for end in range(BEFORE + LOOK_EVERY, len(rewards) + 1, LOOK_EVERY):
            recent, seen = rewards[end - window : end].tolist(), rewards[:end]
            won = float(seen.sum())
            found = (
                published(recent, 1.0 + won, 1.0 + end - won)
                if test == "published"
                else two_sample(recent, rewards[: end - window].tolist())
            )
            looks.append((end - BEFORE, found.p_value))
        return looks

    return watch


def exam_after_training(rewards: F64) -> Looks:
    """Our exams, as a tree that folds these rewards gives them."""
    settings = settings_of(levels=1)
    tree, paths = planted(settings, (1,))
    looks: Looks = []
    for asked, reward in enumerate(rewards.tolist()):
        since = asked - BEFORE
        if since >= 0 and since % TRAINED_EVERY == 0:
            change_target(tree)
        weigh(tree, paths[0], reward)
        for _, found in exams(tree):
            looks.append((since + 1, found.p_value))
            tree.node(paths[0][0]).exam = None
    return looks


WATCHES: dict[str, Watch] = {
    "published, window 20": every_look(20, "published"),
    "published, window 30": every_look(30, "published"),
    "two-sample, window 30, every look": every_look(30, "two_sample"),
    "ours: two-sample, one exam a training": exam_after_training,
}


def streams(before: float, after: float, count: int, rng: np.random.Generator) -> list[F64]:
    """Rewards of a node: 100 at one rate, then 100 at another."""
    return [
        (rng.random(BEFORE + LATER) < np.repeat([before, after], [BEFORE, LATER])).astype(float) for _ in range(count)
    ]


def share_found(looks: Sequence[Looks], threshold: float, within: int) -> float:
    """The share of streams with a p-value below the threshold within so many questions."""
    return float(np.mean([any(p < threshold for asked, p in stream if asked <= within) for stream in looks]))


def trade_off(count: int) -> list[Row]:
    """One row for each test and threshold: false resets per 100 questions, and the falls that are found."""
    rng = np.random.default_rng(0)
    null = {rate: streams(rate, rate, count, rng) for rate in UNCHANGED}
    falls = {name: streams(before, after, count, rng) for name, (before, after, _) in FALLS.items()}
    rows: list[Row] = []
    for test, watch in WATCHES.items():
        quiet = {rate: [watch(stream) for stream in made] for rate, made in null.items()}
        fallen = {name: [watch(stream) for stream in made] for name, made in falls.items()}
        ours = watch is exam_after_training
        for level in RATES if ours else THRESHOLDS:
            threshold = level * settings_of().window / 100.0 if ours else level
            false = {f"false at {rate}": share_found(looks, threshold, LATER) for rate, looks in quiet.items()}
            found = {name: share_found(looks, threshold, FALLS[name][2]) for name, looks in fallen.items()}
            row = {"what": "drift test", "test": test, "threshold": threshold, "streams": count}
            rows.append(row | ({"false_discovery": level} if ours else {}) | false | {
                "false per 100": float(np.mean(list(false.values()))), **found,
            })  # fmt: skip
    return rows


def families(count: int) -> list[Row]:
    """The rule as it runs: 20 nodes tested together at the end of each round, some of which have changed."""
    return [_family(changed, count, np.random.default_rng(changed)) for changed in (0, 1, 5, 10, 20)]


def _family(changed: int, count: int, rng: np.random.Generator) -> Row:
    settings = settings_of(levels=1)
    false = found = 0
    for _ in range(count):
        tree, paths = planted(settings, (NODES,))
        hit: dict[str, int] = {}
        for asked in range(0, BEFORE + LATER, LOOK_EVERY):
            since = asked - BEFORE
            if since >= 0 and since % TRAINED_EVERY == 0:
                change_target(tree)
            begin_round(tree, settings, NODES * LOOK_EVERY)
            for position, path in enumerate(paths):
                rate = 0.3 if position < changed and since >= 0 else 0.7
                for reward in (rng.random(LOOK_EVERY) < rate).astype(float).tolist():
                    weigh(tree, path, reward)
            for node in end_round(tree, settings):
                hit.setdefault(node, since + LOOK_EVERY)
        false += sum(path[0] in hit for path in paths[changed:])
        found += sum(hit.get(path[0], LATER + 1) <= 40 for path in paths[:changed])
    row: Row = {"what": "drift family", "nodes": NODES, "changed": changed, "trees": count}
    if changed < NODES:
        row["false per 100"] = false / (count * (NODES - changed))
    return row | ({"0.7 to 0.3 within 40": found / (count * changed)} if changed else {})


def tracking(count: int) -> list[Row]:
    """Root mean squared error of the posterior mean 100 questions after a fall from 0.7 to 0.3."""
    rules: dict[str, dict[str, Any]] = {
        "cumulative": {"drift": "none"},
        "published": {"drift": "published", "window": 20},
        "discounted, 0.97": {"drift": "discounted"},
        "ours without forgetting": {"drift": "two_sample", "discount": 1.0},
        "ours": {"drift": "two_sample"},
    }
    rows: list[Row] = []
    for name, changed in rules.items():
        settings, rng = settings_of(levels=1, **changed), np.random.default_rng(1)
        errors = [_posterior_mean(settings, stream) - 0.3 for stream in streams(0.7, 0.3, count, rng)]
        rows.append(
            {
                "what": "drift tracking",
                "rule": name,
                "streams": count,
                "rmse": float(np.sqrt(np.mean(np.square(errors)))),
            }
        )
    return rows


def _posterior_mean(settings: Settings, rewards: F64) -> float:
    tree, paths = planted(settings, (1,))
    for first in range(0, len(rewards), LOOK_EVERY):
        since = first - BEFORE
        if since >= 0 and since % TRAINED_EVERY == 0:
            change_target(tree)
        begin_round(tree, settings, LOOK_EVERY)
        for reward in rewards[first : first + LOOK_EVERY].tolist():
            weigh(tree, paths[0], reward)
        end_round(tree, settings)
    node = tree.node(paths[0][0])
    return node.a / (node.a + node.b)


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    """False resets per 100 questions, mean and worst over the rates, and detection; published too."""
    ours = next(row for row in rows if row.get("false_discovery") == settings_of().false_discovery)
    theirs = next(row for row in rows if row.get("test") == "published, window 20" and row["threshold"] == TESTED_AT)
    return {
        "false_resets_per_100": ours["false per 100"],
        "false_resets_per_100_worst_rate": max(ours[f"false at {rate}"] for rate in UNCHANGED),
        "detection_share": ours["0.7 to 0.3 within 40"],
        "false_resets_per_100_published": theirs["false per 100"],
        "detection_share_published": theirs["0.7 to 0.3 within 40"],
    }
