"""The jobs on a knowledge tree beside its rounds: training sets, traffic, nodes out of use."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from encoders.catalogue import load_encoder
from offline.bohdi.errors import EpisodeLogError, LogHeld
from offline.bohdi.tree_work import Place, draw_set, retire, steer
from offline.job_work import JobWork
from registry.bohdi_jobs import retire_arguments, set_arguments, traffic_arguments
from registry.bohdi_status import BohdiUnreadable

T = TypeVar("T")

_PATIENCE_S: Final = 2.0
"""Between two tries to write a log that another process writes."""


class TreeJobFailed(ValueError):
    """The tree cannot be worked on. The message says why and what to do."""


def run_bohdi_export(work: JobWork) -> dict[str, Any]:
    """Draw a training set and export it. Run again after a crash it finds what it has written."""
    wanted = set_arguments(work.job.arguments)
    place = Place(work.settings.data_dir, wanted.tree)
    work.step("drawing", 0.1)
    folder, manifest = _done(
        work,
        lambda: draw_set(
            place, wanted.size, seed=wanted.seed, replay_share=wanted.replay_share, licensed=wanted.licensed,
            source_share=wanted.source_share,
        ),
    )  # fmt: skip
    return {
        "folder": str(folder), "digest": manifest.digest, "fresh": manifest.fresh, "replay": manifest.replay,
        "pairs": manifest.pairs, "left_out": manifest.left_out, "may_train": manifest.may_train,
    }  # fmt: skip


def run_bohdi_traffic(work: JobWork) -> dict[str, Any]:
    """Map the queries since the last time to the tree's leaves."""
    wanted, settings = traffic_arguments(work.job.arguments), work.settings
    place, encoder = Place(settings.data_dir, wanted.tree), load_encoder(settings.encoder)
    work.step("mapping", 0.1)
    found = _done(work, lambda: steer(place, encoder, settings.log_url, all_keys=wanted.all_keys))
    return {"matched": found.matched, "unmatched": found.unmatched, "read": found.read, "left_out": found.left_out}


def run_bohdi_retire(work: JobWork) -> dict[str, Any]:
    """Take a node out of use."""
    wanted = retire_arguments(work.job.arguments)
    place = Place(work.settings.data_dir, wanted.tree)
    found = _done(work, lambda: retire(place, wanted.node, f"{work.job.by}: {wanted.reason}"))
    return {"node": found.id, "name": found.name}


def _done(work: JobWork, do: Callable[[], T]) -> T:
    """What `do` gives. While another process writes the tree's log, it waits; a cancelled job waits no longer."""
    while True:
        try:
            return do()
        except LogHeld as held:
            work.step(f"waiting: {held}", 0.05)
            time.sleep(_PATIENCE_S)
        except (EpisodeLogError, BohdiUnreadable) as error:
            raise TreeJobFailed(str(error)) from error
