"""`tokamak worker`: takes up jobs and does them, in a process of its own, one after another.

A thread keeps the lease while the work goes on. If the job is cancelled or another worker has it, the work is broken
off; on SIGTERM it is given back to the queue. A worker that is killed leaves everything as it was: the next one takes
its job up when the lease has run out.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from encoders.protocol import EncoderUnavailable
from offline.bohdi.tree_jobs import run_bohdi_export, run_bohdi_retire, run_bohdi_round, run_bohdi_traffic
from offline.distill.distill_job import run_distill
from offline.job_work import JobWork, Runner
from offline.routing.train_job import run_train_router
from offline.templates.build_job import run_build_templates
from offline.templates.worth_job import run_template_worth
from registry.artifacts import ArtifactError
from registry.bohdi_jobs import BOHDI_EXPORT, BOHDI_RETIRE, BOHDI_ROUND, BOHDI_TRAFFIC
from registry.distill_jobs import DISTILL
from registry.job_kinds import BUILD_TEMPLATES, TEMPLATE_WORTH, TRAIN_ROUTER
from registry.jobs import Job, JobLost, Jobs, JobsError, worker_name
from registry.rollouts import RolloutError
from registry.worker_settings import WorkerSettings
from traffic.log import LogError

logger = logging.getLogger("tokamak.worker")

RUNNERS: Mapping[str, Runner] = {
    TRAIN_ROUTER: run_train_router,
    BUILD_TEMPLATES: run_build_templates,
    TEMPLATE_WORTH: run_template_worth,
    BOHDI_ROUND: run_bohdi_round,
    BOHDI_EXPORT: run_bohdi_export,
    BOHDI_TRAFFIC: run_bohdi_traffic,
    BOHDI_RETIRE: run_bohdi_retire,
    DISTILL: run_distill,
}
FAULTS = (ArtifactError, EncoderUnavailable, LogError, RolloutError, ValueError, OSError)
"""What is wrong with the data or the machine, told as it is; anything else is a defect and leaves its trace."""
BREAK_OFF: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""The signal by which the heartbeat breaks the work off; where there is none, it ends at its next step."""
HEARTBEATS = 4
"""Signs of life per lease."""


class Interrupted(BaseException):
    """Raised in the middle of the work: it is not to be gone on with. `stop`: and the worker is to end."""

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop


class Worker:
    """One worker. `between` is called when there is no job (for what the worker does by itself)."""

    def __init__(
        self,
        settings: WorkerSettings,
        runners: Mapping[str, Runner] = RUNNERS,
        *,
        poll_s: float = 1.0,
        between: Callable[[], None] | None = None,
    ) -> None:
        self.name = worker_name()
        self.jobs = Jobs(settings.data_dir, settings.lease_s)
        self._settings = settings
        self._runners = runners
        self._poll_s = poll_s
        self._between = between
        self._started_at = time.time()
        self._job: Job | None = None
        self._over = threading.Event()

    def run(self, *, until_idle: bool) -> None:
        """Work until told to stop by SIGTERM or SIGINT, or, with `until_idle`, until no job waits."""
        with self._listening():
            heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self.jobs.seen(self.name, self._started_at)
            heart.start()
            try:
                while True:
                    if self.run_one():
                        continue
                    if until_idle:
                        return
                    if self._between is not None:
                        self._between()
                    time.sleep(self._poll_s)
            except Interrupted:
                logger.info("worker %s stops", self.name)
            finally:
                self._over.set()
                self.jobs.gone(self.name)

    def run_one(self) -> bool:
        """Take up one job and end it; False if none waits."""
        job = self.jobs.claim(self.name, list(self._runners))
        if job is None:
            return False
        logger.info("%s %s, attempt %d", job.kind, job.id, job.attempts)
        self._job = job
        try:
            self._work(job)
        except JobLost as lost:
            logger.info("%s", lost)
            self.jobs.give_back(job)
        except Interrupted as interrupted:
            self.jobs.give_back(job)
            if interrupted.stop:
                raise
        finally:
            self._job = None
        return True

    def _work(self, job: Job) -> None:
        try:
            result = self._runners[job.kind](JobWork(job, self.jobs, self._settings))
            self.jobs.succeed(job, result)
            logger.info("%s: %s", job.id, result)
        except FAULTS as error:
            self._failed(job, str(error))
        except ModuleNotFoundError as error:
            self._failed(
                job, f"{error.name} is not installed here; run the worker where `pip install tokamak[learn]` is"
            )
        except JobLost:
            raise
        except Exception as error:  # noqa: BLE001  A task root: a defect of one job must not end the worker.
            self.jobs.note(job, traceback.format_exc()[-2000:])
            self._failed(job, f"defect: {error!r}; its trace is in the job's log")

    def _failed(self, job: Job, message: str) -> None:
        logger.error("%s failed: %s", job.id, message)
        self.jobs.fail(job, message)

    def _beat(self) -> None:
        """Show that the worker lives, and that it goes on with its job; break the job off when it is lost."""
        while not self._over.wait(self.jobs.lease_s / HEARTBEATS):
            try:
                self.jobs.seen(self.name, self._started_at)
                job = self._job
                if job is not None:
                    self.jobs.renew(job)
            except JobLost:
                if self._job is job and BREAK_OFF is not None:
                    signal.pthread_kill(threading.main_thread().ident or 0, BREAK_OFF)
            except JobsError as error:
                logger.error("%s", error)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals become exceptions in the main thread while the worker runs."""

        def stop(number: int, frame: FrameType | None) -> None:
            raise Interrupted(stop=True)

        def break_off(number: int, frame: FrameType | None) -> None:
            if self._job is not None:
                raise Interrupted(stop=False)

        wanted = {signal.SIGTERM: stop, signal.SIGINT: stop}
        if BREAK_OFF is not None:
            wanted[BREAK_OFF] = break_off
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
