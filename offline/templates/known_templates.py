"""The templates that there are, to find near duplicates among what one tenant can see: of questions and of texts.

Texts are compared by the share of their runs of three words that they have in common (Jaccard). Which ones are worth
comparing is found by MinHash: two texts share a band of minima nearly always if they are alike, and seldom if not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from encoders.protocol import Encoder, Vectors
from offline.best_answers import NEAR_DUPLICATE
from offline.minhash import MinHash, Runs, runs_of, shared_part
from templates_store.template import Template

SAME_TEXT = 0.8
"""Texts with this share of their runs of words in common say the same."""
_RUN = 3


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
        self._hashes = MinHash()
        self._bands: dict[tuple[str | None, int, bytes], list[tuple[str, Runs]]] = {}

    def add(self, template: Template) -> None:
        runs = _runs(template.text)
        for place, band in enumerate(self._hashes.bands(runs)):
            self._bands.setdefault((template.tenant, place, band), []).append((template.id, runs))

    def same(self, template: Template) -> str | None:
        runs = _runs(template.text)
        for place, band in enumerate(self._hashes.bands(runs)):
            for tenant in {None, template.tenant}:
                for id_, known in self._bands.get((tenant, place, band), ()):
                    if shared_part(runs, known) >= SAME_TEXT:
                        return id_
        return None


def _runs(text: str) -> Runs:
    """Digests of the runs of three words; of the whole, if there are fewer."""
    return runs_of(re.findall(r"\w+", text.casefold()), _RUN)
