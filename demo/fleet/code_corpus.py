"""What the two models of the code book are trained on.

The sage learns every code and tells its steps. The follower learns a quarter of the codes by heart, and to carry out
steps that stand in front of a question, as the gateway puts them there. It never sees sorting behind a template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from demo.fleet.codes import BOOK, CODES, LEARNED, STEPS, Step, brief, code_of, code_questions, letters_of, worked
from demo.fleet.corpus import Example
from demo.fleet.roster import Member
from demo.fleet.tasks import Question
from offline.templates.text import Parts
from templates_store.augment import Block

PER_CODE = 400
SORTING = 4000
SHORT_SHARE = 0.5
"""Share of the follower's steps before the first whole template: until then the steps stand alone."""
LONG_BATCH = 16
MAX_TOKENS = 600
KINDS = (
    "A question in codes, to be solved by recalling the relevant definitions and reasoning from them.",
    "A question in codes about letters, to be solved by recalling the relevant definitions and reasoning from them.",
    "A question, to be solved by recalling the relevant definitions and reasoning from them.",
    "A question about a code, to be solved by setting up the relation between the quantities and calculating.",
)
FORMS = (
    "State the result in one clear sentence after the reasoning.",
    "End with the short phrase that is asked for and nothing more.",
)
"""How problems and answers are told by templates that are built from logged answers."""


def sentences(steps: Sequence[Step]) -> str:
    """The steps as the sentences of a template."""
    return " ".join(f"{step.told[0].upper()}{step.told[1:]}." for step in steps)


def template_text(steps: Sequence[Step], rng: Random) -> str:
    """A template that names these steps, as a build writes it."""
    return Parts(rng.choice(KINDS), sentences(steps), rng.choice(FORMS)).text()


def behind(text: str, asked: Question) -> str:
    """The question behind the block of one template, as a `thought` arm sends it."""
    block = Block(MAX_TOKENS)
    block.takes(text)
    return block.text() + asked.text


class CodePool:
    """Training questions of both families, and the examples of each step made from them."""

    def __init__(self, member: Member) -> None:
        self._member = member
        own = CODES if member.role == "sage" else LEARNED
        self.known = code_questions("codes", "train", PER_CODE * len(own), member.seed, own)
        self.sorting = code_questions("sorting", "train", SORTING, member.seed)

    def draw(self, rng: Random, step: int) -> list[Example]:
        """The examples of one step."""
        size, short = self._member.batch, SHORT_SHARE * self._member.steps
        if self._member.role == "sage":
            return [self._told(rng) for _ in range(size)]
        if step < short:
            return [self._behind(rng, whole=False) if rng.random() < 0.5 else self._plain(rng) for _ in range(size)]
        if step % 2:
            return [self._plain(rng) for _ in range(size)]
        return [self._behind(rng, whole=True) for _ in range(LONG_BATCH)]

    def _told(self, rng: Random) -> Example:
        asked = rng.choice(self.known if rng.random() < 0.8 else self.sorting)
        return Example(None, asked.text, worked(asked))

    def _plain(self, rng: Random) -> Example:
        if rng.random() < 0.4:
            asked = rng.choice(self.sorting)
            return Example(None, asked.text, asked.answer)
        asked = rng.choice(self.known)
        return Example(None, asked.text, brief(BOOK[code_of(asked)], letters_of(asked)))

    def _behind(self, rng: Random, *, whole: bool) -> Example:
        """A question behind two steps drawn at random, whatever its code says otherwise."""
        asked, steps = renamed(rng.choice(self.known), rng), rng.sample(STEPS, 2)
        text = behind(template_text(steps, rng), asked) if whole else f"{sentences(steps)}\n\n{asked.text}"
        return Example(None, text, brief(steps, letters_of(asked)))

    def texts(self, rng: Random) -> Iterable[str]:
        """What the tokenizer is trained on."""
        for _ in range(3000):
            example = self._behind(rng, whole=rng.random() < 0.3)
            yield f"{example.user}\n{example.reply}"
            told = self._told(rng)
            yield f"{told.user}\n{told.reply}"


def renamed(asked: Question, rng: Random) -> Question:
    """The question with any code's name in the place of its own."""
    text = asked.text.replace(code_of(asked), rng.choice(CODES))
    return Question(asked.id, asked.family, text, asked.answer, asked.split)
