from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.routing.curves import (
    average_recovered,
    choice_entropy,
    gap_closed,
    hull,
    mean_over,
    pair_curve,
    quality_at,
    share_for,
)

POINTS = st.lists(
    st.tuples(st.integers(0, 50).map(lambda c: c / 10), st.integers(0, 20).map(lambda q: q / 20)),
    min_size=1,
    max_size=12,
)


def test_the_hull_is_concave_and_leaves_out_what_is_dearer_and_worse() -> None:
    # (2, .4) lies under the line from (1, .2) to (3, .8); (4, .7) is dearer and worse than (3, .8).
    curve = hull([3.0, 1.0, 2.0, 4.0], [0.8, 0.2, 0.4, 0.7])
    assert curve.costs.tolist() == [1.0, 3.0]
    assert curve.qualities.tolist() == [0.2, 0.8]


def test_of_points_of_one_cost_the_best_counts() -> None:
    curve = hull([1.0, 1.0, 1.0], [0.3, 0.5, 0.4])
    assert (curve.costs.tolist(), curve.qualities.tolist()) == ([1.0], [0.5])


def test_mean_over_a_common_interval_by_hand() -> None:
    # From 1 to 3 the line rises from .4 to .8 (mean .6, width 2), from 3 to 5 it stays there: (1.2 + 1.6) / 4.
    assert mean_over(hull([1.0, 3.0], [0.4, 0.8]), 1.0, 5.0) == pytest.approx(0.7)


def test_a_router_that_never_goes_cheap_is_charged_for_it() -> None:
    # One point (4, .8): below it, mixing with no answer gives .2 at 1; the mean over 1..4 is .5, over 4..5 it is .8.
    dear = hull([4.0], [0.8])
    assert quality_at(dear, [0.0, 1.0, 4.0, 9.0]).tolist() == pytest.approx([0.0, 0.2, 0.8, 0.8])
    assert mean_over(dear, 1.0, 5.0) == pytest.approx((0.5 * 3 + 0.8) / 4)
    assert mean_over(dear, 1.0, 5.0) < mean_over(hull([1.0, 4.0], [0.5, 0.8]), 1.0, 5.0)


def test_the_quality_at_a_share_of_the_cost_is_what_mixing_two_settings_gives() -> None:
    assert float(quality_at(hull([1.0, 5.0], [0.5, 0.9]), [2.0])[0]) == pytest.approx(0.6)


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="finite points"):
        hull([], [])
    with pytest.raises(ValueError, match="finite points"):
        hull([1.0, np.nan], [0.5, 0.6])
    with pytest.raises(ValueError, match="low < high"):
        mean_over(hull([1.0], [0.5]), 2.0, 2.0)


@given(POINTS)
def test_no_point_lies_above_its_hull_and_no_corner_below(points: list[tuple[float, float]]) -> None:
    costs, qualities = (np.array(column) for column in zip(*points, strict=True))
    curve = hull(costs, qualities)
    assert np.all(quality_at(curve, costs) >= qualities - 1e-9)
    slopes = np.diff(curve.qualities) / np.diff(curve.costs)
    assert np.all(np.diff(curve.costs) > 0)
    assert np.all(slopes > 0)
    assert np.all(np.diff(slopes) < 1e-9)
    assert set(zip(curve.costs.tolist(), curve.qualities.tolist(), strict=True)) <= set(points)


@given(POINTS, POINTS)
def test_more_settings_never_lower_the_figure(
    points: list[tuple[float, float]], more: list[tuple[float, float]]
) -> None:
    fewer, all_of_them = (hull(*zip(*some, strict=True)) for some in (points, points + more))
    assert mean_over(all_of_them, 0.5, 4.0) >= mean_over(fewer, 0.5, 4.0) - 1e-9


def test_a_pair_by_hand() -> None:
    # Four queries; the strong arm alone wins 3 of 4, the weak one 1 of 4: a gap of 2 answers. Best first: +1, +1, 0, 0.
    strong, weak = [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]
    curve = pair_curve([0.9, 0.8, 0.2, 0.1], strong, weak)
    assert curve is not None
    assert curve.share.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert curve.recovered.tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]
    # Trapezoids: .0625 + .1875 + .25 + .25.
    assert average_recovered(curve) == pytest.approx(0.75)
    assert share_for(curve, 0.5) == pytest.approx(0.25)
    assert share_for(curve, 0.8) == pytest.approx(0.40)
    assert share_for(curve, 0.0) == 0.0


def test_knowing_nothing_recovers_half_whatever_the_order_of_the_queries() -> None:
    strong, weak = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        curve = pair_curve(np.zeros(4), strong[order], weak[order])
        assert curve is not None
        assert average_recovered(curve) == pytest.approx(0.5)
        assert share_for(curve, 0.8) == pytest.approx(0.8)


def test_an_oracle_of_a_pair_recovers_more_than_the_whole_gap() -> None:
    strong, weak = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0])
    curve = pair_curve(strong - weak, strong, weak)
    assert curve is not None
    assert curve.recovered.max() == 2.0
    assert average_recovered(curve) > 1.0


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    assert pair_curve([0.1, 0.2], [1.0, 0.0], [0.0, 1.0]) is None


def test_the_share_of_the_gap_and_its_absence() -> None:
    assert gap_closed(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert gap_closed(0.5, 0.6, 0.8) == pytest.approx(-0.5)
    assert gap_closed(0.6, 0.6, 0.6) is None


def test_entropy_of_choices() -> None:
    assert choice_entropy(np.array([2, 2, 2]), 4) == 0.0
    assert choice_entropy(np.array([0, 1, 2, 3]), 4) == pytest.approx(1.0)
    assert choice_entropy(np.array([0, 0, 1, 1]), 4) == pytest.approx(0.5)
    assert choice_entropy(np.array([0, 0]), 1) == 0.0
