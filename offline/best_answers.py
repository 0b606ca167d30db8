"""The best answers to each query: what templates are made of. Never from a wrong answer, never across tenants.

The order is one of FusionFactory's three (fusionfactory.md 3.1). `performance`: the best by score, then the cheaper.
`judge`: the best by judge, then the cheaper. `hybrid`: of the five best by performance the best by judge. Where no cost
is known, the answer whose length is nearest to the median of the acceptable ones goes first: the shortest has no
visible reasoning, the longest only rambles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, get_args

import numpy as np

from encoders.protocol import Encoder
from offline.answers import Answer

Selection = Literal["performance", "judge", "hybrid"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)

STAGE_ONE = 5
KEEP = 3
LEAST_JUDGE = 0.6
"""Below this, the word of a judge or of users makes an answer a wrong one where no checker knows better."""
LEAST_CHARS = 80
"""A shorter answer shows no reasoning, so no plan can be read from it."""
NEAR_DUPLICATE = 0.97
"""Queries whose vectors are at least this similar are taken for the same question (fusionfactory.md 3.3)."""


@dataclass(frozen=True, slots=True)
class SolvedQuery:
    """A query and its best answers, best first. `key` also stands for the queries that were found to be the same."""

    key: str
    query: str
    answers: tuple[Answer, ...]
    tenant: str | None = None
    task: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Selected:
    """The questions with a good answer, and what had none.

    `unsolved` counts the questions without a good answer; `unsolved_tasks` are the tasks that have no other.
    """

    queries: list[SolvedQuery]
    unsolved: int
    unsolved_tasks: tuple[str, ...]


def acceptable(answer: Answer) -> bool:
    """Whether a template may be made of it: it is right, and long enough to show how it was found."""
    return len(answer.text.strip()) >= LEAST_CHARS and right(answer)


def right(answer: Answer) -> bool:
    """By its checker, or well judged where there is none; users who disliked it are believed in any case."""
    if answer.feedback is not None and answer.feedback < LEAST_JUDGE:
        return False
    if answer.score is not None:
        return answer.score >= 1.0
    opinion = answer.judge if answer.judge is not None else answer.feedback
    return opinion is not None and opinion >= LEAST_JUDGE


def select_answers(answers: Iterable[Answer], select: Selection = "hybrid", *, keep: int = KEEP) -> Selected:
    """One query per tenant and question that has an acceptable answer, in the order in which they first came."""
    groups: dict[str, list[Answer]] = {}
    tasks: dict[str, str | None] = {}
    for answer in answers:
        tasks.setdefault(answer.query_key, answer.task)
        if acceptable(answer):
            groups.setdefault(answer.query_key, []).append(answer)
    queries = [_solved(key, group, select, keep) for key, group in groups.items()]
    solved_tasks = {tasks[key] for key in groups}
    bare = sorted({task for task in tasks.values() if task is not None and task not in solved_tasks})
    return Selected(queries, len(tasks) - len(groups), tuple(bare))


def best_answers(answers: Iterable[Answer], *, keep: int = KEEP) -> list[SolvedQuery]:
    """The queries of `select_answers` in the hybrid order."""
    return select_answers(answers, keep=keep).queries


def collapse(
    queries: Sequence[SolvedQuery],
    encoder: Encoder,
    *,
    threshold: float = NEAR_DUPLICATE,
    select: Selection = "hybrid",
    keep: int = KEEP,
) -> list[SolvedQuery]:
    """The queries with near duplicates of the same tenant made one: the first stays, with the best answers of all."""
    clusters: list[list[SolvedQuery]] = []
    by_tenant: dict[str | None, list[SolvedQuery]] = {}
    for query in queries:
        by_tenant.setdefault(query.tenant, []).append(query)
    for group in by_tenant.values():
        vectors = encoder.encode([query.query for query in group])
        leaders = np.empty_like(vectors)
        first = len(clusters)
        for query, vector in zip(group, vectors, strict=True):
            known = len(clusters) - first
            similarities = leaders[:known] @ vector
            if known and similarities.max() >= threshold:
                clusters[first + int(similarities.argmax())].append(query)
            else:
                leaders[known] = vector
                clusters.append([query])
    return [_joined(cluster, select, keep) for cluster in clusters]


def _joined(cluster: Sequence[SolvedQuery], select: Selection, keep: int) -> SolvedQuery:
    if len(cluster) == 1:
        return cluster[0]
    return replace(cluster[0], answers=_ranked([a for query in cluster for a in query.answers], select, keep))


def _solved(key: str, answers: Sequence[Answer], select: Selection, keep: int) -> SolvedQuery:
    first = answers[0]
    reference = next((answer.reference for answer in answers if answer.reference is not None), None)
    return SolvedQuery(key, first.query, _ranked(answers, select, keep), first.tenant, first.task, reference)


def _ranked(answers: Sequence[Answer], select: Selection, keep: int) -> tuple[Answer, ...]:
    usual = median(len(answer.text) for answer in answers)

    def cheaper(answer: Answer) -> tuple[float, float, str]:
        cost = math.inf if answer.cost_usd is None else answer.cost_usd
        return cost, abs(math.log(len(answer.text) / usual)), answer.id

    def by_performance(answer: Answer) -> tuple[float, float, float, str]:
        known = next(value for value in (answer.score, answer.judge, answer.feedback) if value is not None)
        return -known, *cheaper(answer)

    def by_judge(answer: Answer) -> tuple[float, float, float, str]:
        return 1.0 if answer.judge is None else -answer.judge, *cheaper(answer)

    if select == "performance":
        return tuple(sorted(answers, key=by_performance)[:keep])
    best = sorted(answers, key=by_performance)[:STAGE_ONE] if select == "hybrid" else answers
    return tuple(sorted(best, key=by_judge)[:keep])
