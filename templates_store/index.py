"""Finds templates by the vector of a query. An immutable snapshot of the store for one encoder; disposable.

Most of it is a block of rows that were indexed at one time (`templates_store.block`). What was added since lies beside
it, little enough to be compared in full, and what was retired since is marked. So a change is a new snapshot that
shares nearly everything with the last one, and the holder swaps it in by one assignment; `templates_store.live_index`
does that. Templates that are not active, and those of another encoder, are not in it. Only what is found is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from encoders.protocol import Encoder
from templates_store.block import Block, Dead, Group, build_block, nearest
from templates_store.database import TemplateStoreError
from templates_store.store import TemplateStore
from templates_store.template import Hit, Template, Worth

_BATCH = 1024

Records = Callable[[Sequence[str]], Mapping[str, Template]]
"""Gives the templates with these ids, by id."""


class Candidate(NamedTuple):
    """A template that was found, before its record is read."""

    id: str
    similarity: float


class TemplateIndex:
    """The active templates of one encoder.

    Attributes
    ----------
    encoder: hash of the encoder whose vectors are compared.
    version: version of the store that this is a snapshot of.
    left_out: number of active templates that are not in here because another encoder made their vectors.
    worth: what showing templates was seen to do, by id, as it was at this version.
    ready: False while the index is being made; until then nothing is found.
    block, dead, fresh: the rows indexed at one time, those of them that are gone, and what was added since, by tenant.
    """

    def __init__(self, templates: Iterable[Template], encoder: str, version: int = 0) -> None:
        self.encoder = encoder
        self.version = version
        self.ready = True
        self.worth: Mapping[str, Worth] = {}
        self.dead = Dead()
        self.fresh: Mapping[str | None, Group] = {}
        active = [template for template in templates if template.state == "active"]
        usable = {template.id: template for template in active if template.encoder == encoder}
        self.left_out = len(active) - len(usable)
        self.block = block_of(usable.values(), encoder)
        self._records: Records = lambda ids: {id_: usable[id_] for id_ in ids if id_ in usable}
        self._size = len(usable)

    @classmethod
    def over(
        cls,
        block: Block,
        records: Records,
        encoder: str,
        version: int,
        left_out: int = 0,
        worth: Mapping[str, Worth] | None = None,
        *,
        ready: bool = True,
    ) -> Self:
        """A snapshot over rows that are indexed already, whose templates `records` gives when they are found."""
        made = cls((), encoder, version)
        made.block, made._records, made.left_out, made.ready = block, records, left_out, ready
        made.worth = {} if worth is None else worth
        made._size = len(block)
        return made

    def __len__(self) -> int:
        return self._size

    @property
    def dim(self) -> int:
        """Length of the vectors, 0 if there are none."""
        return self.block.dim or next((int(group.vectors.shape[1]) for group in self.fresh.values()), 0)

    @property
    def fresh_rows(self) -> int:
        """How many rows lie beside the block."""
        return sum(len(group.ids) for group in self.fresh.values())

    def search(
        self, vector: NDArray[np.float32], k: int = 3, min_similarity: float = 0.5, tenant: str | None = None
    ) -> list[Hit]:
        """The at most `k` templates with a similarity of at least `min_similarity`, most similar first.

        `vector` is float32 [d], unit norm, made by this index's encoder; a zero vector (an empty text) finds nothing.
        `tenant` sees its own templates and those that all may see; None sees only the latter.

        Raises
        ------
        ValueError: the vector is not a unit vector of the index's length.
        TemplateStoreError: the records of what was found cannot be read.
        """
        return self.hits(self.candidates(vector, k, min_similarity, tenant))

    def candidates(
        self, vector: NDArray[np.float32], k: int, min_similarity: float = -1.0, tenant: str | None = None
    ) -> list[Candidate]:
        """As `search`, without reading any record: what is to be ranked again before the few best are read."""
        if self._size == 0:
            return []
        if vector.shape != (self.dim,):
            raise ValueError(
                f"the vector has shape {vector.shape}, the templates have ({self.dim},): made by another encoder"
            )
        squared = float(vector @ vector)
        if squared == 0.0:
            return []
        if not 0.98 < squared < 1.02:
            raise ValueError(f"the vector must have unit norm, the square of its norm is {squared:.4g}")
        query = np.ascontiguousarray(vector, dtype=np.float32)
        found: list[tuple[float, int]] = []
        for owner in (None,) if tenant is None else (None, tenant):
            found += self.block.search(query, k, min_similarity, owner, self.dead)
            group = self.fresh.get(owner)
            if group is not None:
                similarities, rows = nearest(group.vectors, query, k, min_similarity)
                found += zip(similarities.tolist(), group.ids[rows].tolist(), strict=True)
        if not found:
            return []
        found.sort(reverse=True)
        return [Candidate(f"{id_:016x}", similarity) for similarity, id_ in found[:k]]

    def hits(self, candidates: Sequence[Candidate]) -> list[Hit]:
        """The candidates with their templates, in the same order; what has been taken out of use since is left out."""
        records = self._records([candidate.id for candidate in candidates]) if candidates else {}
        return [
            Hit(template, candidate.similarity)
            for candidate in candidates
            if (template := records.get(candidate.id)) is not None
            and template.state == "active"
            and template.encoder == self.encoder
        ]

    def changed(
        self, changes: Mapping[str, Template | None], version: int, left_out: int, worth: Mapping[str, Worth]
    ) -> Self:
        """The snapshot after these templates (by id) have become what they are now; None: one that is erased."""
        died, back, fresh = set[int](), set[int](), dict(self.fresh)
        gone = {int(id_, 16) for id_ in changes}
        for tenant, group in self.fresh.items():
            kept = ~np.isin(group.ids, np.fromiter(gone, np.uint64, len(gone)))
            if not kept.all():
                fresh[tenant] = Group(group.ids[kept], group.vectors[kept])
        added: dict[str | None, list[Template]] = {}
        for id_, template in changes.items():
            row = self.block.row_of(int(id_, 16))
            if row is not None:
                died.add(row)
            if template is None or template.state != "active" or template.encoder != self.encoder:
                continue
            if row is not None and self.block.vectors[row].tobytes() == template.vector:
                back.add(row)
            else:
                added.setdefault(template.tenant, []).append(template)
        dim = self.dim or next((len(templates[0].vector) // 4 for templates in added.values()), 0)
        for tenant, templates in added.items():
            new, old = group_of(templates, dim, self.encoder), fresh.get(tenant)
            fresh[tenant] = new if old is None else Group(
                np.concatenate([old.ids, new.ids]), np.concatenate([old.vectors, new.vectors])
            )  # fmt: skip
        made = type(self).over(self.block, self._records, self.encoder, version, left_out, worth)
        made.fresh = {tenant: group for tenant, group in fresh.items() if len(group.ids)}
        made.dead = self._dead(died - back, back)
        made._size = len(self.block) - len(made.dead) + made.fresh_rows
        return made

    def _dead(self, died: set[int], back: set[int]) -> Dead:
        if not died and not back:
            return self.dead
        rows = np.union1d(self.dead.rows, np.fromiter(died, np.int64, len(died)))
        dead = Dead(np.setdiff1d(rows, np.fromiter(back, np.int64, len(back))))
        self.block.prepare(dead)
        return dead

    def groups(self) -> dict[str | None, Group]:
        """All rows that can be found, by tenant: what the next block is made of."""
        alive = np.ones(len(self.block), dtype=bool)
        alive[self.dead.rows] = False
        made: dict[str | None, Group] = {}
        for tenant in {*self.block.parts, *self.fresh}:
            part, new = self.block.parts.get(tenant), self.fresh.get(tenant)
            rows = np.empty(0, np.int64) if part is None else part.start + np.flatnonzero(alive[part.start : part.stop])
            ids, vectors = self.block.ids[rows], self.block.vectors[rows]
            if new is not None:
                # Rows of a block that is empty have no length that others could be put to.
                vectors = np.concatenate([vectors, new.vectors]) if len(ids) else new.vectors
                ids = np.concatenate([ids, new.ids])
            if len(ids):
                made[tenant] = Group(ids, vectors)
        return made


def block_of(templates: Iterable[Template], encoder: str) -> Block:
    """The rows of these templates, which are all of this encoder."""
    by_tenant: dict[str | None, list[Template]] = {}
    for template in templates:
        by_tenant.setdefault(template.tenant, []).append(template)
    dim = len(next(iter(by_tenant.values()))[0].vector) // 4 if by_tenant else 0
    return build_block({tenant: group_of(group, dim, encoder) for tenant, group in by_tenant.items()}, dim)


def group_of(templates: Sequence[Template], dim: int, encoder: str) -> Group:
    """The rows of templates of one tenant. Raises TemplateStoreError if a vector has another length than `dim`."""
    if any(len(template.vector) != 4 * dim for template in templates):
        raise TemplateStoreError(
            f"templates of encoder {encoder} have vectors of different lengths; "
            "run `tokamak templates reembed` to make them anew"
        )
    ids = np.fromiter((int(template.id, 16) for template in templates), np.uint64, len(templates))
    flat = np.frombuffer(b"".join(template.vector for template in templates), dtype="<f4")
    return Group(ids, flat.astype(np.float32, copy=False).reshape(len(templates), dim))


def load_index(store: TemplateStore, encoder_hash: str) -> TemplateIndex:
    """An index of the store as it is now, in memory. Raises TemplateStoreError if the store cannot be read."""
    version, templates = store.snapshot()
    made = TemplateIndex(templates, encoder_hash, version)
    made.worth = store.worth()
    return made


def re_embed(store: TemplateStore, encoder: Encoder) -> int:
    """Give every template that is not retired the vector of this encoder. Returns how many were embedded anew.

    Done in batches of one transaction each: interrupted, it goes on where it stopped. From then on a gateway with the
    old encoder no longer finds them, so change the encoder of the gateways right before or after.
    """
    stale = [t for t in store.templates() if t.encoder != encoder.hash and t.state != "retired"]
    done = 0
    for start in range(0, len(stale), _BATCH):
        batch = stale[start : start + _BATCH]
        vectors = encoder.encode([template.query for template in batch])
        done += store.set_vectors(
            encoder.hash,
            {t.id: row.astype("<f4").tobytes() for t, row in zip(batch, vectors, strict=True) if np.any(row)},
        )
    return done
