"""Does fusion make the target worse at something? Every way to weigh sources, with 2 to 6 of them, over seeds.

Four domains, a source for each that was trained on nothing else, one that knows nothing, and one that is there twice.
Where the sources do not cover all domains, the target's own frozen copy is among them, as in the paper. All models,
runs and judgements are the product's own: recipes, `fuse`, `measure` and the comparison of the release gate.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.distill_lab.tiny_models import DOMAINS, NOISY, Scale, recipe, trained, write_blank, write_texts
from offline.distill.evaluate import measure
from offline.distill.fuse import fuse, shares
from offline.distill.prepare import Prepared, prepare
from offline.distill.recipe import Method
from offline.distill.release import compare
from offline.distill.samples import read_conversations
from registry.atomic_files import place_file

Row = dict[str, Any]
BASE, TWICE = "base", "exams again"
POOLS: dict[int, tuple[str, ...]] = {
    2: (BASE, "exams"),
    3: (BASE, "exams", NOISY),
    4: (BASE, "exams", "code", NOISY),
    5: (*DOMAINS, NOISY),
    6: (*DOMAINS, NOISY, TWICE),
}
EVERYWHERE: tuple[Method, ...] = ("em", "uniform", "min_ce")
"""Measured with every number of sources; the others with six alone."""
MIX = 0.5
SETTINGS = ((Scale(), tuple(POOLS)), (Scale(base_steps=600), (3, 6)))
"""A base that has hardly learned, with every number of sources; and one that has more to lose, with two of them."""
COUNTS = ("degraded_vs_base", "degraded_vs_clm", "uniform_degraded_vs_base", "uniform_degraded_vs_clm")


@dataclass(frozen=True, slots=True)
class Trial:
    """One run: who was fused how, the scores [n] on the held-out windows, and the sources' weights."""

    seed: int
    sources: int
    method: Method
    scores: np.ndarray
    weights: dict[str, float]


class Laboratory:
    """Trains what is needed under `cache` and keeps every result; an interrupted run goes on where it was."""

    def __init__(self, data: Path, cache: Path, scale: Scale) -> None:
        self.scale = scale
        key = sha256(json.dumps([asdict(scale), POOLS, MIX], sort_keys=True).encode()).hexdigest()[:12]
        self.folder = cache / f"interference-{key}"
        self.texts = self.folder / "texts"
        if not (self.texts / "held.jsonl").exists():
            write_texts(data, self.texts, scale)
        self.held = read_conversations(self.texts / "held.jsonl")
        self.domains = [one.domain for one in self.held]

    def source(self, name: str, seed: int) -> Path:
        """The folder of a source, or of the base."""
        if name == BASE:
            blank = self._blank(f"blank-{seed}", seed)
            return trained(blank, self.texts / "base.jsonl", self.folder / f"base-{seed}", self.scale,
                           steps=self.scale.base_steps, seed=seed)  # fmt: skip
        name = "exams" if name == TWICE else name
        blank = self._blank(f"blank-{name}", 1_000 + len(name))
        return trained(blank, self.texts / f"{name}.jsonl", self.folder / f"source-{name}", self.scale,
                       steps=self.scale.teacher_steps, seed=0)  # fmt: skip

    def _blank(self, name: str, seed: int) -> Path:
        folder = self.folder / name
        return folder if (folder / "model.safetensors").exists() else write_blank(folder, self.scale, seed)

    def base(self, seed: int) -> np.ndarray:
        """The scores of the base."""
        path = self.folder / f"base-{seed}" / "scores.json"
        if not path.exists():
            place_file(path, json.dumps(measure(self.source(BASE, seed), self.held, "likelihood").tolist()).encode())
        return np.array(json.loads(path.read_bytes()))

    def trials(self, seed: int, sources: int, methods: Sequence[Method]) -> Iterator[Trial]:
        """One after another, as they are done."""
        prepared: Prepared | None = None
        teachers = [(name, self.source(name, seed)) for name in POOLS[sources]]
        output = self.folder / f"run-{seed}-{sources}"
        made = recipe(self.source(BASE, seed), self.texts / "target.jsonl", output, teachers, self.scale,
                      steps=self.scale.fusion_steps, seed=seed, mix=MIX)  # fmt: skip
        for method in methods:
            path = self.folder / "results" / f"{seed}-{sources}-{method}.json"
            if not path.exists():
                prepared = prepared or prepare(made)
                run = fuse(made, prepared, name=method, method=method)
                if run is None:
                    raise RuntimeError(f"the training of {method} in {output} ended before its last step; run it again")
                scores = measure(run.folder, self.held, "likelihood")
                kept = {"scores": scores.tolist(), "weights": shares(run.selection, prepared)}
                path.parent.mkdir(exist_ok=True)
                place_file(path, json.dumps(kept).encode())
                shutil.rmtree(output / method)
            found = json.loads(path.read_bytes())
            yield Trial(seed, sources, method, np.array(found["scores"]), found["weights"])


