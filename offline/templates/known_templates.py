"""The templates that there are, to find near duplicates among what one tenant can see: of questions and of texts.

Texts are compared by the share of their runs of three words that they have in common (Jaccard). Which ones are worth
comparing is found by MinHash: two texts share a band of minima nearly always if they are alike, and seldom if not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from encoders.protocol import Encoder, Vectors
from offline.best_answers import NEAR_DUPLICATE
from templates_store.template import Template

SAME_TEXT = 0.8
"""Texts with this share of their runs of words in common say the same."""
_RUN = 3
_BANDS, _ROWS = 16, 4
"""With these, texts that are at the limit share a band with a probability of 0.9998, unlike ones (0.2) of 0.03."""
_SEED = 0

Runs = frozenset[int]


class KnownTemplates:
    """The templates of one encoder that are not retired. Grows with `add`."""

    def __init__(self, templates: Sequence[Template], encoder: Encoder) -> None:
        self._dim = encoder.dim
        self._ids: dict[str | None, list[str]] = {}
        self._vectors: dict[str | None, Vectors] = {}
        self._texts = _Texts()
        for template in templates:
            if template.encoder == encoder.hash and template.state != "retired":
                self.add(template)

    def add(self, template: Template) -> None:
        ids = self._ids.setdefault(template.tenant, [])
        vectors = self._vectors.get(template.tenant)
        if vectors is None or len(vectors) == len(ids):
            grown = np.zeros((max(64, 2 * len(ids)), self._dim), dtype=np.float32)
            if vectors is not None:
                grown[: len(ids)] = vectors
            self._vectors[template.tenant] = vectors = grown
        vectors[len(ids)] = np.frombuffer(template.vector, dtype="<f4")
        ids.append(template.id)
        self._texts.add(template)

    def near_question(self, template: Template) -> str | None:
        """The id of a template for nearly the same question that the same tenant sees, or None."""
        vector = np.frombuffer(template.vector, dtype="<f4")
        for tenant in {None, template.tenant}:
            ids = self._ids.get(tenant)
            if not ids:
                continue
            similarities = self._vectors[tenant][: len(ids)] @ vector
            best = int(similarities.argmax())
            if similarities[best] >= NEAR_DUPLICATE:
                return ids[best]
        return None

    def same_text(self, template: Template) -> str | None:
        """The id of a template that says nearly the same and that the same tenant sees, or None."""
        return self._texts.same(template)


class _Texts:
    def __init__(self) -> None:
        odd = np.random.default_rng(_SEED).integers(1, 2**63, (_BANDS * _ROWS, 2), dtype=np.uint64)
        self._factors, self._terms = odd[:, :1] | np.uint64(1), odd[:, 1:]
        self._bands: dict[tuple[str | None, int, bytes], list[tuple[str, Runs]]] = {}

    def add(self, template: Template) -> None:
        runs = _runs(template.text)
        for place, band in enumerate(self._signature(runs)):
            self._bands.setdefault((template.tenant, place, band), []).append((template.id, runs))

    def same(self, template: Template) -> str | None:
        runs = _runs(template.text)
        for place, band in enumerate(self._signature(runs)):
            for tenant in {None, template.tenant}:
                for id_, known in self._bands.get((tenant, place, band), ()):
                    if len(runs & known) >= SAME_TEXT * len(runs | known):
                        return id_
        return None

    def _signature(self, runs: Runs) -> list[bytes]:
        values: NDArray[np.uint64] = np.fromiter(runs, np.uint64, len(runs))
        minima = (values * self._factors + self._terms).min(axis=1).reshape(_BANDS, _ROWS)
        return [row.tobytes() for row in minima]


def _runs(text: str) -> Runs:
    """Digests of the runs of three words; of the whole, if there are fewer."""
    words = re.findall(r"\w+", text.casefold())
    starts = range(max(len(words) - _RUN + 1, 1))
    runs = (" ".join(words[start : start + _RUN]).encode() for start in starts)
    return frozenset(int.from_bytes(blake2b(run, digest_size=8).digest(), "little") for run in runs)
