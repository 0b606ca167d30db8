"""The embedded traffic log: one SQLite file in WAL mode, written by one thread, read by connections of their own.

Several processes may share the file (a gateway and an offline job); each has its own queue and they take turns.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from traffic import sqlite_rows as rows
from traffic.log import LogError, LogStats
from traffic.migrations import migrate
from traffic.records import Feedback, Interaction, Score
from traffic.write_queue import QueueLimits, Record, StoreUnavailable, WriteQueue

PAGE_BYTES = 8_192
"""Page size of new files: what is written per commit grows with it, what is written per record shrinks."""
SLICE = 32
"""Records encoded at a time: about 100 microseconds during which no other thread runs."""
PAGE_ROWS = 256
OPEN_BUSY_S = 5.0
"""Longest wait for another process that holds the file while it is opened."""
CHECK_WHOLE_BELOW = 32 * 1024 * 1024
"""Files up to this size (bytes) are checked from end to end when opened."""

T = TypeVar("T")


class SqliteLog:
    """`TrafficLog` in one file. Raises LogError if the file is corrupt, foreign, of a newer version or unusable."""

    def __init__(self, path: str | Path, limits: QueueLimits | None = None, *, busy_s: float = 1.0) -> None:
        self._path = Path(path).absolute()
        if str(path) in ("", ":memory:"):
            raise LogError(
                f"the embedded log needs a file, got {str(path)!r}: set `log.url` to sqlite:///path/to/file.db"
            )
        store = SqliteStore(open_for_writing(self._path), busy_s)
        self._queue = WriteQueue(store, str(self._path), limits)
        self._lookup_lock = threading.Lock()
        self._lookup_db: sqlite3.Connection | None = None

    def append(self, record: Record) -> None:
        self._queue.append(record)

    async def flush(self) -> None:
        await self._queue.flush()

    async def close(self) -> None:
        try:
            await self._queue.close()
        finally:
            with self._lookup_lock:
                if self._lookup_db is not None:
                    self._lookup_db.close()
                    self._lookup_db = None

    def backlog(self) -> int:
        return self._queue.backlog()

    def stats(self) -> LogStats:
        return self._queue.stats()

    async def interaction(self, interaction_id: str) -> Interaction | None:
        return await self._queue.find_interaction(interaction_id, self._find_interaction)

    async def feedback_by_idempotency_key(self, key: str) -> Feedback | None:
        for record in self._queue.pending():
            if type(record) is Feedback and record.idempotency_key == key:
                return record
        return await asyncio.to_thread(self._lookup, lambda db: _feedback_by_key(db, key))

    def read_interactions(
        self, since: float = 0.0, until: float | None = None, *, content: bool = True
    ) -> Iterator[Interaction]:
        with closing(_open_for_reading(self._path)) as db:
            for row in _pages(db, "interactions", rows.INTERACTION_COLUMNS, since, until):
                yield rows.interaction_from_row(row[2:], _content(db, row[2]) if content else None)

    def read_feedback(self, since: float = 0.0, until: float | None = None) -> Iterator[Feedback]:
        with closing(_open_for_reading(self._path)) as db:
            for row in _pages(db, "feedback", rows.FEEDBACK_COLUMNS, since, until):
                yield rows.feedback_from_row(row[2:])

    def read_scores(self, since: float = 0.0, until: float | None = None) -> Iterator[Score]:
        with closing(_open_for_reading(self._path)) as db:
            for row in _pages(db, "scores", rows.SCORE_COLUMNS, since, until):
                yield rows.score_from_row(row[2:])

    def _find_interaction(self, field: str, value: str) -> Interaction | None:
        return self._lookup(lambda db: _interaction(db, field, value))

    def _lookup(self, find: Callable[[sqlite3.Connection], T]) -> T:
        """Run one look-up on a connection that is kept between look-ups."""
        with self._lookup_lock:
            if self._lookup_db is None:
                self._lookup_db = _open_for_reading(self._path)
            try:
                return find(self._lookup_db)
            except sqlite3.Error as error:
                raise LogError(f"cannot read the log {self._path}: {error}") from error


class SqliteStore:
    """Writes groups of records in one transaction each; waits at most `busy_s` for other processes, per try."""

    def __init__(self, db: sqlite3.Connection, busy_s: float) -> None:
        self._db = db
        self._db.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")

    def write(self, group: Sequence[Record], group_id: str) -> int:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            before = self._db.total_changes
            contents = self._insert_interactions([r for r in group if type(r) is Interaction])
            self._insert(rows.INSERT_FEEDBACK, [rows.feedback_row(r) for r in group if type(r) is Feedback])
            self._insert(rows.INSERT_SCORE, [rows.score_row(r) for r in group if type(r) is Score])
            written = self._db.total_changes - before - contents
            self._db.execute("COMMIT")
        except (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError):
            self._rollback()
            raise
        except sqlite3.Error as error:
            self._rollback()
            raise StoreUnavailable(f"{error} (is the disk full, the file locked or gone?)") from error
        except BaseException:
            self._rollback()
            raise
        return written

    def close(self) -> None:
        self._db.close()

    def _insert_interactions(self, records: Sequence[Interaction]) -> int:
        """Insert the interactions and their contents; returns how many contents."""
        if not records:
            return 0
        # The write lock is held, so no other process can take the same numbers.
        (last,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM interactions").fetchone()
        count = 0
        for start in range(0, len(records), SLICE):
            numbered = list(enumerate(records[start : start + SLICE], last + 1 + start))
            new = [rows.interaction_row(seq, record) for seq, record in numbered]
            contents = [row for seq, record in numbered if (row := rows.content_row(seq, record)) is not None]
            self._insert(rows.INSERT_INTERACTION, new)
            self._insert(rows.INSERT_CONTENT, contents)
            count += len(contents)
        return count

    def _insert(self, statement: str, new: Sequence[rows.Row]) -> None:
        if new:
            self._db.executemany(statement, new)

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open or create the file, check it and bring it to this version's layout."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LogError(
            f"cannot open the log {path}: {error.strerror}; set `log.url` to a file that can be written"
        ) from error
    db = sqlite3.connect(path, timeout=OPEN_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        migrate(db, str(path))
        db.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit survives a power cut. Group commit makes it one fsync per 20 ms, off the event loop.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 67108864")
        if path.stat().st_size <= CHECK_WHOLE_BELOW:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(" ".join(verdict.split()))
    except sqlite3.OperationalError as error:
        db.close()
        raise LogError(
            f"cannot open the log {path}: {error}; is another process holding it, or the disk full?"
        ) from error
    except sqlite3.DatabaseError as error:
        db.close()
        raise LogError(
            f"the log {path} is corrupt ({error}); nothing was changed. Move it away, with its -wal and -shm "
            "files, and start again: a new one is made. `sqlite3 FILE .recover` may save its records"
        ) from error
    except LogError:
        db.close()
        raise
    return db


def _open_for_reading(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise LogError(f"cannot read the log {path}: {error}") from error


def _pages(
    db: sqlite3.Connection, table: str, columns: tuple[str, ...], since: float, until: float | None
) -> Iterator[rows.Row]:
    """Rows `(created_at, seq, *columns)` in the order of time. No transaction stays open between two pages."""
    query = (
        f"SELECT created_at, seq, {', '.join(columns)} FROM {table} "
        "WHERE (created_at, seq) > (?, ?) AND created_at < ? ORDER BY created_at, seq LIMIT ?"
    )
    last: tuple[float, int] = (since, -1)
    end = float("inf") if until is None else until
    while True:
        try:
            page = db.execute(query, (*last, end, PAGE_ROWS)).fetchall()
        except sqlite3.Error as error:
            raise LogError(f"cannot read {table} of the log: {error}") from error
        yield from page
        if len(page) < PAGE_ROWS:
            return
        last = page[-1][:2]


def _content(db: sqlite3.Connection, seq: int) -> rows.Row | None:
    row: rows.Row | None = db.execute(
        "SELECT query_text, request, response FROM contents WHERE seq = ?", (seq,)
    ).fetchone()
    return row


def _interaction(db: sqlite3.Connection, field: str, value: str) -> Interaction | None:
    columns = ", ".join(rows.INTERACTION_COLUMNS)
    query = f"SELECT {columns} FROM interactions WHERE {field} = ? ORDER BY seq DESC LIMIT 1"
    row = db.execute(query, (value,)).fetchone()
    return None if row is None else rows.interaction_from_row(row, _content(db, row[0]))


def _feedback_by_key(db: sqlite3.Connection, key: str) -> Feedback | None:
    columns = ", ".join(rows.FEEDBACK_COLUMNS)
    row = db.execute(f"SELECT {columns} FROM feedback WHERE idempotency_key = ?", (key,)).fetchone()
    return None if row is None else rows.feedback_from_row(row)
