"""The operator's whole way by HTTP: traffic, feedback, training, the gate, shadow, canary, promotion, roll back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.live import until
from tests.rollouts.town import Told, Town, town

EXPLORED = range(2600)
FRESH = range(100_000, 100_120)
CANARIED = range(200_000, 200_400)
SHADOWED = range(300_000, 300_100)


@dataclass
class Load:
    """Somebody who asks all the time, and what went wrong."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


@contextmanager
def under_load(live: Town) -> Iterator[Load]:
    load = Load()

    def run(start: int) -> None:
        number = start
        while not load.stopping.is_set():
            number += 1
            try:
                live.ask(number)
                load.answered += 1
            except (AssertionError, httpx.TransportError) as error:
                load.failures.append(repr(error))

    threads = [threading.Thread(target=run, args=(10_000_000 * (part + 1),)) for part in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stopping.set()
        for thread in threads:
            thread.join()


def share_right(told: list[Told]) -> float:
    return sum(one.right for one in told) / len(told)


@pytest.mark.slow
def test_traffic_trains_a_router_that_is_proven_promoted_and_rolled_back(tmp_path: Path) -> None:
    with town(tmp_path) as live:
        before = live.traffic(FRESH, scored=False)
        assert {one.model for one in before} == {"calc"}
        assert share_right(before) == pytest.approx(0.5, abs=0.05)
        live.traffic(EXPLORED, exploration=1.0)

        job = killed_half_way(live, preference=1.0)
        assert job["state"] == "succeeded", job
        assert job["attempts"] == 2
        version = job["result"]["version"]
        found = live.admin.get(f"/admin/routers/{version}").json()
        assert found["stage"] == "candidate"
        evidence = found["evidence"]
        assert evidence["source"]["log"]["used"] == len(EXPLORED)
        assert evidence["off_policy"]["against"] is None
        assert evidence["off_policy"]["verdict"] == "better", evidence["off_policy"]["reason"]
        assert evidence["off_policy"]["quality"]["low"] > 0.2
        assert live.ask(1).router == "prior@0"

        with under_load(live) as load:
            shadowed(live, version)
            canaried(live, version)
            promoted = live.change(f"{version}/promote")
            assert promoted.status_code == 200, promoted.text
            assert promoted.json()["serving"] == version
            after = live.traffic(FRESH, scored=False)
            back = live.change("roll-back", reason="to see that it works")
            assert back.json()["serving"] == "prior@0"
        assert load.failures == []
        assert load.answered > 50

        assert {one.router for one in after} == {version}
        assert share_right(after) > share_right(before) + 0.3
        assert {one.model for one in live.traffic(FRESH, scored=False)} == {"calc"}
        assert live.admin.get(f"/admin/routers/{version}").json()["stage"] == "rolled_back"
        audit = live.admin.get("/admin/routers/rollout/audit").json()["entries"]
        assert [entry["action"] for entry in audit] == ["announce", "shadow", "canary", "promote", "roll_back"]
        assert "the canary is better" in audit[3]["why"]


def killed_half_way(live: Town, **arguments: Any) -> dict[str, Any]:
    """Queue a training, kill the worker that the service has started for it, and wait for the end all the same."""
    job = live.admin.post("/admin/routers/train", json=arguments).json()["job"]["id"]

    def running() -> dict[str, Any] | None:
        found: dict[str, Any] = live.admin.get(f"/admin/jobs/{job}").json()
        return found if found["state"] == "running" and found["progress"] > 0.0 else None

    worker = until(running, "no worker took the job up")["worker"]
    (found,) = [one for one in live.admin.get("/admin/jobs").json()["workers"] if one["id"] == worker]
    os.kill(found["pid"], signal.SIGKILL)
    return live.ended(job)


def shadowed(live: Town, version: str) -> None:
    """In shadow it serves nobody, and it is known what it would have done."""
    assert live.change(f"{version}/shadow").status_code == 200
    assert {one.router for one in live.traffic(SHADOWED, scored=False)} == {"prior@0"}
    live.admin.get("/admin/log/stats")
    report = live.admin.get(f"/admin/routers/{version}/report").json()
    assert report["candidate"]["requests"] == 0
    assert report["shadowed"] > 50
    assert 0.3 < report["shadow_agreement"] < 0.7


def canaried(live: Town, version: str) -> None:
    """In canary it serves its share, always the same questions, and the report says that it is better."""
    assert live.change(f"{version}/canary", share=0.5).status_code == 200
    told = live.traffic(CANARIED)
    routers = {one.router for one in told}
    assert routers == {"prior@0", version}
    again = live.traffic(CANARIED[:50], scored=False)
    assert [one.router for one in again] == [one.router for one in told[:50]]
    share = sum(one.router == version for one in told) / len(told)
    assert 0.35 < share < 0.65
    report = live.admin.get(f"/admin/routers/{version}/report").json()
    assert report["verdict"] == "better", report
    assert report["quality"]["low"] > 0.1
    assert report["candidate"]["failed"] == report["champion"]["failed"] == 0
    metrics = live.admin.get("/metrics").text
    assert f'tokamak_router_requests_total{{router="{version}",outcome="ok"}}' in metrics
    assert f'tokamak_shadow_total{{router="{version}",agrees="no"}}' in metrics
