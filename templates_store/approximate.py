"""Finds nearly the same rows as comparing all of them would, much faster: for parts too large to compare in full.

Rows are put into lists around trained centres (an inverted file, FAISS); a query looks into the lists of the nearest
centres only, at codes of one byte a number. The best rows by code are then compared exactly, so that a similarity is
always a true one. How many lists are looked into is calibrated for each index: the fewest with which rows of its own,
held out of the training of new centres, find their true neighbours (`RECALL_AIM`, `RECALL_LEAST`), within a bound of
time (`MOST_ROWS`). What that gave is kept with the index. Measured against a graph (HNSW) in `docs/lab-notebook.md`.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Bits = NDArray[np.uint8]

logger = logging.getLogger("tokamak.templates")

RECALL_AIM = 0.985
"""Share of the ten nearest rows that should be found."""
RECALL_LEAST = 0.98
"""What the lower end of the interval of that share should reach."""

MOST_ROWS = 49_152
"""So many rows are looked at in a search at the most, whatever the recall: about 1.5 ms at 256 numbers each."""

_NEAREST = 10
_RESCORED = 100
"""Rows by code that are compared exactly, if no more than a fifth as many are asked for."""
_TRIED = sorted({round(2 ** (step / 4)) for step in range(8, 53)})
"""Numbers of lists that are tried, each about a fifth more than the one before."""
_HELD_OUT = 1_000
_TRAINING_ROWS_A_LIST = 40
_ROUNDS = 10
_BATCH = 16_384
_SEED = 0
_Z = 1.96


class Recall(NamedTuple):
    """Share of the ten nearest rows that a search finds; `low` is the lower end of its 95 % interval.

    Measured by `queries` rows of the index, each without itself. Of two rows that are equally near, either will do.
    """

    mean: float
    low: float
    queries: int

    @property
    def enough(self) -> bool:
        return self.mean >= RECALL_AIM and self.low >= RECALL_LEAST


class Approximate(NamedTuple):
    """A trained index over the rows of one part; row 0 is the part's first. `probes` lists are looked into."""

    lists: Any
    probes: int
    recall: Recall

    def search(self, vectors: Floats, query: Floats, k: int, alive: Bits | None = None) -> tuple[Floats, Rows]:
        """The nearest `k` rows of `vectors` [n, d], with their similarities; in no order.

        alive: a bit for each row, lowest first, of those that may be found; None: all.
        """
        return _search(self.lists, self.probes, vectors, query, k, alive)


