"""Which episodes of a log may become training examples, and with which answer.

An answer is taken from a source alone: the one that won, or one that a checker found right. What only the target could
answer teaches it nothing, and a failure, a wrong answer or an undecided contest teaches nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from offline.bohdi.events import (
    ROOT,
    AnyEvent,
    Contested,
    Planted,
    Reply,
    Retired,
    RoundBegan,
    Sprouted,
    TargetChanged,
)

UNKNOWN: Final = "unknown"
"""Licence of a model that nobody has stated one for."""

Unfit = Literal["undecided", "only the target", "wrong", "no answer", "retired", "unknown leaf"]
"""Why an episode is no candidate."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An episode with the answer to train on.

    `agreement` in (0, 1]: the part of the judges' votes that the answer won; 1 if a checker said that it is right.
    `age`: how many versions of the target have come since. `rejected`: answers that were worse, for preference pairs.
    `licences`: of those who wrote the question and the answer, `UNKNOWN` among them if nobody has said one's.
    """

    number: int
    episode: Contested
    answer: Reply
    agreement: float
    age: int
    rejected: tuple[Reply, ...]
    licences: tuple[str, ...]

    @property
    def leaf(self) -> str:
        return self.episode.path[-1]


@dataclass(slots=True)
class Gathered:
    """What a log holds for training: candidates, why other episodes are none, names of nodes.

    `events`: how many were read. `version`: the target's as of the last one. `leaders`: who asked, by round.
    """

    target: str = ""
    version: str = ""
    tenant: str = ""
    events: int = 0
    candidates: list[Candidate] = field(default_factory=list)
    unfit: Counter[str] = field(default_factory=Counter)
    names: dict[str, str] = field(default_factory=lambda: {ROOT: ""})
    leaders: dict[int, str] = field(default_factory=dict)

    def path_names(self, path: Iterable[str]) -> tuple[str, ...]:
        """The names of the nodes of a path."""
        return tuple(self.names[node] for node in path)


def gather(events: Iterable[tuple[int, AnyEvent]], licences: Mapping[str, str] = MappingProxyType({})) -> Gathered:
    """Read the events of a log, oldest first. `licences`: by model, for episodes that do not name theirs."""
    found = Gathered()
    versions: dict[str, int] = {}
    retired: set[str] = set()
    episodes: list[tuple[int, Contested]] = []
    for number, event in events:
        found.events = number
        if isinstance(event, Planted):
            found.target, found.version, found.tenant = event.target, event.target_version, event.tenant
            versions.setdefault(event.target_version, len(versions))
        elif isinstance(event, TargetChanged):
            found.version = event.version
            versions.setdefault(event.version, len(versions))
        elif isinstance(event, RoundBegan):
            found.leaders[event.round] = event.leader
        elif isinstance(event, Sprouted):
            found.names[event.node] = event.name
        elif isinstance(event, Retired):
            retired.add(event.node)
        elif isinstance(event, Contested):
            episodes.append((number, event))
    newest = versions.get(found.version, 0)
    for number, episode in episodes:
        age = max(newest - versions.get(episode.target_version, newest), 0)
        candidate = _candidate(number, episode, found, retired, age, licences)
        if isinstance(candidate, Candidate):
            found.candidates.append(candidate)
        else:
            found.unfit[candidate] += 1
    return found


def _candidate(
    number: int, episode: Contested, known: Gathered, retired: set[str], age: int, licences: Mapping[str, str]
) -> Candidate | Unfit:
    if not episode.path or any(node not in known.names for node in episode.path):
        return "unknown leaf"
    if retired.intersection(episode.path):
        return "retired"
    verdict = episode.verdict
    if verdict is None or episode.reward is None or episode.dropped:
        return "undecided"
    sources = [reply for reply in episode.replies if reply.model != known.target]
    answer = next((reply for reply in sources if reply.model == verdict.winner), None)
    if answer is None:
        # The target won or all are alike; what a checker found right is still worth telling it.
        answer = next((reply for reply in sources if reply.correct is True), None)
        if answer is None:
            return "only the target" if verdict.winner == known.target else "undecided"
    if answer.correct is False:
        return "wrong"
    if answer.text is None or not answer.text.strip():
        return "no answer"
    agreement = 1.0 if answer.correct is True else _agreement(episode, answer.model)
    writers = {answer.model, known.leaders.get(episode.round, answer.model)}
    named = episode.licences or tuple(sorted({licences.get(writer, UNKNOWN) for writer in writers}))
    return Candidate(number, episode, answer, agreement, age, _rejected(episode, answer, known.target), named)


def _agreement(episode: Contested, model: str) -> float:
    votes = () if episode.verdict is None else episode.verdict.votes
    won = sum(winner == model for _, winner in votes)
    return won / len(votes) if won else 1.0 / (1 + len(votes))


def _rejected(episode: Contested, answer: Reply, target: str) -> tuple[Reply, ...]:
    """The answers that are known to be worse: what a checker found wrong, or the target's that lost before judges."""
    checked = answer.correct is True
    lost = episode.verdict is not None and episode.verdict.winner == answer.model
    return tuple(
        reply
        for reply in episode.replies
        if reply.text is not None
        and reply.text.strip()
        and reply.text != answer.text
        and (reply.correct is False if checked else lost and reply.model == target)
    )
