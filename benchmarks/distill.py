"""Distillation: alignment, what the loss and the stored signals cost, and what fusion does to what the target knew.

    python -m benchmarks.distill [--quick] [--cache FOLDER]

The first part needs nothing but this checkout. The last part, interference, trains tiny models on the multi-LLM logs in
the folder that TOKAMAK_SHARED_DATA names, else in `shared/data` beside the checkout; without them it is left out. What
it has trained is kept in the cache, and an interrupted run goes on. `--quick` leaves it out, writes nothing and takes
less than a minute. Figures that the live demonstration measures (`LIVE`) are taken over from its result file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.distill_lab import alignment, memory, store
from benchmarks.distill_lab.interference import interference
from benchmarks.result_file import RESULTS, write_result

Row = dict[str, Any]
DATA = ("mmlu_pro.parquet", "zeroeval.parquet")
"""The files that interference reads."""
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "distill"
LIVE = ("live_min_family_share", "live_average_minus_best_source", "useless_teacher_weight")
NOTES = {
    "aligned_share": "target positions with a row of the source; mass_named: of its mass on tokens that the target has",
    "worst": "largest difference of a gradient by a logit from what it must be, per position",
    "copied_share": "positions where nearly all mass is on the token before, though another one stands there",
    "x_dense": "bytes of stacked dense targets in bfloat16 over bytes of the sparse rows of the same step",
    "x_clm": "CPU time of whole training steps, fused over plain, taken in turns in one process",
    "degraded": "domains where a fused model is worse by a paired bootstrap, summed over seeds; gains in bits a byte",
    "times": "others: write, copy and read by the wall clock on a shared machine; compare them with each other alone",
}


def measured(quick: bool, scratch: Path) -> list[Row]:
    """All but interference."""
    import torch

    torch.set_num_threads(1)
    passages, size = (3, 900) if quick else (40, 4_000)
    rows = alignment.aligned(passages, size)
    rows += alignment.copying(2 if quick else 12, size)
    rows += alignment.gradients(3 if quick else 12, size)
    rows.append(alignment.vocabularies(*((4_000, 3_000) if quick else (50_000, 32_000))))
    rows.append(memory.memory(*((1, 640, 4_000) if quick else (2, 2048, 32_000))))
    shape = (2, 32, 2_000, 5, 64, 2, 3) if quick else (2, 512, 32_000, 5, 256, 4, 7)
    rows.append(memory.step_time(*shape))
    rows += [store.stored(scratch, 32 if quick else 512, vocabulary=size) for size in (50_000, 150_000)]
    return rows


def interfered(cache: Path) -> list[Row]:
    """The rows of interference; none, and why, where the logs are not there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TOKAMAK_SHARED_DATA") or beside)
    missing = [name for name in DATA if not (folder / name).is_file()]
    if missing:
        print(f"interference is left out: there is no {missing[0]} in {folder}; set TOKAMAK_SHARED_DATA to the logs")
        return []
    return interference(folder, cache)


def bar_of(rows: Sequence[Row]) -> dict[str, float]:
    """The figures of the contract; what was not measured is not in it."""
    bar: dict[str, float] = {}
    for row in rows:
        match row["what"]:
            case "aligned":
                bar["aligned_share_min"] = min(bar.get("aligned_share_min", 1.0), row["aligned_share"])
            case "gradient":
                bar["gradient_worst"] = max(bar.get("gradient_worst", 0.0), row["worst"])
            case "copying":
                name = "copied_share" if row["alignment"] == "ours" else "copied_share_published"
                if row["alignment"] in ("ours", "MinED, as released"):
                    bar[name] = row["copied_share"]
            case "vocabulary map":
                bar["vocab_map_s"] = row["wall_s"]
            case "memory":
                bar["memory_x_dense"] = row["x_dense"]
            case "step time":
                bar["step_time_x_clm"] = row["x_clm"]
            case "signal store":
                bar["store_bytes_per_token"] = max(bar.get("store_bytes_per_token", 0.0), row["bytes_per_token"])
            case "interference, all":
                bar |= row["bar"]
    return bar


def measured_live(results: Path = RESULTS) -> dict[str, float]:
    """The figures of `LIVE`, as far as the demonstration was run. Says which are missing."""
    path = results / "distill_live.json"
    bar = orjson.loads(path.read_bytes())["bar"] if path.is_file() else {}
    missing = [key for key in LIVE if key not in bar]
    if missing:
        print(f"not in the bar: {', '.join(missing)}: there is no result of a live proof")
    return {key: bar[key] for key in LIVE if key in bar}


def tell(rows: Sequence[Row], bar: dict[str, float]) -> None:
    table = Table("what", "figures", title="Distillation", show_lines=True)
    for row in [*rows, {"what": "the bar", **bar}]:
        shown = (f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "what")
        table.add_row(str(row["what"]), ", ".join(shown))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a part in less than a minute; writes nothing")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="where trained models are kept (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as scratch:
        rows = measured(chosen.quick, Path(scratch))
    rows += [] if chosen.quick else interfered(chosen.cache)
    bar = bar_of(rows)
    if not chosen.quick:
        bar |= measured_live()
    tell(rows, bar)
    if not chosen.quick:
        write_result("distill", "python -m benchmarks.distill", rows, bar, notes=NOTES)


if __name__ == "__main__":
    main()
