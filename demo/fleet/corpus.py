"""What the fleet is trained on: conversations of one question and one reply, some behind a block of reference text.

The reference blocks teach the models not to be thrown by what a gateway may put before a question (retrieved templates,
a system message). In the generalist's corpus a block may also name the steps of a multiplication, and then the reply
writes them out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from demo.fleet.tasks import STEPS_HINT, Question, questions, stepwise

HINTS = (
    STEPS_HINT,
    "Chain of steps: split the number into hundreds, tens and ones; multiply each; add the parts. End with Answer:",
    "Think step by step. Multiply hundreds, tens and ones one after the other, then add.",
    "Let's think step by step.",
    "Steps: 1. hundreds 2. tens 3. ones 4. sum.",
    "Reason step by step and give the final answer after Answer:",
)
HEADINGS = (
    "Reference {i}:\n", "### Template {i}\n", "Similar question {i}\n", "[{i}] ", "Note {i}. ", "Example {i}: ",
)  # fmt: skip
INTRODUCTIONS = (
    "",
    "",
    "Use what helps.\n",
    "Templates of similar problems follow.\n",
    "You are a helpful assistant.\n",
)
SMALL = {"facts": 900, "roman": 3000}
"""Families that hold fewer training questions than are drawn from the others."""


EASY_SHARE = 0.4
"""Share of plain questions that are drawn from the easy ones, where a family has any."""


def is_easy(asked: Question) -> bool:
    """Whether one number of a sum is round. The last digit of the result is then a copy of one digit.

    From these a model first learns where to look; without them it stays for very long at guessing the last digit, which
    depends on two digits of which neither alone says anything.
    """
    return asked.family == "add" and any(number.endswith("0") for number in re.findall(r"\d+", asked.text))


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: an optional system message, the user's message, and the reply to learn."""

    system: str | None
    user: str
    reply: str


class Pool:
    """Training questions per family, drawn once, and the examples made from them."""

    def __init__(
        self, families: Sequence[str], everything: Sequence[str], per_family: int, seed: int, easy: bool
    ) -> None:
        def of(family: str, count: int) -> list[Question]:
            return questions(family, "train", min(count, SMALL.get(family, count)), seed)

        self.families = tuple(families)
        self.own = {family: of(family, per_family) for family in families}
        self.easy = {family: [q for q in asked if easy and is_easy(q)] for family, asked in self.own.items()}
        self.others = [q for family in everything for q in of(family, 300)]

    def plain(self, family: str, rng: Random) -> Example:
        """A question as it stands and its short reply."""
        easy = self.easy[family]
        asked = rng.choice(easy if easy and rng.random() < EASY_SHARE else self.own[family])
        return Example(None, asked.text, asked.answer)

    def format_only(self, family: str, rng: Random) -> Example:
        """A question with the reply to another one: teaches when to speak and when to stop, and nothing else."""
        return Example(None, rng.choice(self.own[family]).text, rng.choice(self.others).answer)

    def behind_block(self, family: str, rng: Random, max_chars: int, hints: bool) -> Example:
        """A question behind reference text, in the user's message or in a system message."""
        asked = rng.choice(self.own[family])
        hinted = hints and asked.family == "multiply" and rng.random() < 0.6
        block = self._block(rng, max_chars, hinted)
        reply = stepwise(asked) if hinted else asked.answer
        if rng.random() < 0.4:
            return Example(block, asked.text, reply)
        return Example(
            None, f"{block}{rng.choice((chr(10), chr(10) * 2))}{rng.choice(('', 'Question: '))}{asked.text}", reply
        )

    def _block(self, rng: Random, max_chars: int, hinted: bool) -> str:
        heading, text = rng.choice(HEADINGS), rng.choice(INTRODUCTIONS)
        parts = [self._entry(rng) for _ in range(rng.randint(0 if hinted else 1, 3))]
        if hinted:
            parts.insert(rng.randint(0, len(parts)), rng.choice(HINTS))
        for index, part in enumerate(parts, start=1):
            text += heading.format(i=index) + part + "\n"
        # The end is kept, the hint always.
        return text.strip() if hinted else text.strip()[-max_chars:]

    def _entry(self, rng: Random) -> str:
        """A solved question of any family but multiplication."""
        asked = rng.choice(self.others)
        return (
            f"{asked.text} {rng.choice(('', 'Answer: '))}{asked.answer}" if asked.family != "multiply" else asked.text
        )
