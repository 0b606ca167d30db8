"""Reads the records of what a search has found, and remembers the newest of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from templates_store.store import TemplateStore
from templates_store.template import Template

CAPACITY = 4_096
"""Records that are remembered; about 3 kB each."""


class RecordCache:
    """Gives templates by id, from memory or else from `store`, which should be a connection of its own."""

    def __init__(self, store: TemplateStore, capacity: int = CAPACITY) -> None:
        self._store = store
        self._capacity = capacity
        self._kept: OrderedDict[str, Template] = OrderedDict()
        self._changes = 0
        self._lock = threading.Lock()

    def __call__(self, ids: Sequence[str]) -> dict[str, Template]:
        """The templates with these ids. Raises TemplateStoreError if a record cannot be read."""
        with self._lock:
            found = {id_: self._kept[id_] for id_ in ids if id_ in self._kept}
            for id_ in found:
                self._kept.move_to_end(id_)
            before = self._changes
        missing = [id_ for id_ in ids if id_ not in found]
        if missing:
            read = self._store.get_many(missing)
            found |= read
            self._remember(read, before)
        return found

    def forget(self, ids: Iterable[str]) -> None:
        """Read these anew when they are next found."""
        with self._lock:
            self._changes += 1
            for id_ in ids:
                self._kept.pop(id_, None)

    def forget_all(self) -> None:
        """Read every record anew when it is next found."""
        with self._lock:
            self._changes += 1
            self._kept.clear()

    def _remember(self, read: dict[str, Template], before: int) -> None:
        with self._lock:
            if self._changes != before:
                return  # What was read may be from before the change.
            self._kept |= read
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
