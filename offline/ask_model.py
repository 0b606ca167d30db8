"""Puts questions to one model through its configured endpoints: concurrently, with retries, within a budget.

Answers are appended to a file as they come, so that a run that was stopped goes on where it was: nothing that was
answered is asked, or paid for, again. A call that failed is no answer, and is asked again by the next run.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec

from encoders.query_text import content_text
from offline.chat_call import FIRST_WAIT_S, CallFailed, complete, timeout_of
from offline.questions import Messages, Question
from registry.arms import Arm
from templates_store.ways import ask as in_way

CHARS_PER_TOKEN = 4.0
TYPICAL_ANSWER_TOKENS = 300
"""Tokens of a typical answer, for the estimate of what a run costs."""
OVER_BUDGET = "over the budget"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, a line of the file. Token counts as the endpoint reported them, cost by the configured prices."""

    query_id: str
    at: float
    text: str
    latency_s: float
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """How a model is asked. `max_usd` bounds the sum of the list prices of all calls, each taken at its dearest."""

    arm: Arm
    max_usd: float | None = None
    concurrency: int = 4
    attempts: int = 3
    max_tokens: int = 1024
    first_wait_s: float = FIRST_WAIT_S


@dataclass(slots=True)
class Report:
    """What became of the calls: `failed` counts reasons, `spent_usd` is None without prices."""

    answers: dict[str, Asked] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    spent_usd: float | None = 0.0


def read_answers(path: Path) -> dict[str, Asked]:
    """The answers of earlier runs by query id; a line that a crash cut off is left out."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_bytes().splitlines():
        try:
            answer = msgspec.json.decode(line, type=Asked)
        except msgspec.DecodeError:
            continue
        found[answer.query_id] = answer
    return found


def estimate_usd(questions: Sequence[Question], arm: Arm) -> float | None:
    """What asking is expected to cost by list prices; None for a model without them."""
    costs = [arm.model.prices.cost(_prompt_tokens(q.messages), TYPICAL_ANSWER_TOKENS) for q in questions]
    return None if any(cost is None for cost in costs) else sum(cost for cost in costs if cost is not None)


async def ask_all(questions: Sequence[Question], asking: Asking, path: Path) -> Report:
    """Ask what `path` does not hold an answer to, and append the answers to it."""
    report = Report(answers=read_answers(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = [question for question in questions if question.query_id not in report.answers]
    places = asyncio.Semaphore(asking.concurrency)
    budget = _Budget(asking.max_usd)
    timeout = timeout_of([asking.arm.model])
    _end_line(path)
    with path.open("ab") as file:
        async with httpx.AsyncClient(timeout=timeout) as client:

            async def one(question: Question) -> None:
                async with places:
                    dearest = asking.arm.model.prices.cost(_prompt_tokens(question.messages), asking.max_tokens)
                    if not budget.reserve(dearest):
                        report.failed[OVER_BUDGET] += 1
                        return
                    report.calls += 1
                    try:
                        answer = await _answer(client, question, asking)
                    except CallFailed as failure:
                        report.failed[str(failure)] += 1
                        budget.settle(dearest, 0.0)
                        return
                    budget.settle(dearest, answer.cost_usd)
                    report.answers[question.query_id] = answer
                    file.write(msgspec.json.encode(answer) + b"\n")
                    file.flush()

            async with asyncio.TaskGroup() as tasks:
                for question in waiting:
                    tasks.create_task(one(question))
    report.spent_usd = budget.spent if budget.known else None
    return report


class _Budget:
    """What was spent, and what running calls may cost at most."""

    def __init__(self, most: float | None) -> None:
        self.most = most
        self.spent = 0.0
        self.held = 0.0
        self.known = True

    def reserve(self, dearest: float | None) -> bool:
        if dearest is None:
            self.known = False
            return True
        if self.most is not None and self.spent + self.held + dearest > self.most:
            return False
        self.held += dearest
        return True

    def settle(self, dearest: float | None, cost: float | None) -> None:
        if dearest is not None:
            self.held -= dearest
            self.spent += dearest if cost is None else cost


async def _answer(client: httpx.AsyncClient, question: Question, asking: Asking) -> Asked:
    """An answer of the first endpoint that gives one. Raises CallFailed with the last reason."""
    messages = in_way(asking.arm.way, question.messages).messages
    body = {"messages": messages, "max_tokens": asking.max_tokens}
    model = asking.arm.model
    found = await complete(client, model, body, attempts=asking.attempts, first_wait_s=asking.first_wait_s)
    return Asked(
        query_id=question.query_id,
        at=time.time(),
        text=found.text,
        latency_s=found.latency_s,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        cost_usd=model.prices.cost(found.prompt_tokens, found.completion_tokens),
    )


def _prompt_tokens(messages: Messages) -> int:
    return round(sum(len(content_text(message.get("content"))) for message in messages) / CHARS_PER_TOKEN) + 8


def _end_line(path: Path) -> None:
    """End the last line, if a crash cut it off, so that what is appended stands on a line of its own."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
