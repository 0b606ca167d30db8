"""The table of jobs: its columns, its rows as `Job` records, and how the file is opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ACTIVE: Final = ("queued", "running")
LAYOUT: Final = 1
BUSY_S: Final = 10.0
"""Longest wait for another process that writes."""

COLUMNS: Final = (
    "id", "kind", "target", "arguments", "state", "created_at", "by", "idempotency_key", "progress", "step",
    "attempts", "worker", "lease_until", "started_at", "finished_at", "cancel_wanted", "result", "error",
)  # fmt: skip

CREATE: Final = f"""
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    arguments TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    by TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    progress REAL NOT NULL DEFAULT 0,
    step TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until REAL,
    started_at REAL,
    finished_at REAL,
    cancel_wanted INTEGER NOT NULL DEFAULT 0,
    result TEXT,
    error TEXT
);
CREATE UNIQUE INDEX one_active_job ON jobs (kind, target) WHERE state IN ('queued', 'running');
CREATE TABLE lines (seq INTEGER PRIMARY KEY, job TEXT NOT NULL, at REAL NOT NULL, text TEXT NOT NULL);
CREATE INDEX lines_by_job ON lines (job, seq);
CREATE TABLE workers (
    id TEXT PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, started_at REAL NOT NULL, seen_at REAL NOT NULL
);
PRAGMA user_version = {LAYOUT};
"""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work. `target` is what it works on: at most one job of a kind is active on a target.

    `attempts` counts the workers that took it up; it is also what tells a worker that has lost its lease from the one
    that holds it. `result` is what the runner returned (at least the artifact's version), `error` why it failed.
    """

    id: str
    kind: str
    target: str
    arguments: dict[str, Any]
    state: State
    created_at: float
    by: str
    idempotency_key: str | None = None
    progress: float = 0.0
    step: str | None = None
    attempts: int = 0
    worker: str | None = None
    lease_until: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    cancel_wanted: bool = False
    result: dict[str, Any] | None = None
    error: str | None = None


class JobsError(RuntimeError):
    """The table of jobs cannot be used. The message says what to do."""


def job_of(row: tuple[Any, ...]) -> Job:
    """The record of a row with `COLUMNS`."""
    values = dict(zip(COLUMNS, row, strict=True))
    values["arguments"] = msgspec.json.decode(values["arguments"])
    values["result"] = None if values["result"] is None else msgspec.json.decode(values["result"])
    values["cancel_wanted"] = bool(values["cancel_wanted"])
    return Job(**values)


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction that holds the only pen; creates the file if it is not there. Raises JobsError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise JobsError(f"cannot open the jobs {path}: {error}; is `server.data_dir` writable?") from error
    try:
        _prepare(db, path)
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise JobsError(
            f"cannot write the jobs {path}: {error}; is the disk full, or another process stuck?"
        ) from error
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        raise JobsError(
            f"the jobs {path} are corrupt ({error}); move the file away, with its -wal and -shm files, and queue the "
            "jobs again. What was trained is safe: it lies among the artifacts"
        ) from error
    finally:
        db.close()


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout == LAYOUT:
        return
    if layout > LAYOUT:
        raise JobsError(f"{path} was written by a newer version (layout {layout}, known here {LAYOUT}); install that")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN IMMEDIATE")
    # Another process may have created the tables while this one waited.
    if db.execute("PRAGMA user_version").fetchone()[0] == LAYOUT:
        db.execute("ROLLBACK")
        return
    for statement in filter(str.strip, CREATE.split(";")):
        db.execute(statement)
    db.execute("COMMIT")
