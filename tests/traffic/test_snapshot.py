"""Snapshots and exports: what is in the files, what must not be, and that they are whole or absent."""

from __future__ import annotations

import builtins
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest

from tests.traffic.samples import CASCADE, VECTOR, bare, decision, feedback, interaction, score
from traffic import parquet_tables
from traffic.export import export_jsonl, write_training_rows
from traffic.log import LogError
from traffic.records import Interaction
from traffic.snapshot import read_manifest, snapshot
from traffic.sqlite_log import SqliteLog


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "traffic.db")
    yield opened
    await opened.close()


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = pyarrow.dataset.dataset(folder / table).to_table().to_pylist()
    return read


def folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir())


async def test_a_snapshot_holds_the_window_and_its_manifest_counts_it(log: SqliteLog, tmp_path: Path) -> None:
    for number in range(20):
        log.append(interaction(number, decision=decision(cascade=CASCADE)))
        log.append(score(number))
        log.append(feedback(number, value=number % 2 == 0, tags={"a": "b"}))
    await log.flush()
    out = tmp_path / "snapshots" / "one"
    manifest = snapshot(log, out, since=1005.0, until=1015.0)
    assert {name: table.rows for name, table in manifest.tables.items()} == {
        "interactions": 10, "attempts": 20, "vectors": 10, "feedback": 10, "scores": 10,
    }  # fmt: skip
    assert (manifest.since, manifest.until, manifest.content) == (1005.0, 1015.0, True)
    assert read_manifest(out) == manifest
    first, sample = rows(out, "interactions")[0], interaction(5)
    assert first["id"] == sample.id
    assert (first["propensity"], first["router"], first["decided_arm"]) == (0.95, "cluster@3", "small")
    assert [candidate["arm"] for candidate in first["candidates"]] == ["small", "large", "blind"]
    assert first["candidates"][2]["eliminated"] == "vision"
    assert first["candidates"][2]["quality"] is None
    assert (first["prompt_tokens"], first["cached_tokens"], first["cost_usd"]) == (11, None, 1.5e-5)
    assert (first["request"], first["response"], first["query_text"]) == (
        sample.request, sample.response, "question 5",
    )  # fmt: skip
    assert first["template_ids"] == ["t-1", "t-2"]
    assert [(near["template_id"], near["similarity"]) for near in first["retrieved"]] == [("t-1", 0.91), ("t-2", 0.84)]
    assert (first["withheld"], first["withheld_from"]) == (True, None)
    assert (first["feature_set"], first["features"]) == ("features-1", sample.features)
    assert (first["lambda_per_usd"], first["affinity"], first["cascade_value"]) == (2.5, "retain", -0.2)
    assert [row["prompt_tokens"] for row in rows(out, "attempts")[:2]] == [None, 11]
    assert [row["outcome"] for row in rows(out, "attempts")[:2]] == ["timeout", "ok"]
    assert [row["value"] for row in rows(out, "feedback")[:2]] == ["false", "true"]
    assert rows(out, "scores")[0] == {
        "interaction_id": "chatcmpl-000005", "source": "exact_match", "value": 1.0, "created_at": 1005.0,
        "scorer": "checker@1",
    }  # fmt: skip


async def test_every_field_of_a_record_has_a_column(log: SqliteLog) -> None:
    elsewhere = {"usage", "decision", "vector"}
    assert set(Interaction.__struct_fields__) - elsewhere <= set(parquet_tables.INTERACTIONS)
    row = parquet_tables.interaction_row(interaction(1, session="s", workload="w", error_code="e"))
    assert set(row) <= set(parquet_tables.INTERACTIONS)


async def test_vectors_are_lists_of_fixed_size_by_encoder(log: SqliteLog, tmp_path: Path) -> None:
    wide = np.arange(384, dtype="<f4").tobytes()
    for number in range(4):
        log.append(interaction(number))
        log.append(interaction(number + 10, encoder="mini/LM", vector=wide))
        log.append(bare(number + 20))
    await log.flush()
    manifest = snapshot(log, tmp_path / "s")
    assert manifest.tables["vectors"].rows == 8
    read = pyarrow.parquet.read_table(
        tmp_path / "s" / "vectors" / "encoder=mini%2FLM" / "dim=384" / "part-00000.parquet"
    )
    assert read.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), 384)
    assert read.column("interaction_id").to_pylist() == [f"chatcmpl-{n:06d}" for n in range(10, 14)]
    assert np.array_equal(read.column("vector").to_pylist()[0], np.arange(384))
    (small,) = (tmp_path / "s" / "vectors" / "encoder=static-1").glob("*/*.parquet")
    (vector,) = pyarrow.parquet.read_table(small).column("vector").to_pylist()[:1]
    assert np.asarray(vector, dtype="<f4").tobytes() == VECTOR


