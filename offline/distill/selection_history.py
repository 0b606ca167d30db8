"""What sources were worth from refresh to refresh: where the next selection starts, and who is no longer asked.

A refresh is a distillation with new data or new sources. Its selection starts from the last one, so that sources do not
come and go by chance; a source that taught next to nothing in any domain several times in a row is not scored again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from offline.distill.prepare import data_files
from offline.distill.recipe import Recipe, RecipeError
from offline.distill.selection import Selection
from registry.atomic_files import place_file

LEAST = 0.01
"""A source whose weight is under this in every domain is idle."""
REFRESHES = 3
"""So many refreshes in a row, and an idle source is left out."""


class Refresh(msgspec.Struct, frozen=True, kw_only=True):
    """One selection: rows of `weights` and `mixture` are `domains`, columns are `sources`. `recipe`: its digest;
    `left_out`: sources that were not asked any more."""

    recipe: str
    domains: tuple[str, ...]
    sources: tuple[str, ...]
    weights: list[list[float]]
    mixture: list[list[float]]
    left_out: tuple[str, ...] = ()


class SelectionHistory:
    """The refreshes in a file, the oldest first. `recipe` is the digest of the one at hand: a run that is gone on with
    finds what was there when it began.

    Raises
    ------
    RecipeError: the file cannot be read.
    """

    def __init__(self, path: Path, recipe: str) -> None:
        self.path, self.recipe = path, recipe
        try:
            found = msgspec.json.decode(path.read_bytes(), type=list[Refresh]) if path.exists() else []
        except (OSError, msgspec.DecodeError) as error:
            raise RecipeError(f"the history of selections {path} cannot be read ({error}); remove it") from error
        own = next((index for index, one in enumerate(found) if one.recipe == recipe), len(found))
        self.before, self._after = found[:own], found[own + 1 :]

    @classmethod
    def of(cls, recipe: Recipe) -> SelectionHistory | None:
        """The history that the recipe names, if it names one."""
        if recipe.selection.history is None:
            return None
        return cls(recipe.selection.history, recipe.digest(*data_files(recipe)))

    def idle(self, sources: Sequence[str]) -> list[str]:
        """Those of `sources` that were idle in each of the last refreshes."""
        last = self.before[-REFRESHES:]
        if len(last) < REFRESHES:
            return []
        return [name for name in sources if all(_idle(refresh, name) for refresh in last)]

    def start(self, domains: Sequence[str]) -> Selection | None:
        """The last selection in the order of `domains`; a domain that is new in it has even weights."""
        if not self.before:
            return None
        last = self.before[-1]
        row = {name: index for index, name in enumerate(last.domains)}
        even = [1.0 / len(last.sources)] * len(last.sources)
        return Selection(
            last.sources,
            np.array([last.weights[row[name]] if name in row else even for name in domains]),
            np.array([last.mixture[row[name]] if name in row else even for name in domains]),
        )

    def record(self, domains: Sequence[str], made: Selection, left_out: Sequence[str] = ()) -> None:
        """Keep the selection of this recipe, in place of what it had before."""
        refresh = Refresh(
            recipe=self.recipe, domains=tuple(domains), sources=made.sources, weights=made.weights.tolist(),
            mixture=made.mixture.tolist(), left_out=tuple(left_out),
        )  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        place_file(self.path, msgspec.json.encode([*self.before, refresh, *self._after]))


def _idle(refresh: Refresh, name: str) -> bool:
    """A source that was left out already stays so; one that is new since then is not idle."""
    if name not in refresh.sources:
        return name in refresh.left_out
    column = refresh.sources.index(name)
    return max(row[column] for row in refresh.mixture) < LEAST


def without_idle(recipe: Recipe, history: SelectionHistory) -> tuple[Recipe, list[str]]:
    """The recipe without the sources that are idle, and their names; if all are, all stay."""
    asked = [teacher.name for teacher in recipe.teachers if teacher.kind != "text"]
    idle = history.idle(asked)
    if len(idle) == len(asked):
        return recipe, []
    kept = tuple(teacher for teacher in recipe.teachers if teacher.name not in idle)
    return msgspec.structs.replace(recipe, teachers=kept), idle
