"""API keys that an operator creates while the service runs, in one SQLite file of the data folder.

A secret is 32 random bytes, shown once and kept as its SHA-256 only. Salts, peppers and slow hashes protect secrets
that can be guessed; among 2^256 there is nothing to guess, so one fast digest is enough, and it is the index by which a
request finds its key. Every change and its line in the audit log are one transaction, and the number of that line is
the revision of the key and of the file.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from registry.api_key_table import Action, ApiKey, KeyChange, KeySecret, KeySettings, opened

FILE: Final = "keys.db"
PREFIX: Final = "sk-tokamak-"
SECRET_BYTES: Final = 32
HINT_CHARS: Final = 4
"""Of a secret's 43 random characters so many are kept to tell it from others; 234 random bits stay unknown."""
ANY: Final = "*"
"""If-Match: whatever the state is."""
CREATED_ID: Final = r"key_[0-9a-f]{20}"
"""Ids of created keys, as an expression. A key of the config with such an id would be taken for another tenant."""
MAX_GRACE_S: Final = 30 * 86_400.0

_KEY = "SELECT id, settings, revision, created_at, created_by, revoked_at FROM keys"


class ApiKeyMissing(Exception):
    """There is no such key."""


class ApiKeyConflict(Exception):
    """The change does not fit the state of the key, or its name is taken. The message says which."""


class ApiKeyStale(Exception):
    """The key was changed since the caller looked."""


class Created(NamedTuple):
    """A key with its new secret, which is told nowhere else."""

    key: ApiKey
    secret: str


class KeyFile(NamedTuple):
    """All keys at a revision; at revision 0 there never was one."""

    revision: int
    keys: tuple[ApiKey, ...]


class ApiKeys:
    """The keys of one data folder. Every call opens the file anew, so it may be shared by threads and processes.

    All methods raise ApiKeysError if the file cannot be used.
    """

    def __init__(self, data_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = data_dir / FILE
        self._clock = clock

    def read(self, unless: int | None = None) -> KeyFile | None:
        """All keys, oldest first; None if the file is still at the revision `unless`."""
        if not self._begun():
            return None if unless == 0 else KeyFile(0, ())
        with opened(self.path, to_write=False) as db:
            revision = _revision(db)
            if revision == unless:
                return None
            rows = db.execute(f"{_KEY} ORDER BY created_at, id").fetchall()
            return KeyFile(revision, tuple(_key(db, row) for row in rows))

    def get(self, key_id: str) -> ApiKey:
        """Raises ApiKeyMissing."""
        if not self._begun():
            raise _missing(key_id)
        with opened(self.path, to_write=False) as db:
            return _the(db, key_id)

    def audit(self, key_id: str | None = None, limit: int = 1_000) -> list[KeyChange]:
        """The newest changes, of one key or of all, oldest first."""
        if not self._begun():
            return []
        where, values = ("", ()) if key_id is None else ("WHERE key = ? ", (key_id,))
        with opened(self.path, to_write=False) as db:
            rows = db.execute(
                f"SELECT seq, at, by, action, key, name, why, changes FROM audit {where}ORDER BY seq DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [
            msgspec.convert(
                dict(zip(KeyChange.__struct_fields__, row, strict=True)) | {"changes": msgspec.json.decode(row[-1])},
                KeyChange,
            )
            for row in reversed(rows)
        ]

    def _begun(self) -> bool:
        """Whether anything was ever written; the file is empty while another process makes its tables."""
        try:
            return self.path.stat().st_size > 0
        except FileNotFoundError:
            return False

    def create(self, settings: KeySettings, *, by: str, why: str | None = None) -> Created:
        """Make a key with a new secret.

        Raises
        ------
        ApiKeyConflict: a key that is not revoked has this name.
        ValueError: it would be expired already.
        """
        now = self._clock()
        _unexpired(settings, now)
        key_id = f"key_{int(now * 1e3):012x}{os.urandom(4).hex()}"
        with opened(self.path, to_write=True) as db:
            changes = msgspec.to_builtins(settings)
            revision = self._note(db, "create", key_id, settings.name, by=by, why=why, changes=changes)
            with _named_once(settings.name):
                db.execute(
                    "INSERT INTO keys (id, name, settings, revision, created_at, created_by) VALUES (?, ?, ?, ?, ?, ?)",
                    (key_id, settings.name, _packed(settings), revision, now, by),
                )
            secret = _add_secret(db, key_id, now)
            return Created(_the(db, key_id), secret)

    def update(
        self, key_id: str, changes: Mapping[str, Any], *, by: str, if_match: str, why: str | None = None
    ) -> ApiKey:
        """Set some of the fields of `KeySettings`.

        Raises
        ------
        ApiKeyMissing, ApiKeyStale; ApiKeyConflict: the key is revoked, or the new name is taken.
        ValueError: it would be expired already.
        """
        with opened(self.path, to_write=True) as db:
            key = _live(db, key_id, if_match)
            settings = msgspec.structs.replace(key.settings, **changes)
            if "expires_at" in changes:
                _unexpired(settings, self._clock())
            told = {name: msgspec.to_builtins(value) for name, value in changes.items()}
            revision = self._note(db, "update", key_id, settings.name, by=by, why=why, changes=told)
            with _named_once(settings.name):
                db.execute(
                    "UPDATE keys SET name = ?, settings = ?, revision = ? WHERE id = ?",
                    (settings.name, _packed(settings), revision, key_id),
                )
            return _the(db, key_id)

    def rotate(self, key_id: str, grace_s: float, *, by: str, if_match: str, why: str | None = None) -> Created:
        """Give the key a new secret. The one before goes on for `grace_s` seconds, [0, 30 days]; still older ones end.

        Raises
        ------
        ApiKeyMissing, ApiKeyStale; ApiKeyConflict: the key is revoked. ValueError: no such grace time.
        """
        if not (math.isfinite(grace_s) and 0.0 <= grace_s <= MAX_GRACE_S):
            raise ValueError(f"the grace time must lie in [0, {MAX_GRACE_S:g}] seconds, got {grace_s}")
        with opened(self.path, to_write=True) as db:
            key, now = _live(db, key_id, if_match), self._clock()
            revision = self._note(db, "rotate", key_id, key.settings.name, by=by, why=why, changes={"grace_s": grace_s})
            db.execute("DELETE FROM secrets WHERE key = ? AND valid_until IS NOT NULL", (key_id,))
            if grace_s > 0:
                db.execute("UPDATE secrets SET valid_until = ? WHERE key = ?", (now + grace_s, key_id))
            else:
                db.execute("DELETE FROM secrets WHERE key = ?", (key_id,))
            secret = _add_secret(db, key_id, now)
            db.execute("UPDATE keys SET revision = ? WHERE id = ?", (revision, key_id))
            return Created(_the(db, key_id), secret)

    def revoke(self, key_id: str, *, by: str, if_match: str, why: str | None = None) -> ApiKey:
        """End the key for ever; nothing is kept of its secrets. Raises as `rotate`."""
        with opened(self.path, to_write=True) as db:
            key = _live(db, key_id, if_match)
            revision = self._note(db, "revoke", key_id, key.settings.name, by=by, why=why, changes={})
            db.execute("DELETE FROM secrets WHERE key = ?", (key_id,))
            db.execute("UPDATE keys SET revoked_at = ?, revision = ? WHERE id = ?", (self._clock(), revision, key_id))
            return _the(db, key_id)

    def _note(
        self, db: sqlite3.Connection, action: Action, key_id: str, name: str, *, by: str, why: str | None,
        changes: Mapping[str, Any],
    ) -> int:  # fmt: skip
        """Write the line of the audit log; its number is the new revision."""
        db.execute(
            "INSERT INTO audit (at, by, action, key, name, why, changes) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self._clock(), by, action, key_id, name, why, msgspec.json.encode(changes).decode()),
        )
        return _revision(db)


def digest_of(secret: bytes) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret).digest()


