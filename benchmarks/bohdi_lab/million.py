"""A million episodes: how long a log is folded, how long a pull takes on the tree, and how much memory both need.

The tree is grown by its own walks, with answers of a few hundred characters. Folding and pulling are measured in a
process of their own, so that its greatest memory is theirs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import orjson

from benchmarks.bohdi_lab.planted import Row, settings_of
from offline.bohdi.branches import SPROUT, walk_step
from offline.bohdi.events import (
    ROOT,
    AnyEvent,
    Contested,
    Planted,
    Reply,
    RoundBegan,
    RoundEnded,
    Sprouted,
    TargetChanged,
    Verdict,
    node_id,
)
from offline.bohdi.log import EpisodeLog
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree

A_ROUND = 1_000
PULLS = 5_000
QUESTION = "What follows if the second of these assumptions does not hold, and why? " * 3
ANSWER = "First, the assumption is needed only where the limit is taken. Therefore the result still holds. " * 3


def write_log(path: Path, episodes: int) -> int:
    """Write a log of so many episodes, in rounds of a thousand; the number of its nodes."""
    settings, rng = settings_of(sources=("a", "b")), np.random.default_rng(0)
    with EpisodeLog(path) as log:
        planted = Planted(
            at=0.0, levels=3, target="target", target_version="0", sources=settings.sources, seed=0,
            rules=settings.fold_rules(),
        )  # fmt: skip
        log.append([planted])
        tree = Tree()
        tree.apply(planted)
        for number in range(1, episodes // A_ROUND + 1):
            log.append(_round(tree, number, settings, rng))
        log.snapshot()
    return len(tree.nodes())


def _round(tree: Tree, number: int, settings: Settings, rng: np.random.Generator) -> list[AnyEvent]:
    """A round's events, which the tree has taken in."""
    made: list[AnyEvent] = []

    def happen(event: AnyEvent) -> None:
        tree.apply(event)
        made.append(event)

    happen(
        RoundBegan(
            at=0.0, round=number, leader="a", paths=A_ROUND, seed=0, target_version=str(number), prompts_version="1"
        )
    )
    happen(TargetChanged(at=0.0, round=number, version=str(number)))
    under_way: Counter[str] = Counter()
    for position in range(A_ROUND):
        path: tuple[str, ...] = ()
        while len(path) < 3:
            place = path[-1] if path else ROOT
            step = walk_step(tree, place, rng, settings, under_way)
            if step == SPROUT:
                name = f"Domain {tree.state.events}"
                step = node_id(place, name)
                happen(Sprouted(at=0.0, round=number, node=step, parent=place, name=name, votes={"a": 3, "b": 2}))
            under_way[place] += 1
            path = (*path, step)
        happen(_episode(path, f"r{number}/p{position}", float(rng.random() < 0.6), number))
    happen(RoundEnded(at=0.0, round=number, contests=A_ROUND, dropped=0, cost_usd=0.1))
    return made


def _episode(path: tuple[str, ...], step: str, reward: float, number: int) -> Contested:
    return Contested(
        at=0.0,
        round=number,
        step=step,
        path=path,
        question=QUESTION,
        replies=tuple(Reply(model=model, text=ANSWER, tokens=60, cost_usd=1e-5) for model in ("target", "a", "b")),
        verdict=Verdict(method="judge", winner="a" if reward else "target", votes=(("b", "a"), ("b", "a"))),
        reward=reward,
        target_version=str(number),
        seed=number,
        prompts_version="1",
        cost_usd=5e-5,
    )


def measure(scratch: Path, episodes: int) -> Row:
    """Write the log, then fold it and pull from its tree in another process."""
    path = scratch / f"{episodes}.db"
    started = time.perf_counter()
    nodes = write_log(path, episodes)
    row: Row = {"what": "scale", "episodes": episodes, "nodes": nodes, "written in s": time.perf_counter() - started}
    row["log GB"] = path.stat().st_size / 1e9
    command = [sys.executable, "-m", "benchmarks.bohdi_lab.million", str(path)]
    measured: Row = orjson.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return row | measured


def greatest_memory_mb() -> float:
    """Of this process. Unlike `ru_maxrss`, the kernel's high-water mark does not begin with that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def fold_and_pull(path: Path) -> Row:
    """Seconds of a fold and of the newest snapshot, microseconds of a pull (a whole walk), greatest memory in MB."""
    log, settings, rng = EpisodeLog(path), settings_of(), np.random.default_rng(1)
    started, cpu = time.perf_counter(), time.process_time()
    tree = log.fold()
    folded, folded_cpu = time.perf_counter() - started, time.process_time() - cpu
    took = []
    for _ in range(PULLS):
        begun = time.perf_counter()
        node = ROOT
        while node != SPROUT and tree.node(node).level < tree.levels:
            node = walk_step(tree, node, rng, settings)
        took.append(1e6 * (time.perf_counter() - begun))
    digest = tree.digest()
    memory = greatest_memory_mb()
    started = time.perf_counter()
    same = log.tree().digest() == digest
    opened = time.perf_counter() - started
    return {
        "replay s": folded,
        "replay CPU s": folded_cpu,
        "snapshot s": opened,
        "snapshot is the fold": same,
        "pull us": float(np.median(took)),
        "pull p99 us": float(np.quantile(took, 0.99)),
        "memory MB": memory,
    }


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(fold_and_pull(Path(sys.argv[1]))))
