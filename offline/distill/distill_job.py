"""The job `distill`: a recipe of the data folder, gone on with where a dead worker stopped."""

from __future__ import annotations

from typing import Any

import msgspec

from offline.job_work import JobWork
from registry.distill_jobs import RECIPES, distill_arguments


class DistillFailed(ValueError):
    """The recipe cannot be run. The message says why and what to do; what was done is kept."""


def run_distill(work: JobWork) -> dict[str, Any]:
    """Run the recipe to its verdict. Run again after a crash it does only what is left.

    Raises
    ------
    DistillFailed, ValueError: the recipe, its data or a model is wrong, or the training cannot go on.
    """
    try:
        from offline.distill.checkpoints import CheckpointError
        from offline.distill.distillation import distill
        from offline.distill.estimate import estimate
        from offline.distill.recipe import read_recipe
        from offline.distill.signal_store import SignalStoreError
        from offline.distill.teachers import TeacherError
        from offline.distill.training import TrainingStopped
    except ModuleNotFoundError as error:
        raise DistillFailed(f"{error.name} is not installed here; run `pip install 'tokamak[distill]'`") from error

    wanted = distill_arguments(work.job.arguments)
    folder = work.settings.data_dir / RECIPES
    path = folder / f"{wanted.recipe.removesuffix('.yaml')}.yaml"
    if not path.exists():
        there = ", ".join(sorted(one.stem for one in folder.glob("*.yaml"))) or "none"
        raise DistillFailed(f"there is no recipe {wanted.recipe!r} in {folder}; there are: {there}")
    recipe = read_recipe(path)
    try:
        found = estimate(recipe)
        if wanted.dry_run:
            return {"estimate": msgspec.to_builtins(found)}
        work.step(f"training takes about {(found.signal_s + found.training_s) / 60:.0f} minutes here", 0.01)
        made = distill(recipe, say=work.note)
    except (TeacherError, TrainingStopped, CheckpointError, SignalStoreError) as error:
        raise DistillFailed(str(error)) from error
    if made is None:
        raise DistillFailed("the training was stopped before its end; queue it again to go on")
    verdict = made.report.verdict
    return {
        "recipe": wanted.recipe, "model": made.report.model, "report": str(made.folder), "released": verdict.released,
        "reasons": list(verdict.reasons), "weights": made.report.weights,
    }  # fmt: skip
