"""Which templates a query gets: the nearest, ranked again by what they are worth, as many as fit.

    score = similarity * factor(worth),      factor in [0.5, 1.5], 1 for what was never measured

Nothing below the floor is used, nothing over the token budget, and none at all is a legal answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from templates_store.augment import Block
from templates_store.index import Candidate, TemplateIndex
from templates_store.template import Hit, Worth
from templates_store.worth import factor

Fate = Literal["shown", "below the floor", "over the token budget", "outranked", "taken out of use"]
"""What became of a template that is near. `shown`: it is in the block, which a `thought` arm gets unless the request is
a control."""


class Considered(NamedTuple):
    """A template that was near, the factor of its worth, its score (their product) and what became of it."""

    id: str
    similarity: float
    worth: float
    score: float
    fate: Fate


class Bounds(NamedTuple):
    """How many are looked at, how many may be shown, the least similarity, and the budget of the block in tokens."""

    retrieve: int = 20
    top_k: int = 3
    floor: float = 0.7
    max_tokens: int = 600


class Selection(NamedTuple):
    """`hits` are to be shown, in this order, and fit together; `fates` of all that are above the floor, by id."""

    hits: tuple[Hit, ...] = ()
    fates: Mapping[str, Fate] = MappingProxyType({})
    floor: float = 0.7
    look: Callable[[], Sequence[Candidate]] = tuple
    """Finds all that were near. Most requests explain nothing, and then nobody looks."""
    worth: Mapping[str, Worth] = MappingProxyType({})

    @property
    def considered(self) -> tuple[Considered, ...]:
        """All that were near, nearest first, and what became of each."""
        told = []
        for candidate in self.look():
            by = factor(self.worth.get(candidate.id))
            fate = self.fates.get(candidate.id, "below the floor")
            told.append(Considered(candidate.id, candidate.similarity, by, _score(candidate.similarity, by), fate))
        return tuple(told)

    @property
    def retrieved(self) -> tuple[tuple[str, float], ...]:
        """Ids and similarities of the templates to be shown, as they are logged."""
        return tuple((hit.template.id, hit.similarity) for hit in self.hits)


NOTHING = Selection()


def choose(
    index: TemplateIndex, vector: NDArray[np.float32], tenant: str | None = None, bounds: Bounds | None = None
) -> Selection:
    """The templates for a query.

    `vector` and `tenant` as for `TemplateIndex.search`.

    Raises
    ------
    ValueError: the vector is not a unit vector of the index's length.
    TemplateStoreError: the records of what was found cannot be read.
    """
    bounds = Bounds() if bounds is None else bounds
    floor, worth = bounds.floor, index.worth
    # The index compares in single precision, to which the floor may have been rounded down.
    near = [one for one in index.candidates(vector, bounds.retrieve, floor, tenant) if one.similarity >= floor]
    if not near:
        return Selection(
            floor=floor, look=partial(index.candidates, vector, bounds.retrieve, -1.0, tenant), worth=worth
        )
    # Stable, so that what is worth the same stays nearest first.
    ranked = sorted(near, key=lambda one: -_score(one.similarity, factor(worth.get(one.id)))) if worth else near
    fates: dict[str, Fate] = {candidate.id: "outranked" for candidate in ranked}
    hits = _filled(index, ranked, bounds, fates)
    return Selection(hits, fates, floor, partial(index.candidates, vector, bounds.retrieve, -1.0, tenant), worth)


def _filled(
    index: TemplateIndex, ranked: Sequence[Candidate], bounds: Bounds, fates: dict[str, Fate]
) -> tuple[Hit, ...]:
    """The first of the ranked ones that fit; reads no more records than it has to. Notes what became of each."""
    block, hits = Block(bounds.max_tokens), list[Hit]()
    at = 0
    while at < len(ranked) and len(hits) < bounds.top_k:
        part = ranked[at : at + bounds.top_k - len(hits)]
        at += len(part)
        found = {hit.template.id: hit for hit in index.hits(part)}
        for candidate in part:
            hit = found.get(candidate.id)
            if hit is None:
                fates[candidate.id] = "taken out of use"
            elif block.takes(hit.template.text):
                fates[candidate.id] = "shown"
                hits.append(hit)
            else:
                fates[candidate.id] = "over the token budget"
    return tuple(hits)


def _score(similarity: float, by: float) -> float:
    return similarity * by if similarity >= 0.0 else similarity / by