async def test_nothing_of_store_false_and_without_content_of_anybody_is_written(log: SqliteLog, tmp_path: Path) -> None:
    log.append(interaction(1, stored=False, request=None, response=None, query_text=None))
    log.append(interaction(2))
    await log.flush()
    whole = snapshot(log, tmp_path / "with")
    assert whole.tables["interactions"].rows == 2
    assert whole.tables["vectors"].rows == 1
    bare_ = snapshot(log, tmp_path / "without", content=False)
    assert bare_.tables["interactions"].rows == 2
    assert bare_.tables["vectors"].rows == 0
    bare_rows = rows(tmp_path / "without", "interactions")
    assert [(r["request"], r["query_text"], r["features"]) for r in bare_rows] == [(None, None, None)] * 2


async def test_an_empty_window_gives_tables_without_rows(log: SqliteLog, tmp_path: Path) -> None:
    manifest = snapshot(log, tmp_path / "s", until=1.0)
    assert {table.rows for table in manifest.tables.values()} == {0}
    assert rows(tmp_path / "s", "interactions") == []
    assert pyarrow.dataset.dataset(tmp_path / "s" / "scores").schema.names == list(parquet_tables.SCORES)


async def test_an_existing_folder_is_refused_and_a_failure_leaves_nothing(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(interaction(1))
    await log.flush()
    (tmp_path / "there").mkdir()
    with pytest.raises(LogError, match="exists"):
        snapshot(log, tmp_path / "there")

    def breaks(*_: object) -> Iterator[object]:
        yield score(1)
        raise LogError("the disk went away")

    monkeypatch.setattr(log, "read_scores", breaks)
    with pytest.raises(LogError, match="went away"):
        snapshot(log, tmp_path / "s")
    assert folders(tmp_path) == ["there"]


async def test_a_changed_file_is_found(log: SqliteLog, tmp_path: Path) -> None:
    log.append(interaction(1))
    await log.flush()
    manifest = snapshot(log, tmp_path / "s")
    path = tmp_path / "s" / manifest.tables["interactions"].files[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(LogError, match="not what was written"):
        read_manifest(tmp_path / "s")
    assert read_manifest(tmp_path / "s", verify=False) == manifest
    with pytest.raises(LogError, match="no snapshot"):
        read_manifest(tmp_path)


async def test_parts_are_bounded(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_tables, "PART_ROWS", 7)
    for number in range(20):
        log.append(bare(number))
    await log.flush()
    manifest = snapshot(log, tmp_path / "s")
    assert [file.rows for file in manifest.tables["interactions"].files] == [7, 7, 6]
    assert len(rows(tmp_path / "s", "interactions")) == 20


async def test_a_snapshot_does_not_hold_the_log_in_memory(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_tables, "GROUP_BYTES", 1_000_000)
    for number in range(300):
        log.append(bare(number, response=b"x" * 100_000))
        if number % 100 == 0:
            await log.flush()
    await log.flush()
    tracemalloc.start()
    snapshot(log, tmp_path / "s")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


async def test_without_pyarrow_the_error_says_what_to_install(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LogError, match=r"tokamak\[learn\]"):
        snapshot(log, tmp_path / "s")
    assert not (tmp_path / "s").exists()


async def test_jsonl_lines_have_the_flywheel_keys_with_exact_objects(log: SqliteLog, tmp_path: Path) -> None:
    streamed = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'
    log.append(interaction(1, workload="tickets"))
    log.append(interaction(2, stream=True, response=streamed))
    log.append(interaction(3, stored=False))
    log.append(bare(4))
    log.append(bare(5, request=b"{malformed"))
    log.append(interaction(6, outcome="failed", http_status=502, response=None, usage=None, decision=None))
    await log.flush()
    done = export_jsonl(log, tmp_path / "deep" / "out.jsonl")
    assert (done.written, done.left_out) == (3, 3)
    lines = [json.loads(line) for line in (tmp_path / "deep" / "out.jsonl").read_text().splitlines()]
    assert list(lines[0])[:5] == ["timestamp", "workload_id", "client_id", "request", "response"]
    assert (lines[0]["timestamp"], lines[0]["workload_id"], lines[0]["client_id"]) == (1001, "tickets", "team-a")
    assert lines[0]["request"] == json.loads(interaction(1).request or b"")
    assert lines[0]["response"] == json.loads(interaction(1).response or b"")
    assert lines[0]["decision"]["propensity"] == 0.95
    assert [attempt["outcome"] for attempt in lines[0]["attempts"]] == ["timeout", "ok"]
    assert lines[1]["response"]["object"] == "chat.completion"
    assert lines[1]["response"]["choices"][0]["message"] == {"role": "assistant", "content": "hi"}
    assert (lines[2]["outcome"], lines[2]["response"], lines[2]["usage"]) == ("failed", None, None)


async def test_a_name_in_gz_makes_a_gzipped_file(log: SqliteLog, tmp_path: Path) -> None:
    log.append(interaction(1))
    await log.flush()
    export_jsonl(log, tmp_path / "out.jsonl.gz")
    (line,) = gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).splitlines()
    assert json.loads(line)["request"] == json.loads(interaction(1).request or b"")


async def test_training_rows_are_the_scored_answers_and_nothing_else(log: SqliteLog, tmp_path: Path) -> None:
    def routed(number: int, **changes: Any) -> Interaction:
        return interaction(number, workload="sums", **changes)

    log.append(routed(1))
    log.append(score(1, value=0.5))
    log.append(score(1, source="judge", value=1.0, scorer="judge@1"))
    log.append(routed(2))
    log.append(feedback(2, value=True))
    log.append(feedback(20, interaction_id=routed(2).id, value="a text says nothing in numbers"))
    log.append(routed(3))
    log.append(score(3, source="feedback", value=0.0))
    log.append(feedback(3, value=1.0))
    log.append(routed(4))
    log.append(routed(10, decision=None))
    log.append(score(10, value=0.25))
    for number, changes in (
        (5, {"outcome": "aborted"}), (6, {"stored": False}), (7, {"arm": "large"}), (8, {"query_text": None}),
        (9, {"decision": decision(cascade=CASCADE)}), (11, {"decision": None, "cached_from": "chatcmpl-000010"}),
    ):  # fmt: skip
        log.append(routed(number, **changes))
        log.append(score(number))
    await log.flush()
    done = write_training_rows(log, tmp_path / "train.parquet")
    assert (done.written, done.left_out) == (4, 7)
    read = pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist()
    assert [(r["query_id"], r["score"], r["score_kind"]) for r in read] == [
        ("chatcmpl-000001", 0.75, "exact_match+judge"),
        ("chatcmpl-000002", 1.0, "feedback"),
        ("chatcmpl-000003", 0.0, "feedback"),
        ("chatcmpl-000010", 0.25, "exact_match"),
    ]
    assert read[3]["propensity"] == 1.0, "who names a model asks it for sure"
    assert read[0] == {
        "dataset": "traffic", "task": "sums", "query_id": "chatcmpl-000001", "query": "question 1", "model": "small",
        "score": 0.75, "score_kind": "exact_match+judge", "response": "answer", "response_chars": 6,
        "prompt_tokens": 11, "completion_tokens": 7, "cost_usd": 1.5e-5, "latency_s": 0.7, "reference": None,
        "split": None, "propensity": 0.95, "created_at": 1001.0,
    }  # fmt: skip


async def test_a_long_answer_is_cut_and_its_length_kept(log: SqliteLog, tmp_path: Path) -> None:
    body = json.dumps({"choices": [{"message": {"content": "x" * 9_000}}]}).encode()
    log.append(interaction(1, response=body))
    log.append(score(1))
    await log.flush()
    write_training_rows(log, tmp_path / "train.parquet")
    (row,) = pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist()
    assert (len(row["response"]), row["response_chars"]) == (4_000, 9_000)
