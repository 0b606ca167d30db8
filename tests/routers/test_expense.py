"""Expected cost and latency: query-dependent where that validates, arm means elsewhere, NaN where never observed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.features import FEATURE_SET, query_features
from routers.expense import Expense
from routers.inputs import Inputs
from routers.protocol import Outcomes
from routers.rows import prepared, subset
from tests.routers.worlds import masked, world


def lengths_world(rows: int = 600, seed: int = 0) -> tuple[Outcomes, NDArray[np.float64]]:
    """Costs proportional to the length of the prompt, times 1e-6 * (1, 10, 100); and the lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(50, 3000, size=rows)
    full = world(rows=rows, arms=3, seed=seed)
    cost = lengths[:, None] * np.array([1e-6, 1e-5, 1e-4])
    features = np.stack([query_features("word " * (length // 5)) for length in lengths.tolist()])
    return replace(full, cost_usd=cost.astype(np.float32), features=features, feature_set=FEATURE_SET), lengths.astype(
        np.float64
    )


def test_cost_follows_the_length_of_the_prompt() -> None:
    outcomes, lengths = lengths_world()
    expense = Expense.fit(prepared(subset(outcomes, np.arange(400))))
    assert outcomes.features is not None
    cost, latency = expense.predict(outcomes.vectors[400:], outcomes.features[400:])
    assert np.median(np.abs(cost / outcomes.cost_usd[400:] - 1)) < 0.1
    assert np.all(np.isnan(latency))
    unaware, _ = expense.predict(outcomes.vectors[400:])
    assert unaware.mean(axis=0) == pytest.approx(lengths.mean() * np.array([1e-6, 1e-5, 1e-4]), rel=0.1)


def test_levels_do_not_depend_on_which_queries_an_arm_was_asked() -> None:
    """Arm 0 answered only short prompts, arm 1 only long ones, at the same price per character."""
    outcomes, lengths = lengths_world()
    cost = outcomes.cost_usd.copy()
    cost[:, 1] = cost[:, 0]
    cost[lengths > 1500, 0] = np.nan
    cost[lengths <= 1500, 1] = np.nan
    expense = Expense.fit(prepared(replace(outcomes, cost_usd=cost)))
    typical = expense.predict(np.zeros(32, dtype=np.float32))[0]
    assert typical[0] == pytest.approx(typical[1], rel=0.15)
    assert np.nanmean(cost[:, 0]) < 0.5 * np.nanmean(cost[:, 1])


def test_costs_that_follow_nothing_are_the_arms_means() -> None:
    full = world(rows=500)
    cost = np.random.default_rng(3).exponential(np.arange(1.0, 6.0), size=(500, 5)).astype(np.float32)
    cost[:, 3] = np.nan
    cost[:, 4] = 0.0
    found, _ = Expense.fit(prepared(replace(full, cost_usd=cost))).predict(full.vectors)
    means = cost[:, :3].mean(axis=0)
    assert np.all(np.abs(found[:, :3] / means - 1) < 0.15)
    assert np.all(np.isnan(found[:, 3]))
    assert np.all(found[:, 4] == 0)


def test_one_query_reads_like_a_batch_and_storage_keeps_all() -> None:
    outcomes, _ = lengths_world(rows=100)
    outcomes = replace(outcomes, latency_s=outcomes.cost_usd * 50)
    expense = Expense.fit(prepared(outcomes))
    again = Expense.from_arrays({"other": np.zeros(1), **expense.arrays("x_")}, "x_")
    assert again.cost_scale == expense.cost_scale
    assert outcomes.features is not None
    both = again.predict(outcomes.vectors, outcomes.features)
    for row in range(5):
        one = expense.predict(outcomes.vectors[row], outcomes.features[row])
        for column, batch in zip(one, both, strict=True):
            assert column.dtype == np.float32
            assert column == pytest.approx(batch[row], rel=1e-4)


def test_a_log_of_one_answer_per_query_is_enough_and_the_order_of_rows_is_not_read() -> None:
    outcomes = masked(world(rows=800))
    first = Expense.fit(prepared(outcomes))
    second = Expense.fit(prepared(subset(outcomes, np.random.default_rng(0).permutation(800))))
    assert all(second.arrays()[name].tobytes() == array.tobytes() for name, array in first.arrays().items())
    axes = np.eye(4, 32, dtype=np.float32)
    cost, _ = first.predict(axes)
    assert cost[3, 0] / cost[0, 0] == pytest.approx(2.0, rel=0.35)
    assert np.all(cost > 0)


def test_inputs_fill_in_features_they_are_not_given_and_give_frequent_tags_a_column() -> None:
    outcomes = world(rows=300)
    topic = outcomes.vectors[:, :4].argmax(axis=1)
    tags = np.where(topic == 0, 7.0, np.where(np.arange(300) < 5, 9.0, 0.0))
    features = np.stack([query_features("x" * (100 + 500 * int(t == 1))) for t in topic])
    features[:, -1] = tags
    inputs = Inputs.learned(prepared(replace(outcomes, features=features, feature_set=FEATURE_SET)), rank=8)
    assert inputs.tags.tolist() == [7.0]
    z, guessed = inputs.transform(outcomes.vectors, features), inputs.transform(outcomes.vectors)
    assert z.shape == guessed.shape == (300, inputs.width)
    assert np.abs(z.mean(axis=0)).max() < 1e-3
    assert np.corrcoef(z[:, -1], guessed[:, -1])[0, 1] > 0.9
    assert not inputs.transform(np.zeros(32, dtype=np.float32), features[0]).any()
