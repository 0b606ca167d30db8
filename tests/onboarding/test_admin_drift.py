"""What `tokamak drift` found is shown by the admin API of a running gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry.drift_records import DRIFT_FILE, DriftRecord, write_drift
from tests.gateway.live import Fleet, fleet

RECORD = DriftRecord(arm="alpha", router="cluster@0", checked_at=1.0, answers=900, reference=450, run_length=1e4)
CHANGED = DriftRecord(
    arm="beta", router="cluster@0", checked_at=1.0, answers=900, reference=450, run_length=1e4, evidence=1.2e4,
    alarm_at=30.0, since=20.0, effect=-0.1, low=-0.15, high=-0.05,
)  # fmt: skip


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path) as running:
        yield running


def test_the_admin_api_shows_what_was_found(live: Fleet) -> None:
    url = f"{live.gateway.admin_url}/admin/drift"
    assert httpx.get(url).json() == {"drifted": [], "records": []}
    write_drift(live.gateway.data_dir, [RECORD, CHANGED])
    found = httpx.get(url).json()
    assert found["drifted"] == ["beta"]
    assert [(r["arm"], r["since"], r["effect"]) for r in found["records"]] == [
        ("alpha", None, None),
        ("beta", 20.0, -0.1),
    ]
    (live.gateway.data_dir / DRIFT_FILE).write_text("broken\n")
    broken = httpx.get(url)
    assert broken.status_code == 500
    assert broken.json()["error"]["code"] == "drift_records_unreadable"
