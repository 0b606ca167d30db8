"""Keeps an index in step with its store while it serves.

`refresh` takes changes in, which costs what changed and not what there is. When enough has gathered, a thread makes a
new block of it, writes it to the files beside the store, and the next `refresh` swaps it in. `current` is always a
whole snapshot: a search never waits for any of this. Without usable files a small store is indexed at once, a large
one in the background, and until that is done `current` finds nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from templates_store.block import Block, Group, build_block
from templates_store.database import TemplateStoreError
from templates_store.index import TemplateIndex, load_index
from templates_store.index_files import IndexMissing, IndexUnusable, read_index, write_index
from templates_store.record_cache import RecordCache
from templates_store.store import ERASED, WORTH, TemplateStore

logger = logging.getLogger("tokamak.templates")

REFRESH_S = 0.025
"""How often a service should call `refresh`."""

AT_ONCE = 20_000
"""Up to so many active templates are indexed before serving if there are no files; it takes some tenths of a second."""

_AGAIN_S = 30.0
_CLOSING_S = 2.0
_FILES_FROM = 5_000
_PAGE = 2_000
_TOO_MANY = 20_000
_FEWEST = 1_024
_FRESH_SHARE = 100
_DEAD_SHARE = 5


class _Made(NamedTuple):
    block: Block
    version: int
    left_out: int


class LiveIndex:
    """The index of the active templates of one encoder, kept in step with `store`.

    `folder` is where the files are; without one everything is in memory. `refresh` and `close` are for one thread at a
    time; `current` may be read by any.

    Raises
    ------
    TemplateStoreError: the store cannot be read.
    """

    def __init__(self, store: TemplateStore, encoder: str, folder: Path | None = None) -> None:
        self._store = store
        self._encoder = encoder
        self._folder = folder
        self._reader = store.reader()
        self._records = RecordCache(self._reader)
        self._lock = threading.Lock()
        self._made: _Made | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._not_before = 0.0
        self._indexed = self._erased = 0
        self.current = TemplateIndex.over(build_block({}, 0), self._records, encoder, 0, ready=False)
        self.current = self._opened()

    def close(self) -> None:
        """Let go of the store's second connection. What is being made is given up; the files stay as they are."""
        self._closing = True
        if self._thread is not None:
            self._thread.join(_CLOSING_S)
        self._reader.close()

    @property
    def building(self) -> bool:
        """Whether a new block is being made."""
        return self._thread is not None and self._thread.is_alive()

    def refresh(self) -> bool:
        """Take in what has changed since; True if `current` is another snapshot now.

        Raises
        ------
        TemplateStoreError: the store cannot be read; `current` stays.
        """
        with self._lock:
            made, self._made = self._made, None
            index = self.current if made is None else self._over(made)
            if made is None and not index.ready:
                self._build_in_background()
                return False
            behind = self._store.version() - index.version
            if made is None and behind == 0:
                return False
            if behind > _TOO_MANY:
                self._records.forget_all()  # What was taken out of use since is not shown: its record says so.
                self.current = index
                self._build_in_background(anew=True)
                return made is not None
            self.current = self._caught_up(index)
            if self._due(self.current):
                self._build_in_background()
            return True

    def _opened(self) -> TemplateIndex:
        """The first snapshot: from the files, from a small store, or an empty one while a large one is read."""
        try:
            if self._folder is None:
                raise IndexMissing("the index is in memory")
            kept = read_index(self._folder, self._encoder)
            if self._store.mark(kept.version) != kept.mark:
                raise IndexUnusable(f"the index in {self._folder} was made of another store")
            index = self._over(_Made(kept.block, kept.version, kept.left_out))
            return index if self._store.version() - kept.version > _TOO_MANY else self._caught_up(index)
        except IndexMissing:
            if self._store.counts().get("active", 0) <= AT_ONCE:
                return self._caught_up(self._over(self._from_records()))
            logger.info("the templates are being indexed; until that is done none is used")
        except IndexUnusable as error:
            logger.error("%s; it is made anew, and until that is done no template is used", error)
        self._build_in_background()
        return self.current

    def _over(self, made: _Made) -> TemplateIndex:
        worth = self._store.worth()
        self._indexed = made.version
        return TemplateIndex.over(made.block, self._records, self._encoder, made.version, made.left_out, worth)

    def _caught_up(self, index: TemplateIndex) -> TemplateIndex:
        while True:
            changes = self._store.changes_since(index.version, _PAGE)
            if not changes:
                return index
            ids = list(dict.fromkeys(change.template_id for change in changes if change.template_id))
            found = self._store.get_many(ids)
            self._records.forget(ids)
            worth = self._store.worth() if any(change.event == WORTH for change in changes) else index.worth
            left_out = index.left_out
            if any(template.encoder != self._encoder for template in found.values()) or left_out:
                left_out = self._store.active_elsewhere(self._encoder)
            erased = [change.version for change in changes if change.event == ERASED and change.template_id]
            self._erased = max((self._erased, *erased))
            there = {id_: found.get(id_) for id_ in ids}
            index = index.changed(there, changes[-1].version, left_out, worth)
            if len(changes) < _PAGE:
                return index
            time.sleep(0.001)  # Requests are answered between two pages.

    def _due(self, index: TemplateIndex) -> bool:
        if self._erased > self._indexed:
            return True  # The block, and the files that it is mapped from, still have vectors of what was erased.
        indexed = len(index.block)
        return index.fresh_rows > max(_FEWEST, indexed // _FRESH_SHARE) or (
            len(index.dead) > max(_FEWEST, indexed // _DEAD_SHARE)
        )

    def _build_in_background(self, *, anew: bool = False) -> None:
        """Start making a new block, unless one is being made or the last attempt failed a moment ago.

        `anew`: from the records, not from the rows that are indexed.
        """
        if self.building or time.monotonic() < self._not_before:
            return
        self._thread = threading.Thread(
            target=self._build, args=(None if anew else self.current,), name="template-index", daemon=True
        )
        self._thread.start()

    def _build(self, index: TemplateIndex | None) -> None:
        try:
            if index is not None and index.ready:
                block = build_block(index.groups(), index.dim, index.block)
                made = _Made(block, index.version, index.left_out)
            else:
                made = self._from_records()
            self._made = self._filed(made)
        except (RuntimeError, MemoryError) as error:
            self._not_before = time.monotonic() + _AGAIN_S
            if not self._closing:
                logger.error("the templates cannot be indexed, what serves goes on serving: %s", error)

    def _from_records(self) -> _Made:
        version, left_out = self._store.version(), self._store.active_elsewhere(self._encoder)
        return _Made(block_of_records(self._store, self._encoder), version, left_out)

    def _filed(self, made: _Made) -> _Made:
        """The same rows, mapped from files if they are worth it and can be written."""
        if self._folder is None or (len(made.block) < _FILES_FROM and not self._folder.exists()):
            return made
        try:
            mark = self._store.mark(made.version)
            write_index(self._folder, made.block, self._encoder, made.version, mark, made.left_out)
            kept = read_index(self._folder, self._encoder)
        except (IndexUnusable, IndexMissing) as error:
            logger.error("the index of the templates stays in memory: %s", error)
            return made
        return _Made(kept.block, kept.version, kept.left_out) if kept.mark == mark else made


def block_of_records(store: TemplateStore, encoder: str) -> Block:
    """The rows of the active templates of an encoder, read from the store's records."""
    ids: dict[str | None, list[int]] = {}
    vectors: dict[str | None, list[bytes]] = {}
    length = 0
    for row in store.vector_rows(encoder):
        length = length or len(row.vector)
        if len(row.vector) != length:
            raise TemplateStoreError(
                f"templates of encoder {encoder} have vectors of different lengths; "
                "run `tokamak templates reembed` to make them anew"
            )
        ids.setdefault(row.tenant, []).append(int(row.id, 16))
        vectors.setdefault(row.tenant, []).append(row.vector)
    groups = {
        tenant: Group(
            np.array(ids[tenant], np.uint64),
            np.frombuffer(b"".join(vectors[tenant]), dtype="<f4").astype(np.float32, copy=False).reshape(
                len(ids[tenant]), -1
            ),
        )
        for tenant in ids
    }  # fmt: skip
    return build_block(groups, length // 4)


def reindex(store: TemplateStore, encoder: str, folder: Path) -> int:
    """Make the index files anew from the records, each of which is checked. Returns how many templates are in it.

    Raises
    ------
    TemplateStoreError: the store cannot be read.
    IndexUnusable: the files cannot be written.
    """
    index = load_index(store, encoder)
    write_index(folder, index.block, encoder, index.version, store.mark(index.version), index.left_out)
    return len(index)
