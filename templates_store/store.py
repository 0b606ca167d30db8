"""The templates that exist, in one SQLite file. What is searched is `templates_store.index`, built from here.

Every change is one row in `changes`, committed together with what it changes; the store's version is the number of the
newest change. So the version only grows, a change that was acknowledged survives a crash (WAL, full synchronisation),
and polling the version costs one look-up. One file may be open in several processes: the gateway reads, the command
line writes. Templates are retired and kept, unless they are erased (`templates_store.erasure`).
`templates_store.shared_store` is the same for replicas that share no disk; `templates_store.opening` opens whichever is
configured.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import msgspec

from templates_store.database import TemplateDatabase, TemplateStateError, TemplateStoreError
from templates_store.layout import note_parents
from templates_store.records import check_record, decode_record, decode_worth
from templates_store.template import State, Template, Worth

STORE_FILE = "templates.db"
"""Name of the store inside the service's data folder."""

WORTH = "worth"
"""The event of a change that is about what templates were seen to do, and not about one of them."""

ERASED = "erased"
"""The event of a template that is gone for good, or (without an id) of what nothing may be made from any more."""

_MANY = 500
_PAGE = 512

_FROM: dict[State, frozenset[State]] = {
    "candidate": frozenset({"quarantined"}),
    "active": frozenset({"candidate", "quarantined"}),
    "quarantined": frozenset({"candidate", "active"}),
    "retired": frozenset({"candidate", "active", "quarantined"}),
}
"""For each state the states it can be reached from. Retiring is final."""

BuildOutcome = Literal["built", "rejected", "failed"]
"""`rejected`: no valid template can be made of the answers. `failed`: the builder broke down; worth another try."""


class Change(NamedTuple):
    """One change of one template: `added`, `embedded`, or the name of the state it went into."""

    version: int
    template_id: str
    event: str
    reason: str | None
    at: float


class BuildRecord(NamedTuple):
    """What became of building a template for one query. `detail` is the template's id or the reason for none."""

    query_key: str
    outcome: BuildOutcome
    detail: str


class Entry(NamedTuple):
    """One change that is about to be made: the template as it will be, or (for the event `worth`) the new figures."""

    template_id: str
    event: str
    reason: str | None
    at: float
    template: Template | None = None
    worth: Mapping[str, Worth] | None = None


class VectorRow(msgspec.Struct, frozen=True):
    """What an index needs of a template; the rest of its record is passed over."""

    id: str
    vector: bytes
    encoder: str
    tenant: str | None = None


Plan = Callable[[sqlite3.Connection], list[Entry]]
"""Reads the store inside a transaction and says what to change in it. May be called again if another was faster."""


