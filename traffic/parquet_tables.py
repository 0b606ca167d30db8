"""The tables of a snapshot: their columns, the rows that records become, and writers that hold little in memory.

Needs pyarrow (the extra `learn`); nothing is imported before a table is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from traffic.log import LogError
from traffic.records import Attempt, Candidate, Feedback, Interaction, Score

Columns = dict[str, str]
"""Name of each column and its Arrow type; `candidates` and `retrieved` are lists of structs."""

INTERACTIONS: Columns = {
    "id": "string", "created_at": "double", "endpoint": "string", "outcome": "string", "http_status": "int32",
    "answer_id": "string", "client_request_id": "string", "key_id": "string", "user": "string", "session": "string",
    "workload": "string", "requested_model": "string", "route": "string", "arm": "string", "model": "string",
    "stream": "bool", "stored": "bool", "error_code": "string", "decision_id": "string", "router": "string",
    "preference": "double", "exploration": "double", "decided_arm": "string", "propensity": "double",
    "explored": "bool", "candidates": "candidates", "prompt_tokens": "int64", "completion_tokens": "int64",
    "cached_tokens": "int64", "reasoning_tokens": "int64", "cost_usd": "double", "overhead_s": "double",
    "ttft_s": "double", "latency_s": "double", "attempts": "int32", "template_ids": "strings", "encoder": "string",
    "schema": "int32", "lambda_per_usd": "double", "affinity": "string", "previous_arm": "string",
    "win_probability": "double", "threshold": "double", "cascade_first": "string", "cascade_then": "string",
    "cascade_signal": "string", "cascade_value": "double", "escalated": "bool", "feature_set": "string",
    "features": "binary", "withheld": "bool", "withheld_from": "string", "retrieved": "retrieved",
    "cached_from": "string", "query_text": "string", "request": "binary", "response": "binary",
}  # fmt: skip
ATTEMPTS: Columns = {
    "interaction_id": "string", "ordinal": "int32", "arm": "string", "endpoint": "string", "outcome": "string",
    "started_at": "double", "latency_s": "double", "ttft_s": "double", "http_status": "int32", "error": "string",
    "prompt_tokens": "int64", "completion_tokens": "int64", "cached_tokens": "int64", "reasoning_tokens": "int64",
    "cost_usd": "double",
}  # fmt: skip
FEEDBACK: Columns = {
    "id": "string", "interaction_id": "string", "created_at": "double", "metric": "string", "value": "string",
    "verdict": "string", "demonstration": "binary", "episode_id": "string", "tags": "string",
    "idempotency_key": "string", "key_id": "string",
}  # fmt: skip
SCORES: Columns = {
    "interaction_id": "string", "source": "string", "value": "double", "created_at": "double", "scorer": "string",
}  # fmt: skip
CANDIDATE: Columns = {
    "arm": "string", "quality": "double", "quality_std": "double", "cost_usd": "double", "latency_s": "double",
    "utility": "double", "propensity": "double", "eliminated": "string",
}  # fmt: skip
RETRIEVED: Columns = {"template_id": "string", "similarity": "double"}
STRUCTS: dict[str, Columns] = {"candidates": CANDIDATE, "retrieved": RETRIEVED}

PART_ROWS = 500_000
GROUP_ROWS = 4_096
GROUP_BYTES = 16 * 1024 * 1024
"""Rows and bytes of content that are held before they are written as one row group."""

_json = msgspec.json.Encoder().encode


def interaction_row(record: Interaction) -> dict[str, Any]:
    """A row of `INTERACTIONS`: usage and decision laid flat, the vector left to its own table."""
    row = {name: getattr(record, name) for name in INTERACTIONS if hasattr(record, name)}
    row["attempts"] = len(record.attempts)
    row["template_ids"] = list(record.template_ids)
    row["retrieved"] = [dict(zip(RETRIEVED, pair, strict=True)) for pair in record.retrieved]
    if record.usage is not None:
        row |= msgspec.structs.asdict(record.usage)
    decision = record.decision
    if decision is not None:
        row |= {
            "decision_id": decision.id, "router": decision.router, "preference": decision.preference,
            "exploration": decision.exploration, "decided_arm": decision.arm, "propensity": decision.propensity,
            "explored": decision.explored, "candidates": [_candidate(c) for c in decision.candidates],
            "lambda_per_usd": decision.lambda_per_usd, "affinity": decision.affinity,
            "previous_arm": decision.previous_arm, "win_probability": decision.win_probability,
            "threshold": decision.threshold, "withheld_from": decision.withheld_from,
        }  # fmt: skip
        cascade = decision.cascade
        if cascade is not None:
            row |= {
                "cascade_first": cascade.first, "cascade_then": cascade.then, "cascade_signal": cascade.signal,
                "cascade_value": cascade.value, "escalated": cascade.escalated,
            }  # fmt: skip
    return row


def attempt_row(interaction_id: str, attempt: Attempt) -> dict[str, Any]:
    row = {"interaction_id": interaction_id, **msgspec.structs.asdict(attempt)}
    usage = row.pop("usage")
    return row if usage is None else row | msgspec.structs.asdict(usage)


def feedback_row(record: Feedback) -> dict[str, Any]:
    """A row of `FEEDBACK`; `value` and `tags` are JSON, so that a number, a truth value and a text stay apart."""
    return msgspec.structs.asdict(record) | {
        "value": _json(record.value).decode(), "tags": _json(record.tags).decode(),
    }  # fmt: skip


def score_row(record: Score) -> dict[str, Any]:
    return msgspec.structs.asdict(record)


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return msgspec.structs.asdict(candidate)


class WrittenFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a snapshot: path below its folder, rows, bytes and SHA-256 in hex."""

    path: str
    rows: int
    bytes: int
    sha256: str


