"""Decides contests: by checkers where they can, by judges where they cannot, and by nobody where nobody may.

The reward is the gain of the best source over the target. A checker gives it exactly: 1 if a source is right and the
target is not, else 0. Judges compare the target with one source, the best by their own word if there are judges outside
the contest, else one that is drawn: the choice never depends on the target's answer, so it does not favour the sources.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from offline.bohdi.asking import OVER_BUDGET, Asker
from offline.bohdi.audit import is_audited
from offline.bohdi.calls import Call, call_seed
from offline.bohdi.checkers import Checker, checked
from offline.bohdi.events import Reply, Verdict
from offline.bohdi.harvest import Spot
from offline.bohdi.judging import (
    Answered,
    Votes,
    choose_calls,
    chosen,
    compare_calls,
    compared,
    decide,
    may_judge,
)
from offline.bohdi.log import StoredReply
from offline.bohdi.prompts import PromptSet

NO_TARGET = "the target did not answer"
NO_SOURCE = "no source answered"
NO_JUDGE = "no checker applies and nobody may judge"
UNDECIDED = "all judges abstained"


@dataclass(slots=True)
class Contest:
    """A question with its answers (the target's first), on the way to a verdict; `bill` is what it has cost so far."""

    spot: Spot
    question: str
    replies: tuple[Reply, ...]
    bill: list[StoredReply] = field(default_factory=list)
    verdict: Verdict | None = None
    reward: float | None = None
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class _Pair:
    """The target and one source of a contest, before `judges`."""

    contest: Contest
    source: Answered
    target: Answered
    judges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deciding:
    """Who decides. `judges` are those of the settings, none: the sources that take no part. `model_of`: by arm."""

    checkers: Sequence[Checker]
    judges: tuple[str, ...]
    sources: tuple[str, ...]
    target: str
    prompts: PromptSet
    seed: int
    model_of: Mapping[str, str]

    async def decide(self, contests: Sequence[Contest], asker: Asker) -> None:
        """Give every contest a verdict and a reward, or the reason why it has none."""
        for contest in contests:
            if not contest.dropped:
                self._check(contest)
        judged = [contest for contest in contests if contest.verdict is None and not contest.dropped]
        audited = [contest for contest in contests if self._audits(contest)]
        pairs = await self._paired(judged, asker) + [self._audit_pair(contest) for contest in audited]
        votes = await self._votes([pair for pair in pairs if pair.judges], asker)
        for pair in pairs:
            self._settle(pair, votes.get(pair.contest.spot.step, ()), asker)

    def _check(self, contest: Contest) -> None:
        """Let the checkers speak, and drop what nobody could decide."""
        spot = contest.spot
        contest.replies = tuple(
            reply
            if reply.text is None
            else msgspec.structs.replace(
                reply, correct=checked(self.checkers, spot.names, contest.question, reply.text)
            )
            for reply in contest.replies
        )
        target, sources = contest.replies[0], [reply for reply in contest.replies[1:] if reply.text is not None]
        if target.text is None:
            contest.dropped = f"{NO_TARGET}: {target.failure}"
        elif not sources:
            contest.dropped = NO_SOURCE
        elif target.correct is not None and any(reply.correct is not None for reply in sources):
            right = [reply.model for reply in sources if reply.correct]
            gain = bool(right) and not target.correct
            alone = target.correct and not right
            winner = self._one_of(right, spot) if gain else self.target if alone else None
            contest.verdict = Verdict(
                method="checker", winner=winner, margin=float(bool(right)) - float(target.correct)
            )
            contest.reward = float(gain)

    def _one_of(self, models: Sequence[str], spot: Spot) -> str:
        return random.Random(call_seed(self.seed, f"{spot.step}/winner")).choice(sorted(models))

    # Judges -----------------------------------------------------------------------------------------------------------

    async def _paired(self, contests: Sequence[Contest], asker: Asker) -> list[_Pair]:
        """Each contest with the source that is to be compared with the target, and who may judge the two."""
        calls: list[Call] = []
        choosing: list[tuple[Contest, list[Answered], tuple[str, ...], int]] = []
        pairs = []
        for contest in contests:
            sources = [
                Answered(reply.model, reply.text)
                for reply in contest.replies[1:]
                if reply.text is not None and reply.correct is not False
            ]
            outside = self._judges([reply.model for reply in contest.replies], asker)
            if len(sources) > 1 and outside and self.prompts.chooses and self.prompts.judges:
                asked = choose_calls(contest.spot.step, contest.question, sources, outside, self.prompts, self.seed)
                calls += asked
                choosing.append((contest, sources, outside, len(asked)))
            elif sources:
                pairs.append(self._pair(contest, self._drawn(contest, sources, asker), asker))
            else:
                contest.dropped = NO_SOURCE
        replies = await asker.ask(calls)
        for contest, sources, outside, count in choosing:
            said, replies = replies[:count], replies[count:]
            contest.bill += said
            best = chosen(contest.spot.step, sources, outside, said, self.prompts, self.seed)
            pairs.append(self._pair(contest, next(s for s in sources if s.model == best), asker))
        return pairs

    def _drawn(self, contest: Contest, sources: Sequence[Answered], asker: Asker) -> Answered:
        """A source by lot, of those that somebody may judge."""
        judged = [source for source in sources if self._judges([self.target, source.model], asker)]
        ordered = sorted(judged or sources, key=lambda source: source.model)
        return random.Random(call_seed(self.seed, f"{contest.spot.step}/drawn")).choice(ordered)

    def _pair(self, contest: Contest, source: Answered, asker: Asker) -> _Pair:
        judges = self._judges([self.target, source.model], asker)
        return _Pair(contest, source, Answered(self.target, contest.replies[0].text or ""), judges)

    def _judges(self, contestants: Sequence[str], asker: Asker) -> tuple[str, ...]:
        """Who may judge answers of these, and is up; nobody if the prompt set cannot compare."""
        if not self.prompts.judges:
            return ()
        able = may_judge(self.judges or self.sources, contestants, self.model_of)
        return tuple(judge for judge in able if asker.up(judge))

    def _audits(self, contest: Contest) -> bool:
        """Whether judges are asked about what a checker has decided for one side."""
        verdict = contest.verdict
        return verdict is not None and verdict.winner is not None and is_audited(contest.spot.step, self.seed)

    def _audit_pair(self, contest: Contest) -> _Pair:
        verdict, answers = contest.verdict, contest.replies
        assert verdict is not None
        wrong = [reply.model for reply in answers[1:] if reply.correct is False]
        source = verdict.winner if verdict.winner != self.target else self._one_of(wrong, contest.spot)
        text = next(reply.text for reply in answers if reply.model == source)
        target = Answered(self.target, answers[0].text or "")
        judges = may_judge(self.judges or self.sources, [self.target, source or ""], self.model_of)
        return _Pair(contest, Answered(source or "", text or ""), target, judges if self.prompts.judges else ())

    async def _votes(self, pairs: Sequence[_Pair], asker: Asker) -> dict[str, Votes]:
        """The votes on each pair, by the step of its contest."""
        calls = []
        for pair in pairs:
            spot = pair.contest.spot
            calls.append(
                compare_calls(
                    spot.step, pair.contest.question, pair.target, pair.source, pair.judges, self.prompts, self.seed
                )
            )
        replies = iter(await asker.ask([call for asked in calls for call in asked]))
        found = {}
        for pair, asked in zip(pairs, calls, strict=True):
            said = [next(replies) for _ in asked]
            pair.contest.bill += said
            step = pair.contest.spot.step
            found[step] = compared(step, pair.target, pair.source, pair.judges, said, self.prompts, self.seed)
        return found

    def _settle(self, pair: _Pair, votes: Votes, asker: Asker) -> None:
        contest = pair.contest
        if contest.verdict is not None:
            contest.verdict = msgspec.structs.replace(contest.verdict, votes=votes)
            return
        if not pair.judges:
            contest.dropped = NO_JUDGE
            return
        decision = decide(votes, pair.source.model, self.target)
        if decision is None:
            contest.dropped = OVER_BUDGET if asker.over else UNDECIDED
            contest.verdict = Verdict(method="judge", winner=None, votes=votes)
            return
        contest.verdict = Verdict(
            method=decision.method, winner=decision.winner, votes=decision.votes, margin=decision.margin
        )
        contest.reward = decision.reward
