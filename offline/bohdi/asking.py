"""Puts the calls of a round to the pool: within its budget, nothing twice, and every reply kept before it is used.

A batch of calls is decided on in order, so what a budget lets through does not depend on who answers first. A reply
that an earlier run of the round has kept is taken from the log; its cost counts as if it were paid now, so a round that
goes on after a crash decides as the dead one did.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from offline.bohdi.budget import Budget, Most, most_of
from offline.bohdi.calls import Call
from offline.bohdi.errors import EpisodeLogError
from offline.bohdi.fan_out import FanOut
from offline.bohdi.log import EpisodeLog, StoredReply
from offline.chat_call import REFUSED
from registry.arms import Arm, Pool

OVER_BUDGET: Final = "over the budget"
DOWN: Final = "down in this round"
_SILENT: Final = 3
"""So many calls of one batch that all failed, and the model is not asked again in this round."""
_OWN_FAULT: Final = frozenset({REFUSED, "no text in the answer", "HTTP 400", "HTTP 413", "HTTP 422"})
"""Failures of a model that is up: they are about what it was asked."""


class NobodyAnswers(ValueError):
    """All models that were asked are away. The message says what to do; nothing was decided on their silence."""


class Asker:
    """Asks for one round.

    Attributes
    ----------
    budget: what the round has cost so far.
    over: the budget did not allow a call.
    asked: calls that went out in this run, by arm; what was kept is not among them.
    failures: calls that failed, by arm and reason.
    """

    def __init__(self, log: EpisodeLog, arms: dict[str, Arm], fan_out: FanOut, budget: Budget, prefix: str) -> None:
        """`prefix`: how the steps of the round begin."""
        self.budget = budget
        self.over = False
        self.asked: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        self._log = log
        self._arms = arms
        self._fan_out = fan_out
        self._kept = dict(log.replies(prefix))
        self._down: set[str] = set()
        self._away: dict[str, StoredReply] = {}

    def up(self, arm: str) -> bool:
        """Whether the model still answers in this round."""
        return arm not in self._down

    async def ask(self, calls: Sequence[Call], *, others: bool = False) -> list[StoredReply]:
        """The replies to the calls, in their order. What the budget does not allow fails with `OVER_BUDGET`.

        `others`: there are more models that could be asked instead.

        Raises
        ------
        NobodyAnswers: every model of the batch is away, and there are no others.
        EpisodeLogError: a reply cannot be kept; the batch is broken off.
        """
        found = {call.key: StoredReply(failure=DOWN, cost_usd=0.0) for call in calls if not self.up(call.arm)}
        waiting = [call for call in calls if call.key not in found]
        while waiting:
            held = self._admit(waiting)
            if not held:
                self.over = True
                found |= {call.key: StoredReply(failure=OVER_BUDGET, cost_usd=0.0) for call in waiting}
                break
            admitted, waiting = waiting[: len(held)], waiting[len(held) :]
            found |= await self._replies(admitted, held)
        await self._notice_who_is_down(calls, found, others)
        return [found[call.key] for call in calls]

    def _admit(self, waiting: Sequence[Call]) -> list[Most]:
        """What is held for the first calls, up to the first that the budget does not allow now."""
        held: list[Most] = []
        for call in waiting:
            most = most_of(call.prompt, call.max_tokens, self._arms[call.arm].model.prices)
            if not self.budget.hold(most):
                break
            held.append(most)
        return held

    async def _replies(self, calls: Sequence[Call], held: Sequence[Most]) -> dict[str, StoredReply]:
        missing = {call.key: call for call in calls if call.key not in self._kept}
        self.asked.update(call.arm for call in missing.values())
        try:
            await self._fan_out.run(list(missing.values()), self._keep)
        except ExceptionGroup as group:
            faults, others = group.split(EpisodeLogError)
            if faults is None or others is not None:
                raise
            raise faults.exceptions[0] from group
        found = {}
        for call, most in zip(calls, held, strict=True):
            reply = found[call.key] = self._kept[call.key]
            self.budget.settle(most, *_used(reply))
            if reply.text is None:
                self.failures[call.arm, reply.failure] += 1
        return found

    async def _keep(self, call: Call, reply: StoredReply) -> None:
        self._kept[call.key] = reply
        if _is_away(reply):
            # Kept when it is clear that not everybody is away: silence of all says nothing, and is asked again.
            self._away[call.key] = reply
        else:
            # Durable writes wait for the disk; the other calls need not.
            await asyncio.to_thread(self._log.keep_reply, call.key, reply)

    async def _notice_who_is_down(self, calls: Sequence[Call], found: dict[str, StoredReply], others: bool) -> None:
        made = [call for call in calls if self.up(call.arm) and found[call.key].failure != OVER_BUDGET]
        away = [call for call in made if _is_away(found[call.key])]
        silent = {call.key for call in away}
        if len(away) == len(made) >= _SILENT and not others:
            names, why = ", ".join(sorted({call.arm for call in away})), found[away[0].key].failure
            raise NobodyAnswers(
                f"no answer from {names} ({why}): see that they are up and their keys are right, and run the round "
                "again; it goes on where it is"
            )
        for key, reply in self._away.items():
            await asyncio.to_thread(self._log.keep_reply, key, reply)
        self._away.clear()
        for arm in {call.arm for call in away}:
            asked = [call for call in made if call.arm == arm]
            if len(asked) >= _SILENT and all(call.key in silent for call in asked):
                self._down.add(arm)


def _is_away(reply: StoredReply) -> bool:
    return reply.text is None and reply.failure not in _OWN_FAULT


def _used(reply: StoredReply) -> tuple[int | None, float | None]:
    """Tokens and USD of a reply; None where nobody knows."""
    if reply.text is None:
        return (0, 0.0) if reply.cost_usd == 0.0 else (None, reply.cost_usd)
    if reply.tokens is None or reply.prompt_tokens is None:
        return None, reply.cost_usd
    return reply.tokens + reply.prompt_tokens, reply.cost_usd


class UnknownModel(ValueError):
    """The settings name a model that the pool does not have, or the budget needs a price that is not known."""


def arms_for(pool: Pool, names: Sequence[str], *, priced: bool) -> dict[str, Arm]:
    """The arms of these ids (a model's name is the id of its direct way).

    Raises
    ------
    UnknownModel: the pool has no such arm, or `priced` and one has no price.
    """
    unknown = [name for name in names if name not in pool.arms]
    if unknown:
        raise UnknownModel(f"no model is called {', '.join(unknown)}; there are: {', '.join(pool.arms)}")
    arms = {name: pool.arms[name] for name in names}
    free = [name for name, arm in arms.items() if arm.model.prices.cost(0, 0) is None]
    if priced and free:
        raise UnknownModel(
            f"`max_usd_per_round` needs the prices of {', '.join(free)}; add `prices` to each in the config, or use "
            "`max_tokens_per_round`"
        )
    return arms
