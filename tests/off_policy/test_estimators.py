from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.evidence.off_policy import (
    ESTIMATORS,
    F64,
    LoggedDecisions,
    NotEnoughSupport,
    OffPolicyError,
    bursts,
    check_decisions,
    compare,
    effective_size,
    estimate,
    further_decisions,
    importance,
    outside_support,
    require_support,
    terms,
)
from tests.off_policy.logs import always, log_of

FOUR = log_of([0, 1, 0, 1], [[0.75, 0.25]] * 4, [1.0, 0.0, 0.0, 1.0])
MODEL = np.tile([0.5, 0.25], (4, 1))


@pytest.mark.parametrize(
    ("name", "cap", "value"),
    [
        # Arm 1 in every decision: rho is 0, 4, 0, 4.
        ("ips", None, 1.0),
        ("snips", None, 0.5),
        ("dm", None, 0.25),
        ("dr", None, 0.75),  # 0.25 + (4 * -0.25 + 4 * 0.75) / 4
        ("clipped_ips", 2.0, 0.5),
        ("clipped_ips", None, 0.5),  # the cap is sqrt(4)
        ("clipped_dr", 2.0, 0.5),  # 0.25 + (2 * -0.25 + 2 * 0.75) / 4
        ("switch_dr", 2.0, 0.25),  # every weight is beyond the cap: the model alone
        ("switch_dr", 4.0, 0.75),
    ],
)
def test_each_estimator_gives_the_value_worked_out_by_hand(name: str, cap: float | None, value: float) -> None:
    found = estimate(name, FOUR, always(1, FOUR), None, MODEL, cap=cap)
    assert found.value == pytest.approx(value)
    assert (found.name, found.n) == (name, 4)
    assert found.effective == pytest.approx(2.0)
    assert found.low <= found.value <= found.high


def test_a_mixed_target_weights_by_its_probabilities() -> None:
    target = np.tile([0.6, 0.4], (4, 1))
    np.testing.assert_allclose(importance(FOUR, target), [0.8, 1.6, 0.8, 1.6])
    assert estimate("ips", FOUR, target).value == pytest.approx(0.6)
    assert estimate("snips", FOUR, target).value == pytest.approx(0.5)
    assert estimate("dm", FOUR, target, None, MODEL).value == pytest.approx(0.4)
    # 0.4 + (0.8 * 0.5 - 1.6 * 0.25 - 0.8 * 0.5 + 1.6 * 0.75) / 4
    assert estimate("dr", FOUR, target, None, MODEL).value == pytest.approx(0.6)
    assert effective_size(importance(FOUR, target)) == pytest.approx(4.8**2 / 6.4)


def test_the_difference_of_two_targets_is_paired() -> None:
    found = compare(FOUR, always(1, FOUR), always(0, FOUR), MODEL)
    # Arm 0: 0.5 + (0.5 / 0.75 - 0.5 / 0.75) / 4 = 0.5.
    assert found.value == pytest.approx(0.25)
    each = np.array([-0.25 - 2 / 3, -0.25 - 1, -0.25 + 2 / 3, -0.25 + 3])
    assert terms("dr", FOUR, always(1, FOUR), None, MODEL) - terms("dr", FOUR, always(0, FOUR), None, MODEL) == (
        pytest.approx(each)
    )
    assert found.effective == pytest.approx(2.0)
    same = compare(FOUR, always(1, FOUR), always(1, FOUR), MODEL)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_costs_are_weighted_like_rewards() -> None:
    costs = np.array([1.0, 3.0, 1.0, 5.0])
    assert estimate("snips", FOUR, always(1, FOUR), costs).value == pytest.approx(4.0)
    assert estimate("ips", FOUR, always(1, FOUR), costs).value == pytest.approx(8.0)


def every_log(probabilities: F64, rewards: F64) -> list[tuple[float, LoggedDecisions]]:
    """All logs that a tiny world can give, each with its probability."""
    n, m = probabilities.shape
    return [
        (
            prod(probabilities[range(n), drawn].tolist()),
            log_of(drawn, probabilities, rewards[range(n), drawn].tolist()),
        )
        for drawn in product(range(m), repeat=n)
    ]


