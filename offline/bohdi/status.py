"""The status of a tree, from its log: the tree that its events fold into, and what they come to round by round.

A status can go on from an earlier one of the same log, and then reads only what has come since.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from offline.bohdi.audit import JudgeAudit, audit_judges
from offline.bohdi.events import (
    AnyEvent,
    Contested,
    Reborn,
    RoundBegan,
    RoundEnded,
    Sprouted,
    SproutFailed,
    TargetChanged,
)
from offline.bohdi.log import EpisodeLog
from offline.bohdi.node import Node
from offline.bohdi.tree import Tree
from registry.bohdi_status import (
    LAYOUT,
    BohdiUnreadable,
    JudgeStatus,
    NodeStatus,
    ResetStatus,
    RoundStatus,
    TreeStatus,
    read_status,
    write_status,
)
from registry.bohdi_trees import tree_log

TAIL: Final = 0.05
"""Probability on each side of a node's interval."""


def status_of(log: EpisodeLog, tree: str, kappa: float = 4.0, before: TreeStatus | None = None) -> TreeStatus:
    """The status of the tree in a log. `kappa`: as in the settings; `before`: an earlier status, to go on from.

    Raises
    ------
    EpisodeLogError: the log cannot be read.
    ValueError: the log has no event yet.
    """
    grown = log.tree()
    state = grown.state
    first = next(log.events(), None)
    if first is None:
        raise ValueError(f"{log.path} holds no tree yet; `tokamak bohdi grow` plants one")
    planted_at = first[1].at
    books = _Books(grown)
    if before is not None and before.planted_at == planted_at and before.events <= state.events:
        books.go_on_from(before)
    for number, event in log.events(after=books.events):
        if number > state.events:
            # Written after the tree was folded: it belongs to the next look.
            break
        books.take(event)
    return TreeStatus(
        layout=LAYOUT, tree=tree, planted_at=planted_at, tenant=state.tenant, target=state.target,
        target_version=state.target_version, sources=state.sources, levels=state.levels, events=state.events,
        digest=grown.digest(), contests=state.contests, dropped=state.dropped, cost_usd=state.cost_usd,
        unpriced_rounds=state.unpriced_rounds, versions=tuple(books.versions),
        nodes=tuple(_node(grown, node, kappa) for node in grown.nodes()),
        rounds=tuple(one.status() for _, one in sorted(books.rounds.items())), resets=tuple(books.resets),
        judges=books.judged(), queries=grown.root.traffic, unmatched=sum(node.unmatched for node in state.nodes),
        traffic_until=state.traffic_until,
    )  # fmt: skip


def refresh_status(data_dir: Path, tree: str, kappa: float = 4.0, log: EpisodeLog | None = None) -> TreeStatus:
    """The status of a tree in a data folder; its file is written anew. Raises what `status_of` does."""
    try:
        before = read_status(data_dir, tree)
    except BohdiUnreadable:
        before = None
    found = status_of(log or EpisodeLog(tree_log(data_dir, tree)), tree, kappa, before)
    write_status(data_dir, found)
    return found


def _node(tree: Tree, node: Node, kappa: float) -> NodeStatus:
    # Needs the extra `learn`; who only queues or lists jobs goes without.
    from scipy.special import betaincinv

    a, b = tree.posterior(node.id, kappa)
    return NodeStatus(
        id=node.id, name=node.name, parent=node.parent, level=node.level, path=tree.path_names(node.id),
        status=node.status, a=a, b=b, mean=a / (a + b), low=float(betaincinv(a, b, TAIL)),
        high=float(betaincinv(a, b, 1.0 - TAIL)), asked=node.n, asked_now=node.n_version,
        recent=sum(node.window) / len(node.window) if node.window else None, resets=node.epoch, sprouts=node.sprouts,
        failed_sprouts=node.failed_sprouts, retry_round=node.retry_round, queries=node.traffic,
        unmatched=node.unmatched,
    )  # fmt: skip


