"""The jobs on a knowledge tree: rounds, training sets, traffic, nodes out of use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from encoders.catalogue import load_encoder
from offline.bohdi.errors import EpisodeLogError, LogHeld
from offline.bohdi.fan_out import FanOutUnavailable
from offline.bohdi.plot import PlotUnavailable, plot
from offline.bohdi.round_text import told as told_of
from offline.bohdi.rounds import RoundReport, estimate
from offline.bohdi.settings import Settings
from offline.bohdi.tree_work import Place, draw_set, grow, retire, steer
from offline.job_work import JobWork
from registry.atomic_files import place_file
from registry.bohdi_jobs import RoundArguments, retire_arguments, round_arguments, set_arguments, traffic_arguments
from registry.bohdi_status import BohdiUnreadable, read_status
from registry.bohdi_trees import PICTURE_FILE

T = TypeVar("T")

BOOKS: Final = "jobs"
"""Folder beside a tree's log with what its round jobs are to come to."""
_PATIENCE_S: Final = 2.0
"""Between two tries to write a log that another process writes."""


class TreeJobFailed(ValueError):
    """The tree cannot be worked on. The message says why and what to do."""


def run_bohdi_round(work: JobWork) -> dict[str, Any]:
    """Run rounds. After a crash the one that was under way is gone on with, and those that are done count.

    Raises
    ------
    TreeJobFailed, ValueError: nothing can be run, or a round cannot go on. What is done is kept.
    """
    wanted, settings = round_arguments(work.job.arguments), work.settings
    place = Place(settings.data_dir, wanted.tree)
    known = place.settings() if wanted.settings is None else msgspec.convert(wanted.settings, Settings)
    pool = settings.pool(os.environ)
    expected = estimate(known, pool)
    work.note(f"a round takes about {expected.calls} calls, {expected.tokens} tokens and {_usd(expected.usd)}")
    if wanted.dry_run:
        return {"estimate": msgspec.to_builtins(expected)}
    place.keep_settings(known)
    encoder = load_encoder(settings.encoder)
    done: list[RoundReport] = []
    last = _last_round(work, place, wanted)

    def some() -> None:
        while (left := last - _rounds_ended(place)) > 0:
            share = 1.0 - left / wanted.rounds

            def told(step: str, progress: float, share: float = share) -> None:
                work.step(step, min(share + progress / wanted.rounds, 0.999))

            for report in grow(place, pool, encoder, 1, tenant=wanted.tenant, told=told):
                done.append(report)
                work.note(told_of(report))

    _done(work, some)
    _draw_picture(work, place)
    costs = [report.cost_usd for report in done]
    return {
        "tree": wanted.tree, "rounds": [report.round for report in done],
        "contests": sum(report.contests for report in done), "dropped": sum(report.dropped for report in done),
        "resets": sum(report.resets for report in done),
        "stopped_by": next((report.stopped_by for report in done if report.stopped_by), None),
        "usd": None if None in costs else sum(cost for cost in costs if cost is not None),
    }  # fmt: skip


def _draw_picture(work: JobWork, place: Place) -> None:
    try:
        plot(read_status(place.data_dir, place.tree), place.folder / PICTURE_FILE)
    except PlotUnavailable as error:
        work.note(str(error))


def _rounds_ended(place: Place) -> int:
    with place.log() as log:
        return log.tree().state.rounds_ended


def _last_round(work: JobWork, place: Place, wanted: RoundArguments) -> int:
    """How many rounds the tree is to have in the end; kept in a file, so that a job that is run again knows."""
    book = place.folder / BOOKS / f"{work.job.id}.json"
    if book.exists():
        return int(msgspec.json.decode(book.read_bytes(), type=dict[str, int])["until"])
    until = _rounds_ended(place) + wanted.rounds
    book.parent.mkdir(parents=True, exist_ok=True)
    place_file(book, msgspec.json.encode({"until": until}))
    return until


def _usd(usd: float | None) -> str:
    return "an unknown cost (no prices)" if usd is None else f"{usd:.4f} USD"


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
        except (EpisodeLogError, BohdiUnreadable, FanOutUnavailable) as error:
            raise TreeJobFailed(str(error)) from error