WORLD = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
REWARDS = np.array([[1.0, 0.2, 0.0], [0.3, 0.9, 0.4], [0.5, 0.5, 1.0]])
TARGET = np.array([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
TRUTH = float((TARGET * REWARDS).sum(axis=1).mean())


@pytest.mark.parametrize("name", ["ips", "dr"])
@pytest.mark.parametrize("model", [np.zeros((3, 3)), REWARDS, 1.0 - REWARDS, np.full((3, 3), 0.37)])
def test_ips_and_dr_are_unbiased_over_every_log_there_can_be_whatever_the_model(name: str, model: F64) -> None:
    logs = every_log(WORLD, REWARDS)
    assert sum(chance for chance, _ in logs) == pytest.approx(1.0)
    mean = sum(chance * float(terms(name, log, TARGET, None, model).mean()) for chance, log in logs)
    assert mean == pytest.approx(TRUTH)


def test_a_perfect_model_leaves_dr_no_variance_and_dm_no_bias() -> None:
    for _, log in every_log(WORLD, REWARDS):
        assert float(terms("dr", log, TARGET, None, REWARDS).mean()) == pytest.approx(TRUTH)
        assert float(terms("dm", log, TARGET, None, REWARDS).mean()) == pytest.approx(TRUTH)


def test_clipping_never_raises_ips_and_a_bad_model_misleads_dm_alone() -> None:
    logs = every_log(WORLD, REWARDS)
    model = 1.0 - REWARDS

    def mean(name: str, cap: float | None = None) -> float:
        return sum(chance * float(terms(name, log, TARGET, None, model, cap).mean()) for chance, log in logs)

    assert mean("clipped_ips", 1.5) < mean("ips")
    assert mean("dm") == pytest.approx(TRUTH + 0.1)
    assert mean("clipped_dr", 100.0) == pytest.approx(TRUTH)
    assert mean("switch_dr", 100.0) == pytest.approx(TRUTH)


@st.composite
def logs(draw: st.DrawFn) -> tuple[LoggedDecisions, F64, F64]:
    """Any log with full support, a target and a model."""
    seed, n, m = draw(st.integers(0, 2**32 - 1)), draw(st.integers(2, 12)), draw(st.integers(2, 5))
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(m), size=n) * 0.9 + 0.1 / m
    chosen = [int(rng.choice(m, p=row)) for row in probabilities]
    return log_of(chosen, probabilities, rng.random(n).tolist()), rng.dirichlet(np.ones(m), size=n), rng.random((n, m))


@given(logs())
def test_the_order_of_decisions_and_of_arms_does_not_matter(world: tuple[LoggedDecisions, F64, F64]) -> None:
    log, target, model = world
    rng = np.random.default_rng(len(log.ids))
    rows, arms = rng.permutation(len(log.ids)), rng.permutation(len(log.arms))
    turned = replace(
        log.rows(rows),
        arms=tuple(log.arms[arm] for arm in arms.tolist()),
        logging=log.logging[rows][:, arms],
        chosen=np.argsort(arms)[log.chosen[rows]],
    )
    for name in ESTIMATORS:
        first = estimate(name, log, target, None, model)
        second = estimate(name, turned, target[rows][:, arms], None, model[rows][:, arms])
        assert (second.value, second.low, second.high) == pytest.approx((first.value, first.low, first.high))


@given(logs())
def test_an_arm_listed_twice_with_its_chances_shared_changes_nothing(world: tuple[LoggedDecisions, F64, F64]) -> None:
    log, target, model = world

    def doubled(matrix: F64, share: float) -> F64:
        return np.hstack([matrix[:, :1] * share, matrix[:, 1:], matrix[:, :1] * share])

    twice = replace(
        log,
        arms=(*log.arms, "again"),
        logging=doubled(log.logging, 0.5),
        eligible=np.ones((len(log.ids), len(log.arms) + 1), dtype=bool),
    )
    for name in ESTIMATORS:
        first = estimate(name, log, target, None, model)
        second = estimate(name, twice, doubled(target, 0.5), None, doubled(model, 1.0))
        assert second.value == pytest.approx(first.value)
        assert second.effective == pytest.approx(first.effective)


@given(logs(), st.floats(0.1, 10.0))
def test_scaled_values_scale_every_estimate_and_interval(world: tuple[LoggedDecisions, F64, F64], by: float) -> None:
    log, target, model = world
    for name in ESTIMATORS:
        first = estimate(name, log, target, None, model)
        second = estimate(name, log, target, log.reward * by, model * by)
        assert (second.value, second.low, second.high) == pytest.approx(
            (by * first.value, by * first.low, by * first.high)
        )


@given(logs())
def test_a_log_says_of_its_own_policy_exactly_what_it_got(world: tuple[LoggedDecisions, F64, F64]) -> None:
    log, _, _ = world
    for name in ("ips", "snips", "clipped_ips"):
        assert estimate(name, log, log.logging).value == pytest.approx(float(log.reward.mean()))
    assert estimate("ips", log, log.logging).effective == pytest.approx(len(log.ids))
    assert outside_support(log, log.logging) == pytest.approx(0.0, abs=1e-12)


@given(logs())
def test_snips_stays_in_the_range_of_the_rewards(world: tuple[LoggedDecisions, F64, F64]) -> None:
    log, target, _ = world
    assert log.reward.min() - 1e-9 <= estimate("snips", log, target).value <= log.reward.max() + 1e-9


def test_too_few_effective_decisions_are_refused_with_how_many_are_missing() -> None:
    chosen = [int(i % 10 == 0) for i in range(1000)]
    log = log_of(chosen, [[0.9, 0.1]] * 1000, [0.5] * 1000)
    assert require_support(log, always(0, log)) == pytest.approx(900.0)
    with pytest.raises(NotEnoughSupport, match=r"1,000 decisions are worth 100 of the target's own, at least 200") as e:
        require_support(log, always(1, log))
    assert e.value.effective == pytest.approx(100.0)
    assert (e.value.outside, e.value.needed) == (0.0, 1000)
    assert further_decisions(1000, 0.0) is None
    assert further_decisions(1000, 400.0) == 0


def test_choices_that_the_log_never_makes_are_refused_with_their_share() -> None:
    log = log_of([0] * 400, [[1.0, 0.0]] * 400, [0.5] * 400)
    target = always(0, log)
    target[:100] = [0.0, 1.0]
    assert outside_support(log, target) == pytest.approx(0.25)
    with pytest.raises(
        NotEnoughSupport, match=r"in 25\.0% of the decisions an arm that the log never tries"
    ) as refused:
        require_support(log, target)
    assert refused.value.needed is None
    # What a target lacks to 1 is its probability of an arm that the log does not know.
    unknown = always(0, log)
    unknown[:40] = 0.0
    assert outside_support(log, unknown) == pytest.approx(0.1)
    with pytest.raises(NotEnoughSupport, match="never agrees"):
        estimate("snips", log, np.zeros((400, 2)))


def test_arms_that_are_not_eligible_get_no_chance() -> None:
    eligible = np.array([[True, False], [True, True]])
    log = log_of([0, 1], [[1.0, 0.0], [0.5, 0.5]], [1.0, 0.0], eligible=eligible)
    check_decisions(log)
    with pytest.raises(OffPolicyError, match="not eligible; mask it"):
        estimate("ips", log, always(1, log))
    with pytest.raises(OffPolicyError, match="not eligible has a positive"):
        check_decisions(replace(log, logging=np.full((2, 2), 0.5)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"logging": np.array([[0.75, 0.25], [1.0, 0.0], [0.75, 0.25], [0.75, 0.25]])},
            "1 decisions have no propensity",
        ),
        ({"logging": np.full((4, 2), np.nan)}, "logging must hold probabilities"),
        ({"logging": np.full((4, 2), 0.75)}, "add up to at most 1"),
        ({"reward": np.array([0.0, np.nan, 0.0, 1.0])}, "reward must lie in"),
        ({"reward": np.array([0.0, 1.5, 0.0, 1.0])}, "reward must lie in"),
        ({"chosen": np.array([0, 1, 2, 0])}, "indices of 2 arms"),
        ({"cost_usd": np.zeros(3)}, r"cost_usd must have shape \(4,\), got \(3,\)"),
        ({"vectors": np.zeros((3, 2), dtype=np.float32)}, "vectors must be 4"),
    ],
)
def test_decisions_that_break_their_contract_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OffPolicyError, match=message):
        estimate("ips", replace(FOUR, **changes), always(0, FOUR))


