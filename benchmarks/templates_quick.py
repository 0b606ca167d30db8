"""Thought templates at a glance: what the extractive builder makes of real answers, what retrieval finds and costs.

    python -m benchmarks.templates_quick

Reads `mmlu_pro.parquet` of the multi-LLM logs (2,100 questions with the answers of 33 models) from the folder that
TOKAMAK_SHARED_DATA names, else from `shared/data` beside the checkout. Every retrieval is leave-one-out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.result_file import write_result
from encoders.catalogue import load_encoder
from encoders.protocol import Encoder, Vectors
from offline.answers import answers_from_file
from offline.best_answers import NEAR_DUPLICATE, STAGE_ONE, SolvedQuery, best_answers, collapse
from offline.templates.build import build_templates
from offline.templates.extract import ExtractiveBuilder
from offline.templates.leave_one_out import search_without_own
from offline.templates.text import given_away
from templates_store.create import template_id
from templates_store.index import TemplateIndex, load_index
from templates_store.store import TemplateStore
from templates_store.template import Template
from templates_store.ways import ask

FILE = "mmlu_pro.parquet"
K = 3
FLOORS = (-1.0, 0.5, 0.6, 0.7, 0.8, 0.9)
SIZES = (1_000, 10_000)
REPEATS = 2_000
Row = dict[str, Any]


def shared_data() -> Path:
    """The folder of the multi-LLM logs. Exits with code 0 and says so if it is not there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TOKAMAK_SHARED_DATA") or beside)
    if not (folder / FILE).is_file():
        print(f"skipped: there is no {FILE} in {folder}; set TOKAMAK_SHARED_DATA to the folder of the multi-LLM logs")
        sys.exit(0)
    return folder