@dataclass(slots=True)
class _Round:
    """A round as far as its events have been read."""

    number: int
    began_at: float
    leader: str
    paths: int
    target_version: str
    contests: int = 0
    won: float = 0.0
    sprouted: int = 0
    failed_sprouts: int = 0
    ended: bool = False
    cost_usd: float | None = None
    stopped_by: str = ""
    dropped: Counter[str] = field(default_factory=Counter)
    allocation: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def contested(self, event: Contested) -> None:
        """Count a contest."""
        self.failures.update(reply.model for reply in event.replies if reply.text is None)
        if event.reward is None:
            self.dropped[event.dropped or "undecided"] += 1
            return
        self.contests += 1
        self.won += event.reward
        self.allocation[event.path[0]] += 1

    def status(self) -> RoundStatus:
        """What there is to see of it."""
        told = {name: getattr(self, name) for name in RoundStatus.__struct_fields__ if name != "reward"}
        counts = {name: dict(sorted(told[name].items())) for name in ("dropped", "allocation", "failures")}
        return RoundStatus(**(told | counts), reward=self.won / self.contests if self.contests else None)


class _Books:
    """What the events of a log come to, round by round. `events`: how many were read."""

    def __init__(self, tree: Tree) -> None:
        self.events = 0
        self.rounds: dict[int, _Round] = {}
        self.resets: list[ResetStatus] = []
        self.versions: list[tuple[int, str]] = []
        self._tree = tree
        self._judges: dict[str, JudgeAudit] = {}
        self._audited: list[Contested] = []

    def go_on_from(self, before: TreeStatus) -> None:
        """Take over what an earlier status says, in place of the events that it has read."""
        self.events, self.resets, self.versions = before.events, list(before.resets), list(before.versions)
        for one in before.rounds:
            fields = {name: getattr(one, name) for name in RoundStatus.__struct_fields__ if name != "reward"}
            counts = {name: Counter(fields[name]) for name in ("dropped", "allocation", "failures")}
            self.rounds[one.number] = _Round(**(fields | counts))
        for judge in before.judges:
            counted = {name: getattr(judge, name) for name in JudgeAudit.__struct_fields__}
            self._judges[judge.judge] = JudgeAudit(**counted)

    def take(self, event: AnyEvent) -> None:
        """Take in the next event."""
        found = self.rounds.get(event.round)
        match event:
            case RoundBegan():
                began = _Round(event.round, event.at, event.leader, event.paths, event.target_version)
                self.rounds.setdefault(event.round, began)
            case RoundEnded() if found is not None:
                found.ended, found.cost_usd, found.stopped_by = True, event.cost_usd, event.stopped_by
            case Sprouted() if found is not None:
                found.sprouted += 1
            case SproutFailed() if found is not None:
                found.failed_sprouts += 1
            case Contested() if found is not None:
                found.contested(event)
                if event.verdict is not None and event.verdict.method == "checker" and event.verdict.votes:
                    self._audited.append(event)
            case TargetChanged():
                self.versions.append((max(self.rounds, default=0), event.version))
            case Reborn():
                self.resets.append(self._reset(event))
            case _:
                # What the tree itself keeps, or what was put in from outside of any round.
                pass

    def judged(self) -> tuple[JudgeStatus, ...]:
        """Every judge that was audited, by name."""
        known = dict(self._judges)
        for judge in audit_judges(self._audited):
            old = known.get(judge.judge, JudgeAudit(judge=judge.judge))
            counts = {
                name: getattr(old, name) + getattr(judge, name) for name in ("agreed", "disagreed", "tied", "abstained")
            }
            known[judge.judge] = JudgeAudit(judge=judge.judge, **counts)
        return tuple(
            JudgeStatus(
                judge=name, agreed=one.agreed, disagreed=one.disagreed, tied=one.tied, abstained=one.abstained,
                agreement=one.agreement,
            )
            for name, one in sorted(known.items())
        )  # fmt: skip

    def _reset(self, event: Reborn) -> ResetStatus:
        return ResetStatus(
            at=event.at, round=event.round, node=event.node, path=self._tree.path_names(event.node), rule=event.rule,
            statistic=event.statistic, p_value=event.p_value, false_discovery=event.false_discovery,
        )  # fmt: skip
