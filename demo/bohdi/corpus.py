"""What the sources of the live proof are taught: to name domains, to ask about them, and still to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Course:
    """What a source is shown: shares of the kinds of examples, and how often each family is asked about.

    `own`: how much oftener a source names a domain, or asks about it, where it is at home.
    """

    answer: float
    ask: float
    propose: float
    own: int = 1
    weights: Mapping[str, int] = field(default_factory=dict)


COURSES: Final = (
    Course(0.15, 0.65, 0.2, own=2),
    # What was still asked badly: names, months, pairs of units, and words of the right length.
    Course(0.35, 0.5, 0.15, weights={"facts": 4, "dates": 3, "units": 2, "reverse": 2, "vowels": 2}),
)


class Lessons:
    """Draws the examples of one source, whose own families are `own`."""

    def __init__(self, own: Sequence[str], course: Course, seed: int, per_family: int = 6000) -> None:
        self.own = tuple(own)
        self.course = course
        few = {"facts": 900, "roman": 3000}
        self.answers = {f: questions(f, "train", few.get(f, per_family), seed) for f in self.own}
        self.fields = {name: self._home(tuple(parts.values())) for name, parts in DOMAINS.items()}
        self.asked = {family: self._home((family,)) * course.weights.get(family, 1) for family in PLACES}

    def draw(self, count: int, rng: Random) -> list[Example]:
        """`count` examples of one kind, so that they are of about one length: answers, questions or domains."""
        course = self.course
        drawing = (self.answer, self.ask, self.propose)
        kind = rng.choices(drawing, (course.answer, course.ask, course.propose))[0]
        return [kind(rng) for _ in range(count)]

    def answer(self, rng: Random) -> Example:
        asked = rng.choice(self.answers[rng.choice(self.own)])
        return Example(None, asked.text, asked.answer)

    def ask(self, rng: Random) -> Example:
        """A question of any family, drawn anew each time; contents of the test split are never asked."""
        family = rng.choices(list(self.asked), list(self.asked.values()))[0]
        path = SEPARATOR.join(PLACES[family])
        asked = question(family, rng)
        while asked.split == "test" or not worded_so(asked):
            asked = question(family, rng)
        return Example(None, ASK.format(path=path), asked.text)

    def propose(self, rng: Random) -> Example:
        if rng.random() < 0.4:
            return Example(None, PROPOSE_FIRST, rng.choices(list(self.fields), list(self.fields.values()))[0])
        name = rng.choice(list(DOMAINS))
        parts = DOMAINS[name]
        part = rng.choices(list(parts), [self._home((family,)) for family in parts.values()])[0]
        return Example(None, PROPOSE.format(path=name), part)

    def _home(self, families: Sequence[str]) -> int:
        return self.course.own if set(families) & set(self.own) else 1
