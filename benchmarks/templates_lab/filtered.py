"""What a caller finds who may see only a part: tenants from small to large, and an index of which a part is retired."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from benchmarks.templates_lab.speed import Row, recall, timed
from encoders.protocol import Vectors
from templates_store.block import Dead, Group, build_block
from templates_store.index import TemplateIndex

OWNED = {"0.1 % of the templates": 0.001, "1 % of the templates": 0.01, "a fifth of the templates": 0.2}
"""What each tenant owns; all may see the rest."""
RETIRED = 0.15
"""Less than what makes an index be made anew."""
TIMED = 500


def filtered(vectors: Vectors, asked: Vectors) -> list[Row]:
    """Recall@10 for each tenant, of all that it may see and of its own, before and after a part is retired."""
    count = len(vectors)
    ends = np.cumsum([round(share * count) for share in OWNED.values()]).tolist()
    rows: dict[str | None, slice] = {
        tenant: slice(start, end) for tenant, start, end in zip(OWNED, [0, *ends], ends, strict=False)
    }
    rows[None] = slice(ends[-1], count)
    ids = np.arange(count, dtype=np.uint64)
    groups = {tenant: Group(ids[own], vectors[own]) for tenant, own in rows.items()}
    block = build_block(groups, vectors.shape[1])
    index = TemplateIndex.over(block, lambda _: {}, "the encoder", 1)
    found = [_seen(index, vectors, rows, tenant, asked, 0.0) for tenant in OWNED]
    gone = np.random.default_rng(0).choice(count, round(RETIRED * count), replace=False)
    index.dead = Dead(gone)
    block.prepare(index.dead)
    return found + [_seen(index, vectors, rows, tenant, asked, RETIRED) for tenant in OWNED]


def _seen(
    index: TemplateIndex,
    vectors: Vectors,
    rows: Mapping[str | None, slice],
    tenant: str,
    asked: Vectors,
    retired: float,
) -> Row:
    block, left = index.block, np.ones(len(vectors), dtype=np.bool_)
    left[block.ids[index.dead.rows]] = False
    own, shared = np.zeros(len(vectors), dtype=np.bool_), np.zeros(len(vectors), dtype=np.bool_)
    own[rows[tenant]], shared[rows[None]] = left[rows[tenant]], left[rows[None]]
    part = block.parts[tenant]
    row = {
        "what": "filtered by tenant and state", "templates": len(vectors), "tenant_owns": tenant, "retired": retired,
        "recall_at_10": recall(index, asked, vectors[own | shared], tenant=tenant),
        "recall_at_10_of_its_own": _own_recall(index, tenant, vectors[own], asked),
        "own_templates": int(own.sum()), "own_compared": "in full" if part.approximate is None else "by lists",
    }  # fmt: skip
    return row | timed([partial(index.candidates, q, 20, 0.5, tenant) for q in asked[:TIMED]])


def _own_recall(index: TemplateIndex, tenant: str, own: Vectors, asked: Vectors, k: int = 10) -> float:
    found = 0
    for query in asked:
        truth = np.sort(own @ query)[-k:].min()
        near = index.block.search(query, k, -1.0, tenant, index.dead)
        found += sum(similarity >= truth - 1e-6 for similarity, _ in near)
    return found / (min(k, len(own)) * len(asked))