def interference(data: Path, cache: Path, *, seeds: Sequence[int] = (0, 1, 2), say: Any = print) -> list[Row]:
    """Every trial of every setting, then the tables; about a quarter of an hour of CPU the first time."""
    rows: list[Row] = []
    bars = []
    for scale, pools in SETTINGS:
        *found, last = of_setting(data, cache, scale, pools, seeds=seeds, say=say)
        rows += [{**row, "base_steps": scale.base_steps} for row in found]
        bars.append(last["bar"])
    return [*rows, {"what": "interference, all", "bar": merged(bars)}]


def of_setting(
    data: Path, cache: Path, scale: Scale, pools: Sequence[int], *, seeds: Sequence[int], say: Any = print
) -> list[Row]:
    """The table of one setting, its bar as the last row."""
    laboratory = Laboratory(data, cache, scale)
    trials: list[Trial] = []
    for seed in seeds:
        for sources in sorted(pools, reverse=True):
            methods = get_args(Method) if sources == max(pools) else EVERYWHERE
            for trial in laboratory.trials(seed, sources, methods):
                trials.append(trial)
                say(f"seed {seed}, {sources} sources, {trial.method}: {trial.scores.mean():.3f}")
    return table(trials, {seed: laboratory.base(seed) for seed in seeds}, laboratory.domains)


def merged(bars: Sequence[dict[str, float]]) -> dict[str, float]:
    """Counts of domains over all settings, and of averages the worst."""
    total = {key: sum(bar[key] for bar in bars) for key in COUNTS}
    made: dict[str, float] = {"degraded_vs_base": total["degraded_vs_base"]}
    for ours, theirs, key in (
        ("degraded_vs_base", "uniform_degraded_vs_base", "degraded_x_uniform"),
        ("degraded_vs_clm", "uniform_degraded_vs_clm", "degraded_vs_clm_x_uniform"),
    ):
        if total[theirs]:
            made[key] = total[ours] / total[theirs]
    return made | {key: min(bar[key] for bar in bars) for key in bars[0] if key not in COUNTS}


def table(trials: Sequence[Trial], base: dict[int, np.ndarray], domains: Sequence[str]) -> list[Row]:
    """A row for each number of sources and method, and one of the bar. Scores are minus bits per byte."""
    clm = {trial.seed: trial.scores for trial in trials if trial.method == "none"}
    rows = []
    for sources, method in dict.fromkeys((trial.sources, trial.method) for trial in trials):
        same = [trial for trial in trials if (trial.sources, trial.method) == (sources, method)]
        rows.append({"what": "interference", "sources": sources, "method": method} | _row(same, base, clm, domains))
    return [*rows, {"what": "interference, all", "bar": _bar(trials, rows, clm, domains)}]


def _row(
    trials: Sequence[Trial], base: dict[int, np.ndarray], clm: dict[int, np.ndarray], domains: Sequence[str]
) -> Row:
    against = [compare(trial.scores, base[trial.seed], domains, BASE) for trial in trials]
    control = [compare(trial.scores, clm[trial.seed], domains, "clm") for trial in trials]
    row: Row = {
        "seeds": len(trials),
        "bits_per_byte": -float(np.mean([np.nanmean(trial.scores) for trial in trials])),
        "degraded_vs_base": sum(len(one.interference) for one in against),
        "degraded_vs_clm": sum(len(one.interference) for one in control),
        "gain_over_base": float(np.mean([one.average.mean for one in against])),
        "gain_over_clm": float(np.mean([one.average.mean for one in control])),
    }
    useless = [trial.weights[NOISY] for trial in trials if NOISY in trial.weights]
    return row | ({"weight_of_noisy": float(np.mean(useless))} if useless else {})


def _bar(
    trials: Sequence[Trial], rows: Sequence[Row], clm: dict[int, np.ndarray], domains: Sequence[str]
) -> dict[str, float]:
    """Of EM, the default, over all numbers of sources and seeds."""

    def total(method: Method, key: str) -> int:
        return sum(row[key] for row in rows if row["method"] == method)

    bar: dict[str, float] = {
        "degraded_vs_base": total("em", "degraded_vs_base"),
        "degraded_vs_clm": total("em", "degraded_vs_clm"),
        "uniform_degraded_vs_base": total("uniform", "degraded_vs_base"),
        "uniform_degraded_vs_clm": total("uniform", "degraded_vs_clm"),
    }
    ours = [trial for trial in trials if trial.method == "em"]
    least = {(trial.seed, trial.sources): trial.scores for trial in trials if trial.method == "min_ce"}
    mine = np.mean([trial.scores for trial in ours], axis=0)
    for name, others in (
        ("clm", [clm[trial.seed] for trial in ours]),
        ("min_ce", [least[trial.seed, trial.sources] for trial in ours]),
    ):
        made = compare(mine, np.mean(others, axis=0), domains, name).average
        bar |= {f"avg_minus_{name}": made.mean, f"avg_minus_{name}_lo": made.low}
    return bar
