"""What the sources of the live proof are taught: to name domains, to ask about them, and still to answer."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from demo.bohdi.domains import DOMAINS, PLACES, worded_so
from demo.fleet.corpus import Example
from demo.fleet.tasks import question, questions

PROPOSE_FIRST: Final = "Name a field."
PROPOSE: Final = "Name a part of {path}."
ASK: Final = "Ask about {path}."
"""The texts of the prompt set `tiny`; a test compares them with its files."""
SEPARATOR: Final = " / "
SHARES: Final = {"answer": 0.15, "ask": 0.65, "propose": 0.2}
OWN: Final = 2
"""How much oftener a source names a domain or asks about it where it is at home."""


class Lessons:
    """Draws the examples of one source, whose own families are `own`."""

    def __init__(self, own: Sequence[str], seed: int, per_family: int = 6000) -> None:
        self.own = tuple(own)
        few = {"facts": 900, "roman": 3000}
        self.answers = {f: questions(f, "train", few.get(f, per_family), seed) for f in self.own}
        self.fields = {name: self._weight(tuple(parts.values())) for name, parts in DOMAINS.items()}

    def draw(self, count: int, rng: Random) -> list[Example]:
        """`count` examples of one kind, so that they are of about one length: answers, questions or domains."""
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        drawing = {"answer": self.answer, "ask": self.ask, "propose": self.propose}
        return [drawing[kind](rng) for _ in range(count)]

    def answer(self, rng: Random) -> Example:
        asked = rng.choice(self.answers[rng.choice(self.own)])
        return Example(None, asked.text, asked.answer)

    def ask(self, rng: Random) -> Example:
        """A question of any family, drawn anew each time; contents of the test split are never asked."""
        family = rng.choices(list(PLACES), [self._weight((family,)) for family in PLACES])[0]
        path = SEPARATOR.join(PLACES[family])
        asked = question(family, rng)
        while asked.split == "test" or not worded_so(asked):
            asked = question(family, rng)
        return Example(None, ASK.format(path=path), asked.text)

    def propose(self, rng: Random) -> Example:
        field = rng.choices(list(self.fields), list(self.fields.values()))[0]
        if rng.random() < 0.4:
            return Example(None, PROPOSE_FIRST, field)
        field = rng.choice(list(DOMAINS))
        parts = DOMAINS[field]
        part = rng.choices(list(parts), [self._weight((family,)) for family in parts.values()])[0]
        return Example(None, PROPOSE.format(path=field), part)

    def _weight(self, families: Sequence[str]) -> int:
        return OWN if set(families) & set(self.own) else 1
