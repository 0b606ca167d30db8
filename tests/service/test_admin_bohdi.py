"""Knowledge trees on the admin port: what there is to see, and what is queued for a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from offline.bohdi.status import refresh_status
from offline.bohdi.tree_work import Place, draw_set
from offline.worker import Worker
from registry.bohdi_jobs import BOHDI_EXPORT, BOHDI_RETIRE, BOHDI_ROUND, BOHDI_TRAFFIC
from registry.bohdi_trees import SHARED, tree_folder
from registry.jobs import Jobs
from registry.worker_settings import settings_of
from service.admin import TOKEN_VARIABLE
from tests.bohdi.grown import LEAVES, path_of, two_rounds, written
from tests.bohdi.logged import TOPICS, asked
from tests.bohdi.speakers import Speaker
from tests.gateway.live import ERROR_FIELDS, WAIT_S, Fleet, fleet

TOKEN = "token-of-the-test"
SETTINGS = {"target": "pupil", "sources": ["alpha"], "judges": ["judge"], "paths_per_round": 2, "levels": 1}


class Service:
    """A live service with its admin port and a tree."""

    def __init__(self, live: Fleet, admin: httpx.Client) -> None:
        self.live, self.admin, self.folder = live, admin, live.gateway.data_dir

    def grown(self) -> None:
        folder = tree_folder(self.folder, SHARED)
        written(folder, two_rounds())
        (folder / "settings.yaml").write_text("{target: target, sources: [large, other]}")
        refresh_status(self.folder, SHARED)

    def get(self, path: str = "", status: int = 200, **query: Any) -> Any:
        response = self.admin.get(f"/admin/bohdi{path}", params=query)
        assert response.status_code == status, response.text
        return response.json()

    def post(self, path: str, body: Any = None, status: int = 202, **headers: str) -> Any:
        response = self.admin.post(f"/admin/bohdi{path}", json={} if body is None else body, headers=headers)
        assert response.status_code == status, response.text
        return response.json()

    def worked(self) -> Any:
        """The result of the job that a worker has done."""
        worker = Worker(settings_of(self.live.gateway.config))
        assert worker.run_one()
        (job, *_) = Jobs(self.folder).find()
        assert job.state == "succeeded", job.error
        return job.result


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    models: dict[str, Any] = {name: {} for name in ("pupil", "alpha", "judge")}
    with (
        fleet(tmp_path, models, environ={TOKEN_VARIABLE: TOKEN}, jobs={"worker": "external"}) as live,
        httpx.Client(
            base_url=live.gateway.admin_url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=WAIT_S
        ) as admin,
    ):
        for name, skill in (("pupil", 0.3), ("alpha", 1.0), ("judge", 1.0)):
            live[name].default = Speaker(skill=skill)
        yield Service(live, admin)


def test_a_tree_is_looked_at(service: Service) -> None:
    assert service.get() == {"trees": []}
    service.grown()
    (summary,) = service.get()["trees"]
    assert (summary["tree"], summary["contests"], summary["rounds"], summary["resets"]) == (SHARED, 80, 2, 1)
    status = service.get(f"/{SHARED}")
    assert "nodes" not in status
    assert status["behind"] == 0
    assert [one["contests"] for one in status["rounds"]] == [40, 40]
    leaves = service.get(f"/{SHARED}/nodes", level=3)
    assert leaves["total"] == 4
    assert {tuple(node["path"]) for node in leaves["nodes"]} == set(LEAVES)
    below = service.get(f"/{SHARED}/nodes", parent=path_of(LEAVES[0])[1])
    assert [node["name"] for node in below["nodes"]] == ["Equations", "Matrices"]


def test_nodes_and_events_come_in_pages(service: Service) -> None:
    service.grown()
    names, after = [], 0
    while after is not None:
        page = service.get(f"/{SHARED}/nodes", limit=3, after=after)
        names += [node["name"] for node in page["nodes"]]
        after = page["next"]
    assert len(names) == page["total"] == len(set(names))
    events, after = [], 0
    while after is not None:
        page = service.get(f"/{SHARED}/events", limit=40, after=after)
        events += page["events"]
        after = page["next"]
    assert [event["n"] for event in events] == list(range(1, page["last"] + 1))
    assert events[0]["kind"] == "planted"
    assert sum(event["kind"] == "contested" for event in events) == 80


def test_rounds_are_queued_done_and_shown(service: Service) -> None:
    first = service.post("/rounds", {"settings": SETTINGS}, **{"idempotency-key": "one"})
    assert first["created"] is True
    assert first["job"]["kind"] == BOHDI_ROUND
    assert service.post("/rounds", {"settings": SETTINGS}, **{"idempotency-key": "one"})["created"] is False
    assert service.worked()["rounds"] == [1]
    (summary,) = service.get()["trees"]
    assert summary["contests"] == 2
    picture = service.admin.get(f"/admin/bohdi/{SHARED}/picture")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert b"2 contests" in picture.content


def test_a_training_set_is_queued_listed_and_fetched(service: Service) -> None:
    service.grown()
    assert service.get(f"/{SHARED}/exports") == {"exports": []}
    assert service.post("/export", {"size": 8})["job"]["kind"] == BOHDI_EXPORT
    made = service.worked()
    (listed,) = service.get(f"/{SHARED}/exports")["exports"]
    assert listed["set"]["digest"] == made["digest"]
    chat = service.admin.get(f"/admin/bohdi/{SHARED}/exports/{listed['name']}/chat.jsonl")
    assert len(chat.text.splitlines()) == 8


def test_a_node_is_retired_and_traffic_mapped_by_a_worker(service: Service) -> None:
    service.grown()
    node = path_of(LEAVES[2])[0]
    service.post(f"/{SHARED}/nodes/{node}/retire", {"reason": "not ours"})
    assert service.worked() == {"node": node, "name": "History"}
    assert service.get(f"/{SHARED}/nodes", state="retired")["total"] == 3
    service.live.chat("pupil", messages=[{"role": "user", "content": asked(TOPICS["Law", "Contracts"], 1)}])
    assert service.post("/traffic")["job"]["kind"] == BOHDI_TRAFFIC
    assert service.worked()["left_out"] == {}
    (retired,) = [
        event for event in service.get(f"/{SHARED}/events", limit=1000)["events"] if event["kind"] == "retired"
    ]
    assert retired["reason"] == "admin API: not ours"
    assert Jobs(service.folder).find(kind=BOHDI_RETIRE)[0].target == f"{SHARED}/{node}"


def test_what_is_not_there_is_404_and_what_is_wrong_400(service: Service) -> None:
    for path in ("/shared", "/shared/nodes", "/shared/events", "/shared/picture", "/shared/exports/a/b"):
        assert set(service.get(path, 404)["error"]) == ERROR_FIELDS
    assert service.get("/UPPER", 400)["error"]["param"] == "tree"
    service.grown()
    place = Place(service.folder, SHARED)
    folder, _ = draw_set(place, 4, seed=0, replay_share=None, licensed=False, source_share=1.0)
    for name in (f"{folder.name}/absent", "..%2f..%2fsettings.yaml/x", f"{folder.name}/..%2f..%2f..%2flog.db"):
        assert service.admin.get(f"/admin/bohdi/{SHARED}/exports/{name}").status_code == 404
    assert service.post(f"/{SHARED}/nodes/nothing/retire", status=404)["error"]["code"] == "node_not_found"
    assert "rounds" in service.post("/rounds", {"rounds": 0}, status=400)["error"]["message"]
    assert service.post("/export", {"tree": "../x"}, status=400)["error"]["param"] == "tree"
    assert "unknown field" in service.post("/traffic", {"fast": True}, status=400)["error"]["message"]


def test_a_damaged_status_is_told_and_nothing_is_shown_without_the_token(service: Service) -> None:
    service.grown()
    (tree_folder(service.folder, SHARED) / "status.json").write_text("{")
    assert "delete it" in service.get("/shared", 503)["error"]["message"]
    assert "delete it" in service.get()["trees"][0]["unreadable"]
    assert httpx.get(f"{service.live.gateway.admin_url}/admin/bohdi").status_code == 401
