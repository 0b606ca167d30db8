"""MinHash: which of many texts are worth comparing, without comparing all pairs.

A text stands here for its set of runs of words, as digests. Two texts share a band of minima nearly always if they have
most of their runs in common, and seldom if not. Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_SEED = 0

Runs = frozenset[int]


class MinHash:
    """One family of hash functions; equal in every process.

    Texts that share a part s of their runs share one of the `bands` of `rows` minima with a probability of
    1 - (1 - s ** rows) ** bands: with 16 x 4, 0.9998 at s = 0.8 and 0.03 at 0.2; with 32 x 8, 0.997 and 0.0001.
    """

    def __init__(self, bands: int = 16, rows: int = 4) -> None:
        self._shape = (bands, rows)
        odd = np.random.default_rng(_SEED).integers(1, 2**63, (bands * rows, 2), dtype=np.uint64)
        self._factors, self._terms = odd[:, :1] | np.uint64(1), odd[:, 1:]

    def bands(self, runs: Runs) -> list[bytes]:
        """The bands of a set of runs, which must not be empty."""
        values: NDArray[np.uint64] = np.fromiter(runs, np.uint64, len(runs))
        minima = (values * self._factors + self._terms).min(axis=1).reshape(self._shape)
        return [row.tobytes() for row in minima]


def runs_of(words: Sequence[str], length: int) -> Runs:
    """Digests of all runs of `length` words; of the whole, if there are fewer words."""
    starts = range(max(len(words) - length + 1, 1))
    runs = (" ".join(words[start : start + length]).encode() for start in starts)
    return frozenset(int.from_bytes(blake2b(run, digest_size=8).digest(), "little") for run in runs)


def shared_part(one: Runs, other: Runs) -> float:
    """The part of all runs of two texts that both have, in [0, 1] (Jaccard)."""
    return len(one & other) / max(len(one | other), 1)
