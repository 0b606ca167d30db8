"""Is a queued job done once, by one worker, whatever dies?"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from registry.jobs import MAX_ATTEMPTS, MAX_LINES, Job, JobConflict, JobLost, Jobs, JobsError

LEASE_S = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(tmp_path: Path, clock: Clock) -> Jobs:
    return Jobs(tmp_path, LEASE_S, clock)


def queued(jobs: Jobs, kind: str = "train", target: str = "router") -> Job:
    return jobs.submit(kind, {}, target=target).job


def taken(jobs: Jobs, worker: str = "w1") -> Job:
    job = jobs.claim(worker, ["train", "judge"])
    assert job is not None
    return job


def test_a_job_goes_from_queued_over_running_to_succeeded(jobs: Jobs, clock: Clock) -> None:
    job = jobs.submit("train", {"seed": 3}, target="router", by="anna").job
    assert (job.state, job.arguments, job.by, job.created_at) == ("queued", {"seed": 3}, "anna", 1_000.0)
    assert jobs.waiting()
    clock.now = 1_005.0
    held = taken(jobs)
    assert (held.state, held.worker, held.attempts, held.started_at) == ("running", "w1", 1, 1_005.0)
    assert not jobs.waiting()
    jobs.renew(held, progress=0.5, step="half")
    jobs.note(held, "a line")
    jobs.succeed(held, {"version": "x@01234567"})
    ended = jobs.get(job.id)
    assert ended is not None
    assert (ended.state, ended.progress, ended.step, ended.result) == (
        "succeeded",
        1.0,
        "half",
        {"version": "x@01234567"},
    )
    assert [line.text for line in jobs.lines(job.id)] == ["a line"]
    assert jobs.claim("w2", ["train"]) is None


def test_nothing_is_written_by_looking(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "none")
    assert (jobs.find(), jobs.workers(), jobs.waiting(), jobs.get("x"), jobs.cancel("x")) == ([], [], False, None, None)
    assert jobs.claim("w", ["train"]) is None
    assert not (tmp_path / "none").exists()


def test_an_equal_wish_is_the_same_job_and_another_one_is_told_of_it(jobs: Jobs) -> None:
    first = jobs.submit("train", {"seed": 1}, target="router")
    again = jobs.submit("train", {"seed": 1}, target="router")
    assert (first.created, again.created) == (True, False)
    assert again.job.id == first.job.id
    with pytest.raises(JobConflict, match=first.job.id) as conflict:
        jobs.submit("train", {"seed": 2}, target="router")
    assert conflict.value.job.id == first.job.id
    assert jobs.submit("train", {"seed": 2}, target="another").created
    assert jobs.submit("judge", {"seed": 2}, target="router").created
    jobs.fail(taken(jobs), "no data")
    assert jobs.submit("train", {"seed": 2}, target="router").created


def test_an_idempotency_key_stands_for_one_job_for_ever(jobs: Jobs) -> None:
    first = jobs.submit("train", {"seed": 1}, idempotency_key="k").job
    jobs.succeed(taken(jobs), {})
    again = jobs.submit("train", {"seed": 1}, idempotency_key="k")
    assert (again.created, again.job.id, again.job.state) == (False, first.id, "succeeded")
    with pytest.raises(JobConflict, match="used for another job"):
        jobs.submit("train", {"seed": 2}, idempotency_key="k")


def test_many_at_once_make_one_job_and_one_worker_gets_it(jobs: Jobs) -> None:
    made: list[str] = []
    held: list[Job | None] = []

    def run(number: int) -> None:
        made.append(jobs.submit("train", {}, target="router").job.id)
        held.append(jobs.claim(f"w{number}", ["train"]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert len([job for job in held if job is not None]) == 1


def test_the_job_of_a_dead_worker_is_taken_up_and_the_dead_one_cannot_change_it(jobs: Jobs, clock: Clock) -> None:
    queued(jobs)
    dead = taken(jobs, "dead")
    clock.now += LEASE_S - 1
    assert jobs.claim("w2", ["train"]) is None
    jobs.renew(dead)
    clock.now += LEASE_S - 1
    assert jobs.claim("w2", ["train"]) is None
    clock.now += 2
    assert jobs.waiting()
    live = taken(jobs, "live")
    assert (live.id, live.attempts, live.worker) == (dead.id, 2, "live")
    for call in (
        lambda: jobs.renew(dead),
        lambda: jobs.note(dead, "x"),
        lambda: jobs.succeed(dead, {"version": "late"}),
        lambda: jobs.fail(dead, "late"),
    ):
        with pytest.raises(JobLost):
            call()
    jobs.give_back(dead)
    jobs.succeed(live, {"version": "one"})
    ended = jobs.get(live.id)
    assert ended is not None
    assert ended.result == {"version": "one"}
    assert "worker dead is gone" in jobs.lines(live.id)[0].text


def test_the_same_worker_that_has_lost_its_lease_is_told_apart_by_the_attempt(jobs: Jobs, clock: Clock) -> None:
    queued(jobs)
    first = taken(jobs)
    clock.now += LEASE_S + 1
    second = taken(jobs)
    with pytest.raises(JobLost):
        jobs.succeed(first, {})
    jobs.succeed(second, {})


def test_a_job_that_kills_its_workers_is_given_up(jobs: Jobs, clock: Clock) -> None:
    job = queued(jobs)
    for _ in range(MAX_ATTEMPTS):
        taken(jobs)
        clock.now += LEASE_S + 1
    assert jobs.claim("w", ["train"]) is None
    ended = jobs.get(job.id)
    assert ended is not None
    assert ended.state == "failed"
    assert "workers died" in (ended.error or "")


def test_cancelling(jobs: Jobs, clock: Clock) -> None:
    waiting = jobs.cancel(queued(jobs).id)
    assert waiting is not None
    assert waiting.state == "cancelled"
    running = queued(jobs)
    held = taken(jobs)
    wanted = jobs.cancel(running.id)
    assert wanted is not None
    assert (wanted.state, wanted.cancel_wanted) == ("running", True)
    with pytest.raises(JobLost, match="to be cancelled"):
        jobs.renew(held)
    jobs.give_back(held)
    assert [job.state for job in jobs.find()] == ["cancelled", "cancelled"]
    orphan = queued(jobs)
    taken(jobs)
    clock.now += LEASE_S + 1
    ended = jobs.cancel(orphan.id)
    assert ended is not None
    assert ended.state == "cancelled"
    assert jobs.claim("w", ["train"]) is None


def test_a_worker_that_stops_in_order_gives_its_job_back_unspent(jobs: Jobs) -> None:
    job = queued(jobs)
    jobs.give_back(taken(jobs))
    back = jobs.get(job.id)
    assert back is not None
    assert (back.state, back.attempts, back.worker) == ("queued", 0, None)


def test_workers_are_alive_for_a_lease(jobs: Jobs, clock: Clock) -> None:
    jobs.seen("w", clock.now)
    assert [worker.alive for worker in jobs.workers()] == [True]
    clock.now += LEASE_S + 1
    assert [worker.alive for worker in jobs.workers()] == [False]
    jobs.gone("w")
    assert jobs.workers() == []


def test_a_log_without_end_is_cut(jobs: Jobs) -> None:
    queued(jobs)
    held = taken(jobs)
    jobs.note(held, "x" * 10_000)
    with sqlite3.connect(jobs.path) as db:
        db.executemany("INSERT INTO lines (job, at, text) VALUES (?, 0, '')", [(held.id,)] * MAX_LINES)
    jobs.note(held, "one too many")
    lines = jobs.lines(held.id)
    assert len(lines) == MAX_LINES + 1
    assert len(lines[0].text) == 2_000


def test_a_corrupt_file_and_a_newer_layout_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database" * 100)
    with pytest.raises(JobsError, match=r"corrupt .* move the file away"):
        Jobs(tmp_path).submit("train", {})
    newer = tmp_path / "newer"
    Jobs(newer).submit("train", {})
    with sqlite3.connect(newer / "jobs.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JobsError, match="newer version"):
        Jobs(newer).find()