@contextmanager
def _named_once(name: str) -> Iterator[None]:
    """Says that a name is taken where the database only says that an index would not be unique."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ApiKeyConflict(
            f"a key that is not revoked is named {name!r} already; rotate it, or take another name"
        ) from error


def _add_secret(db: sqlite3.Connection, key_id: str, now: float) -> str:
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    db.execute(
        "INSERT INTO secrets (digest, key, hint, created_at) VALUES (?, ?, ?, ?)",
        (digest_of(secret.encode()), key_id, f"...{secret[-HINT_CHARS:]}", now),
    )
    return secret


def _revision(db: sqlite3.Connection) -> int:
    (found,) = db.execute("SELECT coalesce(max(seq), 0) FROM audit").fetchone()
    return int(found)


def _the(db: sqlite3.Connection, key_id: str) -> ApiKey:
    row = db.execute(f"{_KEY} WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise _missing(key_id)
    return _key(db, row)


def _live(db: sqlite3.Connection, key_id: str, if_match: str) -> ApiKey:
    key = _the(db, key_id)
    if if_match not in (ANY, key.etag):
        raise ApiKeyStale(f"the key {key_id} is at {key.etag} now, not at {if_match}; look at it and try again")
    if key.revoked_at is not None:
        raise ApiKeyConflict(f"the key {key_id} is revoked, and that is for ever; create another one")
    return key


def _key(db: sqlite3.Connection, row: tuple[Any, ...]) -> ApiKey:
    key_id, settings, revision, created_at, created_by, revoked_at = row
    found = db.execute(
        "SELECT digest, hint, created_at, valid_until FROM secrets WHERE key = ? ORDER BY created_at", (key_id,)
    ).fetchall()
    return ApiKey(
        id=key_id, settings=msgspec.json.decode(settings, type=KeySettings), revision=revision, created_at=created_at,
        created_by=created_by, revoked_at=revoked_at,
        secrets=tuple(KeySecret(digest=d, hint=h, created_at=c, valid_until=v) for d, h, c, v in found),
    )  # fmt: skip


def _missing(key_id: str) -> ApiKeyMissing:
    return ApiKeyMissing(f"there is no key {key_id!r}; GET /admin/keys lists them")


def _packed(settings: KeySettings) -> str:
    return msgspec.json.encode(settings).decode()


def _unexpired(settings: KeySettings, now: float) -> None:
    if settings.expires_at is not None and not settings.expires_at > now:
        raise ValueError(f"'expires_at' must lie in the future, in Unix seconds; got {settings.expires_at:.0f}")
