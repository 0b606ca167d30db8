"""docker-compose.yml, built and brought up for real. Run by `make test-compose`; no part of `make test`.

A machine that cannot do it fails with the reason; nothing is skipped in silence.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.check.deployment import GATEWAYS, Deployment, deployed, until
from deploy.check.engine import ROOT, CannotCheck, engine

FOLDER = Path(os.environ.get("TOKAMAK_COMPOSE_DIR", ROOT / ".cache" / "compose")).resolve()


@pytest.fixture(scope="module")
def up() -> Iterator[Deployment]:
    try:
        with engine(FOLDER) as found, deployed(found) as deployment:
            for service in found.absent:
                warnings.warn(f"{service} was NOT brought up: no image of it can be had here", stacklevel=1)
            until(lambda: _healthy(deployment), f"containers are not healthy: {deployment.health()}")
            yield deployment
    except CannotCheck as reason:
        pytest.fail(str(reason), pytrace=False)


def _healthy(up: Deployment) -> bool:
    health = up.health()
    counts = {service: GATEWAYS if service == "gateway" else 1 for service in up.services}
    whole = all(len(health.get(service, [])) == count for service, count in counts.items())
    return whole and {state for states in health.values() for state in states} <= {"healthy", "running"}


def _both_serve(up: Deployment) -> bool:
    used = up.query('haproxy_backend_active_servers{proxy="gateways"}')
    return len(up.query('up{job="gateway"} == 1')) == sum(float(found["value"][1]) for found in used) == GATEWAYS


def _running(up: Deployment, container: str) -> int:
    lines = up.inside(container, "/metrics").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("tokamak_requests_running ")))


def test_nothing_of_ours_runs_as_root_or_can_write_where_it_should_not(up: Deployment) -> None:
    for service in set(up.services) - {"upstream"}:
        for container in up.containers(service):
            status = up.docker("exec", container, "cat", "/proc/1/status")
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert "0" not in fields["Uid"].split(), service
            assert int(fields["CapEff"], 16) == 0, service
            limits = json.loads(up.docker("inspect", "--format", "{{json .HostConfig}}", container))
            assert limits["ReadonlyRootfs"], service
            assert limits["Memory"] > 0, service


def test_requests_through_the_proxy_are_answered_by_both_gateways(up: Deployment) -> None:
    for number in range(20):
        answer = up.ask(f"question {number}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == f"question {number}"
    until(lambda: len(up.query("sum by (instance) (tokamak_requests_total) > 0")) == GATEWAYS, "one gateway is idle")


def test_a_session_stays_with_one_gateway(up: Deployment) -> None:
    def served() -> list[int]:
        return [_asked(up, container) for container in up.containers("gateway")]

    before = served()
    body = {"model": "local", "messages": [{"role": "user", "content": "and now?"}]}
    for _ in range(8):
        httpx.post(f"{up.url}/v1/chat/completions", json=body, headers={"x-session-id": "s1"}, timeout=60)
    assert sorted(after - was for after, was in zip(served(), before, strict=True)) == [0, 8]


def _asked(up: Deployment, container: str) -> int:
    lines = up.inside(container, "/metrics").splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("tokamak_requests_total{"))


def test_the_proxy_shows_no_metrics_and_errors_of_its_own_look_like_the_api_s(up: Deployment) -> None:
    refused = httpx.get(f"{up.url}/metrics")
    assert refused.status_code == 404
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_a_stream_is_passed_on_event_by_event(up: Deployment) -> None:
    with up.stream("hold the stream") as events:
        assert "hold the stream" in next(events)  # The model has sent no more than this, and sends no more by itself.
        up.go()
        assert list(events)[-1] == "data: [DONE]"


def test_feedback_for_an_answer_of_one_gateway_is_taken_by_the_other(up: Deployment) -> None:
    request_id = up.ask("score me").headers["x-request-id"]
    for container in up.containers("gateway"):
        program = (
            "import urllib.request as u; r = u.Request('http://127.0.0.1:8400/v1/feedback', "
            f"b'{{\"request_id\": \"{request_id}\", \"value\": 1}}', {{'content-type': 'application/json'}}); "
            "print(u.urlopen(r, timeout=20).status)"
        )
        assert up.docker("exec", container, "python3", "-c", program).strip() == "200"


def test_a_stop_lets_a_running_answer_end(up: Deployment) -> None:
    with up.stream("hold while stopping") as events:
        next(events)
        busy = next(container for container in up.containers("gateway") if _running(up, container))
        stopping = threading.Thread(target=up.docker, args=("stop", "-t", "40", busy))
        stopping.start()
        until(lambda: _ready_refused(up, busy), "the gateway did not begin to stop")
        assert up.ask("meanwhile").status_code == 200
        up.go()
        assert list(events)[-1] == "data: [DONE]"
    stopping.join()
    up.docker("start", busy)
    until(lambda: _both_serve(up), "the gateway did not come back")


def _ready_refused(up: Deployment, container: str) -> bool:
    try:
        up.inside(container, "/ready")
    except CannotCheck:
        return True
    return False


def test_a_killed_gateway_costs_its_own_requests_only_and_none_is_asked_twice(up: Deployment) -> None:
    lost: list[httpx.Response] = []
    holding = threading.Thread(target=lambda: lost.append(up.ask("hold and lose")))
    holding.start()
    until(lambda: up.calls("hold and lose"), "the model was not asked")
    busy = next(container for container in up.containers("gateway") if _running(up, container))
    up.docker("kill", busy)
    answers = [up.ask(f"after the kill {number}") for number in range(40)]
    assert [answer.status_code for answer in answers] == [200] * 40
    holding.join()
    assert lost[0].status_code == 502
    assert lost[0].json()["error"]["code"] == "gateway_lost"
    assert up.calls("hold and lose") == 1, "a request that may be paid for was sent again"
    up.go()
    up.docker("start", busy)
    until(lambda: _both_serve(up), "the gateway did not come back")
    assert up.ask("and again").status_code == 200


def test_no_answer_waits_for_redis_and_no_record_is_lost_when_it_restarts(up: Deployment) -> None:
    (redis,) = up.containers("redis")
    up.docker("stop", redis)
    ids = [up.ask(f"without a log {number}").headers["x-request-id"] for number in range(4)]
    up.docker("start", redis)
    until(lambda: all(_logged(up, request_id) for request_id in ids), "records were lost")


def _logged(up: Deployment, request_id: str) -> bool:
    body = {"request_id": request_id, "metric": "seen", "value": True}
    return httpx.post(f"{up.url}/v1/feedback", json=body, timeout=30).status_code == 200


def test_the_admin_port_asks_for_the_token_and_the_worker_does_what_is_queued(up: Deployment) -> None:
    with up.admin as admin:
        assert httpx.get(admin.base_url.join("/admin/jobs")).status_code == 401
        queued = admin.post("/admin/routers/train", json={})
        assert queued.status_code == 202, queued.text
        path = f"/admin/jobs/{queued.json()['job']['id']}"
        # One model and a handful of scores are too little to learn from, and the worker is to say so.
        ended = until(lambda: _ended(admin, path), "the worker did not take the job up")
    assert ended == "failed"


def _ended(admin: httpx.Client, path: str) -> str | None:
    state = str(admin.get(path).json()["state"])
    return state if state in ("succeeded", "failed", "cancelled") else None


def test_prometheus_understands_every_alert_and_every_panel(up: Deployment) -> None:
    base = f"http://127.0.0.1:{up.environ['PROMETHEUS_PORT']}/api/v1"
    rules = [rule for group in httpx.get(f"{base}/rules").json()["data"]["groups"] for rule in group["rules"]]
    assert rules
    until(lambda: _evaluated(base), "an alert cannot be evaluated")
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "tokamak.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 10
    found = {expression: up.query(expression.replace("$__rate_interval", "5m")) for expression in expressions}
    assert sum(bool(series) for series in found.values()) > len(expressions) / 2


def _evaluated(base: str) -> bool:
    rules = [rule for group in httpx.get(f"{base}/rules").json()["data"]["groups"] for rule in group["rules"]]
    return all(rule["health"] == "ok" for rule in rules)
