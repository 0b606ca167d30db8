"""Rows of vectors that never change, and the search among those that a caller may see.

The rows of one tenant lie side by side, those that all may see first. A small part is compared in full where it lies
(which may be a mapped file); only a large one has an index of its own. So ten thousand tenants cost ten thousand pairs
of numbers, a search touches nothing that its caller may not see, and no recall is lost to a filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from templates_store.approximate import Approximate, Bits, Floats, Rows, bits_without, build_approximate

Ids = NDArray[np.uint64]

FLAT_LIMIT = 20_000
"""Up to so many rows are compared in full: about 0.4 ms at 256 numbers each. Above, an index is faster."""

RETRAIN_FACTOR = 2.0
"""Centres that were trained on less than this share of a part's rows are trained anew."""


class Group(NamedTuple):
    """The rows of one tenant: ids uint64 [n] and vectors float32 [n, d]."""

    ids: Ids
    vectors: Floats


class Part(NamedTuple):
    """Where the rows of one tenant lie, and their index if they are many. `trained_on`: rows the centres have seen."""

    start: int
    stop: int
    approximate: Approximate | None = None
    trained_on: int = 0


class Dead:
    """Rows of a block that are no longer to be found. They never change."""

    def __init__(self, rows: Rows | None = None) -> None:
        self.rows: Rows = np.empty(0, np.int64) if rows is None else np.unique(rows.astype(np.int64))
        self._alive: dict[tuple[int, int], Bits | None] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def among(self, start: int, stop: int) -> Rows:
        """Those from `start` to before `stop`, counted from `start`."""
        low, high = np.searchsorted(self.rows, (start, stop))
        return self.rows[low:high] - start

    def alive(self, start: int, stop: int) -> Bits | None:
        """A bit for each row from `start` to before `stop`, lowest first: whether it is left; None if all are.

        Kept, because making them takes as long as a search.
        """
        if (start, stop) not in self._alive:
            gone = self.among(start, stop)
            self._alive[start, stop] = bits_without(stop - start, gone) if len(gone) else None
        return self._alive[start, stop]


class Block:
    """Rows with their ids, by tenant; None is the tenant of what all may see."""

    def __init__(self, ids: Ids, vectors: Floats, parts: Mapping[str | None, Part]) -> None:
        self.ids = ids
        self.vectors = vectors
        self.parts = parts
        self._order: Rows | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def row_of(self, id_: int) -> int | None:
        """The row with this id, or None."""
        if self._order is None:
            self._order = np.argsort(self.ids)
        position = int(np.searchsorted(self.ids, np.uint64(id_), sorter=self._order))
        if position == len(self.ids):
            return None
        row = int(self._order[position])
        return row if int(self.ids[row]) == id_ else None

    def prepare(self, dead: Dead) -> None:
        """Do beforehand what the first search without these rows would have to do."""
        for part in self.parts.values():
            if part.approximate is not None:
                dead.alive(part.start, part.stop)

    def search(
        self, query: Floats, k: int, min_similarity: float, tenant: str | None, dead: Dead
    ) -> list[tuple[float, int]]:
        """The nearest rows of a tenant (of that one alone) as (similarity, id); at most `k`, in no order."""
        part = self.parts.get(tenant)
        if part is None:
            return []
        vectors = self.vectors[part.start : part.stop]
        if part.approximate is None:
            gone = dead.among(part.start, part.stop) if len(dead) else None
            similarities, rows = nearest(vectors, query, k, min_similarity, gone)
        else:
            similarities, rows = part.approximate.search(vectors, query, k, dead.alive(part.start, part.stop))
            kept = similarities >= min_similarity
            similarities, rows = similarities[kept], rows[kept]
        if not len(rows):
            return []
        return list(zip(similarities.tolist(), self.ids[rows + part.start].tolist(), strict=True))


def nearest(
    vectors: Floats, query: Floats, k: int, min_similarity: float, gone: Rows | None = None
) -> tuple[Floats, Rows]:
    """The nearest `k` rows of `vectors` [n, d] that are at least so similar, without those that are `gone`.

    By comparing all; in no order. Mostly few are near enough, and then nothing has to be put in order.
    """
    similarities: Floats = vectors.dot(query)
    if gone is not None and len(gone):
        similarities[gone] = -np.inf
    rows = (similarities >= min_similarity).nonzero()[0]
    if len(rows) > k:
        rows = rows[similarities[rows].argpartition(len(rows) - k)[len(rows) - k :]]
    return similarities[rows], rows


def build_block(groups: Mapping[str | None, Group], dim: int, before: Block | None = None) -> Block:
    """A block of these rows. What was trained for `before` is used again where the part has not grown much since."""
    tenants = sorted(groups, key=lambda tenant: (tenant is not None, tenant or ""))
    filled = [groups[tenant] for tenant in tenants]
    ids = np.concatenate([np.empty(0, np.uint64), *(group.ids for group in filled)])
    vectors = np.concatenate([np.empty((0, dim), np.float32), *(group.vectors for group in filled)])
    parts: dict[str | None, Part] = {}
    start = 0
    for tenant, group in zip(tenants, filled, strict=True):
        stop = start + len(group.ids)
        parts[tenant] = _part(vectors, start, stop, None if before is None else before.parts.get(tenant))
        start = stop
    return Block(ids, vectors, parts)


def _part(vectors: Floats, start: int, stop: int, before: Part | None) -> Part:
    count = stop - start
    if count <= FLAT_LIMIT:
        return Part(start, stop)
    trained: Any | None = None
    trained_on = count
    if before is not None and before.approximate is not None and count <= RETRAIN_FACTOR * before.trained_on:
        trained, trained_on = before.approximate.lists, before.trained_on
    return Part(start, stop, build_approximate(vectors[start:stop], trained), trained_on)
