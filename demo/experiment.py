"""The experiment of `tokamak demo`: measure, learn from exploration, measure again, on queries never learned from.

Test queries are sent with `store: false` and without feedback, so nothing of them can reach a router. Train queries go
through a route that draws its arm uniformly; each answer is scored and the score is given back as feedback.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol, TypeVar

import numpy as np

from demo.client import CONCURRENCY, GatewayClient, TrafficError, at_once
from demo.comparison import F64, Interval, Verdict, interval, judge_learning, oracle
from demo.workload import Question, Workload

BEST, BALANCED, EXPLORE = "auto:best", "auto", "explore"
SWAP_LIMIT_S = 30.0
_Result = TypeVar("_Result")
Kind = Literal["model", "random", "before", "after", "oracle"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One way of answering all test queries: scores and costs (NaN where unknown) in their order, and who answered."""

    name: str
    kind: Kind
    scores: F64
    costs: F64
    answered_by: Counter[str] = field(default_factory=Counter)
    route: str | None = None

    @property
    def accuracy(self) -> float:
        return float(self.scores.mean())

    @property
    def cost_per_1k(self) -> float | None:
        """USD per thousand queries; None if any cost is unknown."""
        mean = float(self.costs.mean())
        return None if np.isnan(mean) else 1000 * mean


@dataclass(frozen=True, slots=True)
class Plan:
    """How much traffic: each train query is asked of `asks` different arms, at most all of them, drawn at random."""

    asks: int
    concurrency: int = CONCURRENCY


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was measured. `best_single` is the most accurate model on the test queries, seen afterwards."""

    workload: str
    note: str
    train_queries: int
    rows: tuple[Measured, ...]
    explored: int
    exploration_usd: float | None
    trained_router: str
    seconds: dict[str, float]

    def row(self, kind: Kind, route: str | None = None) -> Measured:
        """The row of that kind and route. Raises LookupError."""
        for row in self.rows:
            if row.kind == kind and row.route == route:
                return row
        raise LookupError(f"nothing was measured as {kind!r} through {route!r}")

    @property
    def best_single(self) -> Measured:
        return max((row for row in self.rows if row.kind == "model"), key=lambda row: row.accuracy)

    def after_minus_before(self) -> Interval:
        return interval(self.row("after", BEST).scores - self.row("before", BEST).scores)

    def after_minus_best_single(self) -> Interval:
        return interval(self.row("after", BEST).scores - self.best_single.scores)

    def verdict(self) -> Verdict:
        return judge_learning(self.after_minus_before())


class Progress(Protocol):
    """Where the experiment says how far it is."""

    def start(self, phase: str, total: int) -> None:
        """A phase of `total` requests begins."""

    def step(self) -> None:
        """One more request of the phase is done."""


class Experiment:
    """Runs the phases in order against one gateway. `train` learns from the log and deploys what it learned."""

    def __init__(
        self,
        client: GatewayClient,
        workload: Workload,
        plan: Plan,
        train: Callable[[int], Awaitable[None]],
        progress: Progress,
        seed: int = 0,
    ) -> None:
        self._client = client
        self._workload = workload
        self._plan = plan
        self._train = train
        self._progress = progress
        self._rng = np.random.default_rng(seed)
        self._seconds: dict[str, float] = {}

    async def run(self) -> Findings:
        """All phases. Raises TrafficError, WrongAnswer, and what `train` raises."""
        models = [await self._timed("singles", self._measure(name, "model", name)) for name in self._workload.models]
        rows = [*models, await self._timed("before", self._measure("random routing", "random", EXPLORE))]
        for route in (BEST, BALANCED):
            rows.append(await self._timed("before", self._measure(f"{route} before", "before", route)))
        untrained = await self._client.router()
        count, spent = await self._timed("explore", self._explore())
        await self._timed("train", self._train(count))
        trained = await self._timed("swap", self._wait_for_swap(untrained))
        for route in (BEST, BALANCED):
            rows.append(await self._timed("after", self._measure(f"{route} after", "after", route)))
        rows.append(_oracle_row(models))
        work = self._workload
        return Findings(work.name, work.note, len(work.train), tuple(rows), count, spent, trained, self._seconds)

    async def _measure(self, name: str, kind: Kind, asked: str) -> Measured:
        questions = self._workload.test
        self._progress.start(f"test: {name}", len(questions))
        scores, costs = np.full(len(questions), np.nan), np.full(len(questions), np.nan)
        answered_by: Counter[str] = Counter()

        async def ask(index: int, question: Question) -> None:
            answer = await self._client.ask(question, asked, store=False)
            if kind == "model" and answer.model != asked:
                raise TrafficError(f"{asked!r} was asked, but {answer.model!r} answered: no single model is measured")
            scores[index] = self._workload.score(question, answer.model, answer.text)
            if answer.cost_usd is not None:
                costs[index] = answer.cost_usd
            answered_by[answer.arm] += 1
            self._progress.step()

        await at_once((partial(ask, *pair) for pair in enumerate(questions)), self._plan.concurrency)
        route = asked if kind in ("before", "after") else None
        return Measured(name, kind, scores, costs, answered_by, route)

    async def _explore(self) -> tuple[int, float | None]:
        """Exploration traffic with feedback: number of requests, and what they cost (None if a price is unknown)."""
        questions = self._workload.train
        asks = min(self._plan.asks, len(self._workload.models))
        self._progress.start(f"explore: {asks} arms for each train query", asks * len(questions))
        spent: list[float | None] = []

        async def ask(question: Question, hand: tuple[str, ...]) -> None:
            answer = await self._client.ask(question, EXPLORE, only=hand)
            score = self._workload.score(question, answer.model, answer.text)
            await self._client.give_feedback(answer.request_id, score)
            spent.append(answer.cost_usd)
            self._progress.step()

        dealt = [(question, hand) for question in questions for hand in hands(self._workload.models, asks, self._rng)]
        self._rng.shuffle(dealt)
        await at_once((partial(ask, *pair) for pair in dealt), self._plan.concurrency)
        known = [cost for cost in spent if cost is not None]
        return len(spent), sum(known) if len(known) == len(spent) else None

    async def _wait_for_swap(self, untrained: str) -> str:
        """The version the gateway swapped to. Raises TrafficError if it still serves `untrained` after a while."""
        until = time.monotonic() + SWAP_LIMIT_S
        while time.monotonic() < until:
            version = await self._client.router()
            if version != untrained:
                return version
            await asyncio.sleep(0.2)
        raise TrafficError(f"the gateway still decides with {untrained!r}, {SWAP_LIMIT_S:.0f} s after the deployment")

    async def _timed(self, phase: str, work: Awaitable[_Result]) -> _Result:
        started = time.perf_counter()
        result = await work
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - started
        return result


def hands(models: Sequence[str], count: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """All models, shuffled and dealt into `count` hands as even as can be.

    One request draws its arm from each hand, so a query meets `count` different arms, and the logged propensity, one
    over the size of the hand, is exactly the probability that this arm was asked this query. Drawing again and again
    from what is left would log probabilities that depend on the order.
    """
    shuffled = [models[index] for index in rng.permutation(len(models))]
    return [tuple(shuffled[start::count]) for start in range(count)]


def _oracle_row(models: Sequence[Measured]) -> Measured:
    """The best model for each query, in hindsight."""
    scores, costs = (np.stack([getattr(row, name) for row in models], axis=1) for name in ("scores", "costs"))
    return Measured("oracle", "oracle", *oracle(scores, costs))
