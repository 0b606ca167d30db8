"""Durable jobs in one SQLite file: queued by the admin API, taken up by workers in processes of their own.

A worker holds a job by a *lease* that it renews by its heartbeat. If it dies, by `kill -9` or with its machine, the
lease runs out and the next worker takes the job up again; a job therefore has to give the same result when it is run
twice. Whoever has lost the lease can change nothing any more. That at most one job of a kind is active on a target is
kept by an index of the database, so it holds between processes too.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from registry.jobs_layout import ACTIVE, COLUMNS, Job, JobsError, State, job_of, transaction

__all__ = ["Job", "JobConflict", "JobLost", "Jobs", "JobsError", "LogLine", "State", "Submitted", "Worker"]

JOBS_FILE: Final = "jobs.db"
LEASE_S: Final = 30.0
MAX_ATTEMPTS: Final = 5
"""Workers that may die on a job before it is given up: a job that kills its worker must not do so for ever."""
MAX_LINES: Final = 1_000
MAX_LINE_CHARS: Final = 2_000
WORKER_GONE_S: Final = 86_400.0

_SELECT = f"SELECT {', '.join(COLUMNS)} FROM jobs"


class JobConflict(Exception):
    """The job cannot be queued beside `job`. The message says why."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job


class JobLost(Exception):
    """The caller does not hold the job's lease any more: it was cancelled, or another worker has taken it up."""


