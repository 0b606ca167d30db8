"""Retrieval as it must be measured: never the template made from the question itself, or from a near duplicate.

Otherwise a measurement on the queries that the templates were built from finds each query's own answer and flatters
itself (fusionfactory.md 3.3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offline.best_answers import NEAR_DUPLICATE
from templates_store.index import TemplateIndex
from templates_store.sanitize import scrub
from templates_store.template import Hit


def search_without_own(
    index: TemplateIndex,
    query: str,
    vector: NDArray[np.float32],
    k: int = 3,
    min_similarity: float = 0.5,
    tenant: str | None = None,
    *,
    near_duplicate: float = NEAR_DUPLICATE,
) -> list[Hit]:
    """Like `TemplateIndex.search`, without hits made from this query or from one at least `near_duplicate` similar."""
    own = _evened(scrub(query))
    asked = 2 * k + 8
    while True:
        found = index.search(vector, asked, min_similarity, tenant)
        kept = [hit for hit in found if hit.similarity < near_duplicate and _evened(hit.template.query) != own]
        if len(kept) >= k or len(found) < asked:
            return kept[:k]
        asked *= 4


def _evened(text: str) -> str:
    return " ".join(text.split()).casefold()