class TemplateStore:
    """The store in the file `path`, which is made if it does not exist. Safe to use from several threads.

    Raises
    ------
    TemplateStoreError: the file is not a template store, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = TemplateDatabase(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def version(self) -> int:
        """The number of the newest change, 0 for an empty store. Takes some microseconds."""
        with self._file.reading() as db:
            return int(db.execute("SELECT coalesce(max(version), 0) FROM changes").fetchone()[0])

    def add(self, template: Template) -> bool:
        """Store a template durably. Returns False if its id was there already, whatever its state; it is left as it is.

        Raises
        ------
        TemplateRejected: the template is not what it must be (unsafe text, wrong id, no unit vector).
        """
        return self.add_all([template]) == 1

    def add_all(self, templates: Iterable[Template]) -> int:
        """Store several templates, all of them or (if one is rejected) none. Returns how many were new."""
        checked = {template.id: check_record(template) for template in templates}
        return len(self._write(lambda db: _missing(db, checked)))

    def get(self, id_: str) -> Template | None:
        return self.get_many([id_]).get(id_)

    def get_many(self, ids: Sequence[str]) -> dict[str, Template]:
        """The templates with these ids, by id; those that are not there are left out."""
        found: list[tuple[bytes]] = []
        with self._file.reading() as db:
            for start in range(0, len(ids), _MANY):
                part = ids[start : start + _MANY]
                marks = ",".join("?" * len(part))
                found += db.execute(f"SELECT record FROM templates WHERE id IN ({marks})", part).fetchall()
        made = (decode_record(self._file, record) for (record,) in found)
        return {template.id: template for template in made}

    def templates(
        self, *, state: State | None = None, tenant: str | None = None, encoder: str | None = None
    ) -> list[Template]:
        """The templates in the order in which they were added, restricted by whatever is not None."""
        return self._select(state, tenant, encoder)[1]

    def page(
        self, *, state: State | None = None, tenant: str | None = None, after: str | None = None, limit: int = 500
    ) -> list[Template]:
        """At most `limit` templates as `templates` gives them, from the one that follows the id `after`."""
        query = (
            "SELECT record FROM templates WHERE rowid > coalesce((SELECT rowid FROM templates WHERE id = ?), 0)"
            " AND (? IS NULL OR state = ?) AND (? IS NULL OR tenant = ?) ORDER BY rowid LIMIT ?"
        )
        with self._file.reading() as db:
            rows = db.execute(query, (after, state, state, tenant, tenant, limit)).fetchall()
        return [decode_record(self._file, record) for (record,) in rows]

    def snapshot(self, state: State = "active") -> tuple[int, list[Template]]:
        """The version and the templates of a state, read at the same instant."""
        return self._select(state, None, None)

    def counts(self) -> dict[State, int]:
        """How many templates are in each state that occurs."""
        with self._file.reading() as db:
            return dict(db.execute("SELECT state, count(*) FROM templates GROUP BY state ORDER BY state").fetchall())

    def set_state(self, id_: str, state: State, reason: str | None = None) -> Template:
        """Move a template into a state; returns it. Nothing happens if it is in that state.

        Raises
        ------
        TemplateStoreError: there is no such template, or that state cannot be reached from where it is.
        """
        return self.set_states([id_], state, reason)[0]

    def set_states(self, ids: Sequence[str], state: State, reason: str | None = None) -> list[Template]:
        """Move several templates into a state, all of them or (if one cannot) none; returns them as they are then.

        Raises
        ------
        TemplateStoreError: as `set_state`.
        """
        after: dict[str, Template] = {}

        def plan(db: sqlite3.Connection) -> list[Entry]:
            entries, at = [], time.time()
            for id_ in dict.fromkeys(ids):
                template = self._found(db, id_)
                if template.state != state:
                    if template.state not in _FROM[state]:
                        raise TemplateStateError(f"template {id_} is {template.state} and cannot become {state}")
                    template = msgspec.structs.replace(template, state=state)
                    entries.append(Entry(id_, state, reason, at, template))
                after[id_] = template
            return entries

        self._write(plan)
        return [after[id_] for id_ in ids]

    def retire(self, id_: str, reason: str | None = None) -> Template:
        """Take a template out of use for good. Raises TemplateStoreError if there is no such template."""
        return self.set_state(id_, "retired", reason)

    def erase(self, ids: Iterable[str], marks: Iterable[str] = ()) -> list[str]:
        """Remove templates for good: afterwards nothing of them is in the file but that they were there.

        Each of the `marks` is kept as what nothing may be made from any more (see `erasures`). Returns the ids of those
        that were there. Takes a time that grows with the file, which is written anew.

        Raises
        ------
        TemplateStoreError: the store cannot be written, or another process reads an older state of it for too long.
        """
        wanted, wanted_marks = list(dict.fromkeys(ids)), list(dict.fromkeys(marks))

        def plan(db: sqlite3.Connection) -> list[Entry]:
            at = time.time()
            there = [i for i in wanted if db.execute("SELECT 1 FROM templates WHERE id = ?", (i,)).fetchone()]
            return [Entry(i, ERASED, None, at) for i in there] + [Entry("", ERASED, mark, at) for mark in wanted_marks]

        entries = self._write(plan)
        self.compact()
        return [entry.template_id for entry in entries if entry.template_id]

    def erasures(self) -> dict[str, float]:
        """What nothing may be made from any more, and when that was said."""
        query = "SELECT reason, max(at) FROM changes WHERE template_id = '' AND event = ? GROUP BY reason"
        with self._file.reading() as db:
            return dict(db.execute(query, (ERASED,)).fetchall())

    def compact(self) -> None:
        """Write the file anew, so that nothing is left in it of what was removed. Raises TemplateStoreError."""
        self._file.compact()

    def set_vectors(self, encoder: str, vectors: Mapping[str, bytes]) -> int:
        """Give templates (by id) the vectors of another encoder, in one transaction. Returns how many there were."""

        def plan(db: sqlite3.Connection) -> list[Entry]:
            entries, at = [], time.time()
            for id_, vector in vectors.items():
                row = db.execute("SELECT record FROM templates WHERE id = ?", (id_,)).fetchone()
                if row is not None:
                    made = msgspec.structs.replace(decode_record(self._file, row[0]), encoder=encoder, vector=vector)
                    entries.append(Entry(id_, "embedded", encoder, at, check_record(made)))
            return entries

        return len(self._write(plan))

    def set_worth(self, worth: Mapping[str, Worth]) -> None:
        """Replace what is known of the worth of these templates (by id); that of others stays. One change."""
        if worth:
            self._write(lambda db: [Entry("", WORTH, f"{len(worth)} templates", time.time(), worth=worth)])

    def worth(self) -> dict[str, Worth]:
        """What is known of the worth of templates, by id; those that were never measured are not in it."""
        with self._file.reading() as db:
            rows = db.execute("SELECT template_id, record FROM worth").fetchall()
        return {id_: decode_worth(self._file, record) for id_, record in rows}

    def made_from(self, interactions: Iterable[str]) -> list[str]:
        """Ids of the templates, of any state, that were distilled from at least one of these interactions, sorted."""
        wanted = list(interactions)
        found: set[str] = set()
        with self._file.reading() as db:
            for start in range(0, len(wanted), _MANY):
                part = wanted[start : start + _MANY]
                marks = ",".join("?" * len(part))
                rows = db.execute(f"SELECT template_id FROM parents WHERE interaction_id IN ({marks})", part)
                found.update(id_ for (id_,) in rows)
        return sorted(found)

    def history(self, id_: str) -> list[Change]:
        """Everything that happened to a template, oldest first."""
        with self._file.reading() as db:
            rows = db.execute("SELECT * FROM changes WHERE template_id = ? ORDER BY version", (id_,)).fetchall()
        return [Change(*row) for row in rows]

    def changes_since(self, version: int, limit: int = 1_000_000) -> list[Change]:
        """The first `limit` changes after `version`, oldest first."""
        query = "SELECT * FROM changes WHERE version > ? ORDER BY version LIMIT ?"
        with self._file.reading() as db:
            return [Change(*row) for row in db.execute(query, (version, limit)).fetchall()]

    def mark(self, version: int) -> str:
        """Names this store at that version. Empty if it has no such version: then it is another store, or an older one.

        What was derived from a store can be told by it from what was derived from another, or from a restored copy.
        """
        with self._file.reading() as db:
            (name,) = db.execute("SELECT value FROM origin WHERE name = 'store'").fetchone()
            row = db.execute("SELECT template_id, at FROM changes WHERE version = ?", (version,)).fetchone()
        if row is None:
            return f"{name}:0" if version == 0 else ""
        return f"{name}:{version}:{row[0]}:{row[1]!r}"

    def vector_rows(self, encoder: str) -> Iterator[VectorRow]:
        """The active templates of an encoder, a page at a time: what changes in between may or may not be in it."""
        decoder = msgspec.msgpack.Decoder(VectorRow)
        after = 0
        while True:
            with self._file.reading() as db:
                rows = db.execute(
                    "SELECT rowid, record FROM templates WHERE rowid > ? AND state = 'active' AND encoder = ?"
                    " ORDER BY rowid LIMIT ?", (after, encoder, _PAGE),
                ).fetchall()  # fmt: skip
            for _, record in rows:
                try:
                    yield decoder.decode(record)
                except msgspec.DecodeError as error:
                    raise self._file.damaged(str(error)) from error
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def active_elsewhere(self, encoder: str) -> int:
        """How many active templates have vectors of another encoder, and are therefore not found."""
        with self._file.reading() as db:
            query = "SELECT count(*) FROM templates WHERE state = 'active' AND encoder != ?"
            return int(db.execute(query, (encoder,)).fetchone()[0])

    def reader(self) -> TemplateStore:
        """The same store through a connection of its own, which waits for no writer of this process."""
        return TemplateStore(self.path)

    def record_build(self, builder: str, record: BuildRecord, template: Template | None = None) -> bool:
        """Remember what became of a query, in one transaction with its template. Returns whether that is new."""
        checked = {} if template is None else {template.id: check_record(template)}

        def plan(db: sqlite3.Connection) -> list[Entry]:
            db.execute("INSERT OR REPLACE INTO builds VALUES (?, ?, ?, ?, ?)", (builder, *record, time.time()))
            return _missing(db, checked)

        return bool(self._write(plan))

    def builds(self, builder: str) -> dict[str, BuildRecord]:
        """What became of each query that this builder has seen, by query key."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT query_key, outcome, detail FROM builds WHERE builder = ?", (builder,)
            ).fetchall()  # fmt: skip
        return {row[0]: BuildRecord(*row) for row in rows}

    def _select(self, state: State | None, tenant: str | None, encoder: str | None) -> tuple[int, list[Template]]:
        wanted = {"state": state, "tenant": tenant, "encoder": encoder}
        wanted = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in wanted)
        with self._file.reading() as db:
            db.execute("BEGIN")
            try:
                version = int(db.execute("SELECT coalesce(max(version), 0) FROM changes").fetchone()[0])
                query = f"SELECT record FROM templates {'WHERE ' + where if where else ''} ORDER BY rowid"
                rows = db.execute(query, tuple(wanted.values())).fetchall()
            finally:
                db.execute("COMMIT")
        return version, [decode_record(self._file, record) for (record,) in rows]

    def _found(self, db: sqlite3.Connection, id_: str) -> Template:
        row = db.execute("SELECT record FROM templates WHERE id = ?", (id_,)).fetchone()
        if row is None:
            raise TemplateStoreError(f"no template has the id {id_!r}; `tokamak templates list` shows those there are")
        return decode_record(self._file, row[0])

    def _write(self, plan: Plan) -> list[Entry]:
        """Do what the plan says, in one transaction; returns the changes made."""
        with self._file.writing() as db:
            entries = plan(db)
            write_entries(db, entries)
        return entries


