"""How well traffic finds its leaf: queries of real benchmarks, mapped to a tree that knows some of their tasks.

A pool's tasks stand for domains. A quarter of them is unknown to the tree; of the others it has 5, 20 or 100 questions
each. Other queries of all tasks are then placed: `right` is the share of the placed queries of known tasks that are at
their own leaf, `missed` the share of them that were called unmatched (5 % are meant to be), `noticed` the share of the
queries of unknown tasks that were. Means over 5 seeds. Reads the Parquet files of the multi-LLM logs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.result_file import write_result
from encoders.catalogue import load_encoder
from encoders.protocol import Encoder, Vectors
from offline.bohdi.events import ROOT, Planted, Sprouted, node_id
from offline.bohdi.steer import Landmarks
from offline.bohdi.tree import Tree

COMMAND: Final = "python -m benchmarks.bohdi_steering"
POOLS: Final = ("mmlu_pro", "llmrouter14", "routellm_pair")
QUESTIONS: Final = (5, 20, 100)
SEEDS: Final = 5
PLACED: Final = 200
"""Queries of a task that are placed, at most."""
LEAST: Final = 40
"""Tasks with fewer queries are left out."""


def main() -> None:
    """Measure and write `benchmarks/results/bohdi_steering.json`."""
    folder = Path(os.environ.get("TOKAMAK_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        print(f"skipped: there is no {folder}; set TOKAMAK_SHARED_DATA to the folder of the multi-LLM logs")
        return
    encoder = load_encoder("static")
    rows: list[dict[str, Any]] = []
    print(f"{'pool':14} {'tasks':>5} {'questions':>9} {'right':>6} {'missed':>6} {'noticed':>7}")
    for pool in POOLS:
        texts = read(folder / f"{pool}.parquet")
        vectors = {task: encoder.encode(queries) for task, queries in texts.items()}
        for questions in QUESTIONS:
            runs = [placed(texts, vectors, encoder, questions, seed) for seed in range(SEEDS)]
            means = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
            rows.append({"pool": pool, "tasks": len(texts), "questions": questions} | means)
            figures = " ".join(f"{100 * means[name]:6.1f}" for name in ("right", "missed", "noticed"))
            print(f"{pool:14} {len(texts):5} {questions:9} {figures}")
    worst = {f"least_{name}": min(row[name] for row in rows) for name in ("right", "noticed")}
    write_result("bohdi_steering", COMMAND, rows, worst | {"most_missed": max(row["missed"] for row in rows)})


def read(path: Path) -> dict[str, list[str]]:
    """The queries of a pool by task, of tasks that have enough of them."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["task", "query_id", "query"]).to_pydict()
    queries = dict(zip(zip(table["task"], table["query_id"], strict=True), table["query"], strict=True))
    by_task: dict[str, list[str]] = {}
    for (task, _), query in queries.items():
        by_task.setdefault(task, []).append(query)
    return {task: found for task, found in sorted(by_task.items()) if len(found) >= LEAST}


def placed(
    texts: Mapping[str, Sequence[str]], vectors: Mapping[str, Vectors], encoder: Encoder, questions: int, seed: int
) -> dict[str, float]:
    """One run: the shares that the module's docstring names."""
    rng = np.random.default_rng(seed)
    tasks = list(texts)
    unknown = set(rng.choice(tasks, max(len(tasks) // 4, 1), replace=False))
    tree = Tree()
    tree.apply(Planted(at=0.0, levels=1, target="t", target_version="1", sources=("s",), seed=seed))
    asked: dict[str, list[str]] = {}
    others: dict[str, Vectors] = {}
    for task in tasks:
        order = rng.permutation(len(texts[task]))
        if task in unknown:
            others[task] = vectors[task][order[:PLACED]]
            continue
        known = min(questions, len(order) // 2)
        leaf = node_id(ROOT, task)
        tree.apply(Sprouted(at=0.0, node=leaf, parent=ROOT, name=task.split("/")[-1].replace("_", " ")))
        asked[leaf] = [texts[task][place] for place in order[:known]]
        others[task] = vectors[task][order[known : known + PLACED]]
    landmarks = Landmarks(tree, asked, encoder)
    right: list[bool] = []
    missed: list[bool] = []
    noticed: list[bool] = []
    for task, rows in others.items():
        found = landmarks.place(rows)
        if task in unknown:
            noticed += [not is_leaf for _, is_leaf in found]
        else:
            missed += [not is_leaf for _, is_leaf in found]
            right += [node == node_id(ROOT, task) for node, is_leaf in found if is_leaf]
    return {"right": float(np.mean(right)), "missed": float(np.mean(missed)), "noticed": float(np.mean(noticed))}


if __name__ == "__main__":
    main()
