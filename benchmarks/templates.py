"""Thought templates: what retrieval finds and costs, from a thousand templates to a million.

    python -m benchmarks.templates [--quick] [--cache FOLDER]

Reads the multi-LLM logs from the folder that TOKAMAK_SHARED_DATA names, else from `shared/data` beside the checkout.
The vectors are those of their questions, filled up by questions recombined from them; the questions that are searched
for are real ones that are not among them. What takes long to make (a million vectors, their store and its index) is
kept in the cache. `--quick` leaves out the million, the noise and the recall, writes nothing, and takes a minute.
Figures of other benchmarks that belong to the same bar (`LIVE`) are taken over from the files that they wrote.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.result_file import RESULTS, write_result
from benchmarks.templates_lab import published, retrieval
from benchmarks.templates_lab.filtered import filtered
from benchmarks.templates_lab.questions import Questions, noise, real_questions, shared_data, vectors_like
from benchmarks.templates_lab.speed import Row, cost_per_request, load_seconds, quietest, recall, timed
from benchmarks.templates_lab.stores import Filled, filled
from benchmarks.templates_lab.visible import visible
from encoders.catalogue import load_encoder
from encoders.protocol import Encoder, Vectors
from templates_store.index import load_index
from templates_store.store import TemplateStore

FILE = "mmlu_pro.parquet"
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "templates"
LIVE = {"templates_live": ("live_uplift_points", "live_uplift_lo", "cross_tenant_hits")}
"""Which figures of the bar other benchmarks measure, by the names of their result files."""

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (1_000, 10_000)
QUICK_QUERIES = 500
REPEATS = 2_000
ROUNDS = 8
"""At most so often a size is measured; the round counts in which other programs took the core least often."""
FILTERED = 130_000
TENANTS = 10_000
TEMPLATES_A_TENANT = 10
NOTES = {
    "units": "times in ms or us by the wall clock, or of the thread's CPU where `cpu` is in the name; shares in [0, 1]",
    "disturbed_share": "of the calls that the kernel interrupted for another program; the round with the fewest counts",
    "waited_share": "of the calls that waited by themselves: for a record that had to be read from the disk",
    "p99_undisturbed": "99th percentile of the calls that were not interrupted",
    "recall_calibrated": "on rows of the index, each without itself; recall_at_10: of real questions not in it",
}


@dataclass(frozen=True, slots=True)
class Ground:
    """What everything is measured on: `texts` of real templates, real `asked` questions and their vectors."""

    encoder: Encoder
    questions: Questions
    asked: Vectors
    texts: Sequence[str]
    cache: Path | None
    scratch: Path

    def vectors(self, count: int) -> Vectors:
        return vectors_like(self.questions, count, self.encoder, self.cache)

    def store(self, name: str, vectors: Vectors) -> Filled:
        folder = (self.scratch if self.cache is None or len(vectors) < 1_000_000 else self.cache) / name
        return filled(folder, vectors, self.texts, self.questions.texts, self.encoder.hash)


def retrieved(folder: Path, encoder: Encoder, scratch: Path, limit: int | None) -> tuple[list[Row], list[str]]:
    """The rows on what is built and found, and the texts of the templates that were built."""
    queries = retrieval.solved(folder / FILE, encoder)[:limit]
    vectors = encoder.encode([query.query for query in queries])
    with TemplateStore(scratch / "built.db") as store:
        rows = [retrieval.build(store, queries, encoder)]
        index, templates = load_index(store, encoder.hash), store.templates()
        rows += [retrieval.same_category(index, queries, vectors, floor) for floor in retrieval.FLOORS]
        rows += [retrieval.by_chance([template.task for template in templates], queries)]
        rows += [_upkeep(store, templates[0].id)]
    return rows, [template.text for template in templates]


def sized(ground: Ground, size: int) -> Row:
    """Cost per request and recall with so many templates."""
    vectors = ground.vectors(size)
    store = ground.store(f"store_{size}", vectors)

    def measured() -> Row:
        # Opened anew each time, so that no round finds the records of the one before in memory.
        with store.opened() as live:
            return cost_per_request(live.current, ground.asked, ground.questions.asked, REPEATS)

    row = {"what": "cost per request", **quietest(measured, ROUNDS)}
    with store.opened() as live:
        index = live.current
        found = index.block.parts[None].approximate
        if found is not None:
            row |= {"lists": found.lists.nlist, "lists_read": found.probes}
            row |= {"recall_calibrated": found.recall.mean, "recall_calibrated_low": found.recall.low}
            row["recall_at_10"] = recall(index, ground.asked[:500], vectors)
    row["load_s"] = load_seconds(store.folder, ground.encoder.hash, ground.asked[0], ground.scratch)
    row["index_mb"] = sum(f.stat().st_size for f in (store.folder / "templates.index").rglob("*") if f.is_file()) / 1e6
    return row


def tenants(ground: Ground) -> Row:
    """Many tenants with few templates each, beside as many that all may see."""
    vectors = np.concatenate([ground.vectors(10_000), ground.vectors(TENANTS * TEMPLATES_A_TENANT)])
    store = filled(
        ground.scratch / "tenants", vectors, ground.texts, ground.questions.texts, ground.encoder.hash,
        lambda i: None if i < 10_000 else f"tenant {i % TENANTS}",
    )  # fmt: skip
    with store.opened() as live:
        names = [f"tenant {i * 7919 % TENANTS}" for i in range(TENANTS)]
        row = cost_per_request(live.current, ground.asked, ground.questions.asked, REPEATS, names)
    load = load_seconds(store.folder, ground.encoder.hash, ground.asked[0], ground.scratch)
    return {"what": f"{TENANTS:,} tenants of {TEMPLATES_A_TENANT}, and 10,000 for all", **row, "load_s": load}


def without_structure(ground: Ground) -> Row:
    """The worst case of an approximate index: directions drawn at random, at 100,000."""
    vectors, asked = noise(100_000, ground.encoder.dim), noise(500, ground.encoder.dim, seed=1)
    with ground.store("noise", vectors).opened() as live:
        part = live.current.block.parts[None].approximate
        row = timed([partial(live.current.candidates, q, 20) for q in asked])
        return {
            "what": "random directions, search of 20 alone", "templates": len(vectors), **row,
            "recall_at_10": recall(live.current, asked, vectors), "lists_read": 0 if part is None else part.probes,
        }  # fmt: skip


def beside_published(ground: Ground, asked: int) -> Row:
    """Throughput beside the published loop, over the same vectors in the same run."""
    vectors = ground.vectors(published.ROWS)
    rows = published.write_csv(ground.scratch / "published.csv", vectors, ground.texts)
    loop, loop_cpu = published.seconds_a_query(rows, ground.asked[:asked])
    first, first_cpu = published.seconds_a_query(rows, ground.asked[:asked], task_first=True)
    with ground.store("store_published", vectors).opened() as live:
        ours = cost_per_request(live.current, ground.asked, ground.questions.asked, REPEATS)
    seconds, cpu = ours["mean_wall_ms"] / 1e3, ours["mean_cpu_ms"] / 1e3
    return {
        "what": "beside the published loop", "templates": published.ROWS, "published_ms": loop * 1e3,
        "published_task_first_ms": first * 1e3, "ours_ms": seconds * 1e3, "x_published": loop / seconds,
        "x_published_task_first": first / seconds, "x_published_cpu": loop_cpu / cpu,
        "x_published_task_first_cpu": first_cpu / cpu,
    }  # fmt: skip


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    """The figures of the contract; what was not measured is not in it."""
    bar: dict[str, float] = {}
    for row in rows:
        if row["what"] == "cost per request":
            size = {10_000: "10k", 1_000_000: "1m"}.get(row["templates"])
            if size is not None:
                bar |= {f"p99_ms_{size}": row["p99_wall_ms"], f"p99_cpu_ms_{size}": row["p99_cpu_ms"]}
                bar[f"disturbed_share_{size}"] = row["disturbed_share"]
            if size is not None and "p99_undisturbed_wall_ms" in row:
                bar[f"p99_undisturbed_ms_{size}"] = row["p99_undisturbed_wall_ms"]
            if row["templates"] == 1_000_000:
                bar["recall_at_10_1m"] = row["recall_at_10"]
            if row["templates"] == 100_000:
                bar["load_s_100k"] = row["load_s"]
        if "x_published" in row:
            bar["x_published_loop"] = row["x_published"]
        if "tenant_owns" in row:
            least = min(row["recall_at_10"], row["recall_at_10_of_its_own"])
            bar["recall_at_10_filtered"] = min(bar.get("recall_at_10_filtered", 1.0), least)
    bar["visible_ms"] = max(row["worst_ms"] for row in rows if "worst_ms" in row)
    bar["near_duplicate_leak"] = sum(row["near_duplicate_leak"] for row in rows if "near_duplicate_leak" in row)
    return bar | measured_elsewhere()


def measured_elsewhere(results: Path = RESULTS) -> dict[str, float]:
    """The figures of `LIVE`, as far as their benchmarks were run. Says which are missing, and why."""
    found: dict[str, float] = {}
    for name, keys in LIVE.items():
        path = results / f"{name}.json"
        bar = orjson.loads(path.read_bytes())["bar"] if path.is_file() else {}
        found |= {key: bar[key] for key in keys if key in bar}
        missing = [key for key in keys if key not in bar]
        if missing:
            why = "does not have them" if path.is_file() else "is not there"
            print(
                f"not in the bar: {', '.join(missing)}; {path.name} {why}. Run `python -m benchmarks.{name}`, then this"
            )
    return found


def tell(rows: Sequence[Row], bar: dict[str, float]) -> None:
    table = Table("what", "figures", title="Thought templates", show_lines=True)
    for row in [*rows, {"what": "the bar", **bar}]:
        shown = (f"{k} {v:,.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "what")
        table.add_row(row["what"], ", ".join(shown))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute's part; writes no result")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of what takes long to make")
    given = parser.parse_args()
    folder, encoder = shared_data(FILE), load_encoder("static")
    with tempfile.TemporaryDirectory() as scratch:
        rows = measured(folder, encoder, Path(scratch), None if given.quick else given.cache)
    bar = bar_of(rows)
    tell(rows, bar)
    if not given.quick:
        command = "python -m benchmarks.templates"
        print(f"written: {write_result('templates', command, rows, bar, notes=NOTES)}")


def measured(folder: Path, encoder: Encoder, scratch: Path, cache: Path | None) -> list[Row]:
    """Every row. Without a cache, what takes longer than a minute is left out."""
    quick = cache is None
    print("building templates from real answers ...", flush=True)
    rows, texts = retrieved(folder, encoder, scratch, QUICK_QUERIES if quick else None)
    questions = real_questions(folder)
    ground = Ground(encoder, questions, encoder.encode(questions.asked), texts, cache, scratch)
    for size in QUICK_SIZES if quick else SIZES:
        print(f"measuring {size:,} templates ...", flush=True)
        rows.append(sized(ground, size))
    print("measuring the published loop and how soon an addition is visible ...", flush=True)
    rows.append(beside_published(ground, 5 if quick else 20))
    rows += visible(scratch / "visible", encoder, texts[0], 10 if quick else 60)
    if not quick:
        print("measuring many tenants and random directions ...", flush=True)
        rows += [tenants(ground), without_structure(ground)]
        rows += filtered(ground.vectors(FILTERED), ground.asked[:500])
    return rows


def _upkeep(store: TemplateStore, id_: str) -> Row:
    """What a gateway pays to look for changes, and a writer for a durable one."""
    polled = timed([store.version] * 500)
    moved = timed([partial(store.set_state, id_, "active" if i % 2 else "quarantined") for i in range(20)], warm=0)
    return {
        "what": "upkeep", "version_us": polled["p50_wall_ms"] * 1e3, "durable_change_ms": moved["p50_wall_ms"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
