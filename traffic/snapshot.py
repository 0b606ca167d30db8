"""A snapshot: a window of the log as Parquet files that never change, with a manifest that says what is in them.

    FOLDER/manifest.json
    FOLDER/interactions/part-00000.parquet     also attempts/, feedback/, scores/
    FOLDER/vectors/encoder=HASH/dim=256/part-00000.parquet      float32 lists of fixed size

Written beside its place and moved there when complete: a folder of that name is whole or absent.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from traffic import parquet_tables as tables
from traffic.log import LogError, TrafficLog
from traffic.parquet_tables import TableWriter, WrittenFile
from traffic.records import Interaction

LAYOUT = 1
MANIFEST = "manifest.json"


class SnapshotTable(msgspec.Struct, frozen=True, kw_only=True):
    rows: int
    files: tuple[WrittenFile, ...]


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot holds: records with `since <= created_at < until` (Unix seconds) as they were at `created_at`."""

    layout: int
    created_at: float
    since: float
    until: float
    content: bool
    tables: dict[str, SnapshotTable]


def snapshot(
    log: TrafficLog, out_dir: Path, since: float = 0.0, until: float | None = None, *, content: bool = True
) -> SnapshotManifest:
    """Write the window of the log to `out_dir`, which must not exist yet, streaming: memory does not grow with the log.

    Interactions of `store: false` come without content and without vector. Without `content` nobody's text is written.

    Raises
    ------
    LogError: `out_dir` exists, pyarrow is missing, or the log cannot be read.
    """
    created_at = time.time()
    until = created_at if until is None else until
    with new_folder(out_dir) as folder:
        written = _write_interactions(log.read_interactions(since, until, content=content), folder, content)
        feedback = tables.record_table(folder, "feedback", tables.FEEDBACK)
        for statement in log.read_feedback(since, until):
            feedback.add(tables.feedback_row(statement), len(statement.demonstration or b""))
        scores = tables.record_table(folder, "scores", tables.SCORES)
        for score in log.read_scores(since, until):
            scores.add(tables.score_row(score))
        written |= {"feedback": feedback.close(), "scores": scores.close()}
        manifest = SnapshotManifest(
            layout=LAYOUT, created_at=created_at, since=since, until=until, content=content,
            tables={
                name: SnapshotTable(rows=sum(file.rows for file in files), files=tuple(files))
                for name, files in written.items()
            },
        )  # fmt: skip
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return manifest


def read_manifest(folder: Path, *, verify: bool = True) -> SnapshotManifest:
    """The manifest of a snapshot; with `verify` every file is compared with its digest. Raises LogError."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=SnapshotManifest)
    except (OSError, msgspec.DecodeError) as error:
        raise LogError(f"{folder} is no snapshot: {MANIFEST} cannot be read ({error}); take it again") from error
    if manifest.layout > LAYOUT:
        raise LogError(f"{folder} has layout {manifest.layout}, this version knows {LAYOUT}: install a newer Tokamak")
    for table in manifest.tables.values() if verify else ():
        for file in table.files:
            path = folder / file.path
            if not path.is_file() or tables.sha256(path) != file.sha256:
                raise LogError(f"{path} is absent or not what was written; take the snapshot again")
    return manifest


def _write_interactions(records: Iterator[Interaction], folder: Path, content: bool) -> dict[str, list[WrittenFile]]:
    interactions = tables.record_table(folder, "interactions", tables.INTERACTIONS)
    attempts = tables.record_table(folder, "attempts", tables.ATTEMPTS)
    vectors: dict[tuple[str, int], TableWriter] = {}
    for record in records:
        size = len(record.request or b"") + len(record.response or b"") + len(record.query_text or "")
        row = tables.interaction_row(record)
        if not content or not record.stored:
            row["features"] = None
        interactions.add(row, size)
        for attempt in record.attempts:
            attempts.add(tables.attempt_row(record.id, attempt))
        # A vector says much of its text, so it goes where the text goes.
        if record.vector and content and record.stored:
            kind = (record.encoder or "unknown", len(record.vector) // 4)
            if kind not in vectors:
                place = f"vectors/encoder={quote(kind[0], safe='')}/dim={kind[1]}"
                vectors[kind] = tables.vector_table(folder, place, kind[1])
            vectors[kind].add((record.id, record.created_at, record.vector), len(record.vector))
    return {
        "interactions": interactions.close(),
        "attempts": attempts.close(),
        "vectors": [file for writer in vectors.values() for file in writer.close()],
    }


@contextmanager
def new_folder(out_dir: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out_dir` in one step if all goes well and is removed if not."""
    if out_dir.exists():
        raise LogError(f"{out_dir} exists; a snapshot never changes one: name a new folder")
    partial = out_dir.with_name(f".{out_dir.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out_dir)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` in one step if all goes well and is removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
