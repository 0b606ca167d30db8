"""What is done with a tree of a data folder, by a command or a job. The tree's status file is written anew with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from encoders.protocol import Encoder
from offline.bohdi.branches import draw_leaves
from offline.bohdi.candidates import gather
from offline.bohdi.contamination import read_benchmarks
from offline.bohdi.draw import DRAWS, Wanted, draw
from offline.bohdi.events import Retired, TargetChanged
from offline.bohdi.export import export
from offline.bohdi.log import EpisodeLog
from offline.bohdi.node import Node
from offline.bohdi.rounds import RoundReport, Told, meditate, plant
from offline.bohdi.settings import Settings, SettingsError, read_settings
from offline.bohdi.status import refresh_status
from offline.bohdi.steer import Landmarks, Mapped, map_traffic, questions_by_leaf
from offline.bohdi.training_set import Manifest
from registry.arms import Pool
from registry.atomic_files import place_file
from registry.bohdi_status import TreeMissing, TreeStatus
from registry.bohdi_trees import EXPORTS, SETTINGS_FILE, tree_folder, tree_log
from traffic.stores import open_log

SETTLED_S = 1.0
"""A gateway has put a request into its log after so long; what is younger is mapped the next time."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tree in a data folder. Raises ValueError if no tree can have this name."""

    data_dir: Path
    tree: str
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", tree_folder(self.data_dir, self.tree))

    def log(self) -> EpisodeLog:
        """Its episode log, which may not be there yet. Raises EpisodeLogError."""
        return EpisodeLog(tree_log(self.data_dir, self.tree))

    def grown_log(self) -> EpisodeLog:
        """Its episode log. Raises TreeMissing if there is none, EpisodeLogError if it cannot be read."""
        if not tree_log(self.data_dir, self.tree).exists():
            raise TreeMissing(f"there is no tree {self.tree!r} in {self.data_dir}; `tokamak bohdi grow` plants one")
        return self.log()

    def settings(self) -> Settings:
        """The settings that its last round was grown by. Raises SettingsError."""
        path = self.folder / SETTINGS_FILE
        if not path.exists():
            raise SettingsError(
                f"the tree {self.tree!r} has no settings; `tokamak bohdi grow --settings FILE` takes some"
            )
        return read_settings(path)

    def keep_settings(self, settings: Settings) -> None:
        """Make these the tree's settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML, too.
        place_file(self.folder / SETTINGS_FILE, msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")

    def refresh(self, log: EpisodeLog) -> TreeStatus:
        """The tree's status, written to its file, too. Raises ValueError for a log without events."""
        path = self.folder / SETTINGS_FILE
        kappa = read_settings(path).kappa if path.exists() else 4.0
        return refresh_status(self.data_dir, self.tree, kappa, log)


def grow(
    place: Place, pool: Pool, encoder: Encoder, rounds: int, *, tenant: str = "", told: Told | None = None
) -> Iterator[RoundReport]:
    """Run so many rounds, going on with one that was stopped; the report of each as it ends.

    Raises
    ------
    SettingsError: the tree has no settings.
    ValueError, EpisodeLogError: see `offline.bohdi.rounds.meditate`.
    """
    settings = place.settings()
    with place.log() as log:
        plant(log, settings, tenant=tenant)
        for _ in range(rounds):
            report = asyncio.run(meditate(log, settings, pool, encoder=encoder, told=told))
            place.refresh(log)
            yield report


def draw_set(
    place: Place, size: int, *, seed: int, replay_share: float | None, licensed: bool, source_share: float
) -> tuple[Path, Manifest]:
    """Draw a training set and export it; the folder that it is in, and what it is made of.

    Raises
    ------
    NothingToDraw, BenchmarkUnreadable, ExportError, LogError, EpisodeLogError, SettingsError: as it says.
    """
    settings = place.settings()
    benchmarks = read_benchmarks([Path(name) for name in settings.benchmarks])
    wanted = Wanted(
        size=size, seed=seed, replay_share=settings.replay_share if replay_share is None else replay_share,
        licensed=licensed, source_share=source_share, benchmarks=settings.benchmarks, tree=place.tree,
    )  # fmt: skip
    with place.grown_log() as log:
        tree = log.tree()
        events = ((number, event) for number, event in log.events() if number <= tree.state.events)
        gathered = gather(events, settings.licences)
    rng = np.random.default_rng([seed, DRAWS])
    made = draw(gathered, lambda count: draw_leaves(tree, count, rng, settings), wanted, benchmarks)
    return export(made, place.folder / EXPORTS), made.manifest


def steer(place: Place, encoder: Encoder, log_url: str, *, all_keys: bool) -> Mapped:
    """Count the queries of a traffic log that came since the last time at the tree's nodes.

    Raises
    ------
    TreeMissing, EpisodeLogError, LogError, ValueError: a log is not there or cannot be used.
    """
    with place.grown_log() as log:
        tree = log.tree()
        landmarks = Landmarks(tree, questions_by_leaf(log.events()), encoder)

        async def mapped() -> Mapped:
            traffic = open_log(log_url)
            try:
                return map_traffic(
                    traffic, landmarks, tenant=tree.state.tenant, since=tree.state.traffic_until,
                    until=time.time() - SETTLED_S, all_keys=all_keys, round_=tree.round,
                )  # fmt: skip
            finally:
                await traffic.close()

        found = asyncio.run(mapped())
        log.append([found.event])
        place.refresh(log)
    return found


def retire(place: Place, node: str, reason: str) -> Node:
    """Take a node and all below it out of use for good.

    Raises
    ------
    TreeError: there is no such node, or it is the root.
    """
    with place.grown_log() as log:
        found = log.tree().node(node)
        if found.status == "active":
            log.append([Retired(at=time.time(), round=log.tree().round, node=node, reason=reason)])
        place.refresh(log)
    return found


def change_target(place: Place, version: str) -> None:
    """Say that the target was trained: rewards from now on are about this version."""
    with place.grown_log() as log:
        tree = log.tree()
        if tree.target_version != version:
            log.append([TargetChanged(at=time.time(), round=tree.round, version=version)])
        place.refresh(log)
