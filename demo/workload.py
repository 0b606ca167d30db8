"""What is asked and how an answer is judged: one shape for the replayed pools and for the fleet of small models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from demo.fleet import tasks
from demo.fleet.config import fleet_models
from demo.replay.sample import ReplaySample, content_hash, is_test

REPLAY_TEST_SHARE = 0.5
"""Half: a gain of two or three points is told from chance with some thousands of test queries, not with fewer."""
FLEET_TRAIN_PER_FAMILY = 60
FLEET_TEST_PER_FAMILY = 40


class WrongAnswer(RuntimeError):
    """An answer is not what the upstream can have said: the path between the client and the upstream altered it."""


@dataclass(frozen=True, slots=True)
class Question:
    """One query. `id` names it by content; `task` is for reports only and is never sent."""

    id: str
    task: str
    text: str


class Workload(Protocol):
    """Queries to learn from, disjoint queries to be judged on, the models that answer, and the judge.

    `note` says what a reader of the costs must know.
    """

    name: str
    note: str
    models: tuple[str, ...]
    train: tuple[Question, ...]
    test: tuple[Question, ...]

    def score(self, question: Question, model: str, answer: str) -> float:
        """Quality of the answer that `model` gave, in [0, 1]. Raises WrongAnswer if it cannot have said so."""


class ReplayWorkload:
    """The queries of a replay sample, split by a hash of their content; scores are those of the log.

    `queries` limits how many of all are used, the first ones by content hash. Raises ValueError if a side is empty.
    """

    def __init__(self, sample: ReplaySample, queries: int | None = None, test_share: float = REPLAY_TEST_SHARE) -> None:
        self.name = sample.header.name
        self.models = sample.models
        self._sample = sample
        complete = [query for query in sample.queries if None not in query.scores]
        chosen = sorted(complete, key=lambda query: content_hash(query.text, "limit"))[:queries]
        self._logged = {content_hash(query.text): query for query in chosen}
        questions: dict[bool, list[Question]] = {True: [], False: []}
        for name, query in self._logged.items():
            questions[is_test(query.text, test_share)].append(Question(name, query.task, query.text))
        self.train, self.test = tuple(questions[False]), tuple(questions[True])
        if not self.train or not self.test:
            raise ValueError(
                f"{len(chosen)} queries that all {len(self.models)} models answered are too few to split into train "
                "and test; use some hundreds"
            )
        with_text = sum(query.texts is not None for query in chosen) / len(chosen)
        self.note = _cost_note(with_text)

    def score(self, question: Question, model: str, answer: str) -> float:
        """The logged score, if the answer is the logged one to the letter."""
        query = self._logged[question.id]
        reply = self._sample.reply(query, model)
        if reply is None or reply.text != answer:
            raise WrongAnswer(f"{model!r} answered query {query.query_id!r} with {answer[:80]!r}, not what was logged")
        return self._sample.score(query, model)


def _cost_note(with_text: float) -> str:
    if with_text == 0:
        return "This log kept no answers: costs are those of the prompts, and of a short line in place of each answer."
    if with_text == 1:
        return "Costs are those of prompts and answers by their length."
    return (
        f"This log kept the answers to {100 * with_text:.0f} % of these queries; for the others an answer is taken "
        "to be as long as the mean of its model's."
    )


class FleetWorkload:
    """Micro-tasks with exact checkers for the fleet of small models; test contents were seen by no model."""

    name = "fleet"
    note = "Prices of these models are invented, in proportion to their size."

    def __init__(self, train_per_family: int = FLEET_TRAIN_PER_FAMILY, test_per_family: int = FLEET_TEST_PER_FAMILY):
        self.models = tuple(name for name, about in fleet_models().items() if about["role"] != "target")
        self._asked: dict[str, tasks.Question] = {}
        self.train = self._questions("train", train_per_family)
        self.test = self._questions("test", test_per_family)

    def _questions(self, split: tasks.Split, per_family: int) -> tuple[Question, ...]:
        drawn = tasks.mixed(split, per_family)
        self._asked.update({question.id: question for question in drawn})
        return tuple(Question(question.id, question.family, question.text) for question in drawn)

    def score(self, question: Question, model: str, answer: str) -> float:
        """1.0 for exactly the right answer, else 0.0."""
        return tasks.check(self._asked[question.id], answer)
