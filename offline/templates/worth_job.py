"""The job `template_worth`: from the traffic log to the worth of templates, with the harmful ones out of use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from offline.job_work import JobWork
from offline.templates.trials import LoggedTrials, QuestionsOf, questions_of, trials_from_log
from offline.templates.worth import apply, measured
from registry.job_kinds import worth_arguments
from templates_store.database import TemplateStoreError
from templates_store.opening import open_store
from traffic.stores import open_log

SQLITE = "sqlite:///"


class WorthStopped(ValueError):
    """The template store cannot be used. The message says why."""


def run_template_worth(work: JobWork) -> dict[str, Any]:
    """Measure, write down, quarantine. Done again after a crash, it finds the same, of what the log holds by then.

    Raises
    ------
    ValueError, LogError, WorthStopped: there is no log, or the log or the store cannot be used.
    """
    wanted, settings = worth_arguments(work.job.arguments), work.settings
    work.step("reading the log", 0.05)
    try:
        with open_store(settings.data_dir, settings.templates.url) as store:
            logged = read_trials(settings.log_url, questions_of(store), since=wanted.since)
            counts = logged.counts
            left_out = ", ".join(f"{n} {name}" for name, n in counts.items() if n and name not in ("read", "used"))
            work.note(f"{counts['used']} of {counts['read']} requests tell what templates do ({left_out or 'all'})")
            work.step("measuring", 0.4)
            report = measured(store, logged)
            gone = apply(store, report, quarantine=wanted.quarantine)
    except TemplateStoreError as error:
        raise WorthStopped(str(error)) from error
    for id_ in gone:
        work.note(f"quarantined {id_}")
    return {
        "templates": len(report.templates),
        "quarantined": gone,
        "arms": {arm.name: {"uplift": arm.uplift, "low": arm.low, "high": arm.high} for arm in report.arms},
        "log": counts,
    }


def read_trials(log_url: str, made_from: QuestionsOf, since: float = 0.0, until: float | None = None) -> LoggedTrials:
    """`trials_from_log` of the log at a URL. Raises ValueError if there is no such file."""
    if log_url.startswith(SQLITE) and not Path(log_url.removeprefix(SQLITE)).exists():
        raise ValueError(f"there is no log {log_url}; serve and score some traffic first")

    async def read() -> LoggedTrials:
        log = open_log(log_url)
        try:
            return trials_from_log(log, since, until, made_from=made_from)
        finally:
            await log.close()

    return asyncio.run(read())
