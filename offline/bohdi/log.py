"""The episode log: one SQLite file that is only ever appended to, and from which a tree is folded.

One process writes at a time: it takes the lock beside the file with its first write and holds it until it closes or
dies. Any number read. Each append is one transaction, durable when it returns (WAL, synchronous FULL). Snapshots of the
tree only save time: one that does not match its digest is passed over and the log is folded instead.

Beside the events lies the table of replies: what a model answered to a step of a round, kept before anything else is
done with it, so that a round that was killed asks and pays nothing twice.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from offline.bohdi.errors import EpisodeLogError, LogHeld
from offline.bohdi.events import (
    AnyEvent,
    Contested,
    Planted,
    Reborn,
    Retired,
    RoundBegan,
    RoundEnded,
    Sprouted,
    SproutFailed,
    TargetChanged,
    TrafficMapped,
)
from offline.bohdi.tree import Tree, TreeError, Weighed
from offline.bohdi.writer_lock import WriterLock

__all__ = ["EpisodeLog", "EpisodeLogError", "LogHeld", "StoredReply"]

FORMAT: Final = 1
"""Version of the file's layout."""
APPLICATION: Final = 0x426F6864
"""SQLite application id: "Bohd"."""
SNAPSHOT_EVERY = 5_000
"""Events between two snapshots that are taken unasked."""
PAGE_ROWS = 1_000
BUSY_S = 10.0

LAYOUT = """
CREATE TABLE events (n INTEGER PRIMARY KEY, key TEXT UNIQUE, body BLOB NOT NULL);
CREATE TABLE snapshots (n INTEGER PRIMARY KEY, digest TEXT NOT NULL, state BLOB NOT NULL);
CREATE TABLE replies (step TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""

T = TypeVar("T")

FoldEvent = (
    Planted
    | RoundBegan
    | Sprouted
    | SproutFailed
    | Weighed
    | TargetChanged
    | Reborn
    | TrafficMapped
    | Retired
    | RoundEnded
)

_encode = msgspec.json.Encoder().encode
_decode_event: Callable[[bytes], AnyEvent] = msgspec.json.Decoder(AnyEvent).decode
_decode_fold: Callable[[bytes], FoldEvent] = msgspec.json.Decoder(FoldEvent).decode


class StoredReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model answered to one step. `text` is None if it failed, with the `failure`; `at` is Unix seconds.

    `tokens`, `prompt_tokens`: of the answer and of what was asked. `finish`: why the answer ended, as the server says.
    """

    text: str | None = None
    failure: str = ""
    tokens: int | None = None
    prompt_tokens: int | None = None
    finish: str = ""
    cost_usd: float | None = None
    model_version: str = ""
    at: float = 0.0


_decode_reply = msgspec.json.Decoder(StoredReply).decode


