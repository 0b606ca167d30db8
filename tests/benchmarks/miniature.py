"""Pools of a few hundred made-up answers, written as the files that the laboratory reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TOPICS: Mapping[str, tuple[str, ...]] = {
    "algebra": ("solve", "equation", "matrix", "polynomial", "integral", "fraction"),
    "history": ("empire", "treaty", "century", "king", "revolution", "province"),
    "biology": ("cell", "enzyme", "protein", "species", "membrane", "genome"),
}
ARMS = ("tiny-7b", "middle-13b", "large-70b", "frontier")
SKILLS = {"algebra": (0.9, 0.2, 0.5, 0.6), "history": (0.1, 0.9, 0.5, 0.6), "biology": (0.2, 0.2, 0.6, 0.7)}
PRICES = (1e-4, 2e-4, 1e-3, 4e-3)


def answers(queries: int = 300, arms: int = len(ARMS), tasks: int = len(TOPICS), seed: int = 0) -> list[dict[str, Any]]:
    """One row per query and arm; which arm is best depends on the words of the query."""
    rng = np.random.default_rng(seed)
    names = list(TOPICS)[:tasks]
    rows = []
    for number in range(queries):
        task = names[number % tasks]
        text = f"{number}: " + " ".join(rng.choice(TOPICS[task], size=8))
        for arm in range(arms):
            row = {"task": task, "query_id": f"q{number}", "query": text, "model": ARMS[arm]}
            score = float(rng.random() < SKILLS[task][arm])
            rows.append(row | {"score": score, "cost_usd": PRICES[arm] * float(rng.uniform(0.8, 1.2))})
    return rows


def written(rows: list[dict[str, Any]], path: Path) -> Path:
    """Write rows as Parquet, without the columns that are all empty."""
    import pyarrow
    import pyarrow.parquet

    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    filled = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    pyarrow.parquet.write_table(pyarrow.table(filled), path)
    return path
