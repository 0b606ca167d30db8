"""Many vectors that lie as those of real questions do: the real ones first, then recombined ones.

A recombined question is the beginning of one real question and the end of another of the same task, cut between
clauses, with one word in twenty left out. So its words, its length and its topic are real, and a task's questions lie
close together, as they do in traffic. The questions that are searched for are real, whole, and not among the material.
"""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoders.protocol import Encoder, Vectors

ASKED = 1_000
"""Real questions that are searched for."""
_BATCH = 4_096
_LONGEST = 600
_LEFT_OUT = 0.05
_CLAUSE = re.compile(r"(?<=[.?!;:\n])\s+")


class Questions(NamedTuple):
    """The material, one task a question, and the real questions that are searched for."""

    texts: list[str]
    tasks: list[str]
    asked: list[str]


def shared_data(file: str) -> Path:
    """The folder of the multi-LLM logs. Exits with code 0 and says so if it is not there."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("TOKAMAK_SHARED_DATA") or beside)
    if not (folder / file).is_file():
        print(f"skipped: there is no {file} in {folder}; set TOKAMAK_SHARED_DATA to the folder of the multi-LLM logs")
        sys.exit(0)
    return folder


def real_questions(folder: Path, seed: int = 0) -> Questions:
    """Every distinct question of the logs in the folder, in an order that the seed gives."""
    import pyarrow.parquet as parquet

    task_of: dict[str, str] = {}
    for file in sorted(folder.glob("*.parquet")):
        table = parquet.read_table(file, columns=["task", "query"]).to_pydict()
        task_of.update(zip(table["query"], table["task"], strict=True))
    texts = sorted(task_of)
    order = np.random.default_rng(seed).permutation(len(texts))
    chosen = [texts[i] for i in order]
    kept = chosen[ASKED:]
    return Questions(kept, [task_of[text] for text in kept], chosen[:ASKED])


def vectors_like(questions: Questions, count: int, encoder: Encoder, folder: Path | None, seed: int = 0) -> Vectors:
    """`count` vectors [count, d] of real questions, filled up by recombined ones; kept in `folder` for the next run."""
    name = None if folder is None else folder / f"like_{encoder.hash}_{len(questions.texts)}_{seed}.npy"
    if name is not None and name.is_file():
        kept: Any = np.load(name, mmap_mode="r")
        if len(kept) >= count:
            return np.array(kept[:count])
    rows = np.empty((count, encoder.dim), dtype=np.float32)
    done = 0
    for batch in _batches(questions, count, seed):
        rows[done : done + len(batch)] = encoder.encode(batch)
        done += len(batch)
    rows[~np.any(rows, axis=1), 0] = 1.0
    if name is not None:
        name.parent.mkdir(parents=True, exist_ok=True)
        partial = name.with_suffix(".partial.npy")
        np.save(partial, rows)
        partial.replace(name)
    return rows


def noise(count: int, dim: int, seed: int = 0) -> Vectors:
    """Directions without any structure, float32 [count, dim], unit norm: the worst case of an approximate index."""
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _batches(questions: Questions, count: int, seed: int) -> Iterator[list[str]]:
    real = questions.texts[:count]
    for start in range(0, len(real), _BATCH):
        yield real[start : start + _BATCH]
    rng = np.random.default_rng(seed)
    by_task: defaultdict[str, list[list[str]]] = defaultdict(list)
    clauses = [_CLAUSE.split(text[:_LONGEST]) for text in questions.texts]
    for task, parts in zip(questions.tasks, clauses, strict=True):
        by_task[task].append(parts)
    groups = [by_task[task] for task in questions.tasks]
    left = count - len(real)
    while left > 0:
        size = min(left, _BATCH)
        picks = rng.integers(len(clauses), size=_BATCH)[:size]
        yield [_recombined(clauses[i], groups[i], rng) for i in picks]
        left -= size


def _recombined(parts: Sequence[str], others: Sequence[Sequence[str]], rng: np.random.Generator) -> str:
    other = others[int(rng.integers(len(others)))]
    begin = parts[: int(rng.integers(1, len(parts) + 1))]
    end = other[int(rng.integers(len(other))) :]
    words = " ".join([*begin, *end]).split()
    kept = rng.random(len(words)) >= _LEFT_OUT
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep) or begin[0]