def build_approximate(vectors: Floats, trained: Any | None = None) -> Approximate:
    """An index of the rows [n, d]. `trained` is an earlier one over similar rows, whose centres are used again.

    Takes minutes for a million rows, nearly all of it without the interpreter's lock.
    """
    faiss.omp_set_num_threads(1)  # A search takes microseconds; waking threads for it takes longer.
    count = len(vectors)
    held_out = np.sort(np.random.default_rng(_SEED).choice(count, min(_HELD_OUT, count // 10), replace=False))
    lists = _trained(vectors, held_out) if trained is None else _emptied(trained)
    _fit_codes(lists, vectors)
    for start in range(0, count, _BATCH):
        lists.add(np.ascontiguousarray(vectors[start : start + _BATCH]))
    made = _calibrated(lists, vectors, held_out)
    recall = made.recall
    told = f"it reads {made.probes:,} of {lists.nlist:,} lists, recall {recall.mean:.4f}, at least {recall.low:.4f}"
    if recall.enough:
        logger.info("%s templates are indexed; %s", f"{count:,}", told)
    else:
        logger.warning("the index of %s templates misses more than it should; %s", f"{count:,}", told)
    return made


def list_count(rows: int) -> int:
    """How many lists so many rows are put into: about four times the square root, a power of two."""
    return int(2 ** round(np.log2(4 * np.sqrt(max(rows, 16)))))


def open_lists(path: str) -> Any:
    """The lists in a file of `faiss.write_index`, mapped and not read. Raises RuntimeError if they cannot be read."""
    lists: Any = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    # By default each search starts 32 threads that read the lists ahead, which takes longer than the search.
    mapped: Any = faiss.downcast_InvertedLists(lists.invlists)
    mapped.prefetch_nthread = 0
    return lists


def bits_without(count: int, gone: Rows) -> Bits:
    """A bit for each of `count` rows, lowest first, zero for those that are gone."""
    alive = np.ones(count, dtype=np.bool_)
    alive[gone] = False
    return np.packbits(alive, bitorder="little")


def _search(lists: Any, probes: int, vectors: Floats, query: Floats, k: int, alive: Bits | None) -> tuple[Floats, Rows]:
    parameters: Any = faiss.SearchParametersIVF()
    parameters.nprobe = probes
    if alive is not None:
        selector: Any = faiss.IDSelectorBitmap
        left = selector(alive)  # Must live as long as the search.
        parameters.sel = left
    _, found = lists.search(query.reshape(1, -1), max(_RESCORED, 5 * k), params=parameters)
    rows: Rows = found[0][found[0] >= 0]
    similarities = vectors[rows] @ query
    if len(rows) <= k:
        return similarities, rows
    best = np.argpartition(similarities, len(rows) - k)[len(rows) - k :]
    return similarities[best], rows[best]


def _trained(vectors: Floats, held_out: Rows) -> Any:
    count, dim = vectors.shape
    centres = list_count(count)
    lists = _blank(dim, centres, faiss.IndexFlatIP(dim))
    lists.cp.niter, lists.cp.seed, lists.cp.spherical = _ROUNDS, _SEED, True
    lists.cp.min_points_per_centroid = 1
    others = np.delete(np.arange(count), held_out)
    wanted = min(len(others), _TRAINING_ROWS_A_LIST * centres)
    chosen = np.sort(np.random.default_rng(_SEED).choice(others, wanted, replace=False))
    lists.train(np.ascontiguousarray(vectors[chosen]))
    return lists


def _emptied(trained: Any) -> Any:
    """An index without rows that has the centres of another, which stays as it is."""
    dim, centres = trained.d, trained.nlist
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(trained.quantizer.reconstruct_n(0, centres))
    lists = _blank(dim, centres, quantizer)
    lists.is_trained = True
    return lists


def _fit_codes(lists: Any, vectors: Floats) -> None:
    """Let the codes reach from the least to the greatest of each number, so that those of no row are cut off.

    Rows of a new subject may lie outside of what the rows of a training sample, or of an earlier index, reach.
    """
    low = vectors.min(axis=0)
    faiss.copy_array_to_vector(np.concatenate([low, vectors.max(axis=0) - low]), lists.sq.trained)


def _blank(dim: int, centres: int, quantizer: Any) -> Any:
    lists = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, centres, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    lists.own_fields = True
    quantizer.this.disown()
    return lists


def _calibrated(lists: Any, vectors: Floats, held_out: Rows) -> Approximate:
    """The fewest lists to look into whose recall is enough, or as many as may be."""
    queries = np.ascontiguousarray(vectors[held_out])
    least = _tenth(vectors, queries, held_out)
    most = int(min(max(1, MOST_ROWS * lists.nlist // len(vectors)), lists.nlist))
    tried = [probes for probes in _TRIED if probes < most]

    def measured(probes: int) -> Approximate:
        return Approximate(lists, probes, _recall(lists, probes, vectors, queries, held_out, least))

    best = measured(most)
    low, high = 0, len(tried) if best.recall.enough else 0
    while low < high:  # Recall grows with the lists, so halving finds the fewest.
        middle = (low + high) // 2
        made = measured(tried[middle])
        if made.recall.enough:
            best, high = made, middle
        else:
            low = middle + 1
    return best


def _recall(lists: Any, probes: int, vectors: Floats, queries: Floats, own: Rows, least: Floats) -> Recall:
    wanted = min(_NEAREST, len(vectors) - 1)
    share = np.empty(len(queries))
    for i, query in enumerate(queries):
        similarities, rows = _search(lists, probes, vectors, query, wanted + 1, None)
        found = int((similarities[rows != own[i]] >= least[i]).sum())
        share[i] = min(found, wanted) / wanted
    mean = float(share.mean())
    return Recall(mean, mean - _Z * float(share.std(ddof=1)) / math.sqrt(len(share)), len(share))


def _tenth(vectors: Floats, queries: Floats, own: Rows) -> Floats:
    """The similarity of the tenth of the rows that are truly nearest to each query, itself left out; a hair less."""
    best = np.full((len(queries), _NEAREST), -2.0, np.float32)
    for start in range(0, len(vectors), _BATCH):
        similarities = queries @ vectors[start : start + _BATCH].T
        here = np.flatnonzero((own >= start) & (own < start + _BATCH))
        similarities[here, own[here] - start] = -2.0
        both = np.concatenate([best, similarities], axis=1)
        best = np.partition(both, both.shape[1] - _NEAREST, axis=1)[:, -_NEAREST:]
    lowest: Floats = best.min(axis=1) - np.float32(1e-6)
    return lowest
