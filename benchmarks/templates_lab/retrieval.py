"""What the extractive builder makes of real answers, and what retrieval finds of it: always leave-one-out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoders.protocol import Encoder, Vectors
from offline.answers import answers_from_file
from offline.best_answers import NEAR_DUPLICATE, STAGE_ONE, SolvedQuery, best_answers, collapse
from offline.templates.build import build_templates
from offline.templates.extract import ExtractiveBuilder
from offline.templates.leave_one_out import search_without_own
from offline.templates.text import given_away
from templates_store.index import TemplateIndex
from templates_store.store import TemplateStore

K = 3
FLOORS = (-1.0, 0.5, 0.6, 0.7, 0.8, 0.9)
Row = dict[str, Any]


def solved(file: Path, encoder: Encoder) -> list[SolvedQuery]:
    """The questions of a file of answers that have a right one, near duplicates as one."""
    return collapse(best_answers(answers_from_file(file), keep=STAGE_ONE), encoder)


def build(store: TemplateStore, queries: Sequence[SolvedQuery], encoder: Encoder) -> Row:
    """Build extractive templates into the store; what came of it."""
    started = time.perf_counter()
    report = asyncio.run(build_templates(store, queries, ExtractiveBuilder(queries), encoder, concurrency=1))
    by_key = {query.query: query for query in queries}
    texts = [(template, by_key.get(template.query)) for template in store.templates()]
    return {
        "what": "extractive builder", "solved_queries": len(queries), "built": report.built,
        "rejected": report.rejected, "valid_share": report.built / len(queries),
        "seconds": time.perf_counter() - started,
        "mean_chars": float(np.mean([len(template.text) for template, _ in texts])),
        "answers_given_away": sum(own is not None and given_away(t.text, own) is not None for t, own in texts),
        "reasons": dict(report.reasons),
    }  # fmt: skip


def same_category(index: TemplateIndex, queries: Sequence[SolvedQuery], vectors: Vectors, floor: float) -> Row:
    """Same-category@3, leave-one-out. The leak is counted apart from the code that prevents it."""
    same = np.full(len(queries), np.nan)
    leaks = 0
    for i, (query, vector) in enumerate(zip(queries, vectors, strict=True)):
        hits = search_without_own(index, query.query, vector, K, floor)
        if hits:
            same[i] = float(np.mean([hit.template.task == query.task for hit in hits]))
        stored = [np.frombuffer(hit.template.vector, np.float32) for hit in hits]
        leaks += sum(float(row @ vector) >= NEAR_DUPLICATE for row in stored)
        leaks += sum(hit.template.query.split() == query.query.split() for hit in hits)
    found = same[~np.isnan(same)]
    half = 1.96 * found.std(ddof=1) / np.sqrt(len(found))
    return {
        "what": "retrieval, leave-one-out", "min_similarity": floor, "queries": len(queries), "templates": len(index),
        "with_a_template": len(found) / len(queries), "same_category_at_3": float(found.mean()),
        "interval": [float(found.mean() - half), float(found.mean() + half)], "near_duplicate_leak": leaks,
    }  # fmt: skip


def by_chance(index_tasks: Sequence[str | None], queries: Sequence[SolvedQuery]) -> Row:
    """What templates drawn at random would have in common with the query."""
    share = Counter(index_tasks)
    expected = float(np.mean([share[query.task] / len(index_tasks) for query in queries]))
    return {"what": "templates drawn at random", "same_category_at_3": expected}
