"""Is the uplift right by hand, unbiased under wrong expectations, and its interval true at every look?"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from routers.evidence.shared_credit import Shown, parts
from routers.evidence.uplift import Trials, evidence, moments, uplift


def dealt(n: int, seed: int, effect: float, *, chance: float = 0.9, mean: float = 0.6, expected: float = 0.5) -> Trials:
    """n requests of one model; showing changes the chance of a right answer by `effect`."""
    rng = np.random.default_rng(seed)
    shown = rng.random(n) < chance
    score = (rng.random(n) < mean + effect * shown).astype(np.float64)
    flat = np.full(n, expected)
    return Trials(shown, np.full(n, chance), score, flat, flat.copy(), np.zeros(n, dtype=np.intp))


def test_moments_by_hand() -> None:
    trials = Trials(
        shown=np.array([True, False, True]),
        chance=np.array([0.8, 0.8, 0.5]),
        score=np.array([1.0, 0.0, 1.0]),
        with_it=np.array([0.6, 0.6, 0.6]),
        without=np.array([0.4, 0.4, 0.4]),
        group=np.zeros(3, dtype=np.intp),
    )
    found = moments(trials)
    # The first expectation is the router's; then one error of 0.4 is known, which counts for one of 21 answers.
    assert found.with_it == pytest.approx([0.6, 0.6 + 0.4 / 21, 0.6 + 0.4 / 21])
    assert found.without == pytest.approx([0.4, 0.4, 0.4 - 0.4 / 21])
    assert found.h[0] == pytest.approx(0.2 * (1.0 - (0.2 * 0.6 + 0.8 * 0.4)))
    assert found.h[1] == pytest.approx(-0.8 * (0.0 - (0.2 * (0.6 + 0.4 / 21) + 0.8 * 0.4)))
    assert found.w == pytest.approx([0.16, 0.16, 0.25])


def test_what_cannot_be_compared_is_refused() -> None:
    certain = dealt(10, 0, 0.0)
    with pytest.raises(ValueError, match="no control"):
        moments(replace(certain, chance=np.ones(10)))
    with pytest.raises(ValueError, match="rescale"):
        moments(
            Trials(certain.shown, certain.chance, certain.score * 5, certain.with_it, certain.without, certain.group)
        )


@pytest.mark.parametrize("expected", [0.0, 0.6, 1.0])
def test_the_uplift_is_unbiased_whatever_was_expected(expected: float) -> None:
    found = [moments(dealt(2000, seed, 0.15, expected=expected)) for seed in range(60)]
    values = [float(m.h.sum() / m.w.sum()) for m in found]
    assert np.mean(values) == pytest.approx(0.15, abs=4 * float(np.std(values)) / math.sqrt(60))


@pytest.mark.parametrize("effect", [0.0, -0.15])
def test_the_interval_holds_at_every_look(effect: float) -> None:
    missed = 0
    for seed in range(120):
        found = moments(dealt(1200, seed, effect))
        looks = [uplift(found.h[:n], found.w[:n]) for n in (100, 300, 600, 900, 1200)]
        missed += any(not look.low <= effect <= look.high for look in looks)
    # Five in a hundred are allowed; a binomial with that mean has 12 or more of 120 in 1.9 % of the cases.
    assert missed < 12


def test_harm_is_found_and_a_change_for_the_worse_too() -> None:
    level = math.log(40.0)
    harmful = moments(dealt(3000, 1, -0.3))
    assert evidence(-harmful.h, harmful.w) > level
    assert uplift(harmful.h, harmful.w).high < 0.0
    first, then = moments(dealt(3000, 2, 0.3)), moments(dealt(3000, 3, -0.3))
    h, w = np.concatenate([first.h, then.h]), np.concatenate([first.w, then.w])
    assert evidence(-h[:3000], w[:3000]) < level
    assert evidence(-h, w) > level


def test_little_data_says_little() -> None:
    found = moments(dealt(20, 0, 0.0))
    assert uplift(found.h, found.w).low == -1.0
    empty = uplift(np.zeros(0), np.zeros(0))
    assert math.isnan(empty.estimate)
    assert (empty.low, empty.high) == (-1.0, 1.0)


def test_credit_goes_to_the_one_that_earns_it() -> None:
    rng = np.random.default_rng(0)
    n, effects = 60_000, np.array([0.2, 0.0, -0.2, 0.0])
    pair = np.array([rng.choice(4, 2, replace=False) for _ in range(n)])
    shown = rng.random(n) < 0.5
    score = (rng.random(n) < 0.5 + shown * effects[pair].sum(axis=1)).astype(np.float64)
    flat = np.full(n, 0.5)
    found = moments(Trials(shown, flat, score, flat, flat.copy(), np.zeros(n, dtype=np.intp)))
    said = Shown(np.repeat(np.arange(n), 2), pair.ravel(), np.zeros(4, dtype=np.intp))
    assert parts(found.h, found.w, said).items == pytest.approx(effects, abs=0.03)


def test_what_is_never_apart_shares_alike_and_little_data_is_drawn_to_the_cluster() -> None:
    rng = np.random.default_rng(1)
    n = 20_000
    shown = rng.random(n) < 0.5
    score = (rng.random(n) < 0.4 + 0.2 * shown).astype(np.float64)
    flat = np.full(n, 0.5)
    found = moments(Trials(shown, flat, score, flat, flat.copy(), np.zeros(n, dtype=np.intp)))
    twins = Shown(np.repeat(np.arange(n), 2), np.tile([0, 1], n), np.zeros(2, dtype=np.intp))
    assert parts(found.h, found.w, twins).items == pytest.approx([0.1, 0.1], abs=0.02)
    # Nineteen items of one cluster have been seen often, the twentieth and another cluster's hardly.
    item = np.where(np.arange(n) < n - 10, np.arange(n) % 19, 19)
    item[-5:] = 20
    clusters = np.array([0] * 20 + [1])
    items = parts(found.h, found.w, Shown(np.arange(n), item, clusters)).items
    assert items[:19] == pytest.approx(0.2, abs=0.06)
    assert items[19] == pytest.approx(0.2, abs=0.06)
    assert 0.0 < items[20] < 0.21
