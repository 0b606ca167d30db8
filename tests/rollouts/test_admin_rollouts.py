"""The admin API and the commands over it: what they do, what they refuse, and that the champion goes on serving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import tokamak
from encoders.catalogue import load_encoder
from offline.commands import train_command
from offline.routing.rollout_commands import jobs_app, rollout_app
from registry.artifacts import Artifacts
from registry.jobs import Jobs
from routers.prior import PriorRouter
from routers.protocol import Outcomes
from service.admin import admin_application
from service.app import create_app
from tests.gateway.live import ERROR_FIELDS, configured, until
from tests.rollouts.town import TOKEN, Town, town

ROWS = 40


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("town"), worker="external") as made:
        yield made


@pytest.fixture
def idle(live: Town) -> Iterator[Town]:
    """With no trial, no champion and no job that waits."""
    yield live
    for job in live.admin.get("/admin/jobs").json()["jobs"]:
        live.admin.post(f"/admin/jobs/{job['id']}/cancel")
    while live.admin.post("/admin/routers/roll-back", headers={"if-match": "*"}).status_code == 200:
        pass
    assert live.ask(1).router == "prior@0"


def published(folder: Path, name: str, best: str = "book", **changes: Any) -> str:
    """A version by which `best` is the best arm; `changes` go into its meta, and `off_policy` into its evidence."""
    encoder, rng, arms = load_encoder("static"), np.random.default_rng(0), ("calc", "book")
    vectors = rng.normal(size=(ROWS, encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = np.tile(np.array([0.9 if arm == best else 0.2 for arm in arms], dtype=np.float32), (ROWS, 1))
    same, ones = np.full((ROWS, 2), 0.001, dtype=np.float32), np.ones((ROWS, 2), dtype=np.float32)
    ids = tuple(str(row) for row in range(ROWS))
    router = PriorRouter.fit(Outcomes(vectors, arms, quality, same, same, ones, encoder.hash, ids))
    evidence = {"off_policy": changes.pop("off_policy")} if "off_policy" in changes else {}
    artifacts = Artifacts(folder / "artifacts")
    return artifacts.publish("router", name, router.arrays(), router.meta() | changes, evidence).version


def refused(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == ERROR_FIELDS
    assert error["code"] == code
    return str(error["message"])


def test_two_trainings_at_once_are_one_or_are_told_of_each_other(idle: Town) -> None:
    first = idle.admin.post("/admin/routers/train", json={"seed": 1})
    assert first.status_code == 202
    job = first.json()["job"]
    assert first.headers["location"] == f"/admin/jobs/{job['id']}"
    again = idle.admin.post("/admin/routers/train", json={"seed": 1})
    assert (again.status_code, again.json()["job"]["id"], again.json()["created"]) == (202, job["id"], False)
    message = refused(idle.admin.post("/admin/routers/train", json={"seed": 2}), 409, "job_conflict")
    assert job["id"] in message


def test_an_idempotency_key_makes_a_repeated_call_one_job(idle: Town) -> None:
    headers = {"idempotency-key": "night-1"}
    first = idle.admin.post("/admin/routers/train", json={}, headers=headers).json()["job"]
    idle.admin.post(f"/admin/jobs/{first['id']}/cancel")
    assert idle.admin.post("/admin/routers/train", json={}, headers=headers).json()["job"]["id"] == first["id"]
    refused(idle.admin.post("/admin/routers/train", json={"seed": 7}, headers=headers), 409, "job_conflict")


def test_without_a_worker_the_answer_says_how_to_start_one(idle: Town) -> None:
    queued = idle.admin.post("/admin/routers/train", json={}).json()
    assert queued["job"]["state"] == "queued"
    assert "tokamak worker" in queued["worker"]
    assert "no worker is alive" in idle.admin.get("/admin/jobs").json()["hint"]
    jobs = Jobs(idle.data_dir, 30.0)
    jobs.seen("somebody", 0.0)
    listed = idle.admin.get("/admin/jobs").json()
    assert (listed["hint"], listed["workers"][0]["id"]) == (None, "somebody")
    jobs.gone("somebody")


def test_jobs_are_listed_shown_and_cancelled(idle: Town) -> None:
    job = idle.admin.post("/admin/routers/train", json={}, headers={"x-tokamak-operator": "anna"}).json()["job"]
    assert idle.admin.get("/admin/jobs", params={"state": "queued"}).json()["jobs"][0]["id"] == job["id"]
    shown = idle.admin.get(f"/admin/jobs/{job['id']}").json()
    assert (shown["by"], shown["log"], shown["kind"]) == ("anna", [], "train_router")
    assert idle.admin.post(f"/admin/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    refused(idle.admin.get("/admin/jobs/none"), 404, "job_not_found")
    refused(idle.admin.post("/admin/jobs/none/cancel"), 404, "job_not_found")
    idle.admin.post("/admin/routers/train", json={})
    jobs = Jobs(idle.data_dir, 30.0)
    held = jobs.claim("w", ["train_router"])
    assert held is not None
    jobs.fail(held, "no data")
    refused(idle.admin.post(f"/admin/jobs/{held.id}/cancel"), 409, "job_ended")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"router": "clutser"}, "Did you mean 'cluster'"),
        ({"sede": 1}, "sede"),
        ({"seed": -1}, "seed"),
        ({"preference": 1.5}, "preference"),
        ({"sources": ["rumour"]}, "sources"),
        ([1], "object"),
    ],
)
def test_wrong_wishes_are_refused_by_name(live: Town, body: Any, told: str) -> None:
    assert told in refused(live.admin.post("/admin/routers/train", json=body), 400, "invalid_value")
    assert live.admin.post("/admin/routers/train", content=b"{").json()["error"]["code"] == "invalid_json"


def test_a_change_needs_the_etag_that_was_seen(idle: Town) -> None:
    version = published(idle.data_dir, "etag")
    path = f"/admin/routers/{version}/shadow"
    refused(idle.admin.post(path, json={}), 428, "if_match_required")
    seen = idle.etag()
    assert idle.admin.post(path, json={}, headers={"if-match": seen}).status_code == 200
    refused(idle.admin.post(path, json={}, headers={"if-match": seen}), 412, "stale_etag")
    refused(idle.admin.post("/admin/routers/roll-back", headers={"if-match": seen}), 412, "stale_etag")
    refused(idle.admin.post("/admin/routers/roll-back"), 428, "if_match_required")


def test_what_cannot_serve_is_not_tried_or_promoted(idle: Town) -> None:
    refused(idle.change("ghost@00000000/promote", force=True, reason="x"), 404, "version_not_found")
    refused(idle.change("nonsense/canary"), 404, "version_not_found")
    refused(idle.admin.get("/admin/routers/ghost@00000000"), 404, "version_not_found")
    other_encoder = published(idle.data_dir, "foreign", encoder="0123456789abcdef")
    message = refused(idle.change(f"{other_encoder}/canary"), 409, "version_unfit")
    assert "learned from vectors of encoder 0123456789abcdef" in message
    other_features = published(idle.data_dir, "features", feature_set="fedcba9876543210")
    message = refused(idle.change(f"{other_features}/promote", force=True, reason="x"), 409, "version_unfit")
    assert "feature" in message
    cut = published(idle.data_dir, "cut")
    arrays = idle.data_dir / "artifacts" / "router" / cut / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-4])
    assert "truncated" in refused(idle.change(f"{cut}/shadow"), 409, "version_unfit")
    assert idle.ask(1).router == "prior@0"


def test_promotion_takes_evidence_or_force_with_a_reason(idle: Town) -> None:
    without = published(idle.data_dir, "without")
    message = refused(idle.change(f"{without}/promote"), 409, "not_enough_evidence")
    assert "without an off-policy estimate" in message
    assert "force" in message
    refused(idle.change(f"{without}/promote", force=True), 400, "invalid_value")
    forced = idle.change(f"{without}/promote", force=True, reason="the demo is tonight")
    assert forced.json()["serving"] == without
    last = idle.admin.get("/admin/routers/rollout/audit").json()["entries"][-1]
    assert (last["action"], last["forced"], last["why"]) == ("promote", True, "the demo is tonight")
    good = published(idle.data_dir, "good", off_policy={"verdict": "better", "reason": "+0.1", "against": without})
    assert idle.change(f"{good}/promote").json()["champion"] == good
    assert "serves already" in refused(idle.change(f"{good}/promote"), 409, "rollout_conflict")
    stale = published(idle.data_dir, "stale", off_policy={"verdict": "better", "reason": "+0.1", "against": without})
    assert "serves now" in refused(idle.change(f"{stale}/promote"), 409, "not_enough_evidence")
    assert idle.change("roll-back").json()["serving"] == without


def test_one_version_is_tried_at_a_time_and_a_report_needs_a_trial(idle: Town) -> None:
    one, two = published(idle.data_dir, "one"), published(idle.data_dir, "two")
    refused(idle.admin.get(f"/admin/routers/{one}/report"), 409, "never_tried")
    refused(idle.change(f"{one}/canary", share=0.7), 400, "invalid_value")
    assert idle.change(f"{one}/canary", share=0.3).json()["trial"]["share"] == 0.3
    assert one in refused(idle.change(f"{two}/shadow"), 409, "rollout_conflict")
    told = idle.traffic(range(40))
    assert {answer.router for answer in told} == {one, "prior@0"}
    assert {answer.model for answer in told if answer.router == one} == {"book"}
    report = until(lambda: all_reported(idle, one, len(told)), "not all requests came into the report")
    assert report["verdict"] == "undecided"
    assert idle.change("roll-back").json()["trial"] is None
    ended = idle.admin.get(f"/admin/routers/{one}/report").json()
    assert ended["until"] is not None
    shown = idle.admin.get(f"/admin/routers/{one}").json()
    assert (shown["stage"], [e["action"] for e in shown["history"]]) == ("rolled_back", ["canary", "roll_back"])


def all_reported(live: Town, version: str, requests: int) -> dict[str, Any] | None:
    report: dict[str, Any] = live.admin.get(f"/admin/routers/{version}/report").json()
    return report if report["candidate"]["requests"] + report["champion"]["requests"] == requests else None


def test_a_corrupt_document_ends_the_trial_and_the_champion_goes_on(idle: Town) -> None:
    champion, tried = published(idle.data_dir, "champion", "calc"), published(idle.data_dir, "tried")
    idle.change(f"{champion}/promote", force=True, reason="x")
    idle.change(f"{tried}/canary", share=0.5)
    document = idle.data_dir / "artifacts" / "router" / "rollout.json"
    kept = document.read_bytes()
    document.write_bytes(kept[:40])
    try:
        message = refused(idle.admin.get("/admin/routers/rollout"), 500, "rollout_unreadable")
        assert "the champion goes on serving" in message
        refused(idle.admin.post("/admin/routers/roll-back", headers={"if-match": "*"}), 500, "rollout_unreadable")
        until(lambda: {idle.ask(number).router for number in range(30)} == {champion}, "the canary went on")
    finally:
        document.write_bytes(kept)
    until(lambda: {idle.ask(number).router for number in range(30)} == {champion, tried}, "it did not come back")


async def test_a_service_starts_beside_a_corrupt_document(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "artifacts" / "router"
    folder.mkdir(parents=True)
    (folder / "rollout.json").write_text("{")
    config = configured(tmp_path, {"m": "http://127.0.0.1:9/v1"}, {"m": {}}, jobs={"worker": "external"})
    gateway = create_app(config, {}).gateway
    await gateway.start()
    try:
        assert (gateway.serving.router, gateway.serving.trial) == ("prior@0", None)
        await gateway.take_in()
        assert caplog.text.count("the champion goes on serving") == 1
    finally:
        await gateway.stop()


def test_a_version_that_breaks_while_it_is_tried_leaves_the_champion_alone(idle: Town) -> None:
    first, second = published(idle.data_dir, "first", "calc"), published(idle.data_dir, "second")
    idle.change(f"{first}/canary", share=0.5)
    arrays = idle.data_dir / "artifacts" / "router" / second / "arrays.safetensors"
    arrays.write_bytes(b"")
    document = idle.data_dir / "artifacts" / "router" / "rollout.json"
    # As another process would write it that does not look at the arrays.
    document.write_text(document.read_text().replace(first, second))
    until(lambda: {idle.ask(number).router for number in range(30)} == {"prior@0"}, "a broken version served")
    assert idle.ask(2).right


def test_a_version_that_cannot_be_read_is_listed_with_its_fault(idle: Town) -> None:
    broken = published(idle.data_dir, "broken")
    (idle.data_dir / "artifacts" / "router" / broken / "manifest.json").write_text("{")
    rows = {row["version"]: row for row in idle.admin.get("/admin/routers").json()["versions"]}
    assert "cannot be read" in rows[broken]["fault"]
    assert rows[broken]["stage"] == "candidate"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/admin/routers/train"), ("GET", "/admin/jobs"), ("GET", "/admin/jobs/x"),
        ("POST", "/admin/jobs/x/cancel"), ("GET", "/admin/routers/rollout"), ("GET", "/admin/routers/rollout/audit"),
        ("POST", "/admin/routers/x@00000000/shadow"), ("POST", "/admin/routers/x@00000000/canary"),
        ("POST", "/admin/routers/x@00000000/promote"), ("POST", "/admin/routers/roll-back"),
        ("GET", "/admin/routers/x@00000000"), ("GET", "/admin/routers/x@00000000/report"),
    ],
)  # fmt: skip
def test_nothing_is_done_or_told_without_the_token(live: Town, method: str, path: str) -> None:
    response = httpx.request(method, f"{live.admin_url}{path}", headers={"authorization": "Bearer wrong"})
    refused(response, 401, "invalid_admin_token")
    assert httpx.get(f"{live.admin_url}/openapi.json").status_code == 200
    paths = httpx.get(f"{live.admin_url}/openapi.json").json()["paths"]
    assert {"/admin/routers/train", "/admin/jobs/{job_id}", "/admin/routers/{version}/canary"} <= set(paths)


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [("127.0.0.1", {"origin": "http://evil.example"}, 403), ("0.0.0.0", {}, 403), ("127.0.0.1", {}, 404)],
)
async def test_without_a_token_only_this_machine_acts_and_no_web_page(
    tmp_path: Path, host: str, headers: dict[str, str], status: int
) -> None:
    config = configured(tmp_path, {"m": "http://127.0.0.1:9/v1"}, {"m": {}}, server={"admin_host": host})
    admin = admin_application(create_app(config, {}).gateway, {})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(admin), base_url="http://admin") as client:
        response = await client.post("/admin/jobs/none/cancel", headers=headers)
    assert response.status_code == status


@pytest.fixture
def cli(idle: Town, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("TOKAMAK_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("TOKAMAK_ADMIN_URL", idle.admin_url)
    return CliRunner()


def test_the_commands_do_the_same(idle: Town, cli: CliRunner) -> None:
    version = published(idle.data_dir, "commanded")

    def said(*arguments: str) -> str:
        result = cli.invoke(rollout_app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "prior@0 serves" in said("status")
    assert f"{version} is in shadow" in said("shadow", "latest")
    assert "is in canary for 20.0%" in said("canary", version, "--share", "0.2", "--reason", "so far so good")
    assert json.loads(said("status", "--json"))["rollout"]["trial"]["share"] == 0.2
    assert "undecided" in said("report", version)
    refusal = cli.invoke(rollout_app, ["promote", version])
    assert refusal.exit_code == 2
    assert "is not promoted" in refusal.stderr
    assert f"{version} serves" in said("promote", version, "--force", "--reason", "it is a test")
    assert "prior@0 serves" in said("roll-back", "--reason", "enough")
    audit = said("audit")
    assert "so far so good" in audit
    assert "(forced)" in audit


def test_the_commands_queue_show_and_cancel_jobs(idle: Town, cli: CliRunner) -> None:
    queued = cli.invoke(_train_app(), ["--job", "--seed", "5", "--json"])
    assert queued.exit_code == 0, queued.output
    job = json.loads(queued.stdout)["job"]
    assert job["arguments"] == {"seed": 5}
    assert job["id"] in cli.invoke(jobs_app, ["list"]).stdout
    assert "queued" in cli.invoke(jobs_app, ["show", job["id"]]).stdout
    assert job["id"] in cli.invoke(jobs_app, ["show", "latest"]).stdout
    assert "cancelled" in cli.invoke(jobs_app, ["cancel", job["id"]]).stdout
    assert cli.invoke(jobs_app, ["show", job["id"], "--wait"]).exit_code == 1
    assert cli.invoke(jobs_app, ["show", "none"]).exit_code == 2
    gone = cli.invoke(jobs_app, ["list", "--admin", "http://127.0.0.1:9"])
    assert gone.exit_code == 2
    assert "does not answer" in gone.stderr


def _train_app() -> typer.Typer:
    app = typer.Typer()
    app.command()(train_command)
    return app


def test_the_command_line_has_them() -> None:
    names = {name for names, _ in tokamak._GROUPS for name in names}
    assert {"worker", "rollout", "jobs"} <= names
