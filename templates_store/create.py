"""Makes a template that is safe to keep: scrubbed, sanitized, embedded and named by its content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence

import numpy as np

from encoders.protocol import Encoder
from templates_store.sanitize import sanitize, scrub
from templates_store.template import Licence, State, Template


class TemplateRejected(ValueError):
    """A text cannot become a template. The message says what was expected, what came and what to do."""


def template_id(query: str, text: str) -> str:
    """The first 16 hex digits of the SHA-256 of the query and the text, which are separated by a zero byte."""
    return hashlib.sha256(f"{query}\0{text}".encode()).hexdigest()[:16]


def create_template(
    encoder: Encoder,
    query: str,
    text: str,
    *,
    builder: str,
    state: State = "active",
    tenant: str | None = None,
    task: str | None = None,
    source_models: Sequence[str] = (),
    source_versions: Mapping[str, str] | None = None,
    interactions: Sequence[str] = (),
    query_keys: Sequence[str] = (),
    licence: Licence | None = None,
    created_at: float | None = None,
) -> Template:
    """A template for questions like `query`, found by the vector of the scrubbed query.

    Raises
    ------
    TemplateRejected: nothing is left of the query or the text once it is safe, or the encoder reads nothing in it.
    """
    query, text = scrub(query), sanitize(text)
    if not query.strip():
        raise TemplateRejected("a template needs the question that it answers, but the query is empty")
    if not text:
        raise TemplateRejected("nothing of the template's text is left once instructions, markup and secrets are out")
    vector = encoder.encode_one(query)
    if not np.any(vector):
        raise TemplateRejected(f"encoder {encoder.name!r} finds nothing to read in the query {query[:60]!r}")
    return Template(
        id=template_id(query, text),
        query=query,
        text=text,
        vector=np.ascontiguousarray(vector, dtype="<f4").tobytes(),
        encoder=encoder.hash,
        created_at=time.time() if created_at is None else created_at,
        builder=builder,
        state=state,
        tenant=tenant,
        task=task,
        source_models=tuple(source_models),
        source_versions=dict(source_versions or {}),
        interactions=tuple(interactions),
        query_keys=tuple(query_keys),
        licence=licence,
    )
