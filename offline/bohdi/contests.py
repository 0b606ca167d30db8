"""The contests of a round: a question for each path, the answers to it, a verdict. A portion at a time, so that what a
budget or a crash cuts off is little, and every phase of a portion is one batch of calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from offline.bohdi.asking import OVER_BUDGET, Asker
from offline.bohdi.budget import Most
from offline.bohdi.deciding import Contest, Deciding
from offline.bohdi.events import Contested
from offline.bohdi.harvest import (
    Spot,
    UnusableQuestion,
    answer_call,
    ask_call,
    contestants,
    plain,
    question_in,
    spot,
)
from offline.bohdi.journal import Journal
from offline.bohdi.log import StoredReply
from offline.bohdi.prompts import PromptSet
from offline.bohdi.settings import Settings

PORTION = 32
"""Contests that are held together."""
REPEATED = "asked before in this round"


@dataclass(frozen=True, slots=True)
class _Question:
    """A question at its spot, and the replies that it took to get it."""

    spot: Spot
    text: str
    bill: tuple[StoredReply, ...]


class Contests:
    """Holds the contests of one round."""

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        prompts: PromptSet,
        deciding: Deciding,
        typical: Most,
        longest: Most,
    ) -> None:
        """`typical`: what a contest is expected to use, until some are done. `longest`: what one call can use."""
        self._journal = journal
        self._settings = settings
        self._prompts = prompts
        self._deciding = deciding
        self._typical = typical
        self._longest = longest
        self._questions: set[str] = set()
        self._held = 0
        self._used = Most(0, 0.0)
        self.unasked: list[str] = []
        """Why paths have no question."""

    async def hold(self, paths: Sequence[tuple[str, ...]], asker: Asker, told: Callable[[float], None]) -> None:
        """Hold a contest on each path and tell the journal; stops where the budget does not allow the next one.

        `told` is called with the share of the paths that are done.
        """
        steps = [f"r{self._journal.began.round}/p{index}" for index in range(len(paths))]
        tree, seed = self._journal.tree, self._journal.began.seed
        spots = [
            spot(step, path, tree.path_names(path[-1]), self._prompts, seed)
            for step, path in zip(steps, paths, strict=True)
        ]
        while spots and not asker.over:
            count = self._affordable(asker, min(len(spots), PORTION))
            if count == 0:
                asker.over = True
                break
            portion, spots = spots[:count], spots[count:]
            before = Most(asker.budget.tokens, asker.budget.usd)
            contests = await self._portion(portion, asker)
            self._journal.tell([self._event(contest) for contest in contests])
            self._held += count
            told(self._held / len(paths))
            self._used = Most(
                self._used.tokens + asker.budget.tokens - before.tokens,
                (self._used.usd or 0.0) + asker.budget.usd - (before.usd or 0.0),
            )

    def _affordable(self, asker: Asker, wanted: int) -> int:
        """How many of the contests that are wanted the budget allows, going by what those so far have used.

        The first is tried in any case: what a contest is expected to use is a guess. Room is left for the longest call.
        """
        if not self._held:
            each, least = self._typical, 1
        else:
            each, least = Most(self._used.tokens // self._held, (self._used.usd or 0.0) / self._held), 0
        while wanted > least and not asker.budget.affords(_times(each, wanted, self._longest)):
            wanted -= 1
        return wanted

    async def _portion(self, spots: Sequence[Spot], asker: Asker) -> list[Contest]:
        questions = await self._ask(spots, asker)
        contests = await self._answer(questions, asker)
        await self._deciding.decide(contests, asker)
        return contests

    async def _ask(self, spots: Sequence[Spot], asker: Asker) -> list[_Question]:
        """A question for each spot, from the leader; the last try is another source's."""
        asked, found = self._prompts.reading.ask, dict[str, _Question]()
        bills: dict[str, list[StoredReply]] = {place.step: [] for place in spots}
        faults: dict[str, str] = {}
        for attempt in range(asked.attempts):
            waiting = [place for place in spots if place.step not in found]
            author = self._author(attempt, asker)
            calls = [
                ask_call(place, attempt, author, self._prompts, self._settings.temperatures, self._journal.began.seed)
                for place in waiting
            ]
            others = sum(asker.up(source) for source in self._settings.sources) > 1
            for place, reply in zip(waiting, await asker.ask(calls, others=others), strict=True):
                bills[place.step].append(reply)
                try:
                    question = question_in(reply, asked)
                    if plain(question) in self._questions:
                        raise UnusableQuestion(REPEATED)
                except UnusableQuestion as fault:
                    faults[place.step] = str(fault)
                    continue
                self._questions.add(plain(question))
                found[place.step] = _Question(place, question, tuple(bills[place.step]))
        self.unasked += [faults[place.step] for place in spots if place.step not in found]
        return [found[place.step] for place in spots if place.step in found]

    def _author(self, attempt: int, asker: Asker) -> str:
        """The leader; for the last of several tries, and where the leader is down, the next source that is up."""
        sources, leader = self._settings.sources, self._journal.began.leader
        first = sources.index(leader)
        order = [sources[(first + i) % len(sources)] for i in range(len(sources))]
        up = [source for source in order if asker.up(source)] or order
        last = attempt > 0 and attempt == self._prompts.reading.ask.attempts - 1
        return up[1 % len(up)] if last else up[0]

    async def _answer(self, questions: Sequence[_Question], asker: Asker) -> list[Contest]:
        """Put each question to the target and all sources."""
        settings, seed = self._settings, self._journal.began.seed
        models = (settings.target, *settings.sources)
        calls = [
            answer_call(question.spot, question.text, model, self._prompts, settings.temperatures, seed)
            for question in questions
            for model in models
        ]
        replies = await asker.ask(calls)
        contests = []
        for place, question in enumerate(questions):
            said = replies[place * len(models) : (place + 1) * len(models)]
            answers = contestants(question.text, models, said, settings.target, self._prompts.reading.answer)
            contest = Contest(question.spot, question.text, answers, [*question.bill, *said])
            if any(reply.failure == OVER_BUDGET for reply in said):
                # A contest for which not everybody could be asked says nothing.
                contest.dropped = OVER_BUDGET
            contests.append(contest)
        return contests

    def _event(self, contest: Contest) -> Contested:
        costs = [reply.cost_usd for reply in contest.bill]
        began, place = self._journal.began, contest.spot
        return Contested(
            at=self._journal.now,
            round=began.round,
            step=place.step,
            path=place.path,
            question=contest.question,
            replies=contest.replies,
            verdict=contest.verdict,
            reward=contest.reward,
            dropped=contest.dropped,
            target_version=began.target_version,
            seed=place.seed,
            prompts_version=began.prompts_version,
            cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
            style=place.style,
        )


def _times(each: Most, count: int, more: Most) -> Most:
    return Most(each.tokens * count + more.tokens, (each.usd or 0.0) * count + (more.usd or 0.0))
