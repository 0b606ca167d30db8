"""Solved queries for these tests."""

from __future__ import annotations

from offline.answers import Answer
from offline.best_answers import SolvedQuery

TANK = "Two pipes fill a tank in 3 and 6 hours. How long do both need together?"
ANSWERS = (
    "First, find the rate of each pipe, which is one divided by its time. Then add the rates of the pipes to get the "
    "rate of both together. The time is one divided by the combined rate of the pipes. The answer is 2 hours.",
    "We need to find the rate of each pipe and the combined rate. The combined rate is the sum of the rates of the "
    "pipes. To find the time, divide one tank by the combined rate. So the answer is 2 hours.",
)
GOOD = (
    "Problem: Several agents work at once, so add their rates. "
    "Steps: Write the rate of each as one over its time. Add the rates and take one over the sum. "
    "Answer: Give the time with its unit."
)


def answer(text: str = ANSWERS[0], query: str = TANK, **changes: object) -> Answer:
    fields: dict[str, object] = {"id": "i1", "query": query, "text": text, "model": "m", "score": 1.0, **changes}
    return Answer(**fields)  # type: ignore[arg-type]


def solved(
    query: str = TANK, texts: tuple[str, ...] = ANSWERS, reference: str | None = "2 hours", tenant: str | None = None
) -> SolvedQuery:
    answers = tuple(answer(text, query, id=f"i{i}", tenant=tenant) for i, text in enumerate(texts))
    return SolvedQuery(answers[0].query_key, query, answers, tenant, "rates", reference)