class LogLine(msgspec.Struct, frozen=True):
    at: float
    text: str


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that has shown itself; `alive` if its last heartbeat is no older than a lease."""

    id: str
    pid: int
    host: str
    started_at: float
    seen_at: float
    alive: bool


class Submitted(NamedTuple):
    """`created` is False if an equal job was there already."""

    job: Job
    created: bool


class Jobs:
    """The jobs of one data folder. Cheap to make; every call opens the file anew, so it may be shared by threads."""

    def __init__(self, data_dir: Path, lease_s: float = LEASE_S, clock: Callable[[], float] = time.time) -> None:
        """`lease_s`: seconds after its last heartbeat at which a worker counts as dead."""
        self.path = data_dir / JOBS_FILE
        self.lease_s = lease_s
        self._clock = clock

    def submit(
        self,
        kind: str,
        arguments: Mapping[str, Any],
        *,
        target: str = "",
        by: str = "operator",
        idempotency_key: str | None = None,
    ) -> Submitted:
        """Queue a job; an equal one that is active, or one with the same idempotency key, is returned instead.

        Raises
        ------
        JobConflict: another job of the kind is active on the target, or the key stands for other arguments.
        """
        packed = msgspec.json.encode(dict(arguments), order="sorted").decode()
        with transaction(self.path) as db:
            earlier = None if idempotency_key is None else _one(db, "idempotency_key = ?", idempotency_key)
            if earlier is not None:
                if (earlier.kind, earlier.target, earlier.arguments) != (kind, target, msgspec.json.decode(packed)):
                    raise JobConflict(f"the idempotency key was used for another job, {earlier.id}", earlier)
                return Submitted(earlier, created=False)
            active = _one(db, "kind = ? AND target = ? AND state IN ('queued', 'running')", kind, target)
            if active is not None:
                if active.arguments == msgspec.json.decode(packed) and idempotency_key is None:
                    return Submitted(active, created=False)
                raise JobConflict(f"a {kind} job is {active.state} already: {active.id}; wait, or cancel it", active)
            now = self._clock()
            job_id = f"job_{int(now * 1e3):012x}{os.urandom(4).hex()}"
            db.execute(
                "INSERT INTO jobs (id, kind, target, arguments, state, created_at, by, idempotency_key) "
                "VALUES (?, ?, ?, ?, 'queued', ?, ?, ?)",
                (job_id, kind, target, packed, now, by, idempotency_key),
            )
            return Submitted(_the(db, job_id), created=True)

    def get(self, job_id: str) -> Job | None:
        if not self.path.exists():
            return None
        with transaction(self.path) as db:
            return _one(db, "id = ?", job_id)

    def find(self, *, kind: str | None = None, states: Collection[State] = (), limit: int = 100) -> list[Job]:
        """Jobs, newest first."""
        if not self.path.exists():
            return []
        wanted = list(states)
        where = ["kind = ?"] if kind is not None else []
        where += [f"state IN ({', '.join('?' * len(wanted))})"] if wanted else []
        clause = f" WHERE {' AND '.join(where)}" if where else ""
        with transaction(self.path) as db:
            values = ([] if kind is None else [kind]) + wanted
            rows = db.execute(f"{_SELECT}{clause} ORDER BY seq DESC LIMIT ?", [*values, limit]).fetchall()
        return [job_of(row) for row in rows]

    def counts(self, kind: str) -> dict[State, int]:
        """How many jobs of a kind are in each state that occurs."""
        if not self.path.exists():
            return {}
        with transaction(self.path) as db:
            query = "SELECT state, count(*) FROM jobs WHERE kind = ? GROUP BY state ORDER BY state"
            return dict(db.execute(query, (kind,)).fetchall())

    def waiting(self) -> bool:
        """Whether there is a job for a worker to take up: a queued one, or one whose worker is dead."""
        if not self.path.exists():
            return False
        with transaction(self.path) as db:
            row = db.execute(
                "SELECT 1 FROM jobs WHERE state = 'queued' OR (state = 'running' AND lease_until < ?) LIMIT 1",
                (self._clock(),),
            ).fetchone()
        return row is not None

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job: a queued one at once, a running one as soon as its worker hears of it. None: no such job."""
        if not self.path.exists():
            return None
        with transaction(self.path) as db:
            job = _one(db, "id = ?", job_id)
            if job is None or job.state not in ACTIVE:
                return job
            if job.state == "queued" or (job.lease_until or 0.0) < self._clock():
                self._end(db, job_id, "cancelled", None, None)
            else:
                db.execute("UPDATE jobs SET cancel_wanted = 1 WHERE id = ?", (job_id,))
            return _the(db, job_id)

    def lines(self, job_id: str) -> list[LogLine]:
        """What the job has told so far, oldest first."""
        if not self.path.exists():
            return []
        with transaction(self.path) as db:
            rows = db.execute("SELECT at, text FROM lines WHERE job = ? ORDER BY seq", (job_id,)).fetchall()
        return [LogLine(*row) for row in rows]

    # What workers call -----------------------------------------------------------------------------------------------

    def claim(self, worker: str, kinds: Collection[str]) -> Job | None:
        """Take up the oldest job that waits, under a new lease; None if none does.

        A job on which `MAX_ATTEMPTS` workers have died is marked as failed instead.
        """
        if not self.path.exists():
            return None
        marks = ", ".join("?" * len(kinds))
        with transaction(self.path) as db:
            while True:
                now = self._clock()
                row = db.execute(
                    f"{_SELECT} WHERE kind IN ({marks}) AND (state = 'queued' OR (state = 'running' AND "
                    "lease_until < ?)) ORDER BY seq LIMIT 1",
                    [*kinds, now],
                ).fetchone()
                if row is None:
                    return None
                job = job_of(row)
                if job.cancel_wanted:
                    self._end(db, job.id, "cancelled", None, None)
                elif job.attempts >= MAX_ATTEMPTS:
                    self._end(db, job.id, "failed", None, f"{job.attempts} workers died on this job; see their logs")
                else:
                    return self._take_up(db, job, worker, now)

    def _take_up(self, db: sqlite3.Connection, job: Job, worker: str, now: float) -> Job:
        if job.state == "running":
            self._line(db, job.id, f"worker {job.worker} is gone; {worker} takes the job up again")
        db.execute(
            "UPDATE jobs SET state = 'running', worker = ?, attempts = attempts + 1, lease_until = ?, progress = 0, "
            "step = NULL, started_at = coalesce(started_at, ?) WHERE id = ?",
            (worker, now + self.lease_s, now, job.id),
        )
        return _the(db, job.id)

    def renew(self, job: Job, *, progress: float | None = None, step: str | None = None) -> None:
        """Keep the lease, and say how far the work is (share in [0, 1], name of the step).

        Raises
        ------
        JobLost: the job is to be cancelled, or is not the caller's any more.
        """
        with transaction(self.path) as db:
            now = self._held(db, job)
            if now.cancel_wanted:
                raise JobLost(f"{job.id} is to be cancelled")
            db.execute(
                "UPDATE jobs SET lease_until = ?, progress = coalesce(?, progress), step = coalesce(?, step) "
                "WHERE id = ?",
                (self._clock() + self.lease_s, progress, step, job.id),
            )

    def note(self, job: Job, text: str) -> None:
        """Add a line to the job's log; from `MAX_LINES` on lines are dropped. Raises JobLost."""
        with transaction(self.path) as db:
            self._held(db, job)
            self._line(db, job.id, text)

    def succeed(self, job: Job, result: Mapping[str, Any]) -> None:
        """Raises JobLost: the result is not wanted from this worker any more."""
        with transaction(self.path) as db:
            self._held(db, job)
            self._end(db, job.id, "succeeded", dict(result), None)

    def fail(self, job: Job, error: str) -> None:
        """Raises JobLost."""
        with transaction(self.path) as db:
            self._held(db, job)
            self._end(db, job.id, "failed", None, error)

    def give_back(self, job: Job) -> None:
        """Let go of a job that the worker cannot go on with: it is cancelled if that is wanted, else queued again."""
        with transaction(self.path) as db:
            now = _one(db, "id = ?", job.id)
            if now is None or not _holds(now, job):
                return
            if now.cancel_wanted:
                self._end(db, job.id, "cancelled", None, None)
                return
            # A worker that stops in order has not died on the job.
            db.execute(
                "UPDATE jobs SET state = 'queued', worker = NULL, lease_until = NULL, attempts = attempts - 1 "
                "WHERE id = ?",
                (job.id,),
            )

    def seen(self, worker: str, started_at: float) -> None:
        """A worker's sign of life."""
        with transaction(self.path) as db:
            now = self._clock()
            db.execute(
                "INSERT INTO workers (id, pid, host, started_at, seen_at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
                (worker, os.getpid(), socket.gethostname(), started_at, now),
            )
            db.execute("DELETE FROM workers WHERE seen_at < ?", (now - WORKER_GONE_S,))

    def gone(self, worker: str) -> None:
        """A worker stops in order."""
        with transaction(self.path) as db:
            db.execute("DELETE FROM workers WHERE id = ?", (worker,))

    def workers(self) -> list[Worker]:
        if not self.path.exists():
            return []
        with transaction(self.path) as db:
            rows = db.execute("SELECT id, pid, host, started_at, seen_at FROM workers ORDER BY started_at").fetchall()
        now = self._clock()
        return [
            Worker(id=i, pid=pid, host=host, started_at=started, seen_at=seen, alive=seen >= now - self.lease_s)
            for i, pid, host, started, seen in rows
        ]

    def _held(self, db: sqlite3.Connection, job: Job) -> Job:
        now = _one(db, "id = ?", job.id)
        if now is None or not _holds(now, job):
            state = "gone" if now is None else f"{now.state}, attempt {now.attempts}"
            raise JobLost(f"{job.id} is not held by this worker any more: it is {state}")
        return now

    def _line(self, db: sqlite3.Connection, job_id: str, text: str) -> None:
        (count,) = db.execute("SELECT count(*) FROM lines WHERE job = ?", (job_id,)).fetchone()
        if count < MAX_LINES:
            values = (job_id, self._clock(), text[:MAX_LINE_CHARS])
            db.execute("INSERT INTO lines (job, at, text) VALUES (?, ?, ?)", values)

    def _end(
        self, db: sqlite3.Connection, job_id: str, state: State, result: dict[str, Any] | None, error: str | None
    ) -> None:
        packed = None if result is None else msgspec.json.encode(result).decode()
        db.execute(
            "UPDATE jobs SET state = ?, result = ?, error = ?, finished_at = ?, lease_until = NULL, "
            "progress = CASE WHEN ? = 'succeeded' THEN 1.0 ELSE progress END WHERE id = ?",
            (state, packed, error, self._clock(), state, job_id),
        )


def _holds(now: Job, job: Job) -> bool:
    """Whether a worker that took `job` up still holds it: its attempt is the last one."""
    return now.state == "running" and (now.worker, now.attempts) == (job.worker, job.attempts)


def _one(db: sqlite3.Connection, where: str, *values: Any) -> Job | None:
    row = db.execute(f"{_SELECT} WHERE {where} ORDER BY seq DESC LIMIT 1", values).fetchone()
    return None if row is None else job_of(row)


def _the(db: sqlite3.Connection, job_id: str) -> Job:
    job = _one(db, "id = ?", job_id)
    assert job is not None
    return job


def worker_name() -> str:
    """A name for a new worker, unique over hosts and restarts."""
    digest = hashlib.sha256(os.urandom(16)).hexdigest()[:6]
    return f"{socket.gethostname()}-{os.getpid()}-{digest}"
