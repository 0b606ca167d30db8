"""The worker that the service starts beside itself: whose code it runs, and what is told when it cannot run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from registry.config import Config
from registry.job_kinds import TRAIN_ROUTER
from registry.jobs import Jobs
from service.worker_process import WorkerProcess
from tests.gateway.live import until
from tests.house import ROOT


def watched(folder: Path) -> tuple[WorkerProcess, Jobs]:
    config = Config.model_validate(
        {
            "version": 1,
            "server": {"data_dir": str(folder)},
            "upstreams": {"up": {"base_url": "http://127.0.0.1:9/v1"}},
            "models": {"alpha": {"endpoints": [{"upstream": "up"}]}},
        }
    )
    jobs = Jobs(folder)
    jobs.submit(TRAIN_ROUTER, {}, target="router", by="test")
    return WorkerProcess(config, jobs, {"OMP_NUM_THREADS": "1"}), jobs


def test_files_where_the_service_was_started_do_not_stand_in_for_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "traffic.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    worker, jobs = watched(tmp_path / "data")
    assert worker.ensure()
    try:
        until(lambda: not worker.running(), "the worker did not end")
    finally:
        worker.stop()
    (job,) = jobs.find()
    assert (job.state, worker.hint()) == ("failed", None)
    assert "there is no log" in (job.error or "")


def test_workers_that_cannot_start_are_told_and_started_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module named numpy' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    now = [1_000.0]
    monkeypatch.setattr("service.worker_process.time.monotonic", lambda: now[0])
    (tmp_path / "data").mkdir()
    worker, jobs = watched(tmp_path / "data")
    started = []
    for second in range(200):
        now[0] = 1_000.0 + second
        if worker.ensure():
            started.append(second)
            assert worker._process is not None
            worker._process.wait()
    assert started == [0, 5, 15, 35, 75, 155]
    hint = worker.hint()
    assert hint is not None
    assert "the last 6 workers ended with an error" in hint
    assert hint.endswith(f"{tmp_path / 'data' / 'worker.log'} ends with: no module named numpy")
    jobs.seen("somebody else", os.getpid())
    assert worker.hint() is None
