from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from registry.arms import Pool
from routers.catalogue import ROUTERS
from routers.lineup import Lineup
from routers.prior import CONFIGURED_STD, GUESS_STD, prior_router, typical_cost
from routers.protocol import Prediction, Router
from tests.routers.worlds import model, pool, world

EVERY = pytest.mark.parametrize("name", list(ROUTERS))


def lineup(router: Router, models: Pool) -> Lineup:
    return Lineup(router, tuple(models.arms.values()), prior_router(models, router.encoder))


def column(prediction: Prediction, models: Pool, arm: str) -> tuple[float, ...]:
    index = list(models.arms).index(arm)
    return tuple(float(values[index]) for values in prediction)


def test_before_anything_is_learned_the_config_and_then_the_price_say_who_is_good() -> None:
    models = pool(model("dear", 9.0), model("cheap", 1.0), model("known", 5.0, prior=0.95), model("free", None))
    quality, std, cost, latency = prior_router(models, "e").predict(np.zeros(0, dtype=np.float32))
    assert quality[2] == pytest.approx(0.95)
    assert quality[0] > quality[3] > quality[1]
    assert std.tolist() == pytest.approx([GUESS_STD, GUESS_STD, CONFIGURED_STD, GUESS_STD])
    assert cost[0] > cost[2] > cost[1]
    assert np.isnan(cost[3])
    assert np.all(np.isnan(latency))


def test_other_ways_of_asking_cost_more_and_promise_no_more() -> None:
    models = pool(model("a", 1.0, ways=("direct", "think", "thought")))
    prediction = prior_router(models, "e").predict(np.zeros(0, dtype=np.float32))
    assert np.ptp(prediction.quality) == 0
    assert prediction.cost_usd.argmin() == 0
    assert typical_cost(models.arms["a"]) == pytest.approx((400 + 2 * 300) / 1e6)


@EVERY
def test_the_same_arms_in_another_order_keep_their_predictions(name: str) -> None:
    outcomes = world()
    router = ROUTERS[name].fit(outcomes)
    models = pool(*(model(arm) for arm in reversed(outcomes.arms)))
    aligned = lineup(router, models)
    assert aligned.unseen == ()
    ours, theirs = aligned.predict(outcomes.vectors[0]), router.predict(outcomes.vectors[0])
    assert ours.quality == pytest.approx(theirs.quality[::-1], abs=1e-5)
    assert ours.cost_usd == pytest.approx(theirs.cost_usd[::-1], rel=1e-4)
    batch = aligned.predict_batch(outcomes.vectors[:3])
    assert batch.quality[0] == pytest.approx(ours.quality, abs=1e-5)


@EVERY
def test_retired_arms_vanish_and_new_ones_are_filled_in_at_the_level_of_the_others(name: str) -> None:
    outcomes = world()
    router = ROUTERS[name].fit(outcomes)
    models = pool(model("arm-4"), model("new", 1.0), model("dear", 5.0), model("arm-0", ways=("direct", "think")))
    aligned = lineup(router, models)
    assert aligned.unseen == ("new", "dear", "arm-0#think")
    for vector in outcomes.vectors[:4]:
        prediction, own = aligned.predict(vector), router.predict(vector)
        known = [own.quality[4], own.quality[0]]
        assert column(prediction, models, "arm-4")[0] == pytest.approx(own.quality[4], abs=1e-5)
        assert column(prediction, models, "new")[0] == pytest.approx(float(np.mean(known)), abs=0.2)
        assert column(prediction, models, "dear")[0] > column(prediction, models, "new")[0]
        assert column(prediction, models, "new")[1] == pytest.approx(GUESS_STD, abs=1e-6)
        think, direct = column(prediction, models, "arm-0#think"), column(prediction, models, "arm-0")
        assert think[0] == pytest.approx(direct[0], abs=1e-5)
        assert think[1] >= GUESS_STD - 1e-6
        assert think[2] > direct[2]
        assert think[0] <= 1.0


@EVERY
def test_new_costs_are_scaled_to_the_lengths_that_were_seen(name: str) -> None:
    """The known arm cost 1 milli-USD a query, as its prices say for exchanges ten times shorter."""
    outcomes = world(arms=1)
    router = ROUTERS[name].fit(outcomes)
    models = pool(model("arm-0", 0.1), model("new", 0.2))
    cost = lineup(router, models).predict(np.zeros(32, dtype=np.float32)).cost_usd
    assert cost[0] > 5 * typical_cost(models.arms["arm-0"])
    assert cost[1] == pytest.approx(2 * cost[0], rel=1e-4)


@EVERY
def test_a_cost_that_was_never_logged_comes_from_the_prices(name: str) -> None:
    outcomes = world()
    unknown = replace(outcomes, cost_usd=np.full_like(outcomes.cost_usd, np.nan))
    models = pool(*(model(arm, 1.0 + i) for i, arm in enumerate(outcomes.arms)))
    aligned = lineup(ROUTERS[name].fit(unknown), models)
    expected = [typical_cost(arm) for arm in models.arms.values()]
    assert aligned.predict(outcomes.vectors[0]).cost_usd == pytest.approx(expected, rel=1e-4)
    assert aligned.cost_scale.high <= max(expected)
    free = pool(*(model(arm, None) for arm in outcomes.arms))
    assert np.all(np.isnan(lineup(ROUTERS[name].fit(unknown), free).predict(outcomes.vectors[0]).cost_usd))


@EVERY
def test_a_pool_of_strangers_gets_the_prior(name: str) -> None:
    router = ROUTERS[name].fit(world())
    models = pool(model("x", 1.0, prior=0.8), model("y", 2.0, prior=0.3))
    prediction = lineup(router, models).predict(world().vectors[0])
    assert prediction.quality == pytest.approx([0.8, 0.3])
