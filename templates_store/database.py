"""The SQLite file under the template store: opening it, its layout, its transactions, and what its errors mean."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from templates_store.layout import APPLICATION_ID, LAYOUT, make, migrate

_CHECKED_BYTES = 32 * 1024 * 1024
"""Up to this size a file is checked as a whole when it is opened; a larger one is checked for its length, and each of
its records when it is read."""


_COMPACT_S = 10.0


class TemplateStoreError(RuntimeError):
    """The store cannot be used or does not hold what was asked for. The message says what to do."""


class TemplateStateError(TemplateStoreError):
    """A template cannot go into that state from where it is."""


class TemplateDatabase:
    """One connection to the file `path`, which is made if it does not exist. Safe to use from several threads.

    Raises
    ------
    TemplateStoreError: the file is not a template store, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=10.0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.OperationalError) as error:
            raise TemplateStoreError(
                f"the template store {self.path} cannot be opened: {error}; "
                "the folder must exist and be writable by this process"
            ) from error
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def relax(self) -> None:
        """Let a crash of the machine (not of the process) undo the newest changes: for a file that is only a copy."""
        with self.reading() as db:
            db.execute("PRAGMA synchronous = NORMAL")

    def compact(self) -> None:
        """Write the file anew without what was removed from it, and empty its log.

        Raises
        ------
        TemplateStoreError: it cannot be written, or another process reads an older state of it for too long.
        """
        until = time.monotonic() + _COMPACT_S
        with self.reading() as db:
            db.execute("VACUUM")
            while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > until:
                    raise TemplateStoreError(
                        f"what was removed from {self.path} may still be in its log {self.path.name}-wal, because "
                        "another process reads it; run the same command again"
                    )
                time.sleep(0.02)

    def _open(self) -> None:
        with self.reading() as db:
            db.execute("BEGIN")  # Another process may be making the tables: all of what it does is seen, or nothing.
            foreign = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
            application, layout = (
                db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )  # fmt: skip
            db.execute("COMMIT")
            if foreign and application != APPLICATION_ID:
                raise TemplateStoreError(
                    f"{self.path} is a SQLite file of something else, not a template store; name another file"
                )
            if layout > LAYOUT:
                raise TemplateStoreError(
                    f"{self.path} has layout {layout}, this version knows layouts up to {LAYOUT}; "
                    "upgrade tokamak, or use another data folder"
                )
            self._check(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
        if foreign and layout == LAYOUT:
            return
        try:
            with self.writing() as db:
                if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                    make(db)
                else:
                    migrate(db, int(db.execute("PRAGMA user_version").fetchone()[0]))
        except msgspec.MsgspecError as error:
            raise self.damaged(str(error)) from error

    def _check(self, db: sqlite3.Connection) -> None:
        pages, page_bytes = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size"))
        size = self.path.stat().st_size
        if pages * page_bytes <= _CHECKED_BYTES:
            check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if check != "ok":
                raise self.damaged(str(check))
        elif size < pages * page_bytes and not self.path.with_name(f"{self.path.name}-wal").exists():
            raise self.damaged(f"it has {size} bytes of {pages * page_bytes}")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.DatabaseError as error:
                raise self._explained(error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: everything in it is durable when the block ends, or nothing of it happened."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _explained(self, error: sqlite3.DatabaseError) -> TemplateStoreError:
        text = str(error)
        if any(sign in text for sign in ("not a database", "malformed", "corrupt", "no such table", "disk image")):
            return self.damaged(text)
        return TemplateStoreError(
            f"the template store {self.path} cannot be used: {text}; "
            "check that the disk has room, that the file may be written, and that no other process holds it for long"
        )

    def damaged(self, what: str) -> TemplateStoreError:
        """The error that says that the file's content is not what was written."""
        return TemplateStoreError(
            f"the template store {self.path} is damaged: {what}. Move the file (and its -wal and -shm) away and run "
            "`tokamak templates import` on an export, or `tokamak templates build` on the traffic log, to make it anew"
        )
