"""Meditation: one round over a knowledge tree, as work that goes on where it was stopped.

    walks      from the root to a leaf each; where a domain is wanted, all sources propose one     (walks, sprout)
    harvest    the leader asks a question on each path; the target and all sources answer it       (contests, harvest)
    decide     checkers first, then judges who take no part; the reward is the gain over the target (deciding, judging)
    reset      the drift test, as the settings say                                                   (introspection)

Every reply is kept before it is used and every event is in the log before the next is decided on, so a round that is
killed at any line is run again from its beginning, asks nothing twice that was answered, and comes to the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from encoders.protocol import Encoder
from offline.bohdi.asking import Asker, UnknownModel, arms_for
from offline.bohdi.budget import Budget, Most
from offline.bohdi.calls import call_seed
from offline.bohdi.checkers import BUILT_IN, Checker
from offline.bohdi.contests import Contests
from offline.bohdi.deciding import Deciding
from offline.bohdi.estimate import RoundEstimate, estimate_round, longest_call
from offline.bohdi.events import Contested, Planted, RoundBegan, RoundEnded, Sprouted
from offline.bohdi.fan_out import FanOut, Team, fan_out
from offline.bohdi.introspection import due_resets
from offline.bohdi.journal import Journal, RoundDiverged, begin_round, open_round
from offline.bohdi.judging import may_judge
from offline.bohdi.log import EpisodeLog
from offline.bohdi.prompts import PromptSet, read_prompts
from offline.bohdi.settings import Settings
from offline.bohdi.tree import Tree
from offline.bohdi.walks import Walks
from offline.chat_call import FIRST_WAIT_S
from registry.arms import Arm, Pool

Told = Callable[[str, float], None]
"""Told what is done now, and how much of the round is done in [0, 1]."""


class RoundReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a round has come to.

    `contests` gave a reward, `dropped` did not (`reasons` says why, paths without a question included). `calls`: made
    in this run; of a round that went on, those before are not among them. `failures`: calls that failed, by model and
    reason. `cost_usd`: None without prices.
    """

    round: int
    leader: str
    went_on: bool
    walks: int
    contests: int
    dropped: int
    sprouted: int
    resets: int
    calls: int
    tokens: int
    cost_usd: float | None
    stopped_by: Literal["", "budget", "operator"]
    reasons: dict[str, int]
    failures: dict[str, int]
    mean_reward: float | None


def plant(log: EpisodeLog, settings: Settings, target_version: str = "1", *, tenant: str = "") -> Tree:
    """Begin a log with these settings, or check that it was begun with them.

    Raises
    ------
    ValueError: the log is about another target or has another depth.
    """
    tree = log.tree()
    if tree.levels == 0:
        log.append(
            [
                Planted(
                    at=time.time(),
                    levels=settings.levels,
                    target=settings.target,
                    target_version=target_version,
                    sources=settings.sources,
                    seed=settings.seed,
                    tenant=tenant,
                    rules=settings.fold_rules(),
                )
            ]
        )
        return log.tree()
    was, wanted = (tree.state.target, tree.levels), (settings.target, settings.levels)
    if was != wanted:
        raise ValueError(
            f"the log {log.path} grows a tree of {was[1]} levels for the target {was[0]}, and the settings say "
            f"{wanted[1]} levels for {wanted[0]}: name another log, or change the settings back"
        )
    return tree


async def meditate(
    log: EpisodeLog,
    settings: Settings,
    pool: Pool,
    *,
    encoder: Encoder,
    checkers: Sequence[Checker] = (),
    prompts: PromptSet | None = None,
    told: Told | None = None,
    attempts: int = 3,
    first_wait_s: float = FIRST_WAIT_S,
) -> RoundReport:
    """Run one round, or go on with the one that was stopped. Run again after a crash, it does only what is left.

    `checkers` are asked before the built-in ones. `attempts` and `first_wait_s`: how often a call is tried, and how
    long it waits at first in between.

    Raises
    ------
    ValueError: the log is another tree's, a model is not in the pool, a price is missing, or nobody may judge.
    PromptsUnreadable, FanOutUnavailable: as it says.
    NobodyAnswers (a ValueError): all models are away; the round can be gone on with later.
    RoundDiverged: the round that was stopped cannot go on with these settings.
    EpisodeLogError: the log cannot be written.
    """
    prompts = prompts or read_prompts(settings.prompts)
    arms = arms_for(pool, _models(settings), priced=settings.max_usd_per_round is not None)
    _check_judges(settings, arms, prompts, checkers)
    plant(log, settings)
    journal, went_on = _begun(log, settings, prompts)
    team = Team(arms=arms, concurrency=settings.concurrency, attempts=attempts, first_wait_s=first_wait_s)
    async with fan_out(settings.fan_out, team) as line:
        work = _Round(log, journal, settings, prompts, arms, line, encoder, (*checkers, *BUILT_IN), told)
        return await work.run(went_on)


def estimate(settings: Settings, pool: Pool, prompts: PromptSet | None = None) -> RoundEstimate:
    """What a round with these settings is expected to take. Raises ValueError if a model is not in the pool."""
    arms = arms_for(pool, _models(settings), priced=False)
    return estimate_round(settings, arms, prompts or read_prompts(settings.prompts))


def end_open_round(log: EpisodeLog) -> bool:
    """End the round that was stopped, with what it has; False if none is open."""
    journal = open_round(log)
    if journal is None:
        return False
    held = [event for event in journal.rest() if isinstance(event, Contested)]
    rewarded = sum(event.reward is not None for event in held)
    costs = [event.cost_usd for event in held]
    log.append(
        [
            RoundEnded(
                at=time.time(),
                round=journal.began.round,
                contests=rewarded,
                dropped=len(held) - rewarded,
                cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
                stopped_by="operator",
            )
        ]
    )
    return True


