"""The log as a file: one writer who says who it is, nothing twice, and clear words for what it cannot read."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offline.bohdi.errors import EpisodeLogError, LogHeld
from offline.bohdi.events import AnyEvent, RoundBegan, RoundEnded, TargetChanged
from offline.bohdi.log import EpisodeLog, StoredReply
from offline.bohdi.tree import TreeError
from tests.bohdi.events_at_random import LEAVES, PLANTED, SPROUTS, contested
from tests.house import ROOT as REPOSITORY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with EpisodeLog(tmp_path / "log.db") as log:
        log.append([PLANTED, *SPROUTS])
        log.append([contested(i, LEAVES[i % 9], float(i % 2)) for i in range(20)])
    return tmp_path / "log.db"


def test_a_missing_file_reads_as_a_log_without_events_and_is_not_made(tmp_path: Path) -> None:
    log = EpisodeLog(tmp_path / "none.db")
    assert list(log.events()) == []
    assert log.reply("r1") is None
    assert log.tree().state.events == 0
    assert list(tmp_path.iterdir()) == []


def test_events_come_back_as_they_were_with_their_numbers(path: Path) -> None:
    events = list(EpisodeLog(path).events(after=13))
    assert [number for number, _ in events] == list(range(14, 34))
    assert events[0][1] == contested(0, LEAVES[0], 0.0)


def test_a_step_a_round_and_a_node_are_added_once(path: Path) -> None:
    began = RoundBegan(at=1.0, round=2, leader="a", paths=1, seed=0, target_version="0", prompts_version="1")
    again: list[AnyEvent] = [SPROUTS[0], contested(3, LEAVES[0], 1.0), began, began]
    with EpisodeLog(path) as log:
        assert log.append(again) == 1
        assert log.append(again) == 0
        assert log.append([RoundEnded(at=1.0, round=2, contests=1, dropped=0)] * 2) == 1
        assert log.tree().root.n == 20


def test_events_that_do_not_fit_leave_the_log_as_it_was(path: Path) -> None:
    with EpisodeLog(path) as log:
        before = log.tree().digest()
        with pytest.raises(TreeError, match="leaves the tree at 'nowhere'"):
            log.append([contested(50, LEAVES[0], 1.0), contested(51, ("nowhere", "x"), 1.0)])
        assert log.tree().digest() == before
        assert log.append([contested(50, LEAVES[0], 1.0)]) == 1
        log.verify()


def test_a_second_writer_is_told_who_writes_and_may_read(path: Path) -> None:
    with EpisodeLog(path) as first:
        first.append([contested(60, LEAVES[0], 1.0)])
        second = EpisodeLog(path)
        with pytest.raises(LogHeld, match=rf"log\.db is being written by process {os.getpid()} on .* since 20"):
            second.append([contested(61, LEAVES[0], 1.0)])
        assert second.tree().root.n == 21
    assert second.append([contested(61, LEAVES[0], 1.0)]) == 1
    second.close()


def test_the_first_reply_to_a_step_stays(path: Path) -> None:
    with EpisodeLog(path) as log:
        log.keep_reply("r1/p1/answer/a/0", StoredReply(text="first", tokens=3, cost_usd=0.1, at=1.0))
        log.keep_reply("r1/p1/answer/a/0", StoredReply(text="second"))
        log.keep_reply("r1/p10/answer/a/0", StoredReply(failure="refused"))
        assert log.reply("r1/p1/answer/a/0") == StoredReply(text="first", tokens=3, cost_usd=0.1, at=1.0)
        assert [step for step, _ in log.replies("r1/p1/")] == ["r1/p1/answer/a/0"]
        assert len(list(log.replies("r1/p1"))) == 2


def test_a_snapshot_that_does_not_match_its_digest_is_passed_over(path: Path) -> None:
    with EpisodeLog(path) as log:
        digest = log.tree().digest()
        log.snapshot()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE snapshots SET state = zeroblob(100)")
    assert EpisodeLog(path).tree().digest() == digest


def test_a_snapshot_of_another_history_is_found_out(path: Path) -> None:
    with EpisodeLog(path) as log:
        log.snapshot()
    with sqlite3.connect(path) as db:
        body = db.execute("SELECT body FROM events WHERE n = 20").fetchone()[0]
        db.execute("UPDATE events SET body = ? WHERE n = 20", (body.replace(b'"reward":0.0', b'"reward":0.9'),))
    with pytest.raises(EpisodeLogError, match="delete the rows of its table `snapshots`"):
        EpisodeLog(path).verify()


def test_files_of_another_version_or_kind_are_refused_and_not_touched(path: Path, tmp_path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(EpisodeLogError, match=r"has layout 7 and this version reads 1: use the version that wrote it"):
        EpisodeLog(path)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE things (x)")
    with pytest.raises(EpisodeLogError, match="is no episode log: name another file"):
        EpisodeLog(foreign)
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at " * 40)
    with pytest.raises(EpisodeLogError, match="cannot use the episode log"):
        EpisodeLog(text)
    assert text.read_text().startswith("not a database")


def test_an_event_that_cannot_be_read_is_named(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE events SET body = ? WHERE n = 15", (b'{"kind":"unheard"}',))
    with pytest.raises(EpisodeLogError, match=r"event 15 of .* cannot be read"):
        EpisodeLog(path).tree()


def test_a_log_begins_with_planted_and_has_one(path: Path, tmp_path: Path) -> None:
    with EpisodeLog(path) as log, pytest.raises(TreeError, match="begins with `planted`, and has no other"):
        log.append([PLANTED])
    with EpisodeLog(tmp_path / "new.db") as log, pytest.raises(TreeError, match="got TargetChanged as event 1"):
        log.append([TargetChanged(at=0.0, version="1")])


WRITER = """
import sys
from pathlib import Path
from offline.bohdi.log import EpisodeLog, StoredReply
from tests.bohdi.events_at_random import LEAVES, PLANTED, SPROUTS, contested
log = EpisodeLog(Path(sys.argv[1]))
if not log.tree().state.events:
    log.append([PLANTED, *SPROUTS])
number = log.tree().root.n
print("ready", flush=True)
while True:
    log.append([contested(number + i, LEAVES[(number + i) % 9], float(i % 2)) for i in range(5)])
    log.keep_reply(f"r{number}", StoredReply(text="kept"))
    number += 5
    if number % 50 == 0:
        log.snapshot()
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_in_the_midst_of_appending_loses_nothing_it_said_was_kept(tmp_path: Path) -> None:
    path, chance = tmp_path / "log.db", random.Random(0)
    said: set[int] = set()
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.3))
        os.kill(writer.pid, signal.SIGKILL)
        lines = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        said |= {int(line) for line in lines}
        log = EpisodeLog(path)
        asked = log.tree().root.n
        assert asked >= max(said, default=0)
        assert asked % 5 == 0
        assert all(log.reply(f"r{number}") is not None for number in (done - 5 for done in said))
        log.verify()
    with EpisodeLog(path) as log:
        assert log.append([contested(10**9, LEAVES[0], 1.0)]) == 1
