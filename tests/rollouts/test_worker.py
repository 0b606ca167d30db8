"""Does a worker do what is queued, tell what is wrong with it, and lose nothing when it dies?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from offline.job_work import JobWork, Runner
from offline.routing.train_job import run_train_router
from offline.worker import RUNNERS, Worker
from registry.artifacts import Artifacts
from registry.job_kinds import TRAIN_ROUTER
from registry.jobs import Job, Jobs
from registry.rollouts import Rollouts
from registry.worker_settings import VARIABLE, settings_from
from routers.catalogue import KIND
from tests.gateway.live import until
from tests.gateway.test_serve_command import ENV
from tests.house import ROOT
from tests.rollouts.logged import ARMS, explored, routed, scored, settings_for, written

QUESTIONS = range(160)


def submitted(folder: Path, **arguments: Any) -> Job:
    return Jobs(folder).submit(TRAIN_ROUTER, {"router": "cluster", **arguments}, target=KIND, by="anna").job


def ended(folder: Path, job: Job) -> Job:
    found = Jobs(folder).get(job.id)
    assert found is not None
    return found


def done(folder: Path, job: Job, runners: dict[str, Runner] | None = None) -> Job:
    """Let a worker in this process do everything that is queued."""
    Worker(settings_for(folder), runners or RUNNERS).run(until_idle=True)
    return ended(folder, job)


def test_a_training_becomes_a_candidate_with_its_evidence(tmp_path: Path) -> None:
    written(tmp_path, explored(QUESTIONS), iter([routed(900, "prior@0")]))
    job = done(tmp_path, submitted(tmp_path, seed=3))
    assert job.state == "succeeded", job.error
    assert job.result is not None
    version = job.result["version"]
    artifacts = Artifacts(tmp_path / "artifacts")
    evidence = artifacts.manifest(KIND, version).evidence
    assert evidence["source"]["log"]["used"] == len(QUESTIONS)
    assert evidence["source"]["log"]["unscored"] == 1
    assert evidence["source"]["until"] == job.created_at
    assert evidence["split"]["seed"] == 3
    assert evidence["evaluation"]["routers"][1]["scenarios"]["performance"]["gain"][0] > 0.2
    assert evidence["off_policy"]["verdict"] == "undecided"
    assert evidence["encoder"] == artifacts.manifest(KIND, version).encoder
    assert evidence["feature_set"]
    rollouts = Rollouts(artifacts, KIND)
    assert rollouts.read().stage(version) == "candidate"
    assert [(e.action, e.by) for e in rollouts.audit()] == [("announce", "anna")]
    assert artifacts.deployed(KIND) is None
    steps = [line.text for line in Jobs(tmp_path).lines(job.id)]
    assert steps[0] == "reading the log"
    assert steps[-1] == "publishing"


@pytest.mark.slow
def test_it_is_judged_against_the_champion_on_questions_it_has_not_seen(tmp_path: Path) -> None:
    written(tmp_path, explored(range(2_600)))
    first = done(tmp_path, submitted(tmp_path, router="prior"))
    assert first.result is not None
    assert first.result["off_policy"]["against"] is None
    Artifacts(tmp_path / "artifacts").deploy(KIND, first.result["version"])
    second = done(tmp_path, submitted(tmp_path))
    assert second.result is not None
    judged = second.result["off_policy"]
    assert (judged["verdict"], judged["against"]) == ("better", first.result["version"])


def test_what_is_said_after_the_job_was_queued_changes_nothing(tmp_path: Path) -> None:
    written(tmp_path, explored(QUESTIONS))
    job = submitted(tmp_path)
    late = [scored(number, 0.5, at=job.created_at + 1.0) for number in QUESTIONS]
    written(tmp_path, explored(range(1_000, 1_100), at=job.created_at + 1.0), iter(late))
    found = done(tmp_path, job)
    assert found.result is not None
    source = Artifacts(tmp_path / "artifacts").manifest(KIND, found.result["version"]).evidence["source"]
    assert source["log"]["read"] == source["log"]["used"] == len(QUESTIONS)


def test_only_the_wanted_sources_are_learned_from(tmp_path: Path) -> None:
    written(tmp_path, explored(QUESTIONS))
    job = done(tmp_path, submitted(tmp_path, sources=["judge"]))
    assert job.state == "failed"
    assert "no scored answer was found" in (job.error or "")


def few() -> Iterator[Any]:
    yield from explored(range(30))


def lonely() -> Iterator[Any]:
    for number in QUESTIONS:
        yield from (routed(number, "prior@0"), scored(number, float(number % 2)))


def equal() -> Iterator[Any]:
    for number in QUESTIONS:
        yield from (routed(number, "prior@0", arm=ARMS[number % 2], propensity=0.5), scored(number, 1.0))


def out_of_range() -> Iterator[Any]:
    yield from explored(QUESTIONS)
    yield scored(3, 1.5)


def without_propensity() -> Iterator[Any]:
    yield from explored(QUESTIONS)
    yield from (routed(5_000, "prior@0", propensity=0.0), scored(5_000, 1.0))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (few, "30 queries have a scored answer, at least 50 are needed"),
        (lonely, "1 arms have at least 5 scored answers, at least 2 are needed"),
        (equal, "all 160 scores are 1, so nothing tells the arms apart"),
        (out_of_range, r"must lie in [0, 1], got 1.5"),
        (without_propensity, "propensity"),
    ],
)
def test_bad_data_ends_the_job_with_what_to_do(tmp_path: Path, records: Any, message: str) -> None:
    written(tmp_path, records())
    job = done(tmp_path, submitted(tmp_path))
    assert job.state == "failed"
    assert message in (job.error or "")
    assert Artifacts(tmp_path / "artifacts").names(KIND) == []


def test_wrong_arguments_a_missing_log_and_a_truncated_champion_are_told(tmp_path: Path) -> None:
    assert "there is no log" in (done(tmp_path, submitted(tmp_path)).error or "")
    written(tmp_path, explored(QUESTIONS))
    assert "no router is called oracle" in (done(tmp_path, submitted(tmp_path, router="oracle")).error or "")
    assert "unknown field `sede`" in (done(tmp_path, submitted(tmp_path, sede=1)).error or "")
    good = done(tmp_path, submitted(tmp_path))
    assert good.result is not None
    artifacts = Artifacts(tmp_path / "artifacts")
    artifacts.deploy(KIND, good.result["version"])
    arrays = artifacts.root / KIND / good.result["version"] / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-8])
    job = done(tmp_path, submitted(tmp_path, seed=2))
    assert "truncated or corrupt" in (job.error or "")


def test_a_defect_leaves_its_trace_and_the_worker_goes_on(tmp_path: Path) -> None:
    def defect(work: JobWork) -> dict[str, Any]:
        raise RuntimeError("boom")

    job = done(tmp_path, submitted(tmp_path), {TRAIN_ROUTER: defect})
    assert job.state == "failed"
    assert "defect: RuntimeError('boom')" in (job.error or "")
    assert "Traceback" in Jobs(tmp_path).lines(job.id)[-1].text
    assert done(tmp_path, submitted(tmp_path), {TRAIN_ROUTER: lambda work: {"version": "x"}}).state == "succeeded"


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    def bare(work: JobWork) -> dict[str, Any]:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    job = done(tmp_path, submitted(tmp_path), {TRAIN_ROUTER: bare})
    assert "sklearn is not installed here" in (job.error or "")


def test_a_base_install_trains_what_it_can_and_says_what_would_be_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offline.routing.train_router.find_spec", lambda name: None)
    written(tmp_path, explored(QUESTIONS))
    job = done(tmp_path, submitted(tmp_path, router=None))
    assert job.result is not None, job.error
    assert job.result["version"].startswith("cluster@")
    (note,) = (line.text for line in Jobs(tmp_path).lines(job.id) if "default" in line.text)
    assert note.startswith("the router is cluster")
    assert "ensemble needs pip install 'tokamak[learn]'" in note


def test_a_cancelled_job_is_broken_off_in_the_middle(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, 0.4)

    def endless(work: JobWork) -> dict[str, Any]:
        threading.Timer(0.05, lambda: jobs.cancel(work.job.id)).start()
        threading.Event().wait(30)
        return {"version": "never"}

    job = jobs.submit(TRAIN_ROUTER, {}, target=KIND).job
    Worker(settings_for(tmp_path, 0.4), {TRAIN_ROUTER: endless}).run(until_idle=True)
    assert ended(tmp_path, job).state == "cancelled"


HELD_SCRIPT = """
import sys, time
from pathlib import Path
from offline.routing.train_job import run_train_router
from offline.worker import Worker
from registry.worker_settings import settings_from
import os

