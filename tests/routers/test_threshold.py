from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.policy.threshold import (
    NAME,
    Pair,
    calibrated,
    choose,
    default_pair,
    strong_shares,
    win_probabilities,
    win_probability,
)  # fmt: skip
from routers.protocol import Prediction

UNIT = st.floats(0, 1)


def test_the_odds_by_hand() -> None:
    # Both right .48, both wrong .08; strong alone .8 * .4 = .32, weak alone .6 * .2 = .12.
    assert win_probability(0.8, 0.6) == pytest.approx(0.32 / 0.44)
    assert win_probability(0.5, 0.5) == 0.5
    assert win_probability(1.0, 1.0) == 0.5
    assert win_probability(1.0, 0.3) == 1.0
    pairs = np.array([[0.8, 0.6], [0.5, 0.5], [1.0, 1.0]])
    one_by_one = [win_probability(strong, weak) for strong, weak in pairs]
    assert win_probabilities(pairs[:, 0], pairs[:, 1]) == pytest.approx(one_by_one)


@given(UNIT, UNIT)
def test_the_odds_are_a_probability_and_turn_round_with_the_arms(strong: float, weak: float) -> None:
    odds = win_probability(strong, weak)
    assert 0.0 <= odds <= 1.0
    assert odds + win_probability(weak, strong) == pytest.approx(1.0)


@given(UNIT, UNIT, UNIT, st.floats(0, 1, exclude_max=True))
def test_strong_iff_the_odds_reach_the_threshold(win: float, threshold: float, exploration: float, draw: float) -> None:
    greedy = 2 if win >= threshold else 0
    choice = choose(Pair(strong=2, weak=0), win, threshold, 3, exploration, draw)
    assert choice.propensity[greedy] == pytest.approx(1 - exploration / 2)
    assert math.isclose(sum(choice.propensity), 1.0)
    assert choice.propensity[1] == 0.0
    if not choice.explored:
        assert choice.chosen == greedy


@given(st.lists(UNIT, min_size=1, max_size=200), UNIT)
def test_calibration_comes_as_close_to_the_share_as_the_queries_allow(wins: list[float], share: float) -> None:
    values = np.array(wins)
    threshold = calibrated(values, share)
    reached = float(np.mean(values >= threshold))
    assert reached == pytest.approx(float(strong_shares(values, np.array([threshold]))[0]))
    if len(np.unique(values.round(4))) == len(values):
        assert abs(reached - share) <= 1 / len(values)


def test_calibration_is_the_quantile() -> None:
    wins = np.linspace(0.001, 1.0, 1000)
    assert calibrated(wins, 0.3) == pytest.approx(np.quantile(wins, 0.7), abs=0.0015)
    assert np.mean(wins >= calibrated(wins, 0.0)) == 0.0
    assert np.mean(wins >= calibrated(wins, 1.0)) == 1.0


@pytest.mark.parametrize(("wins", "share"), [([], 0.5), ([0.5], 1.5), ([0.5], -0.1)])
def test_what_cannot_be_calibrated(wins: list[float], share: float) -> None:
    with pytest.raises(ValueError, match=r"share|query"):
        calibrated(np.array(wins), share)


def test_the_default_pair_is_the_dearest_and_the_cheapest() -> None:
    columns = ([0.5, 0.9, 0.7, 0.8], [0.1] * 4, [0.2, 0.9, math.nan, 0.1], [math.nan] * 4)
    prediction = Prediction(*(np.array(column, dtype=np.float32) for column in columns))
    assert default_pair(prediction, [0, 1, 2, 3]) == Pair(strong=1, weak=3)
    assert default_pair(prediction, [0, 2, 3]) == Pair(strong=0, weak=3)
    assert default_pair(prediction, [2, 3]) is None


def test_model_names() -> None:
    found = NAME.fullmatch("router-mf-0.11593")
    assert found is not None
    assert (found["router"], float(found["threshold"])) == ("mf", 0.11593)
    published = NAME.fullmatch("router-published-knn-1")
    assert published is not None
    assert (published["router"], published["threshold"]) == ("published-knn", "1")
    for other in ("router-mf", "router-mf-", "router-mf-x", "router--0.5", "router-mf-0.5-1", "router-mf--0.5"):
        assert NAME.fullmatch(other) is None
