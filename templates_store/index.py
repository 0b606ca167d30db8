"""Finds templates by the vector of a query. An immutable snapshot of the store for one encoder; disposable.

Each tenant's templates are an index of their own beside the one of the templates that all may see. So a search touches
nothing that the caller may not see, costs nothing for what others have, and an approximate index loses no recall to a
filter. Templates that are not active, and those of another encoder, are not in it. A change of the store gives a new
snapshot, which the holder swaps in by one assignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from encoders.protocol import Encoder
from templates_store.database import TemplateStoreError
from templates_store.store import TemplateStore
from templates_store.template import Hit, Template

FLAT_LIMIT = 50_000
"""Up to here all templates are compared (exact); above, a graph (HNSW) finds nearly the same ones much faster."""

_HNSW_LINKS = 16
_HNSW_BUILD_WIDTH = 80
_HNSW_SEARCH_WIDTH = 64
_BATCH = 1024


class _Shard(NamedTuple):
    faiss_index: Any
    templates: tuple[Template, ...]


class TemplateIndex:
    """The active templates of one encoder.

    Attributes
    ----------
    encoder: hash of the encoder whose vectors are compared.
    version: version of the store that this is a snapshot of.
    left_out: number of active templates that are not in here because another encoder made their vectors.
    """

    def __init__(self, templates: Iterable[Template], encoder: str, version: int = 0) -> None:
        self.encoder = encoder
        self.version = version
        self.left_out = 0
        groups: dict[str | None, list[Template]] = {}
        for template in templates:
            if template.state != "active":
                continue
            if template.encoder != encoder:
                self.left_out += 1
                continue
            groups.setdefault(template.tenant, []).append(template)
        faiss.omp_set_num_threads(1)  # A search takes microseconds; waking threads for it takes longer.
        self._dim = len(next(iter(groups.values()))[0].vector) // 4 if groups else 0
        shards = {tenant: self._shard(group) for tenant, group in groups.items()}
        self._public = shards.pop(None, None)
        self._private = shards
        self._size = sum(len(group) for group in groups.values())

    def __len__(self) -> int:
        return self._size

    def search(
        self, vector: NDArray[np.float32], k: int = 3, min_similarity: float = 0.5, tenant: str | None = None
    ) -> list[Hit]:
        """The at most `k` templates with a similarity of at least `min_similarity`, most similar first.

        `vector` is float32 [d], unit norm, made by this index's encoder; a zero vector (an empty text) finds nothing.
        `tenant` sees its own templates and those that all may see; None sees only the latter.

        Raises
        ------
        ValueError: the vector is not a unit vector of the index's length.
        """
        if self._size == 0:
            return []
        if vector.shape != (self._dim,):
            raise ValueError(
                f"the vector has shape {vector.shape}, the templates have ({self._dim},): made by another encoder"
            )
        squared = float(vector @ vector)
        if squared == 0.0:
            return []
        if not 0.98 < squared < 1.02:
            raise ValueError(f"the vector must have unit norm, the square of its norm is {squared:.4g}")
        query = np.ascontiguousarray(vector.reshape(1, -1), dtype=np.float32)
        hits: list[Hit] = []
        private = None if tenant is None else self._private.get(tenant)
        for shard in (self._public, private):
            if shard is not None:
                hits += _search(shard, query, k, min_similarity)
        if private is not None:
            hits.sort(key=lambda hit: -hit.similarity)
        return hits[:k]

    def _shard(self, templates: list[Template]) -> _Shard:
        if any(len(template.vector) != 4 * self._dim for template in templates):
            raise TemplateStoreError(
                f"templates of encoder {self.encoder} have vectors of different lengths; "
                "run `tokamak templates reembed` to make them anew"
            )
        flat = np.frombuffer(b"".join(template.vector for template in templates), dtype="<f4")
        vectors = flat.astype(np.float32, copy=False).reshape(len(templates), self._dim)
        return _Shard(_faiss_index(vectors), tuple(templates))


def load_index(store: TemplateStore, encoder_hash: str) -> TemplateIndex:
    """An index of the store as it is now. Raises TemplateStoreError if the store cannot be read."""
    version, templates = store.snapshot()
    return TemplateIndex(templates, encoder_hash, version)


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


def _faiss_index(vectors: NDArray[np.float32]) -> Any:
    count, dim = vectors.shape
    if count <= FLAT_LIMIT:
        index: Any = faiss.IndexFlatIP(dim)
    else:
        index = faiss.IndexHNSWFlat(dim, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _HNSW_BUILD_WIDTH
        index.hnsw.efSearch = _HNSW_SEARCH_WIDTH
    index.add(vectors)
    return index


def _search(shard: _Shard, query: NDArray[np.float32], k: int, min_similarity: float) -> Sequence[Hit]:
    similarities, rows = shard.faiss_index.search(query, min(k, len(shard.templates)))
    templates = shard.templates
    return [
        Hit(templates[row], similarity)
        for similarity, row in zip(similarities[0].tolist(), rows[0].tolist(), strict=True)
        if row >= 0 and similarity >= min_similarity
    ]
