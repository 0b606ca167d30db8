"""What a router costs: seconds and memory to learn from 100,000 answers, microseconds to predict for 40 arms.

Learning is measured in a process of its own with two threads, predicting with one. The world is made up: one logged
answer per query, as traffic has it, of arms that are each better at some topics.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import orjson

from encoders.features import FEATURE_SET, NAMES
from routers.protocol import Outcomes

ANSWERS, ARMS, TOPICS, DIM = 100_000, 40, 64, 256
CALLS = 2000
THREADS = 2


def logged_world(answers: int = ANSWERS, arms: int = ARMS, seed: int = 0) -> Outcomes:
    """So many queries with one answer each; the first arm answers half of them."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((TOPICS, DIM)).astype(np.float32)
    topics = rng.integers(TOPICS, size=answers)
    vectors = centers[topics] + 0.7 * rng.standard_normal((answers, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    skill = np.clip(rng.normal(0.55, 0.1, (1, arms)) + rng.normal(0.0, 0.12, (TOPICS, arms)), 0.02, 0.98)
    chances = np.full(arms, 0.5 / (arms - 1))
    chances[0] = 0.5
    drawn = rng.choice(arms, size=answers, p=chances)
    at = (np.arange(answers), drawn)
    quality, cost, latency, propensity = (np.full((answers, arms), np.nan, dtype=np.float32) for _ in range(4))
    quality[at] = rng.random(answers) < skill[topics, drawn]
    cost[at] = 1e-4 * (1.0 + drawn) * rng.uniform(0.5, 1.5, answers)
    latency[at] = rng.uniform(0.2, 2.0, answers)
    propensity[at] = chances[drawn]
    return Outcomes(
        vectors=vectors,
        arms=tuple(f"arm-{i}" for i in range(arms)),
        quality=quality,
        cost_usd=cost,
        latency_s=latency,
        propensity=propensity,
        encoder="0123456789abcdef",
        query_ids=tuple(f"{i:032x}" for i in range(answers)),
        features=rng.random((answers, len(NAMES)), dtype=np.float32),
        feature_set=FEATURE_SET,
    )


def measure(router: str, answers: int = ANSWERS, arms: int = ARMS, calls: int = CALLS) -> dict[str, Any]:
    """Learn and predict in this process.

    `fit_s` in seconds, `peak_mib` the largest resident memory of the process, world and libraries included,
    `predict_us` the median of single calls with a ready vector and features, `bytes` of the arrays.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from routers.catalogue import ROUTERS

    world = logged_world(answers, arms)
    start = time.perf_counter()
    fitted = ROUTERS[router].fit(world)
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert world.features is not None
    seconds = []
    with threadpool_limits(1):
        for call in range(calls):
            row = call % min(answers, 500)
            vector, features = world.vectors[row], world.features[row]
            began = time.perf_counter()
            fitted.predict(vector, features)
            seconds.append(time.perf_counter() - began)
    return {
        "router": router,
        "answers": answers,
        "arms": arms,
        "fit_s": taken,
        "peak_mib": peak,
        "predict_us": 1e6 * float(np.median(seconds)),
        "bytes": sum(array.nbytes for array in fitted.arrays().values()),
    }


def measured_apart(router: str) -> dict[str, Any]:
    """`measure` in a process of its own with two threads. Raises CalledProcessError if it fails."""
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", "benchmarks.routing_lab.speed", router]
    done = subprocess.run(command, env={**os.environ, **threads}, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return {"about": "speed", "threads_to_learn": THREADS, **found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("router")
    print(orjson.dumps(measure(parser.parse_args().router)).decode())