Build = Callable[[list[Any], Any], Any]
"""Makes an Arrow table of rows and a schema."""


class FileWriter:
    """Writes one Parquet file; rows are held only until a row group is full."""

    def __init__(self, path: Path, schema: Any, build: Build) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.rows = 0
        self._schema = schema
        self._build = build
        self._held: list[Any] = []
        self._held_bytes = 0
        self._parquet = pyarrow().parquet.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: Any, size: int) -> None:
        """Add a row whose content takes about `size` bytes."""
        self._held.append(row)
        self._held_bytes += size
        self.rows += 1
        if len(self._held) >= GROUP_ROWS or self._held_bytes >= GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        if self._held:
            self._write_group()
        self._parquet.close()

    def _write_group(self) -> None:
        self._parquet.write_table(self._build(self._held, self._schema))
        self._held, self._held_bytes = [], 0


class TableWriter:
    """Writes one table as `<folder>/part-00000.parquet` and so on; an empty table has one part too."""

    def __init__(self, root: Path, folder: str, schema: Any, build: Build) -> None:
        self._root = root
        self._folder = folder
        self._schema = schema
        self._build = build
        self._files: list[WrittenFile] = []
        self._part = self._next_part()

    def add(self, row: Any, size: int = 0) -> None:
        """Add a row whose content takes about `size` bytes."""
        if self._part.rows >= PART_ROWS:
            self._close_part()
            self._part = self._next_part()
        self._part.add(row, size)

    def close(self) -> list[WrittenFile]:
        """Write what is held; all files of the table."""
        self._close_part()
        return self._files

    def _next_part(self) -> FileWriter:
        path = self._root / self._folder / f"part-{len(self._files):05}.parquet"
        return FileWriter(path, self._schema, self._build)

    def _close_part(self) -> None:
        part = self._part
        part.close()
        name = part.path.relative_to(self._root).as_posix()
        size = part.path.stat().st_size
        self._files.append(WrittenFile(path=name, rows=part.rows, bytes=size, sha256=sha256(part.path)))


def record_table(root: Path, folder: str, columns: Columns) -> TableWriter:
    """A table whose rows are dicts."""
    return TableWriter(root, folder, schema_of(columns), table_of_dicts)


def record_file(path: Path, columns: Columns) -> FileWriter:
    """One file whose rows are dicts."""
    return FileWriter(path, schema_of(columns), table_of_dicts)


def schema_of(columns: Columns) -> Any:
    return pyarrow().schema([(name, arrow_type(kind)) for name, kind in columns.items()])


def table_of_dicts(rows: list[dict[str, Any]], schema: Any) -> Any:
    return pyarrow().Table.from_pylist(rows, schema=schema)


def vector_table(root: Path, folder: str, dimension: int) -> TableWriter:
    """A table whose rows are `(interaction id, created_at, float32 bytes of length 4 * dimension)`."""
    pa = pyarrow()
    schema = pa.schema(
        [("interaction_id", pa.string()), ("created_at", pa.float64()), ("vector", pa.list_(pa.float32(), dimension))]
    )

    def build(rows: list[tuple[str, float, bytes]], schema: Any) -> Any:
        flat = np.frombuffer(b"".join(row[2] for row in rows), dtype="<f4")
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension)
        ids, times = pa.array([row[0] for row in rows]), pa.array([row[1] for row in rows])
        return pa.Table.from_arrays([ids, times, vectors], schema=schema)

    return TableWriter(root, folder, schema, build)


def arrow_type(kind: str) -> Any:
    pa = pyarrow()
    if kind == "strings":
        return pa.list_(pa.string())
    if kind in STRUCTS:
        return pa.list_(pa.struct([(name, arrow_type(inner)) for name, inner in STRUCTS[kind].items()]))
    return pa.type_for_alias(kind)


def pyarrow() -> Any:
    """The module, with its Parquet half. Raises LogError where it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise LogError("writing Parquet needs pyarrow: pip install 'tokamak[learn]'") from error
    return pa


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
