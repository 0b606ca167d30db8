"""Reading a Parquet log, and making the bundled samples again from the shared logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from demo.replay.bundle import main as make_bundle
from demo.replay.load import load_sample
from demo.replay.parquet import read_parquet
from demo.replay.sample import BUNDLED, SampleError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

SHARED = Path(os.environ.get("TOKAMAK_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def row(query: str, model: str, score: float | None, **fields: Any) -> dict[str, Any]:
    base = {"dataset": "d", "task": "t", "query_id": query, "query": query, "model": model, "score": score}
    return base | {"score_kind": "exact_match", "response": None, "response_chars": None} | fields


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_long_rows_become_wide_queries(tmp_path: Path) -> None:
    rows = [row("q1", "b", 1.0, response="yes", response_chars=3), row("q1", "a", 0.25), row("q2", "a", 0.0)]
    sample = load_sample(write(tmp_path / "log.parquet", rows))
    assert sample.models == ("a", "b")
    first, second = sample.queries
    assert (first.scores, first.texts, first.chars) == ((0.25, 1.0), (None, "yes"), (None, 3))
    assert (second.scores, second.texts) == ((0.0, None), None)
    assert sample.header.models[0].prompt_per_1m is None


def test_rows_without_a_score_are_not_answers(tmp_path: Path) -> None:
    sample = load_sample(write(tmp_path / "log.parquet", [row("q", "a", 1.0), row("q", "b", None)]))
    assert sample.models == ("a",)


def test_same_text_under_two_ids_is_one_query(tmp_path: Path) -> None:
    rows = [row("x", "a", 1.0, query_id="1"), row("x ", "a", 0.0, query_id="2")]
    sample = load_sample(write(tmp_path / "log.parquet", rows))
    assert [query.query_id for query in sample.queries] == ["1"]


def test_prices_beside_the_file_are_used(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text('{"carrot_OPEN_COSTS": {"a": 0.5}}')
    sample = load_sample(write(tmp_path / "log.parquet", [row("q", "a", 1.0)]))
    assert sample.header.models[0].completion_per_1m == 0.5


def test_unusable_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="not a readable Parquet"):
        load_sample(tmp_path / "absent.parquet")
    lacking = tmp_path / "lacking.parquet"
    pq.write_table(pa.Table.from_pylist([{"query": "q", "model": "a"}]), lacking)
    with pytest.raises(SampleError, match="lacks the columns dataset"):
        load_sample(lacking)
    with pytest.raises(SampleError, match="no scored row"):
        read_parquet(write(tmp_path / "log.parquet", [row("q", "a", 1.0)]), models=["other"])


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "mmlu_pro.parquet").exists(), reason="the multi-LLM logs are not here")
def test_bundled_samples_can_be_made_again(tmp_path: Path) -> None:
    assert make_bundle(["--from", str(SHARED), "--to", str(tmp_path)]) == 0
    for made in tmp_path.iterdir():
        bundled = load_sample(BUNDLED / made.name)
        again = load_sample(made)
        assert again.header == bundled.header
        assert again.queries == bundled.queries


def test_bundling_without_logs_fails_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_bundle(["--from", str(tmp_path), "--to", str(tmp_path)]) == 1
    assert "cannot make the samples" in capsys.readouterr().err
