"""What the pupil knows before it meets its sources: small skills, and a first taste of each family.

Every lesson is a small skill on letters, digits or months that none of the families asks for: saying a word again,
spelling it with dashes, taking letters by their place, counting on by one. It is what a base model brings along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from demo.bohdi.domains import worded
from demo.fleet.corpus import Example
from demo.fleet.families import LETTERS, MONTHS, PEOPLE, TOOLS, TOWNS

LESSON_SHARE: Final = 1 / 3
Lesson = Callable[[Random], tuple[str, str]]


def _word(rng: Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(3, 8)))


def _digits(rng: Random) -> str:
    return "".join(rng.choices("0123456789", k=rng.randint(2, 6)))


def _either(rng: Random) -> str:
    return rng.choice((_word, _digits))(rng)


def _again(rng: Random) -> tuple[str, str]:
    text = rng.choice((_either(rng), rng.choice(PEOPLE), rng.choice(TOOLS), rng.choice(TOWNS), rng.choice(MONTHS)))
    return rng.choice(("Say {x}.", "Repeat {x}.", "Again: {x}.", "{x}?", "Which word is {x}?")).format(x=text), text


def _dashes(rng: Random) -> tuple[str, str]:
    text = _either(rng)
    return rng.choice(("Spell {x}.", "Spell out {x} with dashes.")).format(x=text), "-".join(text)


def _first(rng: Random) -> tuple[str, str]:
    text, count = _either(rng), rng.randint(1, 3)
    return f"First {count} of {text}.", text[:count]


def _last(rng: Random) -> tuple[str, str]:
    text, count = _either(rng), rng.randint(1, 3)
    return f"Last {count} of {text}.", text[-count:]


def _place(rng: Random) -> tuple[str, str]:
    text = _either(rng)
    place = rng.randrange(len(text))
    return rng.choice(("Number {i} in {x}?", "Character {i} of {x}.")).format(i=place + 1, x=text), text[place]


def _double(rng: Random) -> tuple[str, str]:
    text = _either(rng)
    return f"Double {text}.", "".join(2 * letter for letter in text)


def _next(rng: Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        place = rng.randrange(25)
        return f"What comes after {LETTERS[place]}?", LETTERS[place + 1]
    number = rng.randint(0, 998)
    return f"What comes after {number}?", str(number + 1)


def _count(rng: Random) -> tuple[str, str]:
    text = _either(rng)
    return f"How long is {text}?", str(len(text))


def _join(rng: Random) -> tuple[str, str]:
    one, two = _either(rng), _either(rng)
    return f"Join {one} and {two}.", one + two


def _larger(rng: Random) -> tuple[str, str]:
    one, two = rng.sample("0123456789", 2)
    return f"Which is less, {one} or {two}?", min(one, two)


def _drop(rng: Random) -> tuple[str, str]:
    text = _word(rng)
    letter = rng.choice(text)
    left = text.replace(letter, "")
    return (f"{text} without {letter}.", left) if left else _drop(rng)


LESSONS: Final[tuple[Lesson, ...]] = (
    _again, _dashes, _first, _last, _place, _double, _next, _count, _join, _larger, _drop,
)  # fmt: skip


def lesson(rng: Random) -> Example:
    """One lesson, of any skill."""
    user, reply = rng.choice(LESSONS)(rng)
    return Example(None, user, reply)


class Taste:
    """A first taste of the families: questions with their answers, of each family only until some are answered.

    So the pupil is a beginner everywhere and good at nothing. `ceiling` is the accuracy at which a family is no longer
    shown; lessons go on beside it.
    """

    def __init__(self, families: Sequence[str], ceiling: float, seed: int) -> None:
        few = {"facts": 250, "roman": 700}
        self._pool = {family: worded(family, "train", few.get(family, 4000), seed) for family in families}
        self._ceiling = ceiling
        self.shares = dict.fromkeys(families, 1.0)
        self.accuracy = dict.fromkeys(families, 0.0)

    def draw(self, count: int, rng: Random) -> list[Example]:
        """A third lessons, the rest questions of the families that are still shown."""
        families = rng.choices(list(self.shares), list(self.shares.values()), k=count)
        return [lesson(rng) if rng.random() < LESSON_SHARE else self._shown(family, rng) for family in families]

    def _shown(self, family: str, rng: Random) -> Example:
        asked = rng.choice(self._pool[family])
        return Example(None, asked.text, asked.answer)

    def update(self, accuracy: dict[str, float]) -> None:
        """Show a family less the nearer it is to the ceiling."""
        self.accuracy = accuracy
        self.shares = {name: max(0.01, (self._ceiling - share) / self._ceiling) for name, share in accuracy.items()}
