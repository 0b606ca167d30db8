from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline.outcome_file import outcomes_from_file, read_prices
from offline.outcomes import content_id
from registry.arms import Prices
from routers.protocol import TrainingError
from routers.rows import check
from tests.offline_routers.interactions import HashEncoder

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the learn extra")
parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs the learn extra")


def row(number: str, model: str, score: float | None = 1.0, **changes: Any) -> dict[str, Any]:
    fields = {
        "dataset": "test",
        "task": "sums",
        "query_id": number,
        "query": f"what is {number}",
        "model": model,
        "score": score,
        "cost_usd": 0.001,
        "latency_s": None,
        "response_chars": 40,
        "prompt_tokens": None,
        "completion_tokens": None,
    }
    return fields | changes


ROWS = [row("1", "a"), row("1", "b", 0.0), row("2", "a", 0.5, task="facts")]


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "answers.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="zstd")
    return path


def as_lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "answers.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in rows).encode()))
    return path


BOTH = pytest.mark.parametrize("write", [as_parquet, as_lines])


@BOTH
def test_rows_become_the_matrices_of_their_queries_and_models(tmp_path: Path, write: Any) -> None:
    outcomes = outcomes_from_file(write(tmp_path, ROWS), HashEncoder())
    check(outcomes)
    assert outcomes.arms == ("a", "b")
    assert outcomes.query_ids == (content_id("what is 1"), content_id("what is 2"))
    assert outcomes.tasks == ("sums", "facts")
    np.testing.assert_array_equal(outcomes.quality, np.array([[1.0, 0.0], [0.5, np.nan]], dtype=np.float32))
    np.testing.assert_array_equal(outcomes.propensity, np.array([[1.0, 1.0], [1.0, np.nan]], dtype=np.float32))
    np.testing.assert_array_equal(outcomes.vectors, HashEncoder().encode(["what is 1", "what is 2"]))
    assert outcomes.cost_usd[0, 0] == pytest.approx(0.001)
    assert np.all(np.isnan(outcomes.latency_s))


@BOTH
def test_one_text_under_two_ids_is_one_query(tmp_path: Path, write: Any) -> None:
    rows = [row("1", "a", 1.0), row("9", "a", 0.0, query="what is 1"), row("9", "b", 1.0, query="what is 1")]
    outcomes = outcomes_from_file(write(tmp_path, rows), HashEncoder())
    np.testing.assert_array_equal(outcomes.quality, np.array([[0.5, 1.0]], dtype=np.float32))


