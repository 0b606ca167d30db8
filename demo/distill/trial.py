"""One trial of the proof: one target, data set, number of steps and seed, trained by each method and judged alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from demo.distill.material import FAMILIES, REPLY_TOKENS, SPECIALISTS, TARGET, USELESS, Material
from demo.fleet.roster import MODELS_DIR
from offline.distill.evaluate import measure
from offline.distill.fuse import fuse, shares
from offline.distill.prepare import Prepared, Said, prepare
from offline.distill.recipe import (
    DataRecipe,
    EvaluationRecipe,
    Method,
    Recipe,
    SelectionRecipe,
    TargetRecipe,
    TeacherRecipe,
)
from offline.distill.samples import read_conversations
from offline.distill.training import TrainingSettings

METHODS: dict[str, tuple[Method, float]] = {"sft": ("none", 0.0), "fused": ("em", 0.5), "uniform": ("uniform", 0.5)}
"""How the sources are weighed, and the weight of the fused loss."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything. `few_share`: of the data in the second trial, where logits should help most."""

    per_family: int = 3000
    steps: int = 1500
    few_steps: int = 400
    few_share: float = 0.02
    held_out: int = 200
    batch: int = 16
    length: int = 128
    learning_rate: float = 2e-3
    seeds: tuple[int, ...] = (1, 2, 3)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one method came to. `right` by family; `scores` [n] in the order of the held-out questions."""

    method: str
    data: str
    seed: int
    right: dict[str, float]
    scores: list[float]
    weights: dict[str, float]
    seconds: float
    steps: int
    clm: float


def recipe_of(material: Material, plan: Plan, output: Path, *, few: bool, seed: int, mix: float) -> Recipe:
    """The recipe of one training: four specialists and the useless teacher into the target."""
    folders = {name: MODELS_DIR / name for name in SPECIALISTS.values()} | {USELESS: material.useless}
    return Recipe(
        target=TargetRecipe(name="fused", model=MODELS_DIR / TARGET),
        data=DataRecipe(train=material.few if few else material.train, holdout=material.holdout),
        output=output,
        training=TrainingSettings(
            steps=plan.few_steps if few else plan.steps, batch=plan.batch, length=plan.length, seed=seed,
            learning_rate=plan.learning_rate, warmup=50, mix=mix, mix_warmup=50, checkpoint_every=500,
        ),
        teachers=tuple(
            TeacherRecipe(name=name, kind="local", licence_allows_training=True, model=folder)
            for name, folder in folders.items()
        ),
        selection=SelectionRecipe(keep=16),
        evaluation=EvaluationRecipe(measure="exact", controls=(), max_reply_tokens=REPLY_TOKENS),
    )  # fmt: skip


def trial(
    material: Material, plan: Plan, folder: Path, *, few: bool, seed: int, names: Sequence[str], say: Said
) -> list[Outcome]:
    """Train the target by each method. What was finished before is read again, not trained again."""
    data = "few" if few else "all"
    prepared: Prepared | None = None
    made = []
    for name in names:
        kept = folder / f"{data}-{seed}-{name}.json"
        if not kept.exists():
            method, mix = METHODS[name]
            recipe = recipe_of(material, plan, folder / f"{data}-{seed}-{name}", few=few, seed=seed, mix=mix)
            prepared = prepared or prepare(recipe, say)
            kept.write_bytes(msgspec.json.encode(_outcome(recipe, prepared, name, method, data, say)))
        made.append(msgspec.json.decode(kept.read_bytes(), type=Outcome))
    return made


def _outcome(recipe: Recipe, prepared: Prepared, name: str, method: Method, data: str, say: Said) -> Outcome:
    run = fuse(recipe, prepared, name=name, method=method, say=say)
    assert run is not None
    scores = scores_of(run.folder, recipe.data.holdout or Path())
    last = run.trained.last
    return Outcome(
        method=name, data=data, seed=recipe.training.seed, right=by_family(scores, recipe.data.holdout or Path()),
        scores=scores.tolist(), weights=shares(run.selection, prepared), seconds=run.trained.seconds,
        steps=run.trained.steps, clm=float("nan") if last is None else last.clm,
    )  # fmt: skip


def scores_of(model: Path, holdout: Path) -> np.ndarray:
    """Exact match on the held-out questions, in the order of the file."""
    return measure(model, read_conversations(holdout), "exact", max_reply_tokens=REPLY_TOKENS)


def by_family(scores: np.ndarray, holdout: Path) -> dict[str, float]:
    families = np.array([one.domain for one in read_conversations(holdout)])
    return {family: float(scores[families == family].mean()) for family in FAMILIES}
