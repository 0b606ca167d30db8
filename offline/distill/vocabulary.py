"""Which token of the target model each token of a source model is: equal bytes, or none.

Nearest-by-spelling maps (FuseLLM's) turn `365` into `3` and `motivation` into `activation`; there is no nearest here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.distill.token_bytes import TokenBytes


@dataclass(frozen=True, slots=True)
class VocabularyMap:
    """From a source's tokens to the target's.

    `target_id` int32 [V source]: the target's token of the same bytes, -1 if it has none. `id_of`: the target's token
    of these bytes. `source_bytes`: the bytes of each source token, None for special ones. Where two target tokens have
    the same bytes (an added token beside a piece) the lower id stands for both.
    """

    target_id: NDArray[np.int32]
    id_of: dict[bytes, int]
    source_bytes: list[bytes | None]

    @property
    def shared(self) -> float:
        """Share of the source's tokens that the target has."""
        written = np.array([token is not None for token in self.source_bytes])
        return float((self.target_id[written] >= 0).mean()) if written.any() else 0.0


def map_vocabulary(source: TokenBytes, target: TokenBytes) -> VocabularyMap:
    """Linear in the sizes of both vocabularies."""
    id_of: dict[bytes, int] = {}
    for index, written in enumerate(target.by_id):
        if written:
            id_of.setdefault(written, index)
    found = [id_of.get(written, -1) if written else -1 for written in source.by_id]
    return VocabularyMap(np.asarray(found, dtype=np.int32), id_of, source.by_id)
