"""The job `build_templates`: from the traffic log to thought templates, going on where a dead worker stopped."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from encoders.catalogue import load_encoder
from offline.job_work import JobWork
from offline.templates.build_work import Build, Writer, logged_answers, writer_of
from registry.job_kinds import BuildArguments, build_arguments
from templates_store.database import TemplateStoreError
from templates_store.opening import open_store
from templates_store.store import BuildRecord, TemplateStore
from templates_store.template import State

SQLITE = "sqlite:///"
BOOKS = "builds"
"""Folder in the data folder with what each job has spent."""
_TOLD_S = 0.5
_START = 0.1
"""Share of the progress that reading the log is given."""


class BuildStopped(ValueError):
    """The build could not go on; what is done is kept. The message says why and what to do."""


def run_build_templates(work: JobWork) -> dict[str, Any]:
    """Build templates, or with `dry_run` say what it would take. Run again after a crash, it does only what is left.

    Raises
    ------
    BuildStopped, ValueError, LogError, EncoderUnavailable: nothing can be built, or the model that writes is away.
    """
    wanted, settings = build_arguments(work.job.arguments), work.settings
    encoder = load_encoder(settings.encoder)
    writer = _writer(work, wanted)
    if settings.log_url.startswith(SQLITE) and not Path(settings.log_url.removeprefix(SQLITE)).exists():
        raise ValueError(f"there is no log {settings.log_url}; serve and score some traffic first")
    try:
        with open_store(settings.data_dir, settings.templates.url) as store:
            work.step("reading the log", 0.02)
            answers = asyncio.run(
                logged_answers(
                    settings.log_url, store, since=wanted.since,
                    until=work.job.created_at if wanted.until is None else wanted.until,
                    shared_workloads=settings.templates.shared_workloads,
                )
            )  # fmt: skip
            build = Build(answers, encoder, select=wanted.select, writer=writer, limit=wanted.limit)
            return _done(work, wanted, build, store)
    except TemplateStoreError as error:
        raise BuildStopped(str(error)) from error


def _done(work: JobWork, wanted: BuildArguments, build: Build, store: TemplateStore) -> dict[str, Any]:
    unsolved = build.unsolved()
    if unsolved is not None:
        work.note(unsolved)
    estimate = build.estimate(store)
    work.note(estimate.told())
    found: dict[str, Any] = {
        "builder": build.name,
        "questions": len(build.queries),
        "unsolved": build.selected.unsolved,
        "unsolved_tasks": list(build.selected.unsolved_tasks),
    }
    if wanted.dry_run:
        return found | {"estimate": msgspec.to_builtins(estimate)}
    approve = wanted.approve or work.settings.templates.approve
    state: State = "active" if approve == "auto" else "candidate"
    work.step("building", _START)
    progress = _Progress(work, len(build.queries))
    report = asyncio.run(build.run(store, state=state, concurrency=wanted.concurrency, told=progress))
    for reason, count in report.reasons[:10]:
        work.note(f"{count} x {reason}")
    if report.stopped is not None and not report.capped:
        raise BuildStopped(
            f"the build has stopped: {report.stopped}; queue it again and it goes on with what is missing"
        )
    spending = build.spending
    return found | build.outcomes(store) | {
        "state": state,
        "stopped": report.stopped,
        "usd": 0.0 if spending is None else spending.usd,
        "calls": 0 if spending is None else spending.calls,
    }  # fmt: skip


def _writer(work: JobWork, wanted: BuildArguments) -> Writer | None:
    if wanted.model is None:
        return None
    book = work.settings.data_dir / BOOKS / f"{work.job.id}.json"
    return writer_of(work.settings.pool(os.environ), wanted.model, wanted.max_usd, book)


class _Progress:
    """Tells how far the build is, twice a second at most. Raises JobLost once it is not wanted any more."""

    def __init__(self, work: JobWork, total: int) -> None:
        self._work = work
        self._total = max(total, 1)
        self._done = 0
        self._next = 0.0

    def __call__(self, record: BuildRecord | None) -> None:
        self._done += 1
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _TOLD_S
        share = _START + (1.0 - _START) * self._done / self._total
        step = f"building, {self._done} of {self._total} questions"
        self._work.jobs.renew(self._work.job, progress=min(share, 0.999), step=step)
