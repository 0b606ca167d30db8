"""What each station of a routed request costs, measured one by one in process, on distinct queries.

    python -m benchmarks.stations [--count 5000]

Wall-clock microseconds per call on the event loop's thread; for the log also the CPU time of its writer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import orjson

from benchmarks.gateway_ground import KEY, KEY_VARIABLE, prepare, queries
from encoders.features import query_features
from registry.config_file import load_config
from service.conversations import conversation_of
from service.eligible import eligible_arms
from service.exchange import Exchange
from service.explanation import Decided, response_headers
from service.gateway import Gateway
from service.openai_api.requests import chat_request
from service.pipeline import remembered, settle, upstream_body
from service.routing_options import routing_options
from service.weighing import weighing

T = TypeVar("T")
SYSTEM = "You are a careful assistant for a travel company. Cite the policy by number where one applies. " * 3
ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "mock-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris. " * 24}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 187, "completion_tokens": 31, "total_tokens": 218},
    }
)


class Stopwatch:
    """Collects nanoseconds by station."""

    def __init__(self) -> None:
        self.spent: dict[str, list[int]] = {}

    def time(self, station: str, call: Callable[[], T]) -> T:
        start = time.perf_counter_ns()
        result = call()
        self.spent.setdefault(station, []).append(time.perf_counter_ns() - start)
        return result

    def rows(self) -> list[dict[str, Any]]:
        """Per station the median and the 99th percentile in microseconds; the first tenth is warm-up."""
        rows = []
        for station, all_ns in self.spent.items():
            ns = all_ns[len(all_ns) // 10 :]
            p99 = quantiles(ns, n=100)[98]
            rows.append({"station": station, "p50_us": round(median(ns) / 1e3, 2), "p99_us": round(p99 / 1e3, 2)})
        return rows


async def _measure(folder: Path, count: int) -> list[dict[str, Any]]:
    environ = {KEY_VARIABLE: KEY}
    gateway = Gateway(load_config(prepare(folder, "http://127.0.0.1:9/v1", 8400), environ), environ)
    await gateway.start()
    watch = Stopwatch()
    try:
        records = [_one(gateway, watch, query) for query in queries(count, seed=3)]
        start_cpu = time.process_time_ns()
        for record in records:
            watch.time("log (enqueue)", lambda record=record: gateway.log.append(record))  # type: ignore[misc]
        await gateway.log.flush()
        written_us = (time.process_time_ns() - start_cpu) / len(records) / 1e3
        # A group of records is one transaction, so there is no time of a single one to take a median of.
        return [*watch.rows(), {"station": "log (CPU of all threads)", "cpu_us": round(written_us, 2)}]
    finally:
        await gateway.stop()


def _one(gateway: Gateway, watch: Stopwatch, query: str) -> Any:
    """Take one request through the stations as `service.pipeline.answer` does; returns its log record."""
    raw = orjson.dumps(
        {
            "model": "auto",
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": query}],
            "temperature": 0.2,
            "max_tokens": 256,
            "user": "bench",
        }
    )
    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")]
    exchange = watch.time("open", lambda: Exchange("/chat/completions", headers))
    exchange.raw, exchange.response = raw, ANSWER
    key = watch.time("authenticate", lambda: gateway.limits.authenticate(exchange.headers, "chat"))
    exchange.key = key
    request = watch.time("parse", lambda: chat_request(raw))
    exchange.request = request
    serving = gateway.serving
    options = routing_options(request.body, exchange.headers)
    target = serving.target("auto")
    route = target.route
    assert route is not None
    allowed, eliminated = watch.time(
        "eligible", lambda: eligible_arms(serving, route, request, key, options, gateway.backends.health)
    )
    exchange.query_text = text = watch.time("query text", request.query)
    vector = watch.time("encode", lambda: serving.encoder.encode_one(text))
    exchange.vector, exchange.encoder = vector.tobytes(), serving.encoder.hash
    hits = watch.time("retrieve", lambda: gateway.find_templates(serving, vector, key)).hits
    features = watch.time("features", lambda: query_features(text, request.shape(), exchange.workload()))
    turn = watch.time(
        "conversation",
        lambda: remembered(gateway, target, request, conversation_of(request, exchange), options, exchange),
    )
    weighed = watch.time(
        "weigh",
        lambda: weighing(
            target, options, gateway.backends.load, serving, gateway.budgets.bill(key, target.name, route), turn,
            follows=turn is not None and request.follows_up(), stream=False,
        ),
    )  # fmt: skip
    prediction = watch.time("predict", lambda: serving.lineup.predict(vector, features, text))
    choice = watch.time("decide", lambda: weighed.choose(serving, prediction, allowed, 0.5))
    decided = Decided(
        exchange.id, "auto", serving, target.preference, 0.0, choice, prediction, eliminated, weighed, True
    )
    exchange.decision = decided.record
    arm = decided.ranking()[0]
    exchange.trail.arm = arm
    endpoint = arm.model.endpoints[0]
    watch.time("write body", lambda: upstream_body(request, arm, endpoint, hits, 600, exchange))
    watch.time("write headers", lambda: response_headers(exchange, decided, complete=True))
    exchange.outcome, exchange.http_status = "ok", 200
    watch.time("settle", lambda: settle(gateway, exchange))
    return watch.time("record", lambda: exchange.record(keep_content=True))


def measure(count: int = 5_000) -> list[dict[str, Any]]:
    """One row per station, in the order of a request."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder) / "ground", count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5_000, help="distinct queries")
    rows = measure(parser.parse_args().count)
    for row in rows:
        print(json.dumps(row))
    print(json.dumps({"sum of medians, us": round(sum(row.get("p50_us", 0.0) for row in rows), 1)}))


if __name__ == "__main__":
    main()
