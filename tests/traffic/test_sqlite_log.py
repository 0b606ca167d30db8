"""The embedded log when the file, the disk or the process fails."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traffic.samples import bare, feedback, interaction, score
from traffic import sqlite_rows
from traffic.log import LogError
from traffic.migrations import STEPS, add_cached_from, add_features, add_retrieved_templates, create_interactions
from traffic.records import Interaction, Usage
from traffic.sqlite_log import SqliteLog, SqliteStore, open_for_writing
from traffic.write_queue import QueueLimits, WriteQueue

HASTY = QueueLimits(group_s=0.005, patience_s=0.2, first_pause_s=0.01, longest_pause_s=0.05, alarm_s=0.05)
ROOT = Path(__file__).resolve().parents[2]


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT id FROM interactions ORDER BY seq")]


async def until_refused(log: SqliteLog | WriteQueue) -> None:
    for _ in range(1000):
        if log.stats().last_error is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the store took what it should have refused")


async def test_a_locked_file_keeps_records_in_the_queue_until_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "traffic.db"
    log = SqliteLog(path, HASTY, busy_s=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(50):
            log.append(interaction(number))
        await until_refused(log)
        with pytest.raises(LogError, match=r"50 records .* not durable yet: database is locked"):
            await log.flush()
        assert log.stats().queue_depth == 50
        assert await log.interaction("chatcmpl-000049") == interaction(49)
        other.execute("ROLLBACK")
    await log.flush()
    assert log.stats().written == 50
    assert len(ids(path)) == 50
    assert "refuses records" in caplog.text
    assert "takes records again" in caplog.text
    await log.close()


async def test_a_full_queue_drops_what_comes_counts_it_and_raises_an_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "traffic.db"
    limits = QueueLimits(max_records=10, patience_s=0.2, first_pause_s=0.01, longest_pause_s=0.02, alarm_s=0.01)
    log = SqliteLog(path, limits, busy_s=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(25):
            log.append(bare(number))
        assert log.stats().dropped == 15
        await until_refused(log)
        with pytest.raises(LogError):
            await log.flush()
        other.execute("ROLLBACK")
    with pytest.raises(LogError, match="dropped 15 records"):
        await log.flush()
    assert ids(path) == [f"chatcmpl-{number:06d}" for number in range(10)]
    await log.close()
    assert any("dropped 15 records" in r.message and r.levelno == logging.ERROR for r in caplog.records)


async def test_the_queue_is_bounded_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    log = SqliteLog(path, QueueLimits(max_bytes=1_000_000), busy_s=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(20):
            log.append(bare(number, response=b"x" * 100_000))
        assert (log.stats().queue_depth, log.stats().dropped) == (9, 11)
        other.execute("ROLLBACK")
    with pytest.raises(LogError):
        await log.close()
    assert len(ids(path)) == 9


async def test_closing_a_log_whose_file_stays_locked_gives_up_and_says_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    log = SqliteLog(path, HASTY, busy_s=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(2_000):
            log.append(bare(number))
        with pytest.raises(LogError, match="2000 records are lost: database is locked"):
            await log.close()
    assert ids(path) == []


async def test_a_full_disk_keeps_records_until_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    db = open_for_writing(path)
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 2}")
    queue = WriteQueue(SqliteStore(db, 0.01), "small disk", HASTY)
    for number in range(30):
        queue.append(interaction(number, response=os.urandom(8_000)))
    await until_refused(queue)
    with pytest.raises(LogError, match=r"not durable yet: database or disk is full"):
        await queue.flush()
    assert queue.stats().queue_depth == 30
    assert ids(path) == []
    db.execute("PRAGMA max_page_count = 1000000")
    await queue.flush()
    assert len(ids(path)) == 30
    await queue.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "overwritten"])
async def test_a_corrupt_file_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "traffic.db"
    log = SqliteLog(path)
    for number in range(200):
        log.append(interaction(number))
    await log.close()
    whole = path.read_bytes()
    half = len(whole) // 2
    broken = {
        "garbage": b"this is not a database, whatever its name says" * 1000,
        "truncated": whole[:half],
        "overwritten": whole[: 3 * 8_192] + os.urandom(len(whole) - 3 * 8_192),
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(LogError, match=r"is corrupt .*Move it away"):
        SqliteLog(path)
    assert path.read_bytes() == broken


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    with closing(open_for_writing(path)) as db:
        db.execute("INSERT INTO layout_steps VALUES ('2031-01-01 telepathy')")
    with pytest.raises(LogError, match=r"newer version .*telepathy.*install that version"):
        SqliteLog(path)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE invoices (id)")
    before = path.read_bytes()
    with pytest.raises(LogError, match=r"something else \(tables invoices\).*log\.url"):
        SqliteLog(path)
    assert path.read_bytes() == before


def test_missing_steps_are_applied_to_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE layout_steps (name TEXT PRIMARY KEY) WITHOUT ROWID")
        name, step = STEPS[0]
        step(db)
        db.execute("INSERT INTO layout_steps VALUES (?)", (name,))
    with closing(open_for_writing(path)) as db:
        assert {row[0] for row in db.execute("SELECT name FROM layout_steps")} == {name for name, _ in STEPS}
        assert db.execute("SELECT count(*) FROM scores").fetchone() == (0,)


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_log_without_a_file_is_refused(path: str) -> None:
    with pytest.raises(LogError, match="needs a file"):
        SqliteLog(path)


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match=r"cannot open the log .*log\.url"):
        SqliteLog(tmp_path / "file" / "traffic.db")


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    open_for_writing(tmp_path / "traffic.db").close()
    assert (tmp_path / "traffic.db").stat().st_mode & 0o077 == 0


async def test_two_handles_write_the_same_file_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    logs = [SqliteLog(path, HASTY) for _ in range(3)]
    for number in range(600):
        logs[number % 3].append(interaction(number))
        if number % 50 == 0:
            await asyncio.sleep(0.005)
    await asyncio.gather(*(log.flush() for log in logs))
    assert list(logs[0].read_interactions()) == [interaction(number) for number in range(600)]
    for log in logs:
        await log.close()


async def test_reading_holds_a_page_and_not_the_table_in_memory(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "traffic.db")
    for start in range(0, 400, 50):
        for number in range(start, start + 50):
            log.append(bare(number, response=b"x" * 100_000))
        await log.flush()
    tracemalloc.start()
    total = sum(len(record.response or b"") for record in log.read_interactions())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 40_000_000
    assert peak < 4_000_000
    await log.close()


async def test_content_lies_in_a_table_of_its_own_and_is_absent_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    log = SqliteLog(path)
    log.append(bare(1))
    log.append(interaction(2))
    log.append(interaction(3, stored=False, request=b"SECRET", response=None, query_text=None))
    await log.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT i.id FROM contents JOIN interactions i USING (seq)").fetchall() == [
            ("chatcmpl-000002",)
        ]
    assert b"SECRET" not in path.read_bytes()


CRASHING_WRITER = """
import asyncio, sys
from tests.traffic.samples import feedback, interaction, score
from traffic.sqlite_log import SqliteLog

