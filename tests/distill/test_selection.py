"""Weights of source models: hand-computed values, invariances, and what must not happen to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.distill.selection import (
    Likelihoods,
    Selection,
    average_cross_entropy,
    bits_per_byte,
    keep,
    min_cross_entropy,
    mixture_weights,
    published_gate,
    select,
    uniform,
)

EVEN = np.full(2, 0.5)


def said(gold: np.ndarray, cluster: np.ndarray | None = None) -> Likelihoods:
    return Likelihoods(gold, np.isfinite(gold), np.zeros(len(gold), dtype=np.int64) if cluster is None else cluster)


def test_the_weights_maximise_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    gold = np.log(rng.uniform(0.05, 0.95, (400, 2)))
    found = mixture_weights(gold, np.isfinite(gold), EVEN, prior=0.0)
    grid = np.linspace(0.001, 0.999, 999)
    likelihood = [np.log(w * np.exp(gold[:, 0]) + (1 - w) * np.exp(gold[:, 1])).sum() for w in grid]
    assert found[0] == pytest.approx(grid[int(np.argmax(likelihood))], abs=2e-3)


def test_a_useless_source_loses_its_weight_and_is_left_out() -> None:
    rng = np.random.default_rng(1)
    gold = np.log(np.stack([rng.uniform(0.3, 0.9, 500), rng.uniform(0.3, 0.9, 500), np.full(500, 0.01)], axis=1))
    made = select(("a", "b", "useless"), said(gold), clusters=1)
    assert made.mixture[0, 2] < 0.03
    assert made.weights[0, 2] == 0.0
    assert made.weights.sum() == pytest.approx(1.0)
    assert made.average()["useless"] == 0.0


def test_clusters_have_weights_of_their_own_and_an_empty_one_starts_even() -> None:
    gold = np.log(np.array([[0.9, 0.1]] * 50 + [[0.1, 0.9]] * 50))
    made = select(("a", "b"), said(gold, np.repeat([0, 1], 50)), clusters=3)
    assert made.weights[0, 0] == 1.0
    assert made.weights[1, 1] == 1.0
    np.testing.assert_allclose(made.weights[2], EVEN)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 6))
def test_sources_may_come_in_any_order_and_a_copy_shares_the_weight(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    gold = np.log(rng.uniform(0.01, 0.99, (60, k)))
    valid = np.ones_like(gold, dtype=np.bool_)
    start = np.full(k, 1 / k)
    found = mixture_weights(gold, valid, start, prior=0.0)
    turned = rng.permutation(k)
    np.testing.assert_allclose(mixture_weights(gold[:, turned], valid, start, prior=0.0), found[turned], atol=1e-4)
    doubled = np.concatenate([gold, gold[:, :1]], axis=1)
    again = mixture_weights(doubled, np.isfinite(doubled), np.full(k + 1, 1 / (k + 1)), prior=0.0)
    mixed, mixed_again = np.exp(gold) @ found, np.exp(doubled) @ again
    np.testing.assert_allclose(np.log(mixed).sum(), np.log(mixed_again).sum(), atol=1e-2)


def test_a_position_that_a_source_says_nothing_about_does_not_count_against_it() -> None:
    gold = np.log(np.array([[0.5, 0.5]] * 100))
    valid = np.ones_like(gold, dtype=np.bool_)
    valid[10:, 1] = False
    np.testing.assert_allclose(mixture_weights(gold, valid, EVEN), EVEN, atol=1e-6)


def test_the_threshold_is_relative_to_the_number_of_sources_and_one_is_always_kept() -> None:
    np.testing.assert_allclose(keep(np.array([0.5, 0.36, 0.14]), 0.75), [0.5 / 0.86, 0.36 / 0.86, 0.0])
    np.testing.assert_allclose(keep(np.array([0.5, 0.3, 0.2]), 0.75, top=1), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(keep(np.full(4, 0.25), 100.0).sum(), 1.0)


def test_hysteresis_keeps_who_was_kept_and_asks_more_of_who_was_not() -> None:
    near = np.array([0.59, 0.41])
    bar = 0.8
    np.testing.assert_allclose(keep(near, bar, kept=np.array([True, True])), near)
    np.testing.assert_allclose(keep(near, bar, kept=np.array([True, False])), [1.0, 0.0])


def test_a_source_may_come_and_another_go_without_starting_over() -> None:
    gold = np.log(np.array([[0.9, 0.4]] * 200))
    first = select(("a", "b"), said(gold), clusters=1)
    second = select(("b", "c"), said(np.log(np.array([[0.4, 0.9]] * 200))), clusters=1, before=first)
    assert second.sources == ("b", "c")
    assert second.weights[0, 1] > 0.9


def test_bits_per_byte_compares_what_tokens_do_not() -> None:
    gold = np.log(np.array([[0.25, np.nan], [0.25, 0.25]]))
    valid = np.isfinite(gold)
    np.testing.assert_allclose(bits_per_byte(gold, valid, np.array([4, 2])), [4 / 6, 1.0])
    assert np.isnan(bits_per_byte(gold, np.zeros_like(valid), np.array([1, 1]))).all()


def test_the_named_baselines() -> None:
    losses = np.array([[2.0, 1.0, np.nan], [0.5, 1.0, 3.0]])
    np.testing.assert_array_equal(min_cross_entropy(losses), [[0, 1, 0], [1, 0, 0]])
    averaged = average_cross_entropy(losses)
    assert averaged[0, 2] == 0.0
    np.testing.assert_allclose(averaged.sum(axis=1), 1.0)
    assert averaged[1, 0] > averaged[1, 1] > averaged[1, 2]
    np.testing.assert_allclose(uniform(("a", "b"), 2).weights, 0.5)


def test_the_published_gate_selects_something_else_at_every_step() -> None:
    rng = np.random.default_rng(0)
    losses = np.tile(np.array([1.0, 1.5, 2.0, 2.5, 3.0]), (1, 1))
    drawn = np.concatenate([published_gate(losses, rng) for _ in range(300)])
    np.testing.assert_allclose(drawn.sum(axis=1), 1.0)
    assert len({tuple(row > 0) for row in drawn}) > 5
    np.testing.assert_allclose(drawn.mean(axis=0), 0.2, atol=0.03)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sources": ()}, "at least one source"),
        ({"sources": ("a",)}, "shape"),
        ({"clusters": 0}, "clusters under 0"),
        ({"threshold": -1.0}, "threshold of 0 or more"),
    ],
)
def test_wrong_input_is_told(change: dict[str, object], expected: str) -> None:
    wanted: dict[str, object] = {"sources": ("a", "b"), "clusters": 1, "threshold": 0.75} | change
    with pytest.raises(ValueError, match=expected):
        select(wanted.pop("sources"), said(np.zeros((3, 2))), **wanted)  # type: ignore[arg-type]


def test_a_selection_of_no_positions_averages_over_its_clusters() -> None:
    made = Selection(("a", "b"), np.array([[1.0, 0.0], [0.0, 1.0]]), np.full((2, 2), 0.5))
    assert made.average(np.array([3, 1])) == {"a": 0.75, "b": 0.25}