def _models(settings: Settings) -> list[str]:
    return list(dict.fromkeys((settings.target, *settings.sources, *settings.judges)))


def _check_judges(settings: Settings, arms: dict[str, Arm], prompts: PromptSet, checkers: Sequence[Checker]) -> None:
    model_of = {name: arm.model.name for name, arm in arms.items()}
    target, sources = settings.target, settings.sources
    if model_of[target] in {model_of[name] for name in sources}:
        raise UnknownModel(f"the target {target} is one of the sources: it cannot be its own teacher")
    judged = any(may_judge(settings.judges or sources, [target, source], model_of) for source in sources)
    if not judged and prompts.judges and not checkers:
        raise ValueError(
            "nobody may judge: every judge takes part in every contest; name `judges` that are neither the target nor "
            "the only source, or give checkers"
        )


def _begun(log: EpisodeLog, settings: Settings, prompts: PromptSet) -> tuple[Journal, bool]:
    """The journal of the round to run, and whether it was begun before."""
    journal = open_round(log)
    if journal is not None and log.tree().target_version != journal.began.target_version:
        # Its questions were meant for a target that is no more.
        end_open_round(log)
        journal = None
    if journal is None:
        return begin_round(log, lambda tree: _beginning(tree, settings, prompts)), False
    began = journal.began
    if began.prompts_version != prompts.version or began.leader not in settings.sources:
        raise RoundDiverged(
            f"round {began.round} was begun with the prompts {began.prompts_version} and the leader {began.leader}, "
            f"and the settings now say {prompts.version} and {', '.join(settings.sources)}: put them back, or end the "
            "round as it is: `tokamak bohdi end-round`"
        )
    return journal, True


def _beginning(tree: Tree, settings: Settings, prompts: PromptSet) -> RoundBegan:
    number = tree.round + 1
    rules = settings.fold_rules()
    return RoundBegan(
        at=time.time(),
        round=number,
        leader=settings.sources[(settings.seed + number - 1) % len(settings.sources)],
        paths=settings.paths_per_round,
        seed=call_seed(settings.seed, f"r{number}"),
        target_version=tree.target_version,
        prompts_version=prompts.version,
        rules=None if rules == tree.state.rules else rules,
    )


class _Round:
    """The work of one round."""

    def __init__(
        self,
        log: EpisodeLog,
        journal: Journal,
        settings: Settings,
        prompts: PromptSet,
        arms: dict[str, Arm],
        line: FanOut,
        encoder: Encoder,
        checkers: Sequence[Checker],
        told: Told | None,
    ) -> None:
        self._log = log
        self._journal = journal
        self._settings = settings
        self._told = told or (lambda step, share: None)
        self._budget = Budget(settings.max_usd_per_round, settings.max_tokens_per_round)
        self._asker = Asker(log, arms, line, self._budget, f"r{journal.began.round}/")
        self._walks = Walks(journal, settings, prompts, settings.sources, encoder)
        expected = estimate_round(settings, arms, prompts)
        each = Most(
            expected.tokens // expected.contests, None if expected.usd is None else expected.usd / expected.contests
        )
        deciding = Deciding(
            checkers=checkers,
            judges=settings.judges,
            sources=settings.sources,
            target=settings.target,
            prompts=prompts,
            seed=journal.began.seed,
            model_of={name: arm.model.name for name, arm in arms.items()},
        )
        self._contests = Contests(journal, settings, prompts, deciding, each, longest_call(settings, arms, prompts))

    async def run(self, went_on: bool) -> RoundReport:
        journal, began = self._journal, self._journal.began
        self._told(f"round {began.round}: walking", 0.0)
        paths = await self._walks.drawn(self._asker)
        self._told(f"round {began.round}: {len(paths)} contests", 0.1)
        await self._contests.hold(
            paths, self._asker, lambda share: self._told(f"round {began.round}: contests", 0.1 + 0.9 * share)
        )
        resets = due_resets(journal.tree, self._settings, at=journal.now)
        journal.tell(resets)
        held = [event for event in journal.told if isinstance(event, Contested)]
        rewards = [event.reward for event in held if event.reward is not None]
        cost = self._budget.usd if self._budget.priced else None
        stopped: Literal["", "budget"] = "budget" if self._asker.over else ""
        journal.tell(
            [
                RoundEnded(
                    at=journal.now,
                    round=began.round,
                    contests=len(rewards),
                    dropped=len(held) - len(rewards),
                    cost_usd=cost,
                    stopped_by=stopped,
                )
            ]
        )
        reasons = Counter(event.dropped.partition(":")[0] for event in held if event.reward is None)
        reasons.update(f"no question: {reason}" for reason in self._contests.unasked)
        return RoundReport(
            round=began.round,
            leader=began.leader,
            went_on=went_on,
            walks=len(paths),
            contests=len(rewards),
            dropped=len(held) - len(rewards),
            sprouted=sum(isinstance(event, Sprouted) for event in journal.told),
            resets=len(resets),
            calls=self._asker.asked.total(),
            tokens=self._budget.tokens,
            cost_usd=cost,
            stopped_by=stopped,
            reasons=dict(sorted(reasons.items())),
            failures={f"{arm}: {reason}": count for (arm, reason), count in sorted(self._asker.failures.items())},
            mean_reward=sum(rewards) / len(rewards) if rewards else None,
        )
