"""How sentences of answers begin, and whether what many begin with is a method or only a manner of speaking.

A beginning that unrelated questions share says nothing of any of them ("let us look at the options"). One that related
questions share, and no others, is what they have in common: their method.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Literal, NamedTuple

Sharing = Literal["rare", "related", "unrelated"]
"""How a sentence's beginning is shared: by few questions, by many that are alike, or by many that are not."""

_LEAST = 3
"""Questions that share a beginning before it counts as common at all."""
_SAMPLE = 16
_ALIKE = 0.2
"""Mean share of words that two questions have in common from which they count as related; by chance it is near 0.02."""
_ONE_TASK = 0.9
_TASK_OF_ALL = 0.5
"""Questions are related too if so many of them are of one task, and that task is no more than this share of all."""
_SEED = 0
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a all am an and any are as at be but by can did do does each every find following for from give given
        had has have how i if in into is it its me my no not of on one or our out please question shall should
        so such that the their them then there these they this those to up us was we were what when where which
        who whose why will with would you your
        """,
    )
)


class Question(NamedTuple):
    """A question without its options, and its task if it has one."""

    text: str
    task: str | None


class SharedOpenings:
    """Counts the beginnings of sentences. `shares`: for a number of words the share of questions that is common."""

    def __init__(self, shares: Mapping[int, float]) -> None:
        self._shares = dict(shares)
        self._questions: list[Question] = []
        self._tasks: Counter[str | None] = Counter()
        self._counts: Counter[str] = Counter()
        self._samples: dict[str, list[int]] = {}
        self._known: dict[str, bool] = {}
        self._random = random.Random(_SEED)

    def add(self, question: Question, sentences: Iterable[str]) -> None:
        """Count the sentences of all answers to one question."""
        place = len(self._questions)
        self._questions.append(question)
        self._tasks[question.task] += 1
        # Sorted: the sample must not depend on the order of a set.
        for opening in sorted({_start(sentence, words) for sentence in sentences for words in self._shares}):
            self._counts[opening] += 1
            sample = self._samples.setdefault(opening, [])
            if len(sample) < _SAMPLE:
                sample.append(place)
            else:
                spot = self._random.randrange(self._counts[opening])
                if spot < _SAMPLE:
                    sample[spot] = place
        self._known.clear()

    def sharing(self, sentence: str) -> Sharing:
        """How the beginning of this sentence is shared; the widest sharing of its beginnings counts."""
        common = [
            opening
            for words, share in self._shares.items()
            if self._counts[opening := _start(sentence, words)] >= max(_LEAST, share * len(self._questions))
        ]
        if not common:
            return "rare"
        return "related" if all(self._related(opening) for opening in common) else "unrelated"

    def _related(self, opening: str) -> bool:
        if opening not in self._known:
            self._known[opening] = self._of_one_task(opening) or self._alike(opening)
        return self._known[opening]

    def _of_one_task(self, opening: str) -> bool:
        sample = self._samples[opening]
        task, count = Counter(self._questions[place].task for place in sample).most_common(1)[0]
        return (
            task is not None
            and count >= _ONE_TASK * len(sample)
            and self._tasks[task] <= _TASK_OF_ALL * len(self._questions)
        )

    def _alike(self, opening: str) -> bool:
        words = [_words(self._questions[place].text) for place in self._samples[opening]]
        shares = [len(one & other) / max(len(one | other), 1) for one, other in combinations(words, 2)]
        return sum(shares) >= _ALIKE * len(shares)


def _start(sentence: str, words: int) -> str:
    return " ".join(sentence.casefold().split()[:words])


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W\d_]{2,}", text.casefold())) - _FUNCTION_WORDS
