"""The template store of many replicas: the records are in Redis, and every replica has a copy to read from.

Keys, all under one prefix: `layout`; `epoch`, a name given to this Redis at the first write; `version`; `records` and
`worth`, hashes by template id; `builds:<builder>`, a hash by question; and `changes`, a stream whose entry `N-0` is
version N. One script writes a group of changes, if the version is still the one that they were planned for; else the
copy catches up and the plan is made anew. The stream is also the announcement: a replica waits on it, writes what is
new into its copy, and searches there. So a search never waits for Redis, and goes on while Redis is away.

What Redis acknowledged counts as durable: set `appendonly yes` there, and `appendfsync always` to lose nothing at all.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from templates_store.database import TemplateStoreError
from templates_store.records import check_record, decode_record, decode_worth
from templates_store.store import (
    ERASED,
    WORTH,
    BuildRecord,
    Entry,
    Plan,
    TemplateStore,
    place_record,
    remove_records,
    write_entries,
)
from templates_store.template import Template

LAYOUT = 1
"""Version of the keys; a Redis that holds a higher one was written by a newer version and is refused."""

_PAGE = 1_000
_WAIT_MS = 200
_AWAY_S = 0.5
_CLOSING_S = 2.0
_TRIES = 50

_WRITE = """
local layout = tonumber(redis.call('GET', KEYS[1]) or '0')
if layout > tonumber(ARGV[1]) then
  return redis.error_reply('NEWERLAYOUT ' .. layout)
end
local version = tonumber(redis.call('GET', KEYS[3]) or '0')
if version ~= tonumber(ARGV[3]) or (redis.call('GET', KEYS[2]) or ARGV[2]) ~= ARGV[2] then
  return -1
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
local at = 5
for i = 1, tonumber(ARGV[4]) do
  version = version + 1
  local id, event, reason, when, record = unpack(ARGV, at, at + 4)
  redis.call('XADD', KEYS[6], version .. '-0', 'id', id, 'event', event, 'reason', reason, 'at', when)
  if record ~= '' then redis.call('HSET', KEYS[4], id, record) end
  if event == 'erased' then redis.call('HDEL', KEYS[4], id) redis.call('HDEL', KEYS[5], id) end
  at = at + 5
end
while at + 1 <= #ARGV do
  redis.call('HSET', KEYS[5], ARGV[at], ARGV[at + 1])
  at = at + 2
