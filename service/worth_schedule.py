"""Queues the measuring of what templates are worth, as long as the service has requests that say something about it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from registry.job_kinds import TEMPLATE_WORTH
from registry.jobs import JobConflict, Jobs
from traffic.records import Interaction

logger = logging.getLogger("tokamak.worth")

TARGET = "templates"
BY = "automatic"


class WorthSchedule:
    """A job every `every_s` seconds with at least one request that templates were found for; none if that is None."""

    def __init__(self, jobs: Jobs, every_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs = jobs
        self._every_s = every_s
        self._clock = clock
        self._queued_at = clock()
        self._requests = 0

    def note(self, record: Interaction) -> None:
        """A request is over."""
        if record.retrieved:
            self._requests += 1

    def queue(self) -> bool:
        """Queue the job if it is time; True if it was. Reads and writes a file: call it off the event loop.

        Raises
        ------
        JobsError: the queue cannot be used.
        """
        if self._every_s is None or not self._requests or self._clock() < self._queued_at + self._every_s:
            return False
        self._queued_at, self._requests = self._clock(), 0
        try:
            return self._jobs.submit(TEMPLATE_WORTH, {}, target=TARGET, by=BY).created
        except JobConflict as conflict:
            logger.info("%s", conflict)
            return False
