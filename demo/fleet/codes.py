"""The code book: questions that a model answers well if its prompt names the steps, and badly if it has to guess them.

A code is two steps on five letters, fixed for each name. Sorting stands beside it: a family for which the same models
need no template. Both are for the proof of thought templates and no part of the fleet's other families.

code_questions("codes", "test", 200)     200 different held-out questions, of all codes in turn
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import Literal

from demo.fleet.families import LETTERS
from demo.fleet.tasks import Question, Split, split_of

Family = Literal["codes", "sorting"]
Letters = tuple[str, ...]

LENGTH = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a code: its verb, how it is told, and what it does."""

    verb: str
    rest: str
    apply: Callable[[Letters], Letters]

    @property
    def told(self) -> str:
        """As half a sentence: `turn the letters around`."""
        return f"{self.verb} {self.rest}"


STEPS = (
    Step("turn", "the letters around", lambda word: word[::-1]),
    Step("remove", "the first letter", lambda word: word[1:]),
    Step("skip", "the final letter", lambda word: word[:-1]),
    Step("write", "the opening letter twice", lambda word: (word[0], *word)),
    Step("repeat", "the closing letter", lambda word: (*word, word[-1])),
    Step("carry", "the last one to the front", lambda word: (word[-1], *word[:-1])),
    Step("push", "the leading one to the back", lambda word: (*word[1:], word[0])),
    Step("swap", "the two outer letters", lambda word: (word[-1], *word[1:-1], word[0])),
)
CODES = (
    "harbor", "lantern", "meadow", "copper", "falcon", "winter", "violin", "pepper", "tunnel", "garden", "castle",
    "rocket", "salmon", "velvet", "desert", "magnet", "candle", "timber", "puzzle", "orange", "jungle", "mirror",
    "basket", "thunder", "museum", "tiger", "cotton", "island", "hammer", "coffee", "planet", "saddle", "marble",
    "engine", "cherry", "bridge", "wizard", "camera", "turtle", "silver", "pirate", "blanket", "dragon", "onion",
    "ladder", "piano", "glacier", "banana",
)  # fmt: skip
LEARNED_SHARE = 4
"""One code in so many is in the training of the model that is to follow templates."""
PHRASINGS: dict[Family, tuple[str, ...]] = {
    "codes": (
        "The {code} code: apply the {code} code to {letters}.",
        "The {code} code: please apply the {code} code to {letters}.",
    ),
    "sorting": ("Sort the digits {digits} upwards.", "Please sort the digits {digits} upwards."),
}


def _rank(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def code_book() -> dict[str, tuple[Step, Step]]:
    """The two steps of each code: no two codes have the same. The same on every machine."""
    pairs = sorted(permutations(STEPS, 2), key=lambda pair: _rank(f"{pair[0].verb} then {pair[1].verb}"))
    return dict(zip(CODES, pairs, strict=False))


BOOK = code_book()
LEARNED: tuple[str, ...] = tuple(sorted(CODES, key=_rank)[: len(CODES) // LEARNED_SHARE])
"""The codes that the follower learns by heart."""


def applied(steps: Sequence[Step], word: Letters) -> Letters:
    """What the steps make of a word."""
    for step in steps:
        word = step.apply(word)
    return word


def code_of(asked: Question) -> str:
    """The code that a question of `codes` names. Raises ValueError for other questions."""
    found = list({word for word in asked.text.split() if word in BOOK})
    if asked.family != "codes" or len(found) != 1:
        raise ValueError(f"expected a question that names one code, got {asked.text!r} of {asked.family!r}")
    return found[0]


def letters_of(asked: Question) -> Letters:
    """The letters that a question of `codes` is about."""
    return tuple(asked.text.rstrip(".").rsplit(" ", LENGTH)[1:])


def draw_code(code: str, rng: Random) -> Question:
    """A question about one code, of either split."""
    word = tuple(rng.sample(LETTERS, LENGTH))
    text = rng.choice(PHRASINGS["codes"]).format(code=code, letters=" ".join(word))
    return _question("codes", text, " ".join(applied(BOOK[code], word)), f"letters|{''.join(word)}")


def draw_sorting(rng: Random) -> Question:
    """A question about five different digits in any order, of either split."""
    digits = rng.sample("0123456789", LENGTH)
    text = rng.choice(PHRASINGS["sorting"]).format(digits=" ".join(digits))
    return _question("sorting", text, " ".join(sorted(digits)), f"digits|{''.join(digits)}")


def _question(family: str, text: str, answer: str, key: str) -> Question:
    return Question(f"{family}:{_rank(text)[:12]}", family, text, answer, split_of(key))


def code_questions(
    family: Family, split: Split, count: int, seed: int = 0, codes: Sequence[str] = CODES
) -> list[Question]:
    """`count` questions of one family and split with different texts; those of `codes` go through the codes in turn."""
    rng, found = Random(f"{seed}|{family}|{split}"), dict[str, Question]()
    turns = _turns(codes)
    while len(found) < count:
        code = next(turns) if family == "codes" else ""
        for _ in range(1000):
            drawn = draw_code(code, rng) if family == "codes" else draw_sorting(rng)
            if drawn.split == split and drawn.id not in found:
                found[drawn.id] = drawn
                break
        else:
            raise ValueError(f"expected {count} different {split} questions of {family!r}, found only {len(found)}")
    return list(found.values())


def _turns(codes: Sequence[str]) -> Iterator[str]:
    while True:
        yield from codes


def worked(asked: Question) -> str:
    """The reply of a model that knows its way and tells it in whole sentences."""
    if asked.family == "sorting":
        return (
            "First find the smallest digit and write it down. Then add the next larger digit until none is left. "
            f"Answer: {asked.answer}"
        )
    first, second = BOOK[code_of(asked)]
    between = " ".join(first.apply(letters_of(asked)))
    return f"First {first.told}. This gives {between}. Then {second.told}. Answer: {asked.answer}"


def brief(steps: Sequence[Step], word: Letters) -> str:
    """The reply of a model that carries out two steps and names each by its verb."""
    first, second = steps
    between = first.apply(word)
    return f"{first.verb} {' '.join(between)}. {second.verb}. Answer: {' '.join(second.apply(between))}"
