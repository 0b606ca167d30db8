"""A whole distillation: prepare, fuse, train the controls, measure everything, decide, and write the report."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from offline.distill import model_card
from offline.distill.curves import draw
from offline.distill.evaluate import measure
from offline.distill.fuse import FUSED, Run, fuse, shares
from offline.distill.on_policy import on_policy
from offline.distill.prepare import Prepared, Said, prepare
from offline.distill.recipe import Method, Recipe
from offline.distill.release import Verdict, judge
from offline.distill.report import Report
from offline.distill.samples import Conversation, DataError, domains
from offline.distill.selection_history import SelectionHistory, without_idle
from registry.atomic_files import place_file

BASE = "base"
REPORT, CARD, CURVES = "report.json", "README.md", "curves.png"
_METHODS: dict[str, Method] = {"sft": "none", "uniform": "uniform", "min_ce": "min_ce"}
"""How the sources of each control are weighed."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """The report and where it lies; the model's weights are in `run.folder`."""

    report: Report
    run: Run
    folder: Path


def distill(
    recipe: Recipe, say: Said = lambda line: None, stop: Callable[[], bool] = lambda: False
) -> Distilled | None:
    """Do all of it; what was done before is not done again. None if it was stopped.

    Raises
    ------
    DataError, RecipeError, TeacherError, TrainingStopped, CheckpointError, SignalStoreError.
    """
    spent: dict[str, float] = defaultdict(float)
    began = time.monotonic()
    history = SelectionHistory.of(recipe)
    idle: list[str] = []
    if history is not None:
        recipe, idle = without_idle(recipe, history)
        say(f"not asked again, as they taught next to nothing: {', '.join(idle)}" if idle else "all sources are asked")
    prepared = prepare(recipe, say)
    if not prepared.holdout:
        raise DataError("no conversation is held out, so no release can be judged; name data.holdout")
    spent["signals"] = time.monotonic() - began
    runs: dict[str, Run] = {}
    wanted: list[tuple[str, Method]] = [(FUSED, recipe.selection.method)]
    wanted += [(name, _METHODS[name]) for name in recipe.evaluation.controls]
    before = None if history is None else history.start(domains(prepared.samples))
    for name, method in wanted:
        start = before if name == FUSED else None
        run = fuse(recipe, prepared, name=name, method=method, before=start, say=say, stop=stop)
        if run is None:
            return None
        runs[name] = run
        spent[f"training {name}"] = run.trained.seconds
    selected = runs[FUSED].selection
    if history is not None and selected is not None:
        history.record(domains(prepared.samples), selected, idle)
    draw({name: recipe.output / name for name in runs}, recipe.output / CURVES)
    if recipe.on_policy is not None:
        began = time.monotonic()
        last = on_policy(recipe, prepared, runs[FUSED], say=say, stop=stop)
        if last is None:
            return None
        runs[FUSED] = last
        spent["on-policy stage"] = time.monotonic() - began
    began = time.monotonic()
    verdict = judged(recipe, prepared, runs, say)
    spent["evaluation"] = time.monotonic() - began
    report = _report(recipe, prepared, runs[FUSED], verdict, dict(spent))
    folder = recipe.output
    place_file(folder / REPORT, msgspec.json.format(msgspec.json.encode(report, enc_hook=str)))
    place_file(folder / CARD, model_card.text(report).encode())
    return Distilled(report, runs[FUSED], folder)


def judged(recipe: Recipe, prepared: Prepared, runs: dict[str, Run], say: Said) -> Verdict:
    """Measure the fused model, the base, the controls and every local source on the same held-out conversations."""
    chosen = drawn(prepared.holdout, recipe.evaluation.max_per_domain)
    folders = {FUSED: runs[FUSED].folder, BASE: recipe.target.model}
    folders |= {name: runs[name].folder for name in recipe.evaluation.controls}
    folders |= {stated.name: stated.model for stated in recipe.teachers if stated.kind == "local" and stated.model}
    scores = {}
    for name, folder in folders.items():
        scores[name] = measure(
            folder, chosen, recipe.evaluation.measure, max_reply_tokens=recipe.evaluation.max_reply_tokens
        )
        say(f"{name}: {np.nanmean(scores[name]):.3f} on {len(chosen)} held-out conversations")
    return judge(
        scores, [one.domain for one in chosen], candidate=FUSED, base=BASE, controls=recipe.evaluation.controls
    )


def drawn(holdout: Sequence[Conversation], most: int) -> list[Conversation]:
    """At most so many of each domain, the first by id: the same for every model and every run."""
    taken: dict[str, int] = defaultdict(int)
    chosen = []
    for one in sorted(holdout, key=lambda one: one.id):
        taken[one.domain] += 1
        if taken[one.domain] <= most:
            chosen.append(one)
    return chosen


def _report(recipe: Recipe, prepared: Prepared, run: Run, verdict: Verdict, spent: dict[str, float]) -> Report:
    labels, selection = domains(prepared.samples), run.selection
    by_domain = {} if selection is None else {
        label: dict(zip(selection.sources, row.tolist(), strict=True))
        for label, row in zip(labels, selection.weights, strict=True)
    }  # fmt: skip
    return Report(
        recipe=recipe, digest=recipe.digest(recipe.data.train), model=str(run.folder), verdict=verdict,
        weights=shares(selection, prepared), domain_weights=by_domain, samples=len(prepared.samples),
        holdout=len(prepared.holdout), left_out=dict(prepared.left_out),
        unscored={name: dict(counted) for name, counted in prepared.unscored.items()},
        bytes_per_token=prepared.bytes_per_token, seconds=spent, created_at=time.time(),
    )  # fmt: skip
