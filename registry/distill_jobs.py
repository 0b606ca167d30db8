"""The job of a distillation, and what it may be asked for. Queued by the admin API, run by a worker."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

DISTILL: Final = "distill"
RECIPES: Final = "recipes"
"""Folder in the data folder whose recipes (`<name>.yaml`) a job may run: no path comes in over the network."""


class DistillArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Run a recipe of the folder `recipes` in the data folder. `dry_run`: only say what it would take."""

    recipe: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """What is stored with the job; defaults are left out, so that equal wishes are equal."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


def distill_arguments(stated: Any) -> DistillArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, DistillArguments)
