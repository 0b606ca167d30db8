from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.arms import Arm, Model, Prices
from routers.policy.affinity import MARGIN, Conversations, Turn, cold_prefix_usd, switch_prices

CACHED = Prices(10.0, 40.0, cached_input_per_1m=1.0)
SMALL, LARGE = Model("small", (), prices=Prices(1.0, 4.0)), Model("large", (), ("direct", "think"), CACHED)
ARMS = (Arm("small", SMALL, "direct"), Arm("large", LARGE, "direct"), Arm("large#think", LARGE, "think"))


def test_a_cold_prefix_costs_what_the_cache_would_have_saved() -> None:
    assert cold_prefix_usd(CACHED, 100_000) == pytest.approx(100_000 * 9 / 1e6)
    assert cold_prefix_usd(Prices(10.0, 40.0), 100_000) == 0.0
    assert cold_prefix_usd(Prices(), 100_000) == 0.0


def test_another_model_pays_for_its_cold_prefix_and_another_way_of_asking_the_margin_only() -> None:
    assert switch_prices(ARMS, 0, 10_000, 2.0) == pytest.approx([0.0, MARGIN + 0.18, MARGIN + 0.18])
    assert switch_prices(ARMS, 1, 10_000, 2.0) == pytest.approx([MARGIN, 0.0, MARGIN])
    assert switch_prices(ARMS, 0, 10_000, 2.0, most=0.1) == pytest.approx([0.0, MARGIN + 0.1, MARGIN + 0.1])


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab")), max_size=60), st.integers(1, 5))
def test_only_the_conversations_that_were_noted_last_are_remembered(notes: list[tuple[int, str]], size: int) -> None:
    conversations = Conversations(size)
    for key, arm in notes:
        conversations.note(key, Turn(arm, 1))
    latest = list(dict.fromkeys(key for key, _ in reversed(notes)))[:size]
    last = dict(notes)
    assert len(conversations) == len(latest)
    for key in range(10):
        expected = Turn(last[key], 1) if key in latest else None
        assert conversations.last(key) == expected
