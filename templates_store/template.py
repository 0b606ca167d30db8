"""A thought template: a short reusable plan for a kind of problem, distilled from the best past answers.

Source of the structure: FusionFactory 3.1 (problem type and approach; chain of steps; answer format).
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["candidate", "active", "quarantined", "retired"]
Licence = Literal["open", "restricted"]
"""Whether what a template was made from may be used freely, or only within the terms of its sources."""


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """One template with its provenance.

    `id` is the digest of the content: the first 16 hex digits of the SHA-256 of `query` and `text`. `query` is the
    question it was made from, by whose vector it is found; `vector` is float32 little-endian, unit norm, made by the
    encoder whose hash is `encoder`. `builder` is who wrote it: a builder or model, and the version of its wording.
    `tenant` None means visible to all. `interactions` are the logged answers it was distilled from and `query_keys` the
    questions of these, as `offline.answers` names them. `source_versions` gives the version of a source model where it
    is known. `licence` None means that nobody has said.
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
    source_versions: dict[str, str] = {}
    interactions: tuple[str, ...] = ()
    query_keys: tuple[str, ...] = ()
    licence: Licence | None = None
    schema: int = 2


class Worth(msgspec.Struct, frozen=True, kw_only=True):
    """What showing a template was seen to do, against the control group that was shown none.

    `shown` and `control` are counts of scored requests, `wins` and `losses` how many of the shown ones were better and
    worse than expected without it. `uplift` is the mean change of the score, in [-1, 1], and `low` and `high` the ends
    of its interval; all three are None as long as too little was seen. `expected` is the template's own part of the
    uplift, drawn toward what templates like it show: what retrieval ranks by. `updated_at` is Unix time in seconds.
    """

    shown: int
    control: int
    wins: int
    losses: int
    uplift: float | None
    low: float | None
    high: float | None
    updated_at: float
    expected: float | None = None


class Hit(msgspec.Struct, frozen=True):
    """A retrieved template and the cosine similarity of its query, in [-1, 1]."""

    template: Template
    similarity: float
