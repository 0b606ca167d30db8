"""A distillation queued over the admin API and run by a worker."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from offline.worker import Worker
from registry.jobs import Jobs
from registry.worker_settings import WorkerSettings
from tests.distill.test_fuse import recipe
from tests.gateway.live import fleet


def test_a_recipe_is_queued_run_and_told(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    (data_dir / "recipes").mkdir(parents=True)
    recipe(data_dir / "recipes").rename(data_dir / "recipes" / "mine.yaml")
    with fleet(data_dir, {"m": {}}) as live:
        assert httpx.get(f"{live.gateway.admin_url}/admin/distill").json()["recipes"] == ["mine"]
        refused = httpx.post(f"{live.gateway.admin_url}/admin/distill", json={"recipe": "other"})
        assert refused.status_code == 404
        assert "there are: mine" in refused.json()["error"]["message"]
        outside = httpx.post(f"{live.gateway.admin_url}/admin/distill", json={"recipe": "../mine"})
        assert outside.status_code == 400
        answer = httpx.post(f"{live.gateway.admin_url}/admin/distill", json={"recipe": "mine"})
        assert answer.status_code == 202
        job = answer.json()["job"]["id"]
    assert Worker(WorkerSettings(data_dir=data_dir, log_url=f"sqlite:///{data_dir}/traffic.db")).run_one()
    done = Jobs(data_dir).get(job)
    assert done is not None
    assert done.state == "succeeded", done
    assert done.result is not None
    assert done.result["recipe"] == "mine"
    assert (data_dir / "recipes" / "out" / "README.md").exists()
    assert set(done.result["weights"]) == {"letters", "calc"}