async def main():
    log = SqliteLog(sys.argv[1])
    number = 0
    while True:
        for number in range(number, number + 37):
            log.append(interaction(number))
            log.append(score(number))
            log.append(feedback(number))
        number += 1
        await log.flush()
        print(number, flush=True)
        log.append(interaction(10_000_000 + number))

asyncio.run(main())
"""


def test_what_flush_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", CRASHING_WRITER, str(path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert writer.stdout is not None
    acknowledged = 0
    for _ in range(8):
        acknowledged = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split("\n")[:-1]
    writer.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    log = SqliteLog(path)
    survived = {record.id: record for record in log.read_interactions()}
    for number in range(acknowledged):
        assert survived[f"chatcmpl-{number:06d}"] == interaction(number)
    assert {record.interaction_id for record in log.read_scores()} >= {
        score(n).interaction_id for n in range(acknowledged)
    }
    assert {record.id for record in log.read_feedback()} >= {feedback(n).id for n in range(acknowledged)}
    asyncio.run(log.close())


texts = st.none() | st.text(max_size=20)
numbers = st.none() | st.floats(0, 1e6, allow_nan=False)
counts = st.none() | st.integers(0, 2**40)
blobs = st.none() | st.binary(max_size=50)


@given(
    record=st.builds(
        Interaction, id=st.text(min_size=1, max_size=10), created_at=st.floats(0, 2e9), endpoint=st.just("/v1/x"),
        outcome=st.sampled_from(["ok", "failed", "aborted", "rejected"]), http_status=st.integers(100, 599),
        answer_id=texts, client_request_id=texts,
        key_id=texts, user=texts, session=texts, workload=texts, requested_model=texts, route=texts, arm=texts,
        model=texts, stream=st.booleans(), stored=st.just(True), error_code=texts, decision=st.none(),
        usage=st.builds(Usage, prompt_tokens=counts, completion_tokens=counts, cached_tokens=counts,
                        reasoning_tokens=counts),
        cost_usd=numbers, overhead_s=numbers, ttft_s=numbers, latency_s=numbers,
        template_ids=st.lists(st.text(max_size=5), max_size=3).map(tuple), query_text=texts, encoder=texts,
        retrieved=st.lists(st.tuples(st.text(max_size=5), st.floats(-1, 1)), max_size=3).map(tuple),
        withheld=st.booleans(), cached_from=texts,
        vector=st.none() | st.binary(min_size=4, max_size=50), feature_set=texts,
        features=st.none() | st.binary(min_size=4, max_size=50), request=blobs, response=blobs,
    )
)  # fmt: skip
def test_any_interaction_equals_itself_after_a_row(record: Interaction) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        create_interactions(db)
        add_features(db)
        add_retrieved_templates(db)
        add_cached_from(db)
        db.execute(sqlite_rows.INSERT_INTERACTION, sqlite_rows.interaction_row(7, record))
        row = db.execute(f"SELECT {', '.join(sqlite_rows.INTERACTION_COLUMNS)} FROM interactions").fetchone()
    content = sqlite_rows.content_row(7, record)
    read = sqlite_rows.interaction_from_row(row, None if content is None else content[1:])
    # A usage of which nothing is known and no usage are the same statement.
    assert (read.usage or Usage()) == record.usage
    assert {f: getattr(read, f) for f in read.__struct_fields__ if f != "usage"} == {
        f: getattr(record, f) for f in record.__struct_fields__ if f != "usage"
    }