def test_targets_that_break_their_contract_are_told() -> None:
    for target, message in (
        (np.zeros((3, 2)), "shape"),
        (np.full((4, 2), 0.8), "at most 1"),
        (np.full((4, 2), -0.1), "probabilities"),
    ):
        with pytest.raises(OffPolicyError, match=message):
            estimate("ips", FOUR, target)
    with pytest.raises(OffPolicyError, match="needs predicted rewards"):
        estimate("dr", FOUR, always(0, FOUR))
    with pytest.raises(OffPolicyError, match="no estimator is called 'magic'"):
        estimate("magic", FOUR, always(0, FOUR))
    with pytest.raises(OffPolicyError, match="no decision is left"):
        estimate("ips", FOUR.rows(np.zeros(4, dtype=bool)), np.zeros((0, 2)))


def test_repeats_of_a_query_within_an_hour_are_one_group() -> None:
    log = log_of(
        [0] * 5,
        [[1.0, 0.0]] * 5,
        [1.0] * 5,
        ids=("a", "b", "a", "a", "a"),
        created_at=np.array([0.0, 10.0, 3000.0, 6000.0, 20_000.0]),
    )
    groups = bursts(log)
    assert groups[0] == groups[2] == groups[3]
    assert len({groups[0], groups[1], groups[4]}) == 3


def test_an_interval_of_groups_is_that_of_their_sums() -> None:
    twice = FOUR.rows(np.repeat(np.arange(4), 2))
    once = estimate("ips", FOUR, always(1, FOUR))
    grouped = estimate("ips", twice, always(1, twice))
    single = estimate("ips", twice, always(1, twice), groups=np.arange(8))
    assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high))
    assert single.high - single.low < (once.high - once.low) / sqrt(1.9)