def held(work):
    if work.job.attempts == 1:
        original = type(work).step
        def step(self, name, progress):
            original(self, name, progress)
            if name == "publishing":
                Path(sys.argv[1]).write_text("held")
                time.sleep(600)
        type(work).step = step
    return run_train_router(work)

Worker(settings_from(os.environ), {"train_router": held}).run(until_idle=True)
"""


@contextmanager
def process(command: list[str], folder: Path, lease_s: float) -> Iterator[subprocess.Popen[str]]:
    environ = {**ENV, VARIABLE: settings_for(folder, lease_s).model_dump_json()}
    with subprocess.Popen(command, env=environ, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.slow
def test_after_kill_9_in_the_middle_the_next_worker_gives_the_same_version(tmp_path: Path) -> None:
    lease_s = 2.0
    written(tmp_path, explored(QUESTIONS))
    job = submitted(tmp_path)
    jobs = Jobs(tmp_path, lease_s)
    marker = tmp_path / "held"
    with process([sys.executable, "-c", HELD_SCRIPT, str(marker)], tmp_path, lease_s) as first:
        until(lambda: marker.exists() or first.poll() is not None, "the first worker did not get that far")
        assert first.poll() is None
        assert ended(tmp_path, job).state == "running"
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert Artifacts(tmp_path / "artifacts").names(KIND) == []
    until(jobs.waiting, "the lease did not run out")
    with process([sys.executable, "-m", "tokamak", "worker", "--until-idle"], tmp_path, lease_s) as second:
        assert second.wait(60) == 0
    found = ended(tmp_path, job)
    assert (found.state, found.attempts) == ("succeeded", 2)
    assert found.result is not None
    assert Artifacts(tmp_path / "artifacts").names(KIND) == [found.result["version"]]
    # Whoever does the same work once more, as after a crash just before the end, gets the same version.
    again = run_train_router(_work(tmp_path, found))
    assert again == found.result
    assert Artifacts(tmp_path / "artifacts").names(KIND) == [found.result["version"]]


def _work(folder: Path, job: Job) -> JobWork:
    class Quiet(Jobs):
        def renew(self, job: Job, *, progress: float | None = None, step: str | None = None) -> None:
            """The job has ended; there is no lease to keep."""

        def note(self, job: Job, text: str) -> None:
            """And nobody to tell."""

    return JobWork(job, Quiet(folder), settings_for(folder))


def test_a_worker_that_is_told_to_stop_gives_its_job_back(tmp_path: Path) -> None:
    job = submitted(tmp_path)
    script = HELD_SCRIPT.replace("return run_train_router(work)", "Path(sys.argv[1]).write_text('x'); time.sleep(600)")
    marker = tmp_path / "held"
    with process([sys.executable, "-c", script, str(marker)], tmp_path, 30.0) as worker:
        until(lambda: marker.exists() or worker.poll() is not None, "the worker did not start")
        worker.terminate()
        assert worker.wait(20) == 0
    found = ended(tmp_path, job)
    assert (found.state, found.attempts) == ("queued", 0)
    assert Jobs(tmp_path).workers() == []


def test_settings_are_handed_over_in_the_environment(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, arms=("a", "b"))
    assert settings_from({VARIABLE: settings.model_dump_json()}) == settings
    assert settings_from({}) is None
    with pytest.raises(ValueError, match=f"{VARIABLE} cannot be read"):
        settings_from({VARIABLE: "{"})
