"""The templates that exist, in one SQLite file. What is searched is `templates_store.index`, built from here.

Every change is one row in `changes`, committed together with what it changes; the store's version is the number of the
newest change. So the version only grows, a change that was acknowledged survives a crash (WAL, full synchronisation),
and polling the version costs one look-up. One file may be open in several processes: the gateway reads, the command
line writes. Templates are never deleted here, only retired.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import msgspec
import numpy as np

from templates_store.create import TemplateRejected, template_id
from templates_store.database import TemplateDatabase, TemplateStoreError
from templates_store.sanitize import sanitize
from templates_store.template import State, Template

STORE_FILE = "templates.db"
"""Name of the store inside the service's data folder."""

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
        checked = [_checked(template) for template in templates]
        added = 0
        with self._file.writing() as db:
            for template in checked:
                added += _insert(db, template)
        return added

    def get(self, id_: str) -> Template | None:
        with self._file.reading() as db:
            row = db.execute("SELECT record FROM templates WHERE id = ?", (id_,)).fetchone()
        return None if row is None else self._decode(row[0])

    def templates(
        self, *, state: State | None = None, tenant: str | None = None, encoder: str | None = None
    ) -> list[Template]:
        """The templates in the order in which they were added, restricted by whatever is not None."""
        return self._select(state, tenant, encoder)[1]

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
        with self._file.writing() as db:
            row = db.execute("SELECT record FROM templates WHERE id = ?", (id_,)).fetchone()
            if row is None:
                raise TemplateStoreError(
                    f"no template has the id {id_!r}; `tokamak templates list` shows those there are"
                )
            template = self._decode(row[0])
            if template.state == state:
                return template
            if template.state not in _FROM[state]:
                raise TemplateStoreError(f"template {id_} is {template.state} and cannot become {state}")
            template = msgspec.structs.replace(template, state=state)
            self._overwrite(db, template)
            _note(db, id_, state, reason)
        return template

    def retire(self, id_: str, reason: str | None = None) -> Template:
        """Take a template out of use for good. Raises TemplateStoreError if there is no such template."""
        return self.set_state(id_, "retired", reason)

    def set_vectors(self, encoder: str, vectors: Mapping[str, bytes]) -> int:
        """Give templates (by id) the vectors of another encoder, in one transaction. Returns how many there were."""
        done = 0
        with self._file.writing() as db:
            for id_, vector in vectors.items():
                row = db.execute("SELECT record FROM templates WHERE id = ?", (id_,)).fetchone()
                if row is None:
                    continue
                template = msgspec.structs.replace(self._decode(row[0]), encoder=encoder, vector=vector)
                self._overwrite(db, _checked(template))
                _note(db, id_, "embedded", encoder)
                done += 1
        return done

    def history(self, id_: str) -> list[Change]:
        """Everything that happened to a template, oldest first."""
        with self._file.reading() as db:
            rows = db.execute("SELECT * FROM changes WHERE template_id = ? ORDER BY version", (id_,)).fetchall()
        return [Change(*row) for row in rows]

    def record_build(self, builder: str, record: BuildRecord, template: Template | None = None) -> bool:
        """Remember what became of a query, in one transaction with its template. Returns whether that is new."""
        checked = None if template is None else _checked(template)
        fresh = False
        with self._file.writing() as db:
            if checked is not None:
                fresh = _insert(db, checked)
            db.execute("INSERT OR REPLACE INTO builds VALUES (?, ?, ?, ?, ?)", (builder, *record, time.time()))
        return fresh

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
        return version, [self._decode(record) for (record,) in rows]

    def _overwrite(self, db: sqlite3.Connection, template: Template) -> None:
        db.execute(
            "UPDATE templates SET state = ?, encoder = ?, record = ? WHERE id = ?",
            (template.state, template.encoder, msgspec.msgpack.encode(template), template.id),
        )

    def _decode(self, record: bytes) -> Template:
        try:
            template = _DECODER.decode(record)
        except msgspec.DecodeError as error:
            raise self._file.damaged(str(error)) from error
        if template.id != template_id(template.query, template.text):
            raise self._file.damaged(f"the content of template {template.id} does not match its id")
        return template


_DECODER = msgspec.msgpack.Decoder(Template)


def _insert(db: sqlite3.Connection, template: Template) -> bool:
    row = (template.id, template.state, template.encoder, template.tenant, msgspec.msgpack.encode(template))
    fresh = db.execute("INSERT OR IGNORE INTO templates VALUES (?, ?, ?, ?, ?)", row).rowcount == 1
    if fresh:
        _note(db, template.id, "added", None)
    return fresh


def _note(db: sqlite3.Connection, id_: str, event: str, reason: str | None) -> None:
    db.execute(
        "INSERT INTO changes (template_id, event, reason, at) VALUES (?, ?, ?, ?)", (id_, event, reason, time.time())
    )


def _checked(template: Template) -> Template:
    """The same template. Raises TemplateRejected if it is not what a template must be."""
    if template.id != template_id(template.query, template.text):
        raise TemplateRejected(f"template {template.id!r}: the id is not the digest of its query and text")
    if not template.text or template.text != sanitize(template.text):
        raise TemplateRejected(f"template {template.id}: the text is empty or not sanitized; use create_template()")
    if not template.query.strip():
        raise TemplateRejected(f"template {template.id}: the query is empty")
    if not template.vector or len(template.vector) % 4:
        raise TemplateRejected(f"template {template.id}: the vector is not float32 ({len(template.vector)} bytes)")
    norm = float(np.linalg.norm(np.frombuffer(template.vector, dtype="<f4")))
    if not abs(norm - 1.0) < 1e-2:
        raise TemplateRejected(f"template {template.id}: the vector must have unit norm, it has {norm:.4g}")
    return template
