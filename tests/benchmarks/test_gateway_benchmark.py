"""The gateway's benchmark: what it serves while it is measured, what it runs, what it reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.gateway import FLOORS, PEERS, SOURCES, bar, targets
from benchmarks.gateway_ground import KEY, KEY_VARIABLE, MODELS, THOUGHTFUL, prepare, queries
from benchmarks.stations import measure
from registry.config_file import load_config
from service.gateway import Gateway

ENVIRON = {KEY_VARIABLE: KEY}
STATIONS = ("authenticate", "encode", "retrieve", "predict", "decide", "log (enqueue)", "log (CPU of all threads)")


async def test_the_ground_is_a_gateway_with_a_trained_router_and_templates(tmp_path: Path) -> None:
    config = load_config(prepare(tmp_path / "ground", "http://127.0.0.1:9/v1", 0), ENVIRON)
    gateway = Gateway(config, ENVIRON)
    await gateway.start()
    try:
        serving = gateway.serving
        assert serving.router.startswith("cluster@")
        assert len(serving.arms) == len(MODELS) + len(THOUGHTFUL)
        key = gateway.limits.authenticate({b"authorization": f"Bearer {KEY}".encode()}, "chat")
        assert gateway.find_templates(serving, serving.encoder.encode_one(queries(1, seed=2)[0]), key).hits
    finally:
        await gateway.stop()


def test_queries_are_distinct_and_the_same_each_time() -> None:
    made = queries(500, seed=1)
    assert len(set(made)) == 500
    assert made == queries(500, seed=1)
    assert set(made).isdisjoint(queries(500, seed=2))


def test_every_station_is_measured() -> None:
    rows = {row["station"]: row for row in measure(count=120)}
    assert set(STATIONS) <= set(rows)
    assert all(value > 0 for row in rows.values() for name, value in row.items() if name != "station")


def test_both_ways_through_our_gateway_run_beside_the_peers() -> None:
    listed = {target["name"]: target for target in targets(SOURCES, Path("config.yaml"))}
    assert set(listed) == {"ours-pass", "ours-auto", *PEERS, *FLOORS}
    assert listed["ours-auto"]["model"] == "auto"
    assert listed["ours-pass"]["model"] in MODELS
    assert listed["ours-pass"]["headers"] == {"Authorization": f"Bearer {KEY}"}
    assert re.search(r"\{\w+\}", json.dumps([listed["ours-pass"], listed["ours-auto"]])) is None


def test_the_bar_holds_ratios_of_one_run_and_nothing_that_was_not_measured() -> None:
    summary = {
        "ours-pass": {"c64_rps": 9000.0, "c1_over_p50_us": 110.0, "spaced_us_per_chunk": None},
        "ours-auto": {"c64_rps": 4500.0, "rss_load_mb": 99.0},
        "litellm": {"c64_rps": 100.0},
        "vllm-router": {"c64_rps": None},
    }
    assert bar(summary, {"rss_slope_mb_per_100k": 0.5}, None) == {
        "passthrough_x_litellm": 90.0,
        "auto_x_litellm": 45.0,
        "passthrough_added_p50_us": 110.0,
        "rss_mb": 99.0,
        "rss_slope_mb_per_100k": 0.5,
    }
    assert bar({}, None, {"install_mb": 200.0}) == {"install_mb": 200.0}
