"""How well Bohdi explores: drift tests, growth of trees, allocation of training, real gaps, and a million episodes.

    python -m benchmarks.bohdi [--quick] [PART ...]

Parts: drift (P1), growth (P2), allocation (P3), gaps (P5, on the MMLU-Pro logs in the folder that TOKAMAK_SHARED_DATA
names, else `shared/data` beside the checkout; left out without them), scale. All of them if none is named; parts that
are named replace theirs in `benchmarks/results/bohdi.json`. `--quick` does a little of everything but the gaps in under
a minute, and writes nothing. The figures of the live proof are taken over from the file that
`python -m benchmarks.bohdi_live` wrote.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.bohdi_lab import allocation, drift_test, gaps, growth, learners, million
from benchmarks.bohdi_lab.planted import Row
from benchmarks.result_file import RESULTS, write_result
from benchmarks.routing_probe import shared_folder

NAME = "bohdi"
LIVE = "bohdi_live"
LIVE_FIGURES = ("live_worst_family_gain_lo",)
NOTES = {
    "intervals": "mean, lower and upper end of a 95 % interval over paired seeds (Student's t)",
    "false per 100": "share of unchanged streams that are reset within 100 questions",
    "gain on X": "how much lower the error, or its deviation over the leaves, is than with X; 0.01 is one point",
    "bar": "intervals and regrets are those of the learner that is weak in parts; a pull is a whole walk",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is simulated."""

    streams: int
    families: int
    trees: int
    growth_loops: int
    targets: int
    kinds: tuple[str, ...]
    learner_loops: int
    gap_seeds: int
    episodes: int


FULL = Sizes(4000, 40, 10, growth.LOOPS, 20, tuple(learners.KINDS), allocation.LOOPS, 20, 1_000_000)
QUICK = Sizes(100, 2, 1, 6, 2, (allocation.MAIN,), 3, 0, 4_000)


def drift(sizes: Sizes, _: Path) -> tuple[list[Row], dict[str, float]]:
    """P1."""
    rows = drift_test.trade_off(sizes.streams)
    more = drift_test.families(sizes.families) + drift_test.tracking(max(sizes.streams // 4, 10))
    return rows + more, drift_test.bar_of(rows)


def grow(sizes: Sizes, _: Path) -> tuple[list[Row], dict[str, float]]:
    """P2."""
    rows = growth.measure(sizes.trees, sizes.growth_loops)
    return rows, growth.bar_of(rows)


def allocate(sizes: Sizes, _: Path) -> tuple[list[Row], dict[str, float]]:
    """P3."""
    rows = allocation.measure(sizes.targets, sizes.kinds, sizes.learner_loops)
    return rows, allocation.bar_of(rows)


def find_gaps(sizes: Sizes, _: Path) -> tuple[list[Row], dict[str, float]]:
    """P5."""
    folder = shared_folder()
    if not sizes.gap_seeds or not (folder / gaps.FILE).is_file():
        print(f"gaps left out: a quick run, or there is no {gaps.FILE} in {folder} (see TOKAMAK_SHARED_DATA)")
        return [], {}
    rows = gaps.measure(folder, sizes.gap_seeds)
    return rows, gaps.bar_of(rows)


def scale(sizes: Sizes, scratch: Path) -> tuple[list[Row], dict[str, float]]:
    """A million episodes."""
    row = million.measure(scratch, sizes.episodes)
    bar = {"pull_us": row["pull us"], "replay_memory_mb": row["memory MB"]}
    return [row], bar | ({"replay_s_1m": row["replay s"]} if sizes.episodes == FULL.episodes else {})


PARTS: dict[str, Callable[[Sizes, Path], tuple[list[Row], dict[str, float]]]] = {
    "drift": drift,
    "growth": grow,
    "allocation": allocate,
    "gaps": find_gaps,
    "scale": scale,
}


def live_figures(results: Path = RESULTS) -> dict[str, float]:
    """What the live proof has measured; says what is missing."""
    path = results / f"{LIVE}.json"
    bar = orjson.loads(path.read_bytes())["bar"] if path.is_file() else {}
    for key in LIVE_FIGURES:
        if key not in bar:
            print(f"not in the bar: {key}, which the live proof measures (`make bench-bohdi-live`)")
    return {key: bar[key] for key in LIVE_FIGURES if key in bar}


def keep(rows: Sequence[Row], bar: dict[str, float], whole: bool, results: Path = RESULTS) -> None:
    """Write the result; unless it is the whole, rows of other kinds and other figures of the last result stay."""
    path = results / f"{NAME}.json"
    if not whole and path.is_file():
        last = orjson.loads(path.read_bytes())
        measured = {row["what"] for row in rows}
        rows = [row for row in last["rows"] if row["what"] not in measured] + list(rows)
        bar = last["bar"] | bar
    write_result(NAME, "make bench-bohdi", rows, bar, results, NOTES)


def tell(rows: Sequence[Row], bar: dict[str, float]) -> None:
    """Print a table for each kind of row, and the bar."""
    console = Console(width=180)
    for what in dict.fromkeys(row["what"] for row in rows):
        same = [row for row in rows if row["what"] == what]
        columns = list(dict.fromkeys(name for row in same for name in row if name != "what"))
        table = Table(*columns, title=what, box=None, header_style="bold")
        for row in same:
            table.add_row(*(_shown(row.get(name)) for name in columns))
        console.print(table)
    console.print(Table.grid(), *(f"{name} = {value:.4f}" for name, value in bar.items()), sep="\n")


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"
        case list() | tuple():
            return " ".join(_shown(part) for part in value)
        case _:
            return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"among {', '.join(PARTS)}; all if left out")
    parser.add_argument("--quick", action="store_true", help="a little of everything but the gaps; writes nothing")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"expected parts among {', '.join(PARTS)}, got {', '.join(unknown)}")
    rows: list[Row] = []
    bar: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in arguments.parts or PARTS:
            started = time.perf_counter()
            found, figures = PARTS[part](QUICK if arguments.quick else FULL, Path(scratch))
            rows, bar = rows + found, bar | figures
            print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
    tell(rows, bar)
    if not arguments.quick:
        bar |= live_figures()
        keep(rows, bar, whole=not arguments.parts)


if __name__ == "__main__":
    main()
