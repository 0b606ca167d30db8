"""The published retrieval (FusionFactory, `get_thought_prompt.py`, as fusionfactory.md 3.2 and 6.19 describe it).

For every query a loop over the rows of a CSV: the text of the row's embedding is parsed, the row counts if its task is
exactly the query's, scikit-learn gives the cosine of the pair, and the pairs are sorted. Two things differ, both in
favour of it: the text is parsed by `json.loads`, where the original evaluates it as code, and the vectors have 256
numbers, where the original's have 768. `task_first` also leaves every row of another task unparsed.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoders.protocol import Vectors

ROWS = 7_000
TASKS = 14
Row = dict[str, Any]


def write_csv(path: Path, vectors: Vectors, texts: Sequence[str]) -> list[dict[str, str]]:
    """The templates as the original keeps them: one row each, its embedding as text. Returns the rows as read."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task_description", "query_embedding", "template"])
        for i, vector in enumerate(vectors):
            writer.writerow([f"task {i % TASKS}", json.dumps(vector.tolist()), texts[i % len(texts)]])
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def retrieve(rows: Sequence[dict[str, str]], vector: Vectors, task: str, *, task_first: bool = False) -> list[str]:
    """The templates of the three most similar questions of the task, by the published procedure."""
    from sklearn.metrics.pairwise import cosine_similarity

    scored = []
    for row in rows:
        if task_first and row["task_description"] != task:
            continue
        embedding = np.array(json.loads(row["query_embedding"]))
        if row["task_description"] == task:
            similarity = cosine_similarity(vector.reshape(1, -1), embedding.reshape(1, -1))[0][0]
            scored.append((float(similarity), row["template"]))
    scored.sort(key=lambda pair: -pair[0])
    return [template for _, template in scored[:3]]


def seconds_a_query(rows: Sequence[dict[str, str]], asked: Vectors, *, task_first: bool = False) -> tuple[float, float]:
    """Mean seconds of one query: wall clock and CPU."""
    started, cpu = time.perf_counter(), time.process_time()
    for i, vector in enumerate(asked):
        retrieve(rows, vector, f"task {i % TASKS}", task_first=task_first)
    return (time.perf_counter() - started) / len(asked), (time.process_time() - cpu) / len(asked)
