"""The knowledge tree: what folding an episode log gives. Equal logs give equal trees, bit for bit.

A node's posterior is a Beta distribution over P(some source beats the target on a question from its domain). The root
stands for all questions. The fold is in `Tree.apply`; nothing else changes a tree.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from offline.bohdi.events import (
    ROOT,
    AnyEvent,
    Contested,
    Event,
    FoldRules,
    Planted,
    Reborn,
    Retired,
    RoundBegan,
    RoundEnded,
    Sprouted,
    SproutFailed,
    TargetChanged,
    TrafficMapped,
)
from offline.bohdi.node import Node, count_reward

FIRST_REWARDS = 20
"""Rewards of a new node that tell what a sibling of it will be worth."""
LONGEST_PAUSE = 64
"""Rounds after which a node that could not sprout tries again, at most."""


class TreeError(ValueError):
    """An event does not fit the tree, or bytes are no tree; the message says which and why."""


class Weighed(Event, frozen=True, kw_only=True, tag="contested", gc=False):
    """The part of `Contested` that the fold reads: without the texts, a log folds many times sooner."""

    path: tuple[str, ...]
    reward: float | None = None


FoldEvent: TypeAlias = AnyEvent | Weighed


class State(msgspec.Struct, kw_only=True):
    """All that a tree is."""

    format: Literal[1] = 1
    events: int = 0
    round: int = 0
    levels: int = 0
    target: str = ""
    target_version: str = ""
    versions: int = 0
    carries: list[tuple[int, float]] = msgspec.field(default_factory=list)
    """Changes of the target at which something was forgotten: their numbers, and the share that was kept."""
    sources: tuple[str, ...] = ()
    seed: int = 0
    tenant: str = ""
    rules: FoldRules = FoldRules()
    contests: int = 0
    dropped: int = 0
    rebirths: int = 0
    rounds_ended: int = 0
    cost_usd: float = 0.0
    unpriced_rounds: int = 0
    traffic_until: float = 0.0
    nodes: list[Node] = msgspec.field(default_factory=list)


def _number(change: tuple[int, float]) -> int:
    return change[0]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode


class Tree:
    """A knowledge tree. `state` may be read by everybody and is changed by `apply` alone.

    Examples
    --------
    >>> from offline.bohdi.events import ROOT, Contested, Planted, Sprouted
    >>> tree = Tree()
    >>> tree.apply(Planted(at=0.0, levels=1, target="small", target_version="1", sources=("large",), seed=0))
    >>> tree.apply(Sprouted(at=0.0, node="m", parent=ROOT, name="Music"))
    >>> tree.node("m").name, tree.mean("m")
    ('Music', 0.5)
    """

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self._nodes = {node.id: node for node in self.state.nodes}
        self._kids: dict[str, list[Node]] = {node.id: [] for node in self.state.nodes}
        for node in self.state.nodes:
            if node.id != ROOT and node.status == "active":
                self._kids[node.parent].append(node)
        self._versions = self.state.versions
        self._examined = [node for node in self.state.nodes if node.exam is not None]

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def levels(self) -> int:
        return self.state.levels

    @property
    def round(self) -> int:
        return self.state.round

    @property
    def target_version(self) -> str:
        return self.state.target_version

    @property
    def versions(self) -> int:
        """Changes of the target so far."""
        return self._versions

    @property
    def root(self) -> Node:
        return self.node(ROOT)

    def node(self, node_id: str) -> Node:
        """The node of an id, retired or not. Raises TreeError if there is none."""
        try:
            node = self._nodes[node_id]
        except KeyError:
            raise TreeError(f"there is no node {node_id!r} in this tree of {len(self._nodes)} nodes") from None
        return self._current(node)

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._nodes

    def nodes(self) -> Sequence[Node]:
        """All nodes but the root, in the order in which they sprouted, retired ones included."""
        return [self._current(node) for node in self.state.nodes[1:]]

    def children(self, node_id: str) -> Sequence[Node]:
        """The children in use, in the order in which they sprouted."""
        try:
            kids = self._kids[node_id]
        except KeyError:
            raise TreeError(f"there is no node {node_id!r} in this tree of {len(self._nodes)} nodes") from None
        for kid in kids:
            if kid.version != self._versions:
                self._current(kid)
        return kids

    def leaves(self) -> Iterator[Node]:
        """The nodes in use at the deepest level."""
        return (node for node in self.nodes() if node.level == self.levels and node.status == "active")

    def path(self, node_id: str) -> tuple[Node, ...]:
        """From the first level down to the node; empty for the root."""
        node, upwards = self.node(node_id), []
        while node.id != ROOT:
            upwards.append(node)
            node = self._nodes[node.parent]
        return tuple(reversed(upwards))

    def path_names(self, node_id: str) -> tuple[str, ...]:
        """The names from the first level down to the node."""
        return tuple(node.name for node in self.path(node_id))

    def prior(self, node_id: str, kappa: float = 4.0) -> tuple[float, float]:
        """The Beta prior that a node has from its parent's mean (empirical Bayes); flat for the root."""
        node = self.node(node_id)
        if node.id == ROOT:
            return 1.0, 1.0
        mean = self.mean(node.parent, kappa)
        return 1.0 + kappa * mean, 1.0 + kappa * (1.0 - mean)

    def posterior(self, node_id: str, kappa: float = 4.0) -> tuple[float, float]:
        """The Beta posterior: the prior from the parent and the rewards that count."""
        node = self.node(node_id)
        a, b = self.prior(node_id, kappa)
        return a + node.won, b + node.lost

    def mean(self, node_id: str, kappa: float = 4.0) -> float:
        """The posterior mean: the estimated probability that a source beats the target in this domain."""
        a, b = self.posterior(node_id, kappa)
        return a / (a + b)

    # Keeping ----------------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The whole state; equal for trees that were folded from equal logs."""
        for node in self.state.nodes:
            self._current(node)
        return _encode(self.state)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Tree:
        """The tree of `to_bytes`. Raises TreeError for bytes of another format."""
        try:
            return cls(_decode(raw))
        except (msgspec.DecodeError, KeyError) as error:
            raise TreeError(f"these bytes hold no tree of format 1: {error}; fold the log again instead") from error

    def digest(self) -> str:
        """SHA-256 of the state, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    # Folding ----------------------------------------------------------------------------------------------------------

    def apply(self, event: FoldEvent) -> None:
        """Take in the next event. Raises TreeError, with the tree as it was, if it does not fit."""
        state = self.state
        if (state.levels == 0) != isinstance(event, Planted):
            raise TreeError(
                f"a log begins with `planted`, and has no other; got {type(event).__name__} as event {state.events + 1}"
            )
        match event:
            case Weighed() | Contested():
                self._weigh(event.path, event.reward)
            case Planted():
                self._plant(event)
            case Sprouted():
                self._sprout(event)
            case SproutFailed():
                self._fail_to_sprout(self.node(event.parent), event.round)
            case RoundBegan():
                state.rules = event.rules or state.rules
                state.round = max(state.round, event.round)
            case RoundEnded():
                self._end_round(event)
            case TargetChanged():
                self._change_target(event.version)
            case Reborn():
                self._rebear(self.node(event.node))
            case TrafficMapped():
                self._map_traffic(event)
            case Retired():
                self._retire(self.node(event.node))
        state.events += 1

    def _plant(self, event: Planted) -> None:
        if event.levels < 1:
            raise TreeError(f"a tree has at least 1 level, got {event.levels}")
        state = self.state
        state.levels, state.target, state.target_version = event.levels, event.target, event.target_version
        state.sources, state.seed, state.tenant, state.rules = event.sources, event.seed, event.tenant, event.rules
        self._add(Node(id=ROOT, name="", level=0, parent=""))

    def _add(self, node: Node) -> None:
        self.state.nodes.append(node)
        self._nodes[node.id] = node
        self._kids[node.id] = []

    def _sprout(self, event: Sprouted) -> None:
        parent = self.node(event.parent)
        if parent.level >= self.levels:
            raise TreeError(f"{event.name!r} cannot sprout under {parent.name!r}: a leaf holds questions, not domains")
        if event.node in self._nodes:
            # A domain is added once, whoever says it again; one that was retired stays so.
            return
        embedding = np.asarray(event.embedding, dtype="<f4").tobytes()
        node = Node(
            id=event.node,
            name=event.name,
            version=self._versions,
            level=parent.level + 1,
            parent=parent.id,
            born_round=event.round,
            embedding=embedding,
        )
        self._add(node)
        self._kids[parent.id].append(node)
        parent.sprouts += 1
        parent.barren = parent.retry_round = 0
        if node.level == self.levels:
            self._count_leaves(parent, 1)

    def _count_leaves(self, node: Node, change: int) -> None:
        while True:
            node.leaves_below += change
            if node.id == ROOT:
                return
            node = self._nodes[node.parent]

    def _fail_to_sprout(self, parent: Node, at_round: int) -> None:
        parent.failed_sprouts += 1
        # Failures of one round are one failure: the walks of a round are drawn before any of them is known.
        if at_round >= parent.retry_round:
            parent.barren += 1
            parent.retry_round = at_round + min(2 ** (parent.barren - 1), LONGEST_PAUSE)

    def _weigh(self, path: tuple[str, ...], reward: float | None) -> None:
        nodes = self._contested(path)
        if reward is None:
            self.state.dropped += 1
            nodes[-1].dropped += 1
            return
        if not 0.0 <= reward <= 1.0:
            raise TreeError(f"a reward lies in [0, 1], got {reward!r}")
        self.state.contests += 1
        window, discount = self.state.rules.window, self.state.rules.discount
        parent = self._current(self._nodes[ROOT])
        count_reward(parent, reward, window, discount)
        for node in nodes:
            if node.first_n < FIRST_REWARDS:
                node.first_n += 1
                node.first_won += reward
                parent.kids_first_n += 1
                parent.kids_first_won += reward
            if count_reward(node, reward, window, discount):
                self._examined.append(node)
            parent = node

    def _contested(self, path: tuple[str, ...]) -> list[Node]:
        nodes, parent = [], ROOT
        for node_id in path:
            node = self._nodes.get(node_id)
            if node is None or node.parent != parent:
                raise TreeError(f"the path {' > '.join(path)} leaves the tree at {node_id!r}")
            nodes.append(node if node.version == self._versions else self._current(node))
            parent = node_id
        if len(nodes) != self.state.levels:
            raise TreeError(f"a path has {self.state.levels} domains, got {len(nodes)}: {' > '.join(path)}")
        return nodes

    def _change_target(self, version: str) -> None:
        state = self.state
        if version == state.target_version:
            # Said again, by a run that goes on where another was killed.
            return
        state.target_version = version
        state.versions += 1
        self._versions = state.versions
        if state.rules.carry < 1.0:
            state.carries.append((state.versions, state.rules.carry))

    def _current(self, node: Node) -> Node:
        """The node, with the changes of the target taken in: only when it is asked for, since there are many nodes."""
        if node.version == self._versions:
            return node
        before = None
        for number, carry in self.state.carries[bisect_right(self.state.carries, node.version, key=_number) :]:
            before = (node.won, node.lost) if number == self._versions else None
            node.won *= carry
            node.lost *= carry
            node.squares *= carry * carry
        node.before_change = before or (node.won, node.lost)
        node.version = self._versions
        node.n_at_version = node.n
        if node.since_change is None and node.epoch_n:
            node.since_change = 0
        return node

    def _rebear(self, node: Node) -> None:
        won = math.fsum(node.window)
        node.epoch += 1
        node.epoch_won, node.epoch_n = won, len(node.window)
        node.won, node.lost, node.squares = won, len(node.window) - won, float(len(node.window))
        node.since_change = node.exam = None
        self.state.rebirths += 1

    def _map_traffic(self, event: TrafficMapped) -> None:
        mapped = [(self.node(node_id), queries) for node_id, queries in event.counts.items()]
        unmatched = [(self.node(node_id), queries) for node_id, queries in event.unmatched.items()]
        for node, queries in unmatched:
            node.unmatched += queries
        for node, queries in mapped + unmatched:
            while node.id != ROOT:
                node.traffic += queries
                node = self._nodes[node.parent]
            node.traffic += queries
        self.state.traffic_until = max(self.state.traffic_until, event.until)

    def _retire(self, node: Node) -> None:
        if node.id == ROOT:
            raise TreeError("the root cannot be retired: it is no domain; retire its children or begin a new log")
        if node.status == "retired":
            return
        leaves = node.leaves_below if node.level < self.levels else 1
        self._count_leaves(self._nodes[node.parent], -leaves)
        self._kids[node.parent].remove(node)
        below = [node]
        while below:
            gone = below.pop()
            gone.status = "retired"
            gone.leaves_below = 0
            below += self._kids[gone.id]
            self._kids[gone.id] = []

    def _end_round(self, event: RoundEnded) -> None:
        state = self.state
        state.rounds_ended += 1
        if event.cost_usd is None:
            state.unpriced_rounds += 1
        else:
            state.cost_usd += event.cost_usd
        for node in self._examined:
            node.exam = None
        self._versions = self.state.versions
        self._examined = []
