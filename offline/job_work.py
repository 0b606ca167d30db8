"""A job at work: what its runner may ask and tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry.jobs import Job, Jobs
from registry.worker_settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class JobWork:
    """Given to the runner of a job. Telling raises JobLost once the job is not to be done any more."""

    job: Job
    jobs: Jobs
    settings: WorkerSettings

    def step(self, name: str, progress: float) -> None:
        """Say what is done now, and how much is done in [0, 1]."""
        self.jobs.renew(self.job, progress=progress, step=name)
        self.jobs.note(self.job, name)

    def note(self, text: str) -> None:
        """Add a line to the job's log."""
        self.jobs.note(self.job, text)


Runner = Callable[[JobWork], dict[str, Any]]
"""Does the work of a job and returns its result. May be run again after a crash: the result must be the same."""
