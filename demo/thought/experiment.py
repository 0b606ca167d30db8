"""The traffic of the proof: a model that knows answers, templates are built, another one is asked with and without.

Test questions are sent with `store: false` and without feedback, so that nothing of them can reach a template or a
router. Every answer in the log comes from a training question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from demo.client import GatewayClient, at_once
from demo.comparison import F64
from demo.experiment import Progress
from demo.fleet.codes import CODES, LEARNED, code_of, code_questions
from demo.fleet.tasks import Question, Split, check
from demo.workload import Question as Asked

SAGE, FOLLOWER = "sage-llama", "follower-llama"
THOUGHT = f"{FOLLOWER}#thought"
AUTO, EXPLORE = "auto", "explore"
Way = Literal["without", "random", "retrieved", "routed"]
WAYS: tuple[Way, ...] = ("without", "random", "retrieved", "routed")
Kind = Literal["codes it does not know", "codes it knows", "sorting"]
KINDS: tuple[Kind, ...] = ("codes it does not know", "codes it knows", "sorting")
MAX_TOKENS = 48
"""Of an answer; right ones have at most 36. The follower does not stop by itself where a template confuses it."""
CONCURRENCY = 4
"""The models take turns on one thread: more requests at once would only wait longer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many questions there are of each family, for the sage, to explore with, and to be judged on."""

    codes: tuple[str, ...] = CODES
    sage_per_code: int = 3
    sage_sorting: int = 24
    explore_per_code: int = 12
    explore_sorting: int = 200
    test_per_code: int = 11
    test_sorting: int = 504

    def sage(self) -> list[Question]:
        return self._mixed("train", self.sage_per_code, self.sage_sorting, seed=31)

    def explore(self) -> list[Question]:
        return self._mixed("train", self.explore_per_code, self.explore_sorting, seed=32)

    def test(self) -> list[Question]:
        return self._mixed("test", self.test_per_code, self.test_sorting, seed=33)

    def _mixed(self, split: Split, per_code: int, sorting: int, seed: int) -> list[Question]:
        drawn = code_questions("codes", split, per_code * len(self.codes), seed, self.codes)
        drawn += code_questions("sorting", split, sorting, seed)
        order = np.random.default_rng(seed).permutation(len(drawn))
        return [drawn[place] for place in order]


def kind_of(asked: Question) -> Kind:
    """What the follower can be expected to do with a question on its own."""
    if asked.family == "sorting":
        return "sorting"
    return "codes it knows" if code_of(asked) in LEARNED else "codes it does not know"


@dataclass(frozen=True, slots=True)
class Measured:
    """One way of answering the test questions, in their order, [n] each.

    `scores` are 0 or 1; `costs` in USD at invented prices; `shown`: whether a template stood in the prompt.
    """

    way: Way
    scores: F64
    costs: F64
    shown: F64


class Traffic:
    """Sends the questions of the proof through one gateway."""

    def __init__(self, client: GatewayClient, progress: Progress) -> None:
        self._client = client
        self._progress = progress

    async def scored(self, phase: str, questions: Sequence[Question], model: str) -> tuple[int, int]:
        """Ask, score and give the score back: how many questions, and how many of the answers were right.

        Raises TrafficError.
        """
        self._progress.start(phase, len(questions))
        right: list[float] = []

        async def ask(asked: Question) -> None:
            answer = await self._client.ask(Asked(asked.id, asked.family, asked.text), model, max_tokens=MAX_TOKENS)
            score = check(asked, answer.text)
            await self._client.give_feedback(answer.request_id, score)
            right.append(score)
            self._progress.step()

        await at_once((partial(ask, one) for one in questions), CONCURRENCY)
        return len(right), int(sum(right))

    async def measured(self, way: Way, questions: Sequence[Question], model: str) -> Measured:
        """Ask the test questions; nothing of it is learned. Raises TrafficError."""
        self._progress.start(f"test: {way}", len(questions))
        found = np.full((3, len(questions)), np.nan)

        async def ask(place: int, asked: Question) -> None:
            question = Asked(asked.id, asked.family, asked.text)
            answer = await self._client.ask(question, model, store=False, max_tokens=MAX_TOKENS)
            cost = np.nan if answer.cost_usd is None else answer.cost_usd
            found[:, place] = check(asked, answer.text), cost, float(bool(answer.templates))
            self._progress.step()

        await at_once((partial(ask, *one) for one in enumerate(questions)), CONCURRENCY)
        return Measured(way, *found)
