"""What happens to a knowledge tree, one struct for each kind of event. The tree's state is a fold over these, in order.

Events are facts: they carry what was drawn, asked, answered and decided, so that folding them needs no clock, no random
numbers and no model. `at` is Unix seconds and is never read by the fold.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec

ROOT: Final = "root"
"""Id of the root, which stands for all knowledge and is no domain itself."""


def node_id(parent: str, name: str) -> str:
    """The id of the child `name` of `parent`: equal for equal names under one parent, whatever their case."""
    return hashlib.sha256(f"{parent}/{' '.join(name.split()).casefold()}".encode()).hexdigest()[:16]


class FoldRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How rewards are counted; part of the log, so that the fold needs no settings.

    `window`: rewards that a node's window holds. `discount`: factor on a node's older rewards at each new one.
    `carry`: factor on all rewards when the target changes. Both in (0, 1]; 1 forgets nothing.
    """

    window: Annotated[int, msgspec.Meta(ge=2)] = 30
    discount: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    carry: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", omit_defaults=True):
    """What all events have. `round` counts from 1; 0 is before the first round."""

    at: float
    round: int = 0


class Planted(Event, frozen=True, kw_only=True, tag="planted"):
    """The first event of a log: `levels` of domains under the root, the target model and its sources."""

    levels: int
    target: str
    target_version: str
    sources: tuple[str, ...]
    seed: int
    tenant: str = ""
    rules: FoldRules = FoldRules()


class RoundBegan(Event, frozen=True, kw_only=True, tag="round_began"):
    """A round of meditation: `leader` leads it, `paths` walks are drawn from `seed`."""

    leader: str
    paths: int
    seed: int
    target_version: str
    prompts_version: str
    rules: FoldRules | None = None
    """How rewards are counted from here on, if otherwise than before."""


class Sprouted(Event, frozen=True, kw_only=True, tag="sprouted"):
    """A domain was added under `parent`. `votes`: how many samples of which model named it."""

    node: str
    parent: str
    name: str
    votes: dict[str, int] = {}
    embedding: tuple[float, ...] = ()


class SproutFailed(Event, frozen=True, kw_only=True, tag="sprout_failed"):
    """Nothing could be added under `parent`. `reason`: nothing valid, all known, unsafe, or no source answered.

    `step` names the try within its log, so that it is never counted twice; empty if it has no name.
    """

    parent: str
    reason: Literal["invalid", "known", "unsafe", "unanswered"]
    step: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One answer in a contest. `text` is None if the model failed, with the `failure`; a failure is no lost contest."""

    model: str
    model_version: str = ""
    text: str | None = None
    failure: str = ""
    tokens: int | None = None
    cost_usd: float | None = None
    correct: bool | None = None
    """What an exact checker said, where the domain has one."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a contest was decided. `votes`: for each judge call its winner (a model) or "" for an abstention."""

    method: Literal["checker", "judge", "majority"]
    winner: str | None
    votes: tuple[tuple[str, str], ...] = ()
    margin: float | None = None


class Contested(Event, frozen=True, kw_only=True, tag="contested"):
    """An episode: a question on the path, the answers, the verdict and the reward.

    `path`: node ids from the first level to the leaf. `reward` in [0, 1]: the gain of the best source over the target;
    None if nothing was decided (`dropped` says why), and then no posterior moves. `step` names it within its log, so
    that an episode is never counted twice.
    """

    step: str
    path: tuple[str, ...]
    question: str
    replies: tuple[Reply, ...]
    verdict: Verdict | None = None
    reward: float | None = None
    dropped: str = ""
    target_version: str
    seed: int
    prompts_version: str
    cost_usd: float | None = None
    style: str = ""
    licences: tuple[str, ...] = ()


class TargetChanged(Event, frozen=True, kw_only=True, tag="target_changed"):
    """The target model was trained: rewards from here on are about `version`."""

    version: str


class Reborn(Event, frozen=True, kw_only=True, tag="reborn"):
    """The drift test fired: the posterior of `node` starts again from its prior and its window (Introspection-Rebirth).

    `false_discovery`: the rate that was controlled, None for the published rule with its fixed threshold.
    """

    node: str
    rule: Literal["published", "two_sample"]
    statistic: float
    p_value: float
    window: tuple[float, ...]
    false_discovery: float | None = None


class TrafficMapped(Event, frozen=True, kw_only=True, tag="traffic_mapped"):
    """Logged queries were mapped to leaves by embedding alone. `counts`: queries by leaf; no text is kept."""

    counts: dict[str, float]
    unmatched: dict[str, float]
    """Queries that are near a node but near none of its children, by that node: where to sprout."""
    until: float


class Retired(Event, frozen=True, kw_only=True, tag="retired"):
    """A node and all below it are out of use, by an operator or because its tenant was erased."""

    node: str
    reason: str


class RoundEnded(Event, frozen=True, kw_only=True, tag="round_ended"):
    """The round is over; `cost_usd` is what it cost, None without prices."""

    contests: int
    dropped: int
    cost_usd: float | None = None
    stopped_by: Literal["", "budget", "operator"] = ""


AnyEvent = (
    Planted
    | RoundBegan
    | Sprouted
    | SproutFailed
    | Contested
    | TargetChanged
    | Reborn
    | TrafficMapped
    | Retired
    | RoundEnded
)
