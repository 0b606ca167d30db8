"""Two gateways as docker-compose.yml runs them: one data folder, one log in Redis, a worker elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from registry.artifacts import Artifacts
from registry.job_kinds import TRAIN_ROUTER
from service.budgets import Budgets
from tests.gateway.live import HI, MODELS, Gateway, configured, until
from tests.gateway.test_hot_swap import publish
from tests.traffic.conftest import RedisServer
from tests.upstream import ScriptedUpstream
from traffic.records import Interaction

TOKEN = {"authorization": "Bearer admin"}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two gateways that share what the replicas of the compose file share."""

    gateways: tuple[Gateway, Gateway]
    data_dir: Path
    redis: RedisServer

    def ask(self, number: int, **fields: object) -> httpx.Response:
        url = f"{self.gateways[number].url}/chat/completions"
        return httpx.post(url, json={"model": "alpha", "messages": HI, **fields}, timeout=20)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("shared")
    redis = RedisServer(tmp_path_factory.mktemp("log"))
    redis.start()
    with ExitStack() as stack:
        stack.callback(redis.kill)
        urls = {name: stack.enter_context(ScriptedUpstream((name,))).url for name in MODELS}
        gateways = []
        for _ in range(2):
            config = configured(
                folder, urls, MODELS, jobs={"worker": "external"}, log={"url": redis.url},
                routes={"auto": {"usd_per_day": 5.0}},
            )  # fmt: skip
            gateways.append(stack.enter_context(Gateway(config, {"TOKAMAK_ADMIN_TOKEN": "admin"})))
        yield Pair((gateways[0], gateways[1]), folder, redis)


def test_an_answer_of_one_is_in_the_log_of_the_other_and_takes_feedback_there(pair: Pair) -> None:
    request_id = pair.ask(0).headers["x-request-id"]
    found: Interaction = pair.gateways[1].record(request_id)
    assert found.model == "alpha"
    told = httpx.post(f"{pair.gateways[1].url}/feedback", json={"request_id": request_id, "value": True}, timeout=20)
    assert told.status_code == 200
    until(lambda: pair.gateways[0].feedback(), "the feedback did not reach the log")


def test_a_router_that_is_deployed_serves_on_both_and_so_does_its_roll_back(pair: Pair) -> None:
    artifacts = Artifacts(pair.data_dir / "artifacts")
    first, second = publish(artifacts, "beta"), publish(artifacts, "gamma")
    for version in (first, second):
        artifacts.deploy("router", version)
        for gateway in pair.gateways:
            until(lambda gateway=gateway, version=version: _router(gateway) == version, f"{version} does not serve")  # type: ignore[misc]
    rolled_back = httpx.post(
        f"{pair.gateways[1].admin_url}/admin/routers/roll-back",
        json={"reason": "test"},
        timeout=20,
        headers={**TOKEN, "if-match": "*"},
    )
    assert rolled_back.status_code == 200, rolled_back.text
    until(lambda: _router(pair.gateways[0]) == first, "the other gateway did not roll back")


def _router(gateway: Gateway) -> str:
    return str(httpx.get(f"{gateway.root}/ready", timeout=20).json()["router"])


def test_both_may_queue_the_same_job_at_once_and_it_is_one(pair: Pair) -> None:
    answers: list[httpx.Response] = []

    def queue(gateway: Gateway) -> None:
        url = f"{gateway.admin_url}/admin/routers/train"
        answers.append(httpx.post(url, json={}, headers=TOKEN, timeout=20))

    threads = [threading.Thread(target=queue, args=(gateway,)) for gateway in pair.gateways * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {200, 202}, [answer.text for answer in answers]
    assert len({answer.json()["job"]["id"] for answer in answers}) == 1
    listed = httpx.get(f"{pair.gateways[1].admin_url}/admin/jobs", headers=TOKEN, timeout=20).json()
    assert [job["kind"] for job in listed["jobs"]] == [TRAIN_ROUTER]


def test_budgets_saved_by_both_at_once_are_never_half_written(pair: Pair, tmp_path: Path) -> None:
    """What is counted is counted per process; the file that they share is whole at every moment."""
    both = [Budgets(gateway.config, tmp_path) for gateway in pair.gateways]
    stop, broken = threading.Event(), list[str]()

    def read() -> None:
        while not stop.is_set():
            try:
                json.loads((tmp_path / "budgets.json").read_text())
            except FileNotFoundError:
                continue
            except ValueError as error:
                broken.append(repr(error))

    def write(budgets: Budgets) -> None:
        for _ in range(300):
            budgets.save()

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(budgets,)) for budgets in both]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert broken == []
    assert [path.name for path in tmp_path.iterdir()] == ["budgets.json"]


def test_one_goes_on_when_the_other_is_gone(pair: Pair) -> None:
    """Last: it stops a gateway."""
    pair.gateways[0].stop()
    assert pair.ask(1).status_code == 200
    request_id = pair.ask(1, model="auto").headers["x-request-id"]
    assert pair.gateways[1].record(request_id).outcome == "ok"
