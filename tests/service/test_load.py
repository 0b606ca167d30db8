from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.arms import Arm, Endpoint, Model, Upstream
from service.backends.load import LEAST_CALLS, STALE_S, LatencyHistogram, Load, saturation

ENDPOINT = Endpoint(Upstream("u", "http://x/v1"), "m", concurrency=4)
ARM = Arm("m", Model("m", (ENDPOINT,)), "direct")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.002, 300), min_size=LEAST_CALLS, max_size=60))
def test_quantiles_are_those_of_the_recent_latencies(latencies: list[float]) -> None:
    histogram = LatencyHistogram()
    for latency in latencies:
        histogram.add(latency, 0.0)
    assert histogram.quantiles is not None
    weights = 1.01 ** np.arange(len(latencies))
    order = np.argsort(latencies)
    for quantile, found in ((0.5, histogram.quantiles.p50), (0.95, histogram.quantiles.p95)):
        share = np.cumsum(weights[order]) / weights.sum()
        exact = np.array(latencies)[order][np.searchsorted(share, quantile - 1e-9)]
        assert found == pytest.approx(exact, rel=0.08)


def test_newer_calls_weigh_more() -> None:
    histogram = LatencyHistogram()
    for _ in range(3000):
        histogram.add(0.1, 0.0)
    for _ in range(150):
        histogram.add(2.0, 0.0)
    assert histogram.quantiles is not None
    assert histogram.quantiles.p50 == pytest.approx(2.0, rel=0.08)


def test_too_few_or_old_calls_say_nothing() -> None:
    clock = Clock()
    load = Load(clock)
    for call in range(LEAST_CALLS):
        assert load.latency(ARM, stream=False) is None, call
        load.answered(ARM, 0.5, stream=False)
    assert load.latency(ARM, stream=False) is not None
    assert load.latency(ARM, stream=True) is None
    clock.now = STALE_S + 1
    assert load.latencies([ARM], stream=False) == [None]
    load.answered(ARM, 0.5, stream=False)
    assert load.latency(ARM, stream=False) is None


def test_running_calls_over_concurrency_are_the_use() -> None:
    load = Load()
    assert load.use(ARM) == 0.0
    for _ in range(6):
        load.starts(ENDPOINT)
    assert load.use(ARM) == 1.5
    load.ends(ENDPOINT)
    assert load.running(ENDPOINT) == 5
    unknown = Model("m", (ENDPOINT, Endpoint(Upstream("v", "http://y/v1"), "m")))
    assert load.use(Arm("m", unknown, "direct")) is None


@given(st.floats(0, 50), st.floats(0, 50))
def test_saturation_is_smooth_monotone_and_half_at_the_concurrency(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0.0 <= saturation(low) <= saturation(high) < 1.0
    assert saturation(1.0) == 0.5
    assert saturation(0.5) < 0.06
