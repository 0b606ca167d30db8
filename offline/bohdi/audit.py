"""How far judges can be trusted: what they said of contests that a checker had decided."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

import msgspec

from offline.bohdi.calls import call_seed
from offline.bohdi.events import AnyEvent, Contested
from offline.bohdi.judging import ABSTAINED, TIE, in_both_orders

AUDITED: Final = 0.2
"""Share of the contests that a checker decided for one side, of which judges are asked, too."""


class JudgeAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One judge's record on contests in which a checker found one answer right and the other wrong."""

    judge: str
    agreed: int = 0
    disagreed: int = 0
    tied: int = 0
    abstained: int = 0

    @property
    def agreement(self) -> float | None:
        """Share of its decisions that were the checker's; None if it decided nothing."""
        decided = self.agreed + self.disagreed
        return self.agreed / decided if decided else None


def is_audited(step: str, seed: int) -> bool:
    """Whether judges are asked about a contest that a checker has decided; drawn by the seed."""
    return random.Random(call_seed(seed, f"{step}/audit")).random() < AUDITED


def audit_judges(events: Iterable[AnyEvent]) -> list[JudgeAudit]:
    """The record of every judge that was audited, by name."""
    counts: dict[str, dict[str, int]] = {}
    for event in events:
        if not isinstance(event, Contested) or event.verdict is None or event.verdict.method != "checker":
            continue
        right = {reply.model for reply in event.replies if reply.correct is True}
        for judge in dict.fromkeys(judge for judge, _ in event.verdict.votes):
            said = in_both_orders([vote for by, vote in event.verdict.votes if by == judge])
            record = counts.setdefault(judge, dict.fromkeys(("agreed", "disagreed", "tied", "abstained"), 0))
            record[_kind(said, right)] += 1
    return [JudgeAudit(judge=judge, **counts[judge]) for judge in sorted(counts)]


def _kind(said: str, right: set[str]) -> str:
    if said == ABSTAINED:
        return "abstained"
    if said == TIE:
        return "tied"
    return "agreed" if said in right else "disagreed"
