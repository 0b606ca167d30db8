"""A thought template: a short reusable plan for a kind of problem, distilled from the best past answers.

Source of the structure: FusionFactory 3.1 (problem type and approach; chain of steps; answer format).
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["candidate", "active", "quarantined", "retired"]


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """One template with its provenance.

    `id` is the first 16 hex digits of the SHA-256 of `query` and `text`. `query` is the question it was made from, by
    whose vector it is found; `vector` is float32 little-endian, unit norm, made by the encoder whose hash is `encoder`.
    `tenant` None means visible to all. `interactions` are the logged answers it was distilled from.
    """

    id: str
    query: str
    text: str
    vector: bytes
    encoder: str
    created_at: float
    builder: str
    state: State = "active"
    tenant: str | None = None
    task: str | None = None
    source_models: tuple[str, ...] = ()
    interactions: tuple[str, ...] = ()
    schema: int = 1


class Hit(msgspec.Struct, frozen=True):
    """A retrieved template and the cosine similarity of its query, in [-1, 1]."""

    template: Template
    similarity: float
