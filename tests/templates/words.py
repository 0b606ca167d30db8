"""A small real encoder for these tests (hashed words, unit norm), so that they do not depend on any weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from encoders.protocol import Vectors
from templates_store.create import create_template
from templates_store.template import Hit, State, Template


class WordEncoder:
    """Each word adds one at a place given by its digest; texts with the same words have the same vector."""

    name = "words"
    inline = True

    def __init__(self, dim: int = 256, salt: str = "") -> None:
        self.dim = dim
        self.salt = salt
        self.hash = hashlib.sha256(f"words-{dim}-{salt}".encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                digest = hashlib.sha256((self.salt + word).encode()).digest()
                row[int.from_bytes(digest[:4], "little") % self.dim] += 1.0
            norm = np.linalg.norm(row)
            if norm > 0:
                row /= norm
        return rows

    def encode_one(self, text: str) -> Vectors:
        return self.encode([text])[0]


ENCODER = WordEncoder()

PLAN = (
    "Problem: a rate question that asks for a time. "
    "Steps: Write down the rates; then divide the amount by their sum. "
    "Answer: give the time with its unit."
)


def template(
    query: str = "how long do two pipes need to fill a tank",
    text: str = PLAN,
    *,
    encoder: WordEncoder = ENCODER,
    state: State = "active",
    tenant: str | None = None,
) -> Template:
    return create_template(encoder, query, text, builder="test", state=state, tenant=tenant, created_at=1.0)


def hit(text: str = PLAN, similarity: float = 0.9) -> Hit:
    return Hit(template(text=text), similarity)
