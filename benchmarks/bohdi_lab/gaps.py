"""P5: how soon the domains with the largest gaps are found on real logs (MMLU-Pro), without any training.

The target is one model of the logs, its sources are the three best of those that answered the same questions. The
domains are the file's 14 categories, each parted into 5 sub-topics (k-means on the questions' vectors). A pull asks one
question of a leaf, drawn with replacement; its reward is 1 where the target is wrong and some source is right. Found
are the ten leaves with the largest gaps when the ten with the largest posterior means hold 95 % of the gap that the
true ten hold. All rules are read by the same estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bohdi_lab.planted import NO_SPROUTS, Row, planted, settings_of, walk, weigh
from encoders.catalogue import load_encoder
from offline.bohdi.leaf_means import posterior_means

FILE = "mmlu_pro.parquet"
TARGETS = ("Meta-Llama-3_1-8B-Instruct", "Mixtral-8x7B-Instruct-v0.1", "Phi-3-mini-4k-instruct")
MAIN = TARGETS[0]
SOURCES = 3
SUBTOPICS = 5
LARGEST = 10
LEVELS = (0.9, 0.95, 0.97)
FOUND = 0.95
MOST_PULLS = 8_400

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gaps:
    """A target's logs: `rewards` of each leaf's questions, in the order of categories and sub-topics."""

    target: str
    sources: tuple[str, ...]
    categories: int
    rewards: list[F64]

    @property
    def true(self) -> F64:
        """The gap of each leaf: the mean reward of all its questions."""
        return np.array([rewards.mean() for rewards in self.rewards])


def read_gaps(folder: Path, target: str) -> Gaps:
    """The leaves of a target; only questions that it and all its sources have answered."""
    import pyarrow.parquet as parquet
    from sklearn.cluster import KMeans

    columns = ("task", "query_id", "query", "model", "score")
    table = parquet.read_table(folder / FILE, columns=list(columns))
    texts: dict[tuple[str, str], str] = {}
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for task, query_id, query, model, score in zip(*(table[name].to_pylist() for name in columns), strict=True):
        texts[task, query_id] = query
        scores.setdefault(model, {})[task, query_id] = score
    asked = scores[target].keys()
    # A source that left out many questions would take them away from the rest.
    able = [model for model, known in scores.items() if len(asked - known.keys()) < len(asked) / 100]
    best = sorted(able, key=lambda model: -float(np.mean(list(scores[model].values()))))
    sources = tuple(model for model in best if model != target)[:SOURCES]
    keys = sorted(key for key in asked if all(key in scores[model] for model in sources))
    rewards = np.array([float(max(scores[m][key] for m in sources) > scores[target][key]) for key in keys])
    vectors = load_encoder("static").encode([texts[key] for key in keys])
    tasks = np.array([task for task, _ in keys])
    leaves = []
    for task in np.unique(tasks):
        own = np.flatnonzero(tasks == task)
        topics = KMeans(SUBTOPICS, n_init=3, random_state=0).fit_predict(vectors[own])
        leaves += [rewards[own[topics == topic]] for topic in range(SUBTOPICS)]
    return Gaps(target, sources, len(np.unique(tasks)), leaves)


RULES: dict[str, dict[str, Any] | None] = {
    "round robin": None,
    "published": {"rule": "published", "drift": "none"},
    "ours, always the best arm": {"breadth": 0.001, "even_share": 0.0, "drift": "none"},
    "ours, no step evenly": {"even_share": 0.0, "drift": "none"},
    "ours": {"drift": "none"},
}


def curves(gaps: Gaps, rule: str, seed: int, pulls: int) -> F64:
    """After every sweep of 70 pulls: the share of the largest gaps held by the ten named, and how many are right."""
    rng = np.random.default_rng(seed)
    changed = RULES[rule]
    settings = settings_of(levels=2, leaf_questions=NO_SPROUTS, **(changed or {"drift": "none"}))
    tree, paths = planted(settings, (gaps.categories, SUBTOPICS))
    place = {path[-1]: position for position, path in enumerate(paths)}
    true = gaps.true
    largest = set(np.argsort(-true)[:LARGEST].tolist())
    whole = float(true[list(largest)].sum())
    found = []
    for pull in range(pulls):
        position = pull % len(paths) if changed is None else place[walk(tree, settings, rng)[-1]]
        rewards = gaps.rewards[position]
        weigh(tree, paths[position], float(rewards[rng.integers(len(rewards))]))
        if (pull + 1) % len(paths) == 0:
            means = posterior_means(tree)
            named = np.argsort([-means[path[-1]] for path in paths])[:LARGEST].tolist()
            found.append((float(true[named].sum()) / whole, len(largest.intersection(named))))
    return np.array(found, dtype=np.float64)


def measure(folder: Path, seeds: int, targets: Sequence[str] = TARGETS, pulls: int = MOST_PULLS) -> list[Row]:
    """One row for each target and rule: when the mean curve over the seeds reaches each level, and what it is then."""
    rows: list[Row] = []
    for target in targets:
        gaps = read_gaps(folder, target)
        for rule in RULES if target == MAIN else ("round robin", "ours"):
            mean = np.mean([curves(gaps, rule, seed, pulls) for seed in range(seeds)], axis=0)
            row: Row = {"what": "gaps", "target": target, "sources": gaps.sources, "rule": rule, "seeds": seeds}
            row |= {f"pulls to {level:.0%}": reached(mean[:, 0], level, len(gaps.rewards)) for level in LEVELS}
            row |= {f"right of {LARGEST} at {at}": float(mean[at // len(gaps.rewards) - 1, 1]) for at in _looks(pulls)}
            rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def _looks(pulls: int) -> list[int]:
    return [at for at in (700, 1400, 2800, 4200, 8400) if at <= pulls]


def reached(curve: F64, level: float, sweep: int) -> float | None:
    """Pulls at which a curve, one point per sweep, has come to a level for good; None if it has not."""
    below = np.flatnonzero(curve < level)
    last = int(below[-1]) if len(below) else -1
    if last == len(curve) - 1:
        return None
    if last < 0:
        return float(sweep)
    part = (level - curve[last]) / (curve[last + 1] - curve[last])
    return float((last + 1 + part) * sweep)


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    """Pulls of ours over those of round robin, for the main target; left out where one of them did not get there."""
    main = {row["rule"]: row for row in rows if row["target"] == MAIN}
    key = f"pulls to {FOUND:.0%}"
    if key not in main["ours"] or key not in main["round robin"]:
        return {}
    return {"gap_pulls_x_round_robin": main["ours"][key] / main["round robin"][key]}
