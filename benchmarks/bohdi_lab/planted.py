"""Trees whose domains are given, to measure what is drawn rather than what is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from offline.bohdi.branches import walk_step
from offline.bohdi.events import ROOT, Planted, RoundBegan, RoundEnded, Sprouted, TargetChanged, node_id
from offline.bohdi.introspection import due_resets
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree, Weighed

Row = dict[str, Any]
Path = tuple[str, ...]

NO_SPROUTS = 1e9
"""`leaf_questions` with which no domain is ever added to those that are planted."""


def settings_of(**changed: Any) -> Settings:
    """The default settings with some changed."""
    return Settings(**{"target": "target", "sources": ("source",), **changed})


def planted(settings: Settings, branching: Sequence[int]) -> tuple[Tree, list[Path]]:
    """A full tree with so many children at each level, and the paths to its leaves."""
    tree = Tree()
    tree.apply(
        Planted(
            at=0.0,
            levels=len(branching),
            target=settings.target,
            target_version="0",
            sources=settings.sources,
            seed=0,
            rules=settings.fold_rules(),
        )
    )
    paths: list[Path] = [()]
    for children in branching:
        paths = [(*path, _child(tree, path, position)) for path in paths for position in range(children)]
    return tree, paths


def _child(tree: Tree, path: Path, position: int) -> str:
    parent = path[-1] if path else ROOT
    node, name = node_id(parent, str(position)), str(position)
    tree.apply(Sprouted(at=0.0, node=node, parent=parent, name=name))
    return node


def walk(tree: Tree, settings: Settings, rng: np.random.Generator) -> Path:
    """A path to a leaf of a tree to which nothing is added."""
    path: Path = ()
    while len(path) < tree.levels:
        path = (*path, _step(tree, path[-1] if path else ROOT, settings, rng))
    return path


def _step(tree: Tree, node: str, settings: Settings, rng: np.random.Generator) -> str:
    if settings.rule != "published":
        return walk_step(tree, node, rng, settings)
    # The published rule has no other way to leave the sprouting arm out than to draw for the children alone.
    children = tree.children(node)
    return children[int(rng.beta([child.a for child in children], [child.b for child in children]).argmax())].id


def weigh(tree: Tree, path: Path, reward: float) -> None:
    """One contest with that reward."""
    tree.apply(Weighed(at=0.0, path=path, reward=reward))


def change_target(tree: Tree) -> None:
    """Say that the target was trained."""
    tree.apply(TargetChanged(at=0.0, version=str(tree.versions + 1)))


def begin_round(tree: Tree, settings: Settings, paths: int) -> None:
    """Begin the next round under these settings."""
    tree.apply(
        RoundBegan(
            at=0.0,
            round=tree.round + 1,
            leader=settings.sources[0],
            paths=paths,
            seed=0,
            target_version=tree.target_version,
            prompts_version="",
            rules=settings.fold_rules(),
        )
    )


def end_round(tree: Tree, settings: Settings) -> list[str]:
    """Test for drift, take in the resets and end the round; the nodes that were reset."""
    resets = due_resets(tree, settings)
    for event in resets:
        tree.apply(event)
    tree.apply(RoundEnded(at=0.0, round=tree.round, contests=0, dropped=0))
    return [event.node for event in resets]
