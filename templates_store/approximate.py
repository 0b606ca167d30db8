"""Finds nearly the same rows as comparing all of them would, much faster: for parts too large to compare in full.

Rows are put into lists around trained centres (an inverted file, FAISS); a query looks into the lists of the nearest
centres only, at codes of one byte a number. The best rows by code are then compared exactly, so that a similarity is
always a true one. How many lists are looked into is chosen for each index: the fewest with which its own rows find
their true neighbours (`RECALL_WANTED`), within a bound of time (`MOST_ROWS`). Measured against a graph (HNSW) in
`docs/lab-notebook.md`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

RECALL_WANTED = 0.99
"""Share of the ten nearest rows that should be found, on rows of the index itself, each without itself."""

MOST_ROWS = 32_768
"""So many rows are looked at in a search at the most, whatever the recall: about 1.2 ms at 256 numbers each."""

_NEAREST = 10
_RESCORED = 60
"""Rows by code that are compared exactly, if no more than a third as many are asked for."""
_TRIED = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_SAMPLE = 200
_TRAINING_ROWS_A_LIST = 40
_ROUNDS = 10
_BATCH = 16_384
_SEED = 0


class Approximate(NamedTuple):
    """A trained index over the rows of one part; row 0 is the part's first."""

    lists: Any
    probes: int

    def search(self, vectors: Floats, query: Floats, k: int, dead: Rows | None) -> tuple[Floats, Rows]:
        """The nearest `k` rows of `vectors` [n, d] that are not `dead`, with their similarities; in no order."""
        parameters: Any = faiss.SearchParametersIVF()
        parameters.nprobe = self.probes
        if dead is not None and len(dead):
            gone = faiss.IDSelectorBatch(dead)
            alive = faiss.IDSelectorNot(gone)  # Both must live as long as the search.
            parameters.sel = alive
        _, found = self.lists.search(query.reshape(1, -1), max(_RESCORED, 3 * k), params=parameters)
        rows: Rows = found[0][found[0] >= 0]
        similarities = vectors[rows] @ query
        if len(rows) <= k:
            return similarities, rows
        best = np.argpartition(similarities, len(rows) - k)[len(rows) - k :]
        return similarities[best], rows[best]


def build_approximate(vectors: Floats, trained: Any | None = None) -> Approximate:
    """An index of the rows [n, d]. `trained` is an earlier one over similar rows, whose centres are used again.

    Takes minutes for a million rows, nearly all of it without the interpreter's lock.
    """
    faiss.omp_set_num_threads(1)  # A search takes microseconds; waking threads for it takes longer.
    count = len(vectors)
    lists = _trained(vectors) if trained is None else _emptied(trained)
    for start in range(0, count, _BATCH):
        lists.add(np.ascontiguousarray(vectors[start : start + _BATCH]))
    return Approximate(lists, _probes(lists, vectors))


def list_count(rows: int) -> int:
    """How many lists so many rows are put into: about four times the square root, a power of two."""
    return int(2 ** round(np.log2(4 * np.sqrt(max(rows, 16)))))


def _trained(vectors: Floats) -> Any:
    count, dim = vectors.shape
    centres = list_count(count)
    lists = _blank(dim, centres, faiss.IndexFlatIP(dim))
    lists.cp.niter, lists.cp.seed, lists.cp.spherical = _ROUNDS, _SEED, True
    lists.cp.min_points_per_centroid = 1
    wanted = min(count, _TRAINING_ROWS_A_LIST * centres)
    chosen = np.sort(np.random.default_rng(_SEED).choice(count, wanted, replace=False))
    lists.train(np.ascontiguousarray(vectors[chosen]))
    return lists


def _emptied(trained: Any) -> Any:
    """An index without rows that has the centres and the codes of another, which stays as it is."""
    dim, centres = trained.d, trained.nlist
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(trained.quantizer.reconstruct_n(0, centres))
    lists = _blank(dim, centres, quantizer)
    faiss.copy_array_to_vector(faiss.vector_to_array(trained.sq.trained), lists.sq.trained)
    lists.is_trained = True
    return lists


def _blank(dim: int, centres: int, quantizer: Any) -> Any:
    lists = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, centres, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    lists.own_fields = True
    quantizer.this.disown()
    return lists


def _probes(lists: Any, vectors: Floats) -> int:
    """The fewest lists to look into with which rows of the index find their true neighbours, or as many as may be."""
    count = len(vectors)
    chosen = np.sort(np.random.default_rng(_SEED).choice(count, min(_SAMPLE, count), replace=False))
    queries = np.ascontiguousarray(vectors[chosen])
    truth = _nearest(vectors, queries, chosen)
    most = max(1, MOST_ROWS * lists.nlist // count)
    for probes in (probes for probes in _TRIED if probes < most):
        tried = Approximate(lists, probes)
        found = 0
        for query, own, wanted in zip(queries, chosen, truth, strict=True):
            similarities, rows = tried.search(vectors, query, _NEAREST + 1, None)
            others = rows != own
            best = np.argsort(-similarities[others])[:_NEAREST]
            found += len(set(rows[others][best].tolist()) & wanted)
        if found >= RECALL_WANTED * sum(map(len, truth)):
            return probes
    return int(min(most, lists.nlist))


def _nearest(vectors: Floats, queries: Floats, own: Rows) -> list[set[int]]:
    """The rows that are truly nearest to each query, itself left out."""
    kept: list[tuple[Floats, Rows]] = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
    for start in range(0, len(vectors), _BATCH):
        similarities = queries @ vectors[start : start + _BATCH].T
        for i, row in enumerate(similarities):
            if start <= own[i] < start + len(row):
                row[own[i] - start] = -2.0
            best = np.argpartition(row, max(0, len(row) - _NEAREST))[-_NEAREST:]
            merged = np.concatenate([kept[i][0], row[best]]), np.concatenate([kept[i][1], best + start])
            order = np.argsort(-merged[0])[:_NEAREST]
            kept[i] = merged[0][order], merged[1][order]
    return [set(rows.tolist()) for _, rows in kept]