@BOTH
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("1", "a", 1.5)], r"row 1: score must lie in \[0, 1\], got 1.5"),
        ([row("1", "a", None)], r"row 1: score must lie in \[0, 1\], got None"),
        ([row("1", "a"), row("1", "a")], "row 2: a on query 1 of task sums .* is a duplicate of .* keep one"),
        ([row("1", "a"), row("1", "a", 0.0)], "row 2: .* in contradiction"),
        ([row("1", "a"), row("1", "b", query="other")], "row 2: query 1 of task sums stands for another text"),
        ([row("1", "a", cost_usd=-1.0)], "row 1: cost_usd must be finite and not negative, got -1"),
        ([row("1", "a"), row("1", "b", latency_s=-2.0)], "row 2: latency_s must be finite and not negative, got -2"),
        ([row("1", "")], "row 1: model is empty"),
        ([row("1", "a", propensity=0.0)], r"row 1: propensity must lie in \(0, 1\], got 0.0; .* 1 if it was asked"),
        ([row("1", "a", propensity=1.0), row("2", "a", propensity=None)], r"row 2: propensity must .* got None"),
        ([row("1", "a", propensity=0.5), row("2", "a", propensity=1.5)], r"row 2: propensity must .* got 1.5"),
        ([row("1", "a", score="1")], "row 1: Expected .* got `str`"),
        ([], "no scored answer|lacks the columns"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused_by_number(
    tmp_path: Path, write: Any, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        outcomes_from_file(write(tmp_path, rows), HashEncoder())


@BOTH
def test_logged_propensities_are_used(tmp_path: Path, write: Any) -> None:
    rows = [row("1", "a", propensity=0.25), row("1", "b", propensity=1.0)]
    outcomes = outcomes_from_file(write(tmp_path, rows), HashEncoder())
    np.testing.assert_array_equal(outcomes.propensity, np.array([[0.25, 1.0]], dtype=np.float32))


@BOTH
def test_yes_or_no_is_a_score(tmp_path: Path, write: Any) -> None:
    outcomes = outcomes_from_file(write(tmp_path, [row("1", "a", True), row("1", "b", False)]), HashEncoder())
    np.testing.assert_array_equal(outcomes.quality, np.array([[1.0, 0.0]], dtype=np.float32))


def test_a_data_frame_with_gaps_writes_whole_numbers_as_floats(tmp_path: Path) -> None:
    nan = float("nan")
    gaps = {"cost_usd": nan, "latency_s": nan, "completion_tokens": nan}
    rows = [
        row("0", "a", query_id=3.0, prompt_tokens=8.0, **gaps),
        row("0", "b", query_id=3.0, prompt_tokens=nan, **gaps),
    ]
    path = as_parquet(tmp_path, rows)
    outcomes = outcomes_from_file(path, HashEncoder(), {"a": Prices(1.0, 2.0)})
    np.testing.assert_allclose(outcomes.cost_usd, np.array([[28e-6, nan]], dtype=np.float32), rtol=1e-6)
    assert np.all(np.isnan(outcomes.latency_s))


def test_lines_need_no_gzip_and_may_be_blank(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in ROWS) + "\n\n")
    assert outcomes_from_file(path, HashEncoder()).query_ids == (content_id("what is 1"), content_id("what is 2"))
    other = path.rename(tmp_path / "answers.csv")
    with pytest.raises(TrainingError, match=r"no kind that can be read by its name; expected Parquet .*\.jsonl"):
        outcomes_from_file(other, HashEncoder())


@BOTH
def test_a_truncated_file_is_refused(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path, ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TrainingError, match="truncated or not"):
        outcomes_from_file(path, HashEncoder())


def test_a_file_of_another_kind_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not a file"):
        outcomes_from_file(tmp_path / "absent.parquet", HashEncoder())
    table = as_parquet(tmp_path, [{"query": "x", "answer": "y"}])
    with pytest.raises(TrainingError, match=r"lacks the columns \['model', 'score'\]"):
        outcomes_from_file(table, HashEncoder())
    lines = as_lines(tmp_path, [{"query": "x", "model": "a"}])
    with pytest.raises(TrainingError, match=r"answers\.jsonl\.gz, row 1: .*score"):
        outcomes_from_file(lines, HashEncoder())
    lines.write_bytes(b"plain text")
    with pytest.raises(TrainingError, match="not gzip"):
        outcomes_from_file(lines, HashEncoder())


def test_an_absent_cost_is_estimated_from_prices_and_lengths(tmp_path: Path) -> None:
    rows = [
        row("1", "org/A#think", cost_usd=None, query="x" * 400, response_chars=800),
        row("1", "b", cost_usd=None, query="x" * 400, prompt_tokens=7, completion_tokens=9),
        row("1", "c", cost_usd=None, query="x" * 400),
        row("1", "d", cost_usd=0.5, query="x" * 400),
    ]
    prices = {"a": Prices(1.0, 2.0), "b": Prices(10.0, 20.0), "d": Prices(1.0, 1.0)}
    cost = outcomes_from_file(as_lines(tmp_path, rows), HashEncoder(), prices).cost_usd[0]
    order = outcomes_from_file(as_lines(tmp_path, rows), HashEncoder()).arms
    found = dict(zip(order, cost.tolist(), strict=True))
    assert found["org/A#think"] == pytest.approx((100 + 2 * 200) / 1e6)
    assert found["b"] == pytest.approx((70 + 180) / 1e6)
    assert np.isnan(found["c"])
    assert found["d"] == 0.5


def test_prices_are_read_in_the_shapes_that_sources_use(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(
        json.dumps(
            {
                "note": "list prices",
                "flat": {"input": 1, "output": 2},
                "source": {
                    "Org/Nested": {"input_token_price_per_million": 3, "output_token_price_per_million": 4},
                    "flat": {"input": 9, "output": 9},
                    "pair": [5, 6],
                    "single": 7,
                },
            }
        )
    )
    assert read_prices(path) == {
        "flat": Prices(1.0, 2.0),
        "nested": Prices(3.0, 4.0),
        "pair": Prices(5.0, 6.0),
        "single": Prices(7.0, 7.0),
    }
    for content in ("[1]", "{", '{"note": "none"}'):
        path.write_text(content)
        with pytest.raises(TrainingError, match=r"prices|price"):
            read_prices(path)
