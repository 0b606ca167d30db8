"""A domain of a knowledge tree, and how it counts a reward. Only the fold in `tree` changes one."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class Exam(msgspec.Struct, frozen=True, array_like=True):
    """Rewards after a change of the target, and those before it in the same epoch: sums and counts."""

    won: float
    count: int
    older_won: float
    older_count: int


class Node(msgspec.Struct, kw_only=True, array_like=True):
    """A domain. Only `Tree.apply` changes one.

    `won`, `lost`: rewards and their complements that count now (since the last rebirth, discounted); `squares`: the sum
    of the squares of their weights. `n`: all contests ever. `epoch`: rebirths so far; `epoch_won`, `epoch_n`:
    undiscounted, since the last. `window`: the last rewards of the epoch, oldest first. `version`: changes of the
    target that the node has taken in. `since_change`: rewards since the first change of the target that no exam has
    covered, None without one; `exam` is set when they fill the window and cleared at the round's end. `before_change`:
    `won` and `lost` when the target last changed. `first_won`, `first_n`: of the first 20 rewards; `kids_*`: sums of
    these over the children. `barren`: failed sprouts since the last that succeeded; none is tried before `retry_round`.
    `traffic`: users' queries in the domain, `unmatched` those near it and near none of its children.
    """

    id: str
    name: str
    level: int
    parent: str
    status: Literal["active", "retired"] = "active"
    n: int = 0
    won: float = 0.0
    lost: float = 0.0
    squares: float = 0.0
    epoch: int = 0
    epoch_won: float = 0.0
    epoch_n: int = 0
    window: list[float] = msgspec.field(default_factory=list)
    version: int = 0
    n_at_version: int = 0
    before_change: tuple[float, float] = (0.0, 0.0)
    since_change: int | None = None
    exam: Exam | None = None
    first_won: float = 0.0
    first_n: int = 0
    kids_first_won: float = 0.0
    kids_first_n: int = 0
    leaves_below: int = 0
    dropped: int = 0
    sprouts: int = 0
    failed_sprouts: int = 0
    barren: int = 0
    retry_round: int = 0
    traffic: float = 0.0
    unmatched: float = 0.0
    born_round: int = 0
    embedding: bytes = b""

    @property
    def a(self) -> float:
        """First parameter of the posterior under the flat prior of the published rule."""
        return 1.0 + self.won

    @property
    def b(self) -> float:
        """Second parameter of the posterior under the flat prior of the published rule."""
        return 1.0 + self.lost

    @property
    def n_version(self) -> int:
        """Contests since the target last changed."""
        return self.n - self.n_at_version

    def vector(self) -> F32 | None:
        """The embedding of the name, shape (d,); None if it has none."""
        return np.frombuffer(self.embedding, dtype="<f4") if self.embedding else None


def count_reward(node: Node, reward: float, window: int, discount: float) -> bool:
    """Count one reward at a node; True if with it an exam is due."""
    node.n += 1
    node.won = node.won * discount + reward
    node.lost = node.lost * discount + (1.0 - reward)
    node.squares = node.squares * discount * discount + 1.0
    node.epoch_n += 1
    node.epoch_won += reward
    rewards = node.window
    rewards.append(reward)
    while len(rewards) > window:
        del rewards[0]
    if node.since_change is None:
        return False
    node.since_change += 1
    if node.since_change < window:
        return False
    node.since_change = None
    older = node.epoch_n - window
    if older < window:
        return False
    won = math.fsum(rewards)
    node.exam = Exam(won, window, node.epoch_won - won, older)
    return True
