"""Runs the trials of a pool in at most two processes of one thread each, and keeps every one on disk."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.routing_lab.contenders import Contender
from benchmarks.routing_lab.kept import Cell, keep, taken
from benchmarks.routing_lab.peers import ROUTELLM
from benchmarks.routing_lab.pools import Pool
from benchmarks.routing_lab.splits import KINDS, parts
from benchmarks.routing_lab.trial import Ground, Trial, run_trial

WORKERS = 2


@dataclass(frozen=True, slots=True)
class Bench:
    """Where trials are kept, how many splits there are, and what is run: all (`fresh`), what is missing, or nothing
    (`kept_only`: rows then say how many splits they have)."""

    folder: Path
    seeds: int
    fresh: bool = False
    kept_only: bool = False
    workers: int = WORKERS


def cells_of(pool: Pool, contenders: Sequence[Contender], seeds: int) -> list[Cell]:
    """Every trial of a pool, by split, so that a process meets the same split many times in a row."""
    fingerprint = pool.fingerprint
    code = {contender.name: contender.code for contender in contenders}
    cells = []
    for kind in KINDS:
        if parts(pool.outcomes, kind, 0) is None:
            continue
        for seed in range(seeds):
            for contender in contenders:
                if not _takes_part(contender, pool):
                    continue
                if seed < (contender.cap.seeds or seeds):
                    cells.append(Cell(pool.name, fingerprint, kind, seed, contender, code[contender.name]))
    return cells


def _takes_part(contender: Contender, pool: Pool) -> bool:
    if contender.name == ROUTELLM:
        return len(pool.outcomes.arms) == 2
    return not contender.tagged or (pool.outcomes.features is not None and pool.outcomes.tasks is not None)


def run_cells(bench: Bench, pool: Pool, cells: Sequence[Cell]) -> dict[Cell, Trial | str]:
    """The trial of every cell, or the reason why there is none."""
    if bench.fresh:
        for cell in cells:
            cell.path(bench.folder).unlink(missing_ok=True)
    missing = [cell for cell in cells if not cell.path(bench.folder).is_file()]
    for cell in missing:
        if not bench.kept_only:
            _refusal(cell.path(bench.folder)).unlink(missing_ok=True)
    if missing and not bench.kept_only:
        _work_off(bench, pool, missing)
    found: dict[Cell, Trial | str] = {}
    for cell in cells:
        path = cell.path(bench.folder)
        refusal = _refusal(path)
        reason = "not run" if bench.kept_only else "the process that ran it died"
        found[cell] = taken(path) or (refusal.read_text() if refusal.is_file() else reason)
    return found


def _work_off(bench: Bench, pool: Pool, cells: Sequence[Cell]) -> None:
    """Forked processes inherit the pool: nothing of it is copied or sent."""
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    count = min(bench.workers, len(cells))
    if count < 2:
        _worker(bench.folder, pool, cells, counter)
        return
    processes = [context.Process(target=_worker, args=(bench.folder, pool, cells, counter)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _worker(folder: Path, pool: Pool, cells: Sequence[Cell], counter: Synchronized[int]) -> None:
    grounds: dict[tuple[str, int], Ground] = {}
    with threadpool_limits(1):
        while True:
            with counter.get_lock():
                index = counter.value
                counter.value += 1
            if index >= len(cells):
                return
            cell = cells[index]
            place = (cell.kind, cell.seed)
            if place not in grounds:
                grounds.clear()
                grounds[place] = _ground(pool, *place)
            _run(cell, grounds[place], folder)


def _ground(pool: Pool, kind: str, seed: int) -> Ground:
    split = parts(pool.outcomes, kind, seed)
    if split is None:
        raise ValueError(f"{pool.name} cannot be split {kind} of distribution")
    return Ground.of(*split, pool.priced)


def _run(cell: Cell, ground: Ground, folder: Path) -> None:
    path = cell.path(folder)
    try:
        keep(run_trial(cell.contender, ground, cell.seed), path)
    except Exception as error:  # noqa: BLE001  one router that fails must not cost the results of all others
        traceback.print_exc(file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        _refusal(path).write_text(f"{type(error).__name__}: {error}")


def _refusal(path: Path) -> Path:
    return path.with_suffix(".refused")


def limit_threads() -> None:
    """One thread for what is started or imported from here on."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
