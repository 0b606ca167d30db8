"""Questions of the demo fleet: drawing them, the split into train and test, and the exact checker. Needs no torch.

questions("add", "test", 200, seed=1)     200 different held-out additions
check(question, "85")                     1.0 or 0.0
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from demo.fleet.families import FAMILIES, multiply_steps

Split = Literal["train", "test"]
TEST_SHARE = 0.2
"""Share of contents that are never trained on."""
STEPS_HINT = "Steps: multiply the hundreds, the tens and the ones; add them up; write Answer: and the result."
"""With this text in the prompt the generalist writes out the steps of a product (so far with wrong numbers in them)."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `id` is the family and a hash of the text; the same text has the same id everywhere."""

    id: str
    family: str
    text: str
    answer: str
    split: Split


def question(family: str, rng: Random) -> Question:
    """Draw one question of a family, of either split."""
    spec = FAMILIES[family]
    drawn = spec.draw(rng)
    index = rng.randrange(len(spec.phrasings))
    text = spec.phrasings[index].format(**drawn.fields)
    key = f"{family}|{drawn.key}|{index}" if spec.split_wording else f"{family}|{drawn.key}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Question(f"{family}:{digest}", family, text, drawn.answer, split_of(key))


def split_of(key: str) -> Split:
    """The split that a content belongs to, by its hash: the same on every machine and for every seed."""
    value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "test" if value < TEST_SHARE else "train"


def questions(family: str, split: Split, count: int, seed: int = 0) -> list[Question]:
    """`count` questions of one family and split with different texts.

    Raises ValueError if the family does not hold that many (facts hold about 1,200 texts, all others thousands).
    """
    rng = Random(f"{seed}|{family}|{split}")
    found: dict[str, Question] = {}
    for _ in range(200 * count + 20_000):
        if len(found) == count:
            return list(found.values())
        drawn = question(family, rng)
        if drawn.split == split:
            found.setdefault(drawn.id, drawn)
    raise ValueError(
        f"expected {count} different {split} questions of {family!r}, found only {len(found)}; ask for fewer"
    )


def mixed(split: Split, per_family: int, seed: int = 0, families: Sequence[str] = tuple(FAMILIES)) -> list[Question]:
    """`per_family` questions of every family, shuffled together."""
    drawn = [q for family in families for q in questions(family, split, per_family, seed)]
    Random(f"{seed}|mixed|{split}").shuffle(drawn)
    return drawn


def final_answer(text: str) -> str:
    """What a reply claims: what follows the last `Answer:`, or all of it; lower case, no final full stop."""
    claimed = re.split(r"answer:", text, flags=re.IGNORECASE)[-1]
    return " ".join(claimed.split()).rstrip(".").strip().lower()


def check(asked: Question, answer_text: str) -> float:
    """1.0 if the reply's final answer is exactly the expected one (but for case and spacing), else 0.0."""
    return 1.0 if final_answer(answer_text) == asked.answer.lower() else 0.0


def stepwise(asked: Question) -> str:
    """The reply to a multiplication with its steps written out. Raises ValueError for other families."""
    if asked.family != "multiply":
        raise ValueError(f"expected a question of family 'multiply', got {asked.family!r}: only that has written steps")
    a, b = sorted((int(number) for number in re.findall(r"\d+", asked.text)), reverse=True)
    return multiply_steps(a, b)
