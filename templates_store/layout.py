"""The tables of the template store's file, and how a file of an older layout becomes one of this layout."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable

import msgspec

LAYOUT = 2
"""Version of the file's tables. A file with a newer one is refused, not guessed at."""

APPLICATION_ID = 0x746B7470

_FIRST = (
    "CREATE TABLE templates (id TEXT PRIMARY KEY, state TEXT NOT NULL, encoder TEXT NOT NULL, tenant TEXT,"
    " record BLOB NOT NULL)",
    "CREATE INDEX templates_by_state ON templates (state, encoder)",
    "CREATE TABLE changes (version INTEGER PRIMARY KEY AUTOINCREMENT, template_id TEXT NOT NULL, event TEXT NOT NULL,"
    " reason TEXT, at REAL NOT NULL)",
    "CREATE INDEX changes_by_template ON changes (template_id)",
    "CREATE TABLE builds (builder TEXT NOT NULL, query_key TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL,"
    " at REAL NOT NULL, PRIMARY KEY (builder, query_key))",
)

_SECOND = (
    "CREATE TABLE worth (template_id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE parents (interaction_id TEXT NOT NULL, template_id TEXT NOT NULL,"
    " PRIMARY KEY (interaction_id, template_id)) WITHOUT ROWID",
    "CREATE TABLE origin (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


class _Parents(msgspec.Struct):
    id: str
    interactions: tuple[str, ...] = ()


def make(db: sqlite3.Connection) -> None:
    """Make the tables in an empty file, inside the caller's transaction."""
    for table in (*_FIRST, *_SECOND):
        db.execute(table)
    _name(db)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {LAYOUT}")


def migrate(db: sqlite3.Connection, layout: int) -> None:
    """Bring a file from `layout` to this one, inside the caller's transaction: all of it or nothing."""
    if layout < 2:
        for table in _SECOND:
            db.execute(table)
        _name(db)
        decoder = msgspec.msgpack.Decoder(_Parents)
        for (record,) in db.execute("SELECT record FROM templates").fetchall():
            found = decoder.decode(record)
            note_parents(db, found.id, found.interactions)
    db.execute(f"PRAGMA user_version = {LAYOUT}")


def _name(db: sqlite3.Connection) -> None:
    """Give the file a name of its own, by which what was derived from it can be told from what was not."""
    db.execute("INSERT INTO origin VALUES ('store', ?)", (uuid.uuid4().hex,))


def note_parents(db: sqlite3.Connection, template_id: str, interactions: Iterable[str]) -> None:
    """Remember from which interactions a template was made."""
    db.executemany("INSERT OR IGNORE INTO parents VALUES (?, ?)", [(parent, template_id) for parent in interactions])