def micros(call: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median and 99th percentile of the duration of a call, in microseconds."""
    call()
    taken = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter()
        call()
        taken[i] = time.perf_counter() - start
    return float(np.median(taken) * 1e6), float(np.percentile(taken, 99) * 1e6)


def build(store: TemplateStore, queries: Sequence[SolvedQuery], encoder: Encoder) -> Row:
    started = time.perf_counter()
    report = asyncio.run(build_templates(store, queries, ExtractiveBuilder(queries), encoder, concurrency=1))
    by_key = {solved.query: solved for solved in queries}
    texts = [(template, by_key.get(template.query)) for template in store.templates()]
    return {
        "what": "extractive builder", "solved_queries": len(queries), "built": report.built,
        "rejected": report.rejected,
        "valid_share": report.built / len(queries), "seconds": time.perf_counter() - started,
        "mean_chars": float(np.mean([len(template.text) for template, _ in texts])),
        "answers_given_away": sum(solved is not None and given_away(t.text, solved) is not None for t, solved in texts),
        "reasons": dict(report.reasons),
    }  # fmt: skip


def retrieval(index: TemplateIndex, queries: Sequence[SolvedQuery], vectors: Vectors, floor: float) -> Row:
    """Same-category@3, leave-one-out. The leak is counted apart from the code that prevents it."""
    same = np.zeros(len(queries))
    found = leaks = 0
    for i, (solved, vector) in enumerate(zip(queries, vectors, strict=True)):
        hits = search_without_own(index, solved.query, vector, K, floor)
        found += bool(hits)
        same[i] = float(np.mean([hit.template.task == solved.task for hit in hits])) if hits else np.nan
        stored = [np.frombuffer(hit.template.vector, np.float32) for hit in hits]
        leaks += sum(float(row @ vector) >= NEAR_DUPLICATE for row in stored)
        leaks += sum(hit.template.query.split() == solved.query.split() for hit in hits)
    with_hits = same[~np.isnan(same)]
    half = 1.96 * with_hits.std(ddof=1) / np.sqrt(len(with_hits))
    return {
        "what": "retrieval, leave-one-out", "min_similarity": floor, "queries": len(queries), "templates": len(index),
        "with_a_template": found / len(queries), "same_category_at_3": float(with_hits.mean()),
        "interval": [float(with_hits.mean() - half), float(with_hits.mean() + half)], "near_duplicate_leak": leaks,
    }  # fmt: skip


def by_chance(index_tasks: Sequence[str | None], queries: Sequence[SolvedQuery]) -> Row:
    """What templates drawn at random would have in common with the query."""
    share = Counter(index_tasks)
    expected = float(np.mean([share[solved.task] / len(index_tasks) for solved in queries]))
    return {"what": "templates drawn at random", "same_category_at_3": expected}


def speed(templates: Sequence[Template], encoder: Encoder, size: int) -> Row:
    """Costs per request with `size` templates: the real ones, and random directions to fill up."""
    rng = np.random.default_rng(0)
    filled = list(templates[:size])
    while len(filled) < size:
        vector = rng.standard_normal(encoder.dim).astype(np.float32)
        query = f"filler {len(filled)}"
        changes = {"query": query, "vector": (vector / np.linalg.norm(vector)).tobytes()}
        filled.append(msgspec.structs.replace(templates[0], id=template_id(query, templates[0].text), **changes))
    index = TemplateIndex(filled, encoder.hash)
    vector = encoder.encode_one(templates[0].query)
    hits = index.search(vector, K, -1.0)
    messages = [{"role": "user", "content": templates[0].query}]
    search, augment = micros(lambda: index.search(vector, K, 0.5)), micros(lambda: ask("thought", messages, hits))
    return {
        "what": "cost per request", "templates": size, "search_us": search[0], "search_p99_us": search[1],
        "augment_us": augment[0], "augment_p99_us": augment[1],
    }  # fmt: skip


def upkeep(store: TemplateStore, encoder: Encoder, made: Template) -> Row:
    """What the gateway pays to notice a change, and to take it in."""
    polled = micros(store.version, 500)
    started = time.perf_counter()
    index = load_index(store, encoder.hash)
    loaded = time.perf_counter() - started
    started = time.perf_counter()
    store.set_state(made.id, "quarantined", "benchmark")
    written = time.perf_counter() - started
    store.set_state(made.id, "active")
    return {
        "what": "upkeep", "templates": len(index), "version_us": polled[0], "load_index_ms": loaded * 1e3,
        "durable_change_ms": written * 1e3,
    }  # fmt: skip


def tell(rows: Sequence[Row]) -> None:
    table = Table("what", "figures", title="Thought templates", show_lines=True)
    for row in rows:
        shown = (f"{k} {v:,.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "what")
        table.add_row(row["what"], ", ".join(shown))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="static")
    parser.add_argument("--examples", type=int, default=0, help="print so many of the templates built")
    given = parser.parse_args()
    folder = shared_data()
    encoder = load_encoder(given.encoder)
    print(f"reading {FILE} ...", flush=True)
    queries = collapse(best_answers(answers_from_file(folder / FILE), keep=STAGE_ONE), encoder)
    vectors = encoder.encode([solved.query for solved in queries])
    with tempfile.TemporaryDirectory() as scratch, TemplateStore(Path(scratch) / "templates.db") as store:
        print(f"building from {len(queries)} questions ...", flush=True)
        rows = [build(store, queries, encoder)]
        index = load_index(store, encoder.hash)
        templates = store.templates()
        rows += [retrieval(index, queries, vectors, floor) for floor in FLOORS]
        rows += [by_chance([template.task for template in templates], queries)]
        rows += [speed(templates, encoder, size) for size in SIZES]
        rows += [upkeep(store, encoder, templates[0])]
    tell(rows)
    for template in templates[:: max(1, len(templates) // given.examples)] if given.examples else ():
        print(f"\n{template.task}: {template.query[:160]!r}\n  {template.text}")
    command = "python -m benchmarks.templates_quick"
    found, costs = [row for row in rows if "min_similarity" in row], [row for row in rows if "search_us" in row]
    bar = {
        "valid_share": rows[0]["valid_share"], "same_category_at_3": found[0]["same_category_at_3"],
        "near_duplicate_leak": sum(row["near_duplicate_leak"] for row in found),
        "search_us_1k": costs[0]["search_us"], "search_us_10k": costs[1]["search_us"],
    }  # fmt: skip
    print(
        f"written: {write_result('templates_quick', command, [{'encoder': encoder.name, **row} for row in rows], bar)}"
    )


if __name__ == "__main__":
    main()