def write_entries(db: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Make these changes inside the caller's transaction; each of them is a version."""
    entries = list(entries)
    for entry in entries:
        row = (entry.template_id, entry.event, entry.reason, entry.at)
        db.execute("INSERT INTO changes (template_id, event, reason, at) VALUES (?, ?, ?, ?)", row)
        if entry.template is not None:
            place_record(db, entry.template, msgspec.msgpack.encode(entry.template))
        for id_, worth in (entry.worth or {}).items():
            db.execute("INSERT OR REPLACE INTO worth VALUES (?, ?)", (id_, msgspec.msgpack.encode(worth)))
    remove_records(db, [entry.template_id for entry in entries if entry.event == ERASED and entry.template_id])


def remove_records(db: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Remove all that is known of these templates but the names of their changes, inside the caller's transaction."""
    for start in range(0, len(ids), _MANY):
        part = ids[start : start + _MANY]
        marks = ",".join("?" * len(part))
        db.execute(f"DELETE FROM templates WHERE id IN ({marks})", part)
        db.execute(f"DELETE FROM worth WHERE template_id IN ({marks})", part)
        db.execute(f"DELETE FROM parents WHERE template_id IN ({marks})", part)
        db.execute(f"UPDATE changes SET reason = NULL WHERE template_id IN ({marks})", part)
    for id_ in ids:
        # Questions that had no template because of this one may have one now.
        db.execute("DELETE FROM builds WHERE detail LIKE ?", (f"%{id_}%",))


def place_record(db: sqlite3.Connection, template: Template, record: bytes) -> None:
    """Write a template as it is now, new or not, inside the caller's transaction. It keeps its place in the order."""
    db.execute(
        "INSERT INTO templates VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state,"
        " encoder = excluded.encoder, tenant = excluded.tenant, record = excluded.record",
        (template.id, template.state, template.encoder, template.tenant, record),
    )
    note_parents(db, template.id, template.interactions)


def _missing(db: sqlite3.Connection, templates: Mapping[str, Template]) -> list[Entry]:
    """Additions of those templates that are not there, whatever their state, and were not erased."""
    at = time.time()
    there = "SELECT 1 FROM templates WHERE id = ? UNION ALL SELECT 1 FROM changes WHERE template_id = ? AND event = ?"
    known = {id_ for id_ in templates if db.execute(there, (id_, id_, ERASED)).fetchone() is not None}
    return [Entry(id_, "added", None, at, made) for id_, made in templates.items() if id_ not in known]
