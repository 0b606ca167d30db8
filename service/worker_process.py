"""The worker beside the gateway: started when a job waits, in a process of its own. The gateway trains nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from registry.config import Config
from registry.jobs import Jobs, JobsError
from registry.worker_settings import VARIABLE, settings_of

logger = logging.getLogger("tokamak.worker")

LOG_FILE: Final = "worker.log"
BACK_OFF_S: Final = 5.0
"""Shortest time between two starts after a failure; from the second in a row on it doubles, up to `MAX_BACK_OFF_S`."""
MAX_BACK_OFF_S: Final = 300.0
TELLING_FAILURES: Final = 2
"""So many workers in a row that failed are a fault to be told: one alone may have been killed."""
STOP_S: Final = 5.0
KEEP_LOG_BYTES: Final = 10_000_000
TAIL_BYTES: Final = 4_096
HOW_TO_START: Final = "start one with `tokamak worker --config <the config of the service>`"


class WorkerProcess:
    """Starts at most one worker. Everything here reads files or waits: call it off the event loop."""

    def __init__(self, config: Config, jobs: Jobs, environ: Mapping[str, str]) -> None:
        self._config = config
        self._jobs = jobs
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._failures = 0
        self._starting = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether the gateway may start workers at all."""
        return self._config.jobs.worker == "auto"

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ensure(self) -> bool:
        """Start a worker if a job waits and none is there; True if one was started."""
        with self._starting:
            return self._ensure()

    def _ensure(self) -> bool:
        if not self.wanted or self.running():
            return False
        self._note_end()
        if self._failures and time.monotonic() < self._started_at + self._back_off_s():
            return False
        always = self._config.routers.automatic.enabled
        if not always and not self._jobs.waiting():
            return False
        if any(worker.alive for worker in self._jobs.workers()):
            return False
        self._start(until_idle=not always)
        return True

    def hint(self) -> str | None:
        """What keeps queued jobs from being done, and what to do; None if a worker is there or being started."""
        if any(worker.alive for worker in self._jobs.workers()):
            return None
        if self.wanted:
            if self._failures < TELLING_FAILURES:
                return None
            path = settings_of(self._config).data_dir / LOG_FILE
            return f"the last {self._failures} workers ended with an error; {path} ends with: {_last_line(path)}"
        return f"no worker is alive (`jobs.worker` is `external`): {HOW_TO_START}"

    def stop(self) -> None:
        """Let the worker give its job back to the queue and end; kill it if it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _back_off_s(self) -> float:
        return min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0 ** (self._failures - 1))

    def _note_end(self) -> None:
        """Count the worker that has ended, if it failed; forget those before it if it did not."""
        if self._process is None:
            return
        self._failures = self._failures + 1 if self._process.poll() else 0
        self._process = None

    def _start(self, *, until_idle: bool) -> None:
        settings = settings_of(self._config)
        # Without -P a folder or file of the operator's, in the folder where the service was started, could stand in for
        # a package of this program.
        command = [sys.executable, "-P", "-m", "tokamak", "worker"] + (["--until-idle"] if until_idle else [])
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environ = {**os.environ, **self._environ, VARIABLE: settings.model_dump_json(), "PYTHONPATH": path}
        # The worker reads its settings from the variable alone, wherever the service got them from.
        for name in ("TOKAMAK_CONFIG", "TOKAMAK_DATA_DIR", "TOKAMAK_ADMIN_TOKEN"):
            environ.pop(name, None)
        self._started_at = time.monotonic()
        try:
            with _log(settings.data_dir / LOG_FILE) as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
                )
        except OSError as error:
            raise JobsError(f"no worker can be started here ({error}); {HOW_TO_START}") from error
        logger.info("started a worker, process %d; it writes %s", self._process.pid, settings.data_dir / LOG_FILE)


def _log(path: Path) -> BinaryIO:
    if path.exists() and path.stat().st_size > KEEP_LOG_BYTES:
        os.replace(path, path.with_suffix(".log.1"))
    return path.open("ab")


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError as error:
        return f"it cannot be read ({error})"
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
