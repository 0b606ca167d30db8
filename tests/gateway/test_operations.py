"""Health, readiness and metrics: what an orchestrator and a monitor see."""

from __future__ import annotations

import re
from pathlib import Path

from tests.gateway.live import Fleet, fleet, until
from tests.upstream import Gate, answer, failing, gated

SAMPLE = re.compile(r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-z_]+="[^"]*",?)*\})? (-?[0-9.e+-]+|NaN|[+-]Inf)$')


def sample(metrics: str, name: str, *labels: str) -> float:
    """The sum of the samples of that name whose labels contain all of `labels`."""
    lines = [line for line in metrics.splitlines() if re.match(rf"{name}(\{{| )", line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))


def test_alive_and_ready(abc: Fleet) -> None:
    assert abc.http.get("/health").status_code == 200
    assert abc.http.get("/ready").status_code == 200


def test_the_metrics_are_well_formed_and_count(abc: Fleet) -> None:
    before = abc.http.get("/metrics").text
    abc["gamma"].script(failing(500))
    assert abc.chat("gamma").status_code >= 500
    assert abc.chat("gamma").status_code == 200
    assert abc.chat("alpha", stream=True).status_code == 200
    after = abc.http.get("/metrics")
    assert after.headers["content-type"].startswith("text/plain")
    for line in after.text.splitlines():
        assert not line or line.startswith("# ") or SAMPLE.match(line), line

    def grown(name: str, *labels: str) -> float:
        return sample(after.text, name, *labels) - sample(before, name, *labels)

    assert grown("tokamak_requests_total") == 3
    assert grown("tokamak_requests_total", 'model="gamma"') == 2
    assert grown("tokamak_tokens_total", 'model="alpha"') == 18
    assert grown("tokamak_cost_usd_total") > 0
    assert grown("tokamak_attempts_total") == 3
    assert sample(after.text, "tokamak_router_info") == 1
    assert sample(after.text, "tokamak_log_dropped_total") == 0


def test_probing_is_neither_logged_nor_passed_on(abc: Fleet) -> None:
    seen = len(abc.gateway.interactions())
    for path in ("/health", "/ready", "/metrics", "/v1/models"):
        abc.http.get(path)
    assert abc.called() == []
    abc.record_of(abc.chat())
    assert len(abc.gateway.interactions()) == seen + 1


def test_a_stopping_gateway_finishes_what_runs(tmp_path: Path) -> None:
    gate = Gate()
    with fleet(tmp_path, server={"drain_s": 10.0}) as live:
        live["alpha"].script(gated(answer("slow"), gate, after=1))
        with live.http.stream("POST", "/v1/chat/completions", json={
            "model": "alpha", "messages": [{"role": "user", "content": "x"}], "stream": True,
        }) as response:  # fmt: skip
            text = b""
            for piece in response.iter_raw():
                text += piece
                if not gate.opened.is_set():
                    live.gateway.stop_soon()
                    gate.open()
            assert text.endswith(b"data: [DONE]\n\n")
        until(lambda: not live.gateway.running, "the gateway did not stop")
        assert [record.outcome for record in live.gateway.interactions()] == ["ok"]
