"""Are the propensities of what is really asked exact, with a control group on top of any policy?"""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.arms import Arm, Model, twin_of
from routers.policy.control import Control, as_asked, asked
from routers.policy.decide import Choice, drawn
from traffic.records import Candidate

MODELS = {name: Model(name, ()) for name in ("small", "large", "closed")}
ARMS = (
    Arm("small", MODELS["small"], "direct"),
    Arm("small#thought", MODELS["small"], "thought"),
    Arm("large", MODELS["large"], "direct"),
    Arm("large#thought", MODELS["large"], "thought"),
    Arm("closed#thought", MODELS["closed"], "thought"),
)
"""The last model is asked with templates only, so its twin is no arm of the pool."""
IDS = tuple(arm.id for arm in ARMS)
TWINS = {place: twin_of(arm) for place, arm in enumerate(ARMS) if arm.way == "thought"}
STEPS = 997


def chosen(draw: float, ranking: list[int], exploration: float, floor: float) -> Choice:
    return drawn(list(ranking), sorted(ranking), [0.0] * len(ARMS), exploration, draw, floor, {})


@settings(deadline=None, max_examples=40)
@given(
    st.permutations(range(5)).flatmap(lambda arms: st.integers(1, 5).map(lambda n: list(arms)[:n])),
    st.floats(0, 1), st.floats(0, 0.3), st.floats(0.01, 0.5), st.booleans(),
)  # fmt: skip
def test_what_is_asked_comes_as_often_as_its_propensity_says(
    ranking: list[int], exploration: float, floor: float, share: float, in_stages: bool
) -> None:
    control = Control(share, TWINS, in_stages=in_stages)
    found: defaultdict[str, float] = defaultdict(float)
    for step in range(STEPS):
        choice = chosen(step / STEPS, ranking, exploration, floor)
        drawn_arm = IDS[choice.chosen]
        # The second draw is independent, so its mean stands for it.
        split = choice.chosen in TWINS and (choice.explored or not in_stages)
        found[drawn_arm] += (1.0 - share if split else 1.0) / STEPS
        if split:
            found[TWINS[choice.chosen].id] += share / STEPS
    chances = asked(choice, IDS, control)
    assert math.isclose(sum(chances.values()), 1.0)
    assert set(found) <= set(chances)
    for arm, chance in chances.items():
        assert found[arm] == pytest.approx(chance, abs=6 / STEPS)


def test_without_a_control_group_the_policys_own_propensities_stand() -> None:
    choice = chosen(0.99, [1, 0], 0.2, 0.0)
    assert asked(choice, IDS, None) == pytest.approx({"small": 0.1, "small#thought": 0.9})


def test_by_hand() -> None:
    choice = chosen(0.99, [1, 0, 4], 0.3, 0.0)
    control = Control(0.05, TWINS)
    assert asked(choice, IDS, control) == pytest.approx(
        {"small#thought": 0.95 * 0.8, "small": 0.1 + 0.05 * 0.8, "closed#thought": 0.95 * 0.1, "closed": 0.05 * 0.1}
    )
    # In a cascade only what exploration draws answers alone.
    staged = asked(choice, IDS, control._replace(in_stages=True))
    assert staged["small#thought"] == pytest.approx(0.7 + 0.95 * 0.1)
    assert staged["small"] == pytest.approx(0.1 + 0.05 * 0.1)


def test_the_candidates_of_the_log_say_the_same() -> None:
    candidates = (
        Candidate(arm="small#thought", quality=0.5, propensity=1.0),
        Candidate(arm="large", eliminated="not up"),
        Candidate(arm="small", eliminated="not on this route"),
    )
    found = as_asked(candidates, {"small#thought": 0.95, "small": 0.03, "closed": 0.02})
    assert [(c.arm, c.propensity, c.eliminated) for c in found] == [
        ("small#thought", 0.95, None), ("large", 0.0, "not up"), ("small", 0.03, None), ("closed", 0.02, None),
    ]  # fmt: skip
    assert found[0].quality == 0.5
