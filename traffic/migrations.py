"""The layout of the embedded log, as a list of steps. A step is never changed once it was released: add another one.

`layout_steps` in the database names the steps that were applied. A database with a step that is unknown here was
written by a newer version and is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from traffic.log import LogError


def create_interactions(db: sqlite3.Connection) -> None:
    """Interactions, with their content (large, rarely read) in a table of its own under the same `seq`."""
    db.execute(
        """
        CREATE TABLE interactions (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            created_at REAL NOT NULL,
            endpoint TEXT NOT NULL,
            outcome TEXT NOT NULL,
            http_status INTEGER NOT NULL,
            answer_id TEXT,
            client_request_id TEXT,
            key_id TEXT,
            user TEXT,
            session TEXT,
            workload TEXT,
            requested_model TEXT,
            route TEXT,
            arm TEXT,
            model TEXT,
            stream INTEGER NOT NULL,
            stored INTEGER NOT NULL,
            error_code TEXT,
            router TEXT,
            propensity REAL,
            explored INTEGER,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            cached_tokens INTEGER,
            reasoning_tokens INTEGER,
            cost_usd REAL,
            overhead_s REAL,
            ttft_s REAL,
            latency_s REAL,
            attempts_count INTEGER NOT NULL,
            encoder TEXT,
            schema INTEGER NOT NULL,
            template_ids BLOB,
            attempts BLOB,
            decision BLOB,
            vector BLOB
        )
        """
    )
    db.execute("CREATE UNIQUE INDEX interactions_by_id ON interactions (id)")
    db.execute("CREATE INDEX interactions_by_time ON interactions (created_at)")
    for name in ("answer_id", "client_request_id"):
        db.execute(f"CREATE INDEX interactions_by_{name} ON interactions ({name}) WHERE {name} IS NOT NULL")
    db.execute("CREATE TABLE contents (seq INTEGER PRIMARY KEY, query_text TEXT, request BLOB, response BLOB)")


def create_feedback_and_scores(db: sqlite3.Connection) -> None:
    db.execute(
        """
        CREATE TABLE feedback (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            interaction_id TEXT NOT NULL,
            created_at REAL NOT NULL,
            metric TEXT NOT NULL,
            value BLOB NOT NULL,
            verdict TEXT,
            demonstration BLOB,
            episode_id TEXT,
            tags BLOB NOT NULL,
            idempotency_key TEXT,
            key_id TEXT
        )
        """
    )
    db.execute("CREATE UNIQUE INDEX feedback_by_id ON feedback (id)")
    db.execute("CREATE INDEX feedback_by_time ON feedback (created_at)")
    db.execute("CREATE INDEX feedback_by_interaction ON feedback (interaction_id)")
    db.execute(
        "CREATE INDEX feedback_by_idempotency_key ON feedback (idempotency_key) WHERE idempotency_key IS NOT NULL"
    )
    db.execute(
        """
        CREATE TABLE scores (
            seq INTEGER PRIMARY KEY,
            interaction_id TEXT NOT NULL,
            source TEXT NOT NULL,
            value REAL NOT NULL,
            created_at REAL NOT NULL,
            scorer TEXT NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX scores_by_time ON scores (created_at)")
    db.execute("CREATE INDEX scores_by_interaction ON scores (interaction_id)")


def add_features(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE interactions ADD COLUMN feature_set TEXT")
    db.execute("ALTER TABLE interactions ADD COLUMN features BLOB")


def add_retrieved_templates(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE interactions ADD COLUMN retrieved BLOB")
    db.execute("ALTER TABLE interactions ADD COLUMN withheld INTEGER")


def add_cached_from(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE interactions ADD COLUMN cached_from TEXT")


STEPS: tuple[tuple[str, Callable[[sqlite3.Connection], None]], ...] = (
    ("2026-11-21 interactions", create_interactions),
    ("2026-11-21 feedback and scores", create_feedback_and_scores),
    ("2026-11-21 features", add_features),
    ("2026-11-21 retrieved templates", add_retrieved_templates),
    ("2026-11-21 answers of the cache", add_cached_from),
)


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Bring the database to this layout, in one transaction. Raises LogError for one that is foreign or newer."""
    db.execute("BEGIN IMMEDIATE")
    try:
        applied = _applied_steps(db, path)
        unknown = applied - {name for name, _ in STEPS}
        if unknown:
            raise LogError(
                f"{path} was written by a newer version of Tokamak (layout step {min(unknown)!r} is unknown here): "
                "install that version, or name another file in `log.url`"
            )
        for name, step in STEPS:
            if name not in applied:
                step(db)
                db.execute("INSERT INTO layout_steps (name) VALUES (?)", (name,))
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _applied_steps(db: sqlite3.Connection, path: str) -> set[str]:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "layout_steps" in tables:
        return {name for (name,) in db.execute("SELECT name FROM layout_steps")}
    if tables:
        raise LogError(
            f"{path} is a database of something else (tables {', '.join(sorted(tables)[:5])}), not a traffic log: "
            "name another file in `log.url`"
        )
    db.execute("CREATE TABLE layout_steps (name TEXT PRIMARY KEY) WITHOUT ROWID")
    return set()
