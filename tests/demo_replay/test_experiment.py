"""How exploration is dealt out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.experiment import hands

MODELS = tuple("abcdefghi")


@given(st.integers(1, 9), st.integers(0, 100))
def test_hands_hold_every_model_once_and_are_even(count: int, seed: int) -> None:
    dealt = hands(MODELS, count, np.random.default_rng(seed))
    assert sorted(model for hand in dealt for model in hand) == list(MODELS)
    assert len(dealt) == count
    sizes = {len(hand) for hand in dealt}
    assert max(sizes) - min(sizes) <= 1


def test_every_model_is_equally_likely_in_every_hand() -> None:
    rng = np.random.default_rng(0)
    first = Counter(model for _ in range(9000) for model in hands(MODELS, 4, rng)[0])
    for model in MODELS:
        assert first[model] / 9000 == pytest.approx(3 / 9, abs=0.02)
