"""The tables of created API keys: the records they hold, and how the file is opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

KeyScope = Literal["chat", "completions", "embeddings", "models", "route", "feedback", "metrics"]
"""What a key may do: the endpoints of the data port by their last name."""
ALL_SCOPES: Final[tuple[KeyScope, ...]] = (
    "chat", "completions", "embeddings", "models", "route", "feedback", "metrics",
)  # fmt: skip
USUAL_SCOPES: Final[tuple[KeyScope, ...]] = ("chat", "completions", "embeddings", "models", "route", "feedback")
"""Metrics count everybody's requests, so a key sees them only if it is told to."""
Action = Literal["create", "update", "rotate", "revoke"]
KeyState = Literal["active", "expired", "revoked"]

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@ -]{0,99}$")]
Globs = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=200)], ...], msgspec.Meta(min_length=1)]
Scopes = Annotated[tuple[KeyScope, ...], msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Usd = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
WhenSpent = Literal["refuse", "cheapest"]

LAYOUT: Final = 1
BUSY_S: Final = 5.0
"""Longest wait for another process that writes."""

_CREATE: Final = f"""
CREATE TABLE keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, settings TEXT NOT NULL, revision INTEGER NOT NULL,
    created_at REAL NOT NULL, created_by TEXT NOT NULL, revoked_at REAL
);
CREATE UNIQUE INDEX one_live_key_of_a_name ON keys (name) WHERE revoked_at IS NULL;
CREATE TABLE secrets (
    digest BLOB PRIMARY KEY, key TEXT NOT NULL, hint TEXT NOT NULL, created_at REAL NOT NULL, valid_until REAL
);
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, by TEXT NOT NULL, action TEXT NOT NULL, key TEXT NOT NULL,
    name TEXT NOT NULL, why TEXT, changes TEXT NOT NULL
);
PRAGMA user_version = {LAYOUT};
"""


class KeySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key is for and how much it may do. `models` are globs; `expires_at` is in Unix seconds.

    A limit that is None does not hold. Tokens are those of prompts and answers together.
    """

    name: Name
    scopes: Scopes = USUAL_SCOPES
    models: Globs = ("*",)
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    max_concurrent: Count | None = None
    usd_per_day: Usd | None = None
    when_spent: WhenSpent = "refuse"
    expires_at: float | None = None


class KeySecret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of a key, by its SHA-256. `hint` is how it ends; `valid_until` is set once it is replaced."""

    digest: bytes
    hint: str
    created_at: float
    valid_until: float | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A created key. `id` names it in the log for ever; a revoked key has no secrets."""

    id: str
    settings: KeySettings
    revision: int
    created_at: float
    created_by: str
    revoked_at: float | None
    secrets: tuple[KeySecret, ...]

    @property
    def etag(self) -> str:
        return f'"{self.revision}"'

    def state(self, now: float) -> KeyState:
        if self.revoked_at is not None:
            return "revoked"
        expires_at = self.settings.expires_at
        return "expired" if expires_at is not None and expires_at <= now else "active"


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the audit log. `changes` holds what was set; never a secret or a digest."""

    seq: int
    at: float
    by: str
    action: Action
    key: str
    name: str
    why: str | None
    changes: dict[str, Any]


class ApiKeysError(RuntimeError):
    """The file of keys cannot be used. The message says what to do."""


@contextmanager
def opened(path: Path, *, to_write: bool) -> Iterator[sqlite3.Connection]:
    """One transaction; to write, it holds the only pen and makes file and tables if need be. Raises ApiKeysError."""
    try:
        if to_write and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Nobody else on the machine need know who has keys.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise ApiKeysError(f"cannot open the API keys {path}: {error}; is `server.data_dir` writable?") from error
    try:
        if to_write:
            db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE" if to_write else "BEGIN")
        _prepare(db, path)
        yield db
        db.execute("COMMIT")
    except sqlite3.IntegrityError:
        raise
    except sqlite3.OperationalError as error:
        raise ApiKeysError(f"cannot use the API keys {path}: {error}; is the disk full, or a process stuck?") from error
    except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
        raise ApiKeysError(
            f"the API keys {path} are corrupt ({error}); bring the file back from a copy, or move it away and create "
            "the keys anew"
        ) from error
    finally:
        db.close()


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout > LAYOUT:
        raise ApiKeysError(f"{path} was written by a newer version (layout {layout}, known here {LAYOUT}); install it")
    if layout < LAYOUT:
        for statement in filter(str.strip, _CREATE.split(";")):
            db.execute(statement)
