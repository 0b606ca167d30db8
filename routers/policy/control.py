"""A control group for templates: some requests that the policy gives to a `thought` arm go to its model without them.

With control share c, policy propensities p and the arm d that asks the model of the `thought` arm t without templates,
what is really asked has the propensities

    p'(t) = (1 - c) p(t),      p'(d) = p(d) + c p(t),

and every other arm keeps its own. They are exact as long as the second draw is independent of the first, and as long as
every eligible `thought` arm has templates to show (others are not eligible). Where a cascade answers, only an arm that
exploration has drawn answers alone, so only that part of p(t) is split. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from registry.arms import Arm
from routers.policy.decide import Choice
from traffic.records import Candidate


class Control(NamedTuple):
    """The control group of one decision.

    Attributes
    ----------
    share: probability with which a `thought` arm that was drawn is asked without templates.
    twins: for each `thought` arm, by index, the arm that asks its model so; in the pool or not.
    withheld: whether this request is a control.
    in_stages: whether the policy's first arm answers in a cascade, which has no control.
    """

    share: float
    twins: Mapping[int, Arm]
    withheld: bool = False
    in_stages: bool = False


def asked(choice: Choice, arm_ids: Sequence[str], control: Control | None) -> dict[str, float]:
    """The exact probability of each arm to be really asked, by id; arms that cannot be are left out. Adds up to 1."""
    order = choice.order
    chances = dict(zip(map(arm_ids.__getitem__, order), map(choice.propensity.__getitem__, order), strict=True))
    if control is None:
        return chances
    alone = choice.exploration / len(order)
    for thought, twin in control.twins.items():
        if thought not in order:
            continue
        moved = control.share * (alone if control.in_stages else choice.propensity[thought])
        chances[arm_ids[thought]] -= moved
        chances[twin.id] = chances.get(twin.id, 0.0) + moved
    return chances


def as_asked(candidates: Sequence[Candidate], chances: Mapping[str, float]) -> tuple[Candidate, ...]:
    """The candidates with these propensities. An arm that is only asked as a control is one of them."""
    known = {candidate.arm for candidate in candidates}
    changed = [
        msgspec.structs.replace(candidate, propensity=chances[candidate.arm], eliminated=None)
        if chances.get(candidate.arm, 0.0) > 0.0 and candidate.propensity != chances[candidate.arm]
        else candidate
        for candidate in candidates
    ]
    more = [Candidate(arm=arm, propensity=chance) for arm, chance in chances.items() if arm not in known]
    return (*changed, *more)
