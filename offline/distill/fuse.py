"""One recipe, from its data to trained weights: the fused target, and the controls it is judged against."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from offline.distill.prepare import Prepared, Said, data_files
from offline.distill.recipe import Method, Recipe, RecipeError
from offline.distill.samples import domains
from offline.distill.selection import Selection
from offline.distill.teachers import loaded_model
from offline.distill.training import Progress, Trained, train
from offline.distill.weighing import weigh

FUSED = "fused"
WEIGHTS = "weights"
"""Folder of the finished model inside a run's folder."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training: its folder of weights (of the adapter with LoRA), the sources' weights and what it took."""

    name: str
    folder: Path
    selection: Selection | None
    trained: Trained


def fuse(
    recipe: Recipe, prepared: Prepared, *, name: str = FUSED, method: Method | None = None,
    before: Selection | None = None, say: Said = lambda line: None, stop: Callable[[], bool] = lambda: False,
) -> Run | None:  # fmt: skip
    """Train the target by `method` (the recipe's if None) into `output/name`; None if it was stopped before the end.

    A run that was finished before is not trained again; one that was stopped goes on. `before`: the selection that this
    one starts from (see `selection_history`).

    Raises
    ------
    RecipeError: the target's folder cannot be loaded. TrainingStopped, CheckpointError: see `training.train`.
    """
    method = method or recipe.selection.method
    selection, weights = weigh(prepared, recipe, method, before=before, say=say)
    taught = callable(weights) or weights.shape[1] > 0
    settings = recipe.training if taught else msgspec.structs.replace(recipe.training, mix=0.0)
    folder = recipe.output / name
    digest = f"{recipe.digest(*data_files(recipe))}-{method}"
    if before is not None:
        digest += "-" + hashlib.sha256(before.mixture.tobytes() + before.weights.tobytes()).hexdigest()[:16]
    finished = folder / WEIGHTS
    model = load_target(recipe)
    trained = train(
        model, prepared.samples, weights, settings, folder, recipe=digest, pad=prepared.format.pad, stop=stop,
        report=lambda progress: say(line_of(name, progress, settings.steps)) if progress.step % 50 == 0 else None,
    )  # fmt: skip
    if trained.steps < settings.steps:
        return None
    if not finished.exists():
        save(model, recipe.target.model, finished)
    return Run(name, finished, selection, trained)


def load_target(recipe: Recipe) -> Any:
    """The target's model, with a fresh adapter if the recipe asks for one. float32; the trainer lowers precision."""
    import torch

    torch.manual_seed(recipe.training.seed)
    try:
        model = loaded_model(recipe.target.model)
    except (OSError, ValueError) as error:
        raise RecipeError(f"the target {recipe.target.model} cannot be loaded: {error}") from error
    if recipe.lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    stated = recipe.lora
    config = LoraConfig(
        r=stated.rank, lora_alpha=stated.alpha, lora_dropout=stated.dropout, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, config)


def save(model: Any, source: Path, folder: Path) -> None:
    """Write the weights (or the adapter) with the target's tokenizer and chat template; there whole or not at all."""
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(str(partial), safe_serialization=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".jinja") and not (partial / path.name).exists():
            shutil.copy2(path, partial / path.name)
    partial.rename(folder)


def line_of(name: str, progress: Progress, steps: int) -> str:
    """One line for people."""
    return (
        f"{name}: step {progress.step}/{steps}, loss {progress.loss:.3f} (clm {progress.clm:.3f}, fused "
        f"{progress.fused:.3f}), {progress.tokens_per_s:,.0f} tokens/s, {progress.eta_s / 60:.1f} min left"
    )


def shares(selection: Selection | None, prepared: Prepared) -> dict[str, float]:
    """The average weight of each source over all reply tokens; empty without a selection."""
    if selection is None:
        return {}
    names = domains(prepared.samples)
    counted = np.array([sum(len(s.reply) for s in prepared.samples if s.domain == name) for name in names])
    return selection.average(counted)
