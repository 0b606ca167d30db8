"""The probe finds a gain where the vectors tell which model is right, and none where they say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.encoders import figures, prompts
from benchmarks.routing_probe import METHODS, Pool, probe, read_pool, task_accuracy

QUERIES = 1200


@pytest.fixture(scope="module")
def pool() -> Pool:
    """Two kinds of query: the first model is right on one, the second on the other, the third on about half of both."""
    kinds = np.arange(QUERIES) % 2
    scores = np.stack([kinds == 0, kinds == 1, np.full(QUERIES, 0.55)], 1).astype(np.float64)
    return Pool("made", [f"query {i}" for i in range(QUERIES)], kinds.astype(np.int64), scores)


def _unit(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def test_telling_vectors_gain_all_there_is(pool: Pool) -> None:
    noise = np.random.default_rng(0).normal(size=(QUERIES, 8)) * 0.1
    vectors = _unit(noise + np.eye(8)[pool.tasks])
    for gain in probe(pool, vectors).values():
        assert gain.points == pytest.approx(45.0, abs=0.5)
        assert gain.low <= gain.points <= gain.high
    assert task_accuracy(pool, vectors) > 99


def test_vectors_that_say_nothing_gain_nothing(pool: Pool) -> None:
    vectors = _unit(np.random.default_rng(0).normal(size=(QUERIES, 8)))
    for gain in probe(pool, vectors).values():
        assert gain.points < 3.0
    assert task_accuracy(pool, vectors) == pytest.approx(50, abs=6)


def test_equal_texts_share_a_fold(pool: Pool) -> None:
    twice = Pool("twice", ["same", "other", "same"], np.zeros(3, np.int64), np.zeros((3, 2)))
    assert twice.folds[0] == twice.folds[2]
    assert set(pool.folds.tolist()) == set(range(5))


def test_prompts_have_the_asked_length(pool: Pool) -> None:
    assert {len(text.split(" ")) for text in prompts(pool, 20)} == {20}


def test_the_bar_names_the_best_per_millisecond() -> None:
    rows: list[dict[str, Any]] = [
        {"encoder": "static", "us_20_words": 5.0, "us_100_words": 15.0, "us_400_words": 60.0},
        {"encoder": "st:minilm", "us_20_words": 1e4, "us_100_words": 3e4, "us_400_words": 8e4},
    ]
    for row, gain in zip(rows, (1.5, 2.0), strict=True):
        row |= {"mean_gain": gain, "gain_per_ms": gain / (row["us_100_words"] / 1000)}
    bar = figures(rows)
    assert bar["default_is_best_per_ms"] is True
    assert bar["st_minilm_us_400_words"] == 8e4
    assert set(METHODS) == {"knn_mean", "cluster_mean"}


def test_a_log_is_read_as_a_whole_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [("t1", "q1", "text", "m1", 1.0), ("t1", "q1", "text", "m2", 0.0), ("t2", "q1", "other", "m1", 0.5)]
    names = ("task", "query_id", "query", "model", "score")
    table = pyarrow.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    parquet.write_table(table, tmp_path / "log.parquet")
    pool = read_pool(tmp_path / "log.parquet")
    assert pool.queries == ["text", "other"]
    assert pool.scores.tolist() == [[1.0, 0.0], [0.5, 0.0]]
    assert pool.tasks.tolist() == [0, 1]