end
redis.call('SET', KEYS[3], version)
return version
"""
"""Writes a group of changes if nothing else was written since. KEYS: layout, epoch, version, records, worth, changes.
ARGV: layout, epoch, version that was planned for, number of changes, five for each (id, event, reason or empty, time,
record or empty), then two for each worth (id, record). Returns the new version, or -1."""

logger = logging.getLogger("tokamak.templates")


class SharedTemplateStore(TemplateStore):
    """`TemplateStore` in a Redis, read from the copy in the file `path`. Safe to use from several threads.

    With `follow` a thread takes in what others write as it happens.

    Raises
    ------
    TemplateStoreError: the Redis refuses us or was written by a newer version; or it is away and there is no copy.
    """

    def __init__(self, url: str, path: Path | str, *, follow: bool = False, prefix: str = "tokamak:templates") -> None:
        self._prefix = prefix
        self._url = url
        self._name = _shown(url)
        self._client = _connect(url, self._name)
        self._stopping = threading.Event()
        self._follower: threading.Thread | None = None
        known = Path(path).exists()
        super().__init__(path)
        self._file.relax()
        try:
            self._join(Path(path))
            self.catch_up()
        except _Away as error:
            if not known:
                self._file.close()
                raise TemplateStoreError(f"{error}; there is no copy of its templates to go on with") from error
            logger.error("%s; the templates are those of the copy %s until it comes back", error, path)
        if follow:
            self._follower = threading.Thread(target=self._follow, name="template-follower", daemon=True)
            self._follower.start()

    def close(self) -> None:
        self._stopping.set()
        if self._follower is not None:
            self._follower.join(_CLOSING_S)
        self._client.close()
        super().close()

    def reader(self) -> TemplateStore:
        """The copy, through a connection of its own."""
        return TemplateStore(self.path)

    def catch_up(self) -> int:
        """Take in what others have written; returns how many changes that were.

        Raises
        ------
        TemplateStoreError: the Redis is away, or is not the one that the copy is of.
        """
        done = 0
        while True:
            changes = self._changes_after(self.version())
            if changes:
                self._copy(changes)
            done += len(changes)
            if len(changes) < _PAGE:
                return done

    def builds(self, builder: str) -> dict[str, BuildRecord]:
        rows = cast(dict[bytes, bytes], self._asked("hgetall", self._key(f"builds:{builder}")))
        decoder = msgspec.msgpack.Decoder(BuildRecord)
        return {key.decode(): decoder.decode(row) for key, row in rows.items()}

    def record_build(self, builder: str, record: BuildRecord, template: Template | None = None) -> bool:
        fresh = False if template is None else self.add(check_record(template))
        self._asked("hset", self._key(f"builds:{builder}"), record.query_key, msgspec.msgpack.encode(record))
        return fresh

    def erase(self, ids: Iterable[str], marks: Iterable[str] = ()) -> list[str]:
        erased = super().erase(ids, marks)
        for key in self._builders() if erased else ():
            for question, row in cast(dict[bytes, bytes], self._asked("hgetall", key)).items():
                if any(id_.encode() in row for id_ in erased):
                    self._asked("hdel", key, question)
        return erased

    def _builders(self) -> list[bytes]:
        cursor, found = 0, list[bytes]()
        while True:
            cursor, keys = self._asked("scan", cursor, match=self._key("builds:*"), count=1_000)
            found += keys
            if cursor == 0:
                return found

    def _write(self, plan: Plan) -> list[Entry]:
        for _ in range(_TRIES):
            self.catch_up()
            with self._file.writing() as db:
                base = int(db.execute("SELECT coalesce(max(version), 0) FROM changes").fetchone()[0])
                entries = plan(db)
                if not entries:
                    return []
                if self._sent(base, entries, self._epoch(db)):
                    write_entries(db, entries)
                    return entries
            self._check_same()
        raise TemplateStoreError(
            f"{_TRIES} times another writer of the templates in {self._name} was faster; try again"
        )

    def _sent(self, base: int, entries: list[Entry], epoch: str) -> bool:
        arguments: list[bytes | str | int] = [LAYOUT, epoch, base, len(entries)]
        for entry in entries:
            record = b"" if entry.template is None else msgspec.msgpack.encode(entry.template)
            arguments += [entry.template_id, entry.event, entry.reason or "", repr(entry.at), record]
        for entry in entries:
            for id_, worth in (entry.worth or {}).items():
                arguments += [id_, msgspec.msgpack.encode(worth)]
        keys = [self._key(name) for name in ("layout", "epoch", "version", "records", "worth", "changes")]
        return int(self._asked("eval", _WRITE, len(keys), *keys, *arguments)) >= 0

    def _changes_after(self, version: int) -> list[tuple[int, dict[bytes, bytes]]]:
        found = self._asked("xrange", self._key("changes"), f"{version + 1}-0", "+", count=_PAGE)
        return [(int(entry.partition(b"-")[0]), fields) for entry, fields in cast(list[Any], found)]

    def _copy(self, changes: list[tuple[int, dict[bytes, bytes]]]) -> None:
        """Write changes into the copy, with the records as they are now: newer ones bring their own change later."""
        ids = list(dict.fromkeys(fields[b"id"] for _, fields in changes if fields[b"id"]))
        records = cast(list[bytes | None], self._asked("hmget", self._key("records"), ids)) if ids else []
        worth: dict[bytes, bytes] = {}
        if any(fields[b"event"] == WORTH.encode() for _, fields in changes):
            worth = cast(dict[bytes, bytes], self._asked("hgetall", self._key("worth")))
        with self._file.writing() as db:
            for version, fields in changes:
                reason = fields[b"reason"].decode() or None
                row = (version, fields[b"id"].decode(), fields[b"event"].decode(), reason, float(fields[b"at"]))
                db.execute("INSERT OR IGNORE INTO changes VALUES (?, ?, ?, ?, ?)", row)
            for record in records:
                if record is not None:
                    place_record(db, decode_record(self._file, record), record)
            for id_, value in worth.items():
                decode_worth(self._file, value)
                db.execute("INSERT OR REPLACE INTO worth VALUES (?, ?)", (id_.decode(), value))
            gone = [fields[b"id"].decode() for _, fields in changes if fields[b"event"] == ERASED.encode()]
            remove_records(db, [id_ for id_ in gone if id_])
        if gone:
            self.compact()

    def _join(self, path: Path) -> None:
        """See that the copy is of this Redis; if it is of another, or of one that has lost data, put it aside."""
        layout = int(self._asked("get", self._key("layout")) or 0)
        if layout > LAYOUT:
            raise TemplateStoreError(
                f"the templates in {self._name} were written by a newer version of Tokamak (layout {layout}, this one "
                f"knows {LAYOUT}): install that version, or name another database in `templates.url`"
            )
        found = cast(bytes | None, self._asked("get", self._key("epoch")))
        version = int(self._asked("get", self._key("version")) or 0)
        with self._file.reading() as db:
            own = self._epoch(db)
        if self.version() > version or (found is not None and own not in ("", found.decode())):
            aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
            self._file.close()
            for ending in ("", "-wal", "-shm"):
                part = path.with_name(f"{path.name}{ending}")
                if part.exists():
                    part.rename(aside.with_name(f"{aside.name}{ending}"))
            logger.error(
                "the copy %s is of templates that %s does not have; it was put aside as %s, from which "
                "`tokamak templates export` and `import` bring back what is missed", path, self._name, aside,
            )  # fmt: skip
            super().__init__(path)
            self._file.relax()
            own = ""
        if not own:
            epoch = found.decode() if found is not None else uuid.uuid4().hex
            if found is None and not self._asked("set", self._key("epoch"), epoch, nx=True):
                epoch = cast(bytes, self._asked("get", self._key("epoch"))).decode()
            with self._file.writing() as db:
                db.execute("INSERT OR REPLACE INTO origin VALUES ('epoch', ?)", (epoch,))

    def _check_same(self) -> None:
        """Raises TemplateStoreError if the Redis is no longer the one that the copy is of."""
        found = cast(bytes | None, self._asked("get", self._key("epoch")))
        version = int(self._asked("get", self._key("version")) or 0)
        with self._file.reading() as db:
            own = self._epoch(db)
        if version < self.version() or (found is not None and found.decode() != own):
            raise TemplateStoreError(
                f"the Redis {self._name} does not have what the copy {self.path} was made of: it has lost data or is "
                "another one. The copy goes on serving; at the next start it is put aside, and nothing of it is lost"
            )

    def _epoch(self, db: sqlite3.Connection) -> str:
        row = db.execute("SELECT value FROM origin WHERE name = 'epoch'").fetchone()
        return "" if row is None else str(row[0])

    def _follow(self) -> None:
        """Wait for changes and take them in, until closed. While the Redis is away the copy stays as it is."""
        client = _connect(self._url, self._name)
        told = False
        while not self._stopping.is_set():
            try:
                client.xread({self._key("changes"): f"{self.version()}-0"}, count=1, block=_WAIT_MS)
                if not self._stopping.is_set():
                    self.catch_up()
                    self._check_same()
                told = False
            except (redis.RedisError, TemplateStoreError) as error:
                if not told and not self._stopping.is_set():
                    logger.error("the templates in %s cannot be followed, the copy serves: %s", self._name, error)
                told = True
                self._stopping.wait(_AWAY_S)
        client.close()

    def _asked(self, command: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._client, command)(*arguments, **options)
        except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise TemplateStoreError(
                f"the Redis {self._name} refuses us ({error}): put user and password into `templates.url`"
            ) from error
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
            raise _Away(f"the Redis {self._name} of the templates is away ({error}); start it or try again") from error
        except redis.RedisError as error:
            raise TemplateStoreError(f"the Redis {self._name} cannot hold the templates: {error}") from error

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"


class _Away(TemplateStoreError):
    """The Redis cannot be reached now."""


def _connect(url: str, name: str) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url, socket_connect_timeout=1.0, socket_timeout=5.0, retry=Retry(NoBackoff(), 0), health_check_interval=30
        )
    except ValueError as error:
        raise TemplateStoreError(f"`templates.url` must look like redis://host:port/db, got {name}: {error}") from error


def _shown(url: str) -> str:
    """The URL without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