class EpisodeLog:
    """The log in one file; a missing file is made by the first write, and reads as a log without events.

    Raises
    ------
    EpisodeLogError: the file is no episode log, of another version, or damaged.
    LogHeld (an EpisodeLogError): another process writes; raised by what writes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._lock = WriterLock(self.path.with_name(f"{self.path.name}.lock"))
        self._turn = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._tree: Tree | None = None
        self._snapshot_at = 0
        if self.path.exists():
            self._open_for_reading().close()

    # Writing ----------------------------------------------------------------------------------------------------------

    def append(self, events: Iterable[AnyEvent]) -> int:
        """Add events in one transaction, and fold them; returns how many were new.

        An event that names its step is added once: appending it again changes nothing. So are the beginning and end of
        a round, a node, and a rebirth of a node within a round.

        Raises
        ------
        TreeError: an event does not fit the tree; then none of them was added.
        EpisodeLogError: the file cannot be written.
        """
        with self._turn, self._writing() as db:
            tree = self._tree if self._tree is not None else self._fold(db)
            # Until the transaction is through, the tree in memory may be ahead of the file.
            self._tree = None
            added = 0
            db.execute("BEGIN IMMEDIATE")
            try:
                for event in events:
                    row = (tree.state.events + 1, _key(event), _encode(event))
                    if db.execute("INSERT INTO events VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING", row).rowcount:
                        # As it will be read: an integer where a float belongs would make another tree of equal value.
                        tree.apply(_decode_fold(row[2]))
                        added += 1
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            self._tree = tree
            if tree.state.events - self._snapshot_at >= SNAPSHOT_EVERY:
                self.snapshot()
        return added

    def keep_reply(self, step: str, reply: StoredReply) -> None:
        """Keep what a model answered to a step. The first reply to a step stays; a second is not kept."""
        with self._turn, self._writing() as db:
            db.execute("INSERT INTO replies VALUES (?, ?) ON CONFLICT (step) DO NOTHING", (step, _encode(reply)))

    def snapshot(self) -> bytes:
        """Write the tree's state as it is after the last event, and return it."""
        with self._turn, self._writing() as db:
            if self._tree is None:
                self._tree = self._fold(db)
            state, events = self._tree.to_bytes(), self._tree.state.events
            db.execute("BEGIN IMMEDIATE")
            row = (events, hashlib.sha256(state).hexdigest(), state)
            db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", row)
            db.execute("DELETE FROM snapshots WHERE n NOT IN (SELECT n FROM snapshots ORDER BY n DESC LIMIT 2)")
            db.execute("COMMIT")
            self._snapshot_at = events
        return state

    def close(self) -> None:
        """Give the lock back. The log can be used again afterwards."""
        with self._turn:
            if self._db is not None:
                self._db.close()
                self._db = None
            self._tree = None
            self._lock.release()

    def __enter__(self) -> EpisodeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading ----------------------------------------------------------------------------------------------------------

    def events(self, after: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """The events with their numbers (from 1), oldest first, beginning after number `after`."""
        return self._read_events(after, _decode_event)

    def reply(self, step: str) -> StoredReply | None:
        """What was kept for a step; None if nothing was."""
        with self._reading() as db:
            row = None if db is None else db.execute("SELECT body FROM replies WHERE step = ?", (step,)).fetchone()
        return None if row is None else _decode_reply(row[0])

    def replies(self, prefix: str = "") -> Iterator[tuple[str, StoredReply]]:
        """The kept replies whose step begins with `prefix`, in the order of their steps."""
        # Between two bounds only the rows that are wanted are looked at, however many rounds the table holds.
        beyond = prefix + "\U0010ffff"
        with self._reading() as db:
            query = "SELECT step, body FROM replies WHERE step BETWEEN ? AND ? ORDER BY step"
            rows = [] if db is None else db.execute(query, (prefix, beyond)).fetchall()
        return ((step, _decode_reply(body)) for step, body in rows)

    def tree(self, until: int | None = None) -> Tree:
        """The tree after event number `until`, the last one if left out: the newest good snapshot and what came after.

        It is the caller's own.
        """
        with self._reading() as db:
            return Tree() if db is None else self._fold(db, until)

    def began(self, round: int) -> int | None:
        """The number of the event with which a round began; None if it has not."""
        with self._reading() as db:
            query = "SELECT n FROM events WHERE key = ?"
            row = None if db is None else db.execute(query, (f"round/{round}/began",)).fetchone()
        return None if row is None else int(row[0])

    def fold(self) -> Tree:
        """The tree from the events alone."""
        tree = Tree()
        for _, event in self._read_events(0, _decode_fold):
            tree.apply(event)
        return tree

    def verify(self) -> None:
        """Fold everything anew and compare. Raises EpisodeLogError if the snapshots are not what the events give."""
        kept, folded = self.tree().digest(), self.fold().digest()
        if kept != folded:
            raise EpisodeLogError(
                f"the snapshot in {self.path} is not what its events give ({kept[:12]} and {folded[:12]}): "
                "delete the rows of its table `snapshots`; they are rebuilt"
            )

    # Files ------------------------------------------------------------------------------------------------------------

    def _fold(self, db: sqlite3.Connection, until: int | None = None) -> Tree:
        tree, last = Tree(), sys.maxsize if until is None else until
        for events, digest, state in db.execute(
            "SELECT n, digest, state FROM snapshots WHERE n <= ? ORDER BY n DESC", (last,)
        ):
            if hashlib.sha256(state).hexdigest() == digest:
                try:
                    tree = Tree.from_bytes(state)
                except TreeError:
                    # Another version wrote it; the events are what counts.
                    continue
                if tree.state.events == events:
                    break
                tree = Tree()
        if until is None:
            self._snapshot_at = tree.state.events
        for number, event in _pages(db, tree.state.events, _decode_fold, self.path):
            if number > last:
                break
            tree.apply(event)
        return tree

    def _read_events(self, after: int, decode: Callable[[bytes], T]) -> Iterator[tuple[int, T]]:
        with self._reading() as db:
            if db is not None:
                yield from _pages(db, after, decode, self.path)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        if not self.path.exists():
            yield None
            return
        with closing(self._open_for_reading()) as db, self._named_errors():
            yield db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.take()
            try:
                self._db = self._open_for_writing()
            except BaseException:
                self._lock.release()
                raise
        with self._named_errors():
            yield self._db

    def _open_for_writing(self) -> sqlite3.Connection:
        with self._named_errors():
            db = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
            try:
                if self._layout(db) == (0, 0):
                    db.execute("PRAGMA journal_mode = WAL")
                    names = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};"
                    db.executescript(f"BEGIN; {LAYOUT} {names} COMMIT;")
                self._check_layout(db)
                db.execute("PRAGMA synchronous = FULL")
            except BaseException:
                db.close()
                raise
            return db

    def _open_for_reading(self) -> sqlite3.Connection:
        with self._named_errors():
            db = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_S)
            try:
                self._check_layout(db)
            except BaseException:
                db.close()
                raise
            return db

    def _layout(self, db: sqlite3.Connection) -> tuple[int, int]:
        """The application and version of the file; (0, 0) for one without anything in it."""
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        return (application, version) if tables or application else (0, 0)

    def _check_layout(self, db: sqlite3.Connection) -> None:
        application, version = self._layout(db)
        if application != APPLICATION:
            raise EpisodeLogError(f"{self.path} is no episode log: name another file, or move this one away")
        if version != FORMAT:
            raise EpisodeLogError(
                f"{self.path} has layout {version} and this version reads {FORMAT}: "
                "use the version that wrote it, or begin a new log in another file"
            )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise EpisodeLogError(
                f"cannot use the episode log {self.path}: {error} (is the disk full, or the file damaged or gone?)"
            ) from error


def _key(event: AnyEvent) -> str | None:
    """What makes an event the same as another; None for one that may come again."""
    match event:
        case Contested():
            return f"step/{event.step}"
        case SproutFailed():
            return f"step/{event.step}" if event.step else None
        case Sprouted():
            return f"node/{event.node}"
        case RoundBegan():
            return f"round/{event.round}/began"
        case RoundEnded():
            return f"round/{event.round}/ended"
        case Reborn():
            return f"round/{event.round}/reborn/{event.node}"
        case _:
            return None


def _pages(db: sqlite3.Connection, after: int, decode: Callable[[bytes], T], path: Path) -> Iterator[tuple[int, T]]:
    """Events in pages, so that no reader holds a transaction for long while the writer goes on."""
    while rows := db.execute(
        "SELECT n, body FROM events WHERE n > ? ORDER BY n LIMIT ?", (after, PAGE_ROWS)
    ).fetchall():
        for after, body in rows:
            try:
                yield after, decode(body)
            except msgspec.DecodeError as error:
                raise EpisodeLogError(
                    f"event {after} of {path} cannot be read: {error}; it was written by another version, or damaged"
                ) from error
