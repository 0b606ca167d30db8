"""The status of a tree, from its log: one pass over the events, and the tree that they fold into."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from offline.bohdi.audit import audit_judges
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
from offline.bohdi.tree import Node, Tree
from registry.bohdi_status import (
    LAYOUT,
    JudgeStatus,
    NodeStatus,
    ResetStatus,
    RoundStatus,
    TreeStatus,
    write_status,
)
from registry.bohdi_trees import tree_log

TAIL: Final = 0.05
"""Probability on each side of a node's interval."""


def status_of(log: EpisodeLog, tree: str, kappa: float = 4.0) -> TreeStatus:
    """The status of the tree in a log. `kappa`: as in the settings.

    Raises
    ------
    EpisodeLogError: the log cannot be read.
    ValueError: the log has no event yet.
    """
    grown = log.tree()
    state = grown.state
    if not state.levels:
        raise ValueError(f"{log.path} holds no tree yet; `tokamak bohdi grow` plants one")
    books = _Books(grown)
    audited: list[Contested] = []
    for number, event in log.events():
        if number > state.events:
            # Written after the tree was folded: it belongs to the next look.
            break
        books.take(event)
        if isinstance(event, Contested) and event.verdict is not None and event.verdict.method == "checker":
            audited.append(event)
    judges = [msgspec.to_builtins(judge) | {"agreement": judge.agreement} for judge in audit_judges(audited)]
    return TreeStatus(
        layout=LAYOUT, tree=tree, tenant=state.tenant, target=state.target, target_version=state.target_version,
        sources=state.sources, levels=state.levels, events=state.events, digest=grown.digest(),
        contests=state.contests, dropped=state.dropped, cost_usd=state.cost_usd, unpriced_rounds=state.unpriced_rounds,
        versions=tuple(books.versions), nodes=tuple(_node(grown, node, kappa) for node in grown.nodes()),
        rounds=tuple(one.status() for _, one in sorted(books.rounds.items())), resets=tuple(books.resets),
        judges=tuple(msgspec.convert(judge, JudgeStatus) for judge in judges),
        queries=grown.root.traffic, unmatched=sum(node.unmatched for node in state.nodes),
        traffic_until=state.traffic_until,
    )  # fmt: skip


def refresh_status(data_dir: Path, tree: str, kappa: float = 4.0) -> TreeStatus:
    """The status of a tree in a data folder; its file is written anew. Raises what `status_of` does."""
    with EpisodeLog(tree_log(data_dir, tree)) as log:
        found = status_of(log, tree, kappa)
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
    began: RoundBegan
    ended: RoundEnded | None = None
    rewards: list[float] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    allocation: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    sprouted: int = 0
    failed_sprouts: int = 0

    def status(self) -> RoundStatus:
        began, ended = self.began, self.ended
        return RoundStatus(
            number=began.round, began_at=began.at, ended=ended is not None, leader=began.leader, paths=began.paths,
            target_version=began.target_version, contests=len(self.rewards), dropped=dict(sorted(self.dropped.items())),
            sprouted=self.sprouted, failed_sprouts=self.failed_sprouts, allocation=dict(self.allocation),
            reward=sum(self.rewards) / len(self.rewards) if self.rewards else None,
            failures=dict(sorted(self.failures.items())), cost_usd=None if ended is None else ended.cost_usd,
            stopped_by="" if ended is None else ended.stopped_by,
        )  # fmt: skip


class _Books:
    """What the events of a log come to, round by round."""

    def __init__(self, tree: Tree) -> None:
        self.rounds: dict[int, _Round] = {}
        self.resets: list[ResetStatus] = []
        self.versions: list[tuple[int, str]] = []
        self._tree = tree

    def take(self, event: AnyEvent) -> None:
        """Take in the next event."""
        found = self.rounds.get(event.round)
        match event:
            case RoundBegan():
                self.rounds.setdefault(event.round, _Round(event))
            case RoundEnded() if found is not None:
                found.ended = event
            case Sprouted() if found is not None:
                found.sprouted += 1
            case SproutFailed() if found is not None:
                found.failed_sprouts += 1
            case Contested() if found is not None:
                self._contested(found, event)
            case TargetChanged():
                self.versions.append((max(self.rounds, default=0), event.version))
            case Reborn():
                self.resets.append(self._reset(event))
            case _:
                # What the tree itself keeps, or what was put in from outside of any round.
                pass

    def _contested(self, found: _Round, event: Contested) -> None:
        found.failures.update(reply.model for reply in event.replies if reply.text is None)
        if event.reward is None:
            found.dropped[event.dropped or "undecided"] += 1
            return
        found.rewards.append(event.reward)
        found.allocation[event.path[0]] += 1

    def _reset(self, event: Reborn) -> ResetStatus:
        return ResetStatus(
            at=event.at, round=event.round, node=event.node, path=self._tree.path_names(event.node), rule=event.rule,
            statistic=event.statistic, p_value=event.p_value, false_discovery=event.false_discovery,
        )  # fmt: skip
