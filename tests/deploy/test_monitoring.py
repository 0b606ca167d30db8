"""What the dashboard and the alerts ask for is what a gateway exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.metrics import Counter, Metrics
from tests.gateway.live import Fleet, fleet

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "tokamak.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
NAME = re.compile(r"\b(tokamak_\w+)")
LABELS = re.compile(r"(?:by|without) \(([^)]*)\)|\{([^}]*)\}")
OTHERS = ("up", "haproxy_", "vllm:")
"""What Prometheus, the proxy and vLLM export."""
ADDED = {"instance", "job", "le", "proxy", "code"}
"""Labels that are not ours: Prometheus', those of a histogram, and the proxy's."""
UNCOUNTED = {"endpoint", "version", "state", "result"}
"""Labels of our gauges and of the cache."""


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every expression by where it is."""
    targets = [(panel["title"], target) for panel in panels() for target in panel["targets"]]
    shown = {f"panel {title!r} {target['refId']}": target["expr"] for title, target in targets}
    return shown | {f"alert {rule['alert']}": rule["expr"] for rule in RULES}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("monitored"), cache={"exact": {}}) as found:
        yield found


@pytest.fixture(scope="module")
def exported(live: Fleet) -> str:
    """What a live gateway answers to Prometheus after a request that was answered and one that was routed."""
    assert live.chat("alpha").status_code == 200
    assert live.chat("auto").status_code == 200
    answer = httpx.get(f"{live.gateway.root}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.text


def names(text: str) -> set[str]:
    """The names of all series that a text in Prometheus' format has or announces, those of histograms in full."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    parts = {name: ("_bucket", "_sum", "_count") if kind == "histogram" else ("",) for name, kind in kinds.items()}
    return {name + part for name, suffixes in parts.items() for part in suffixes}


@pytest.mark.parametrize("place", list(expressions()))
def test_every_metric_that_is_asked_for_is_exported(place: str, exported: str) -> None:
    asked = set(NAME.findall(expressions()[place]))
    assert asked or any(other in expressions()[place] for other in OTHERS), place
    assert asked <= names(exported), asked - names(exported)


def test_every_metric_that_is_exported_is_shown(exported: str) -> None:
    shown = {name for expression in expressions().values() for name in NAME.findall(expression)}
    kept = {name for name in names(exported) if not name.endswith(("_sum", "_count"))}
    assert kept - shown == set()


def test_every_label_that_is_asked_for_is_a_label() -> None:
    counters = [value for value in vars(Metrics()).values() if isinstance(value, Counter)]
    known = {label for counter in counters for label in counter.labels} | ADDED | UNCOUNTED
    for place, expression in expressions().items():
        grouped = [found[1].split(",") for found in LABELS.finditer(expression) if found[1]]
        matched = [re.findall(r"(\w+)\s*[=!]", found[2]) for found in LABELS.finditer(expression) if found[2]]
        assert {label.strip() for labels in [*grouped, *matched] for label in labels} <= known, place


def test_the_share_that_fails_counts_failures_and_nothing_else(live: Fleet, exported: str) -> None:
    """The expression of the alert leaves out good answers, bad requests and clients that left."""
    expression = next(rule["expr"] for rule in RULES if rule["alert"] == "TokamakManyFailures")
    spared = re.compile(re.search(r'status!~"([^"]+)"', expression)[1])  # type: ignore[index]
    live.chat("no-such-model")
    text = httpx.get(f"{live.gateway.root}/metrics").text
    seen = set(re.findall(r'tokamak_requests_total\{[^}]*status="([^"]+)"', text))
    assert {"ok:200", "rejected:404"} <= seen
    assert all(spared.fullmatch(status) for status in seen)
    assert not any(spared.fullmatch(status) for status in ("failed:502", "failed:504", "rejected:503"))


def test_the_dashboard_asks_the_provisioned_source_and_no_panels_overlap() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {(grid["x"] + dx, grid["y"] + dy) for dx in range(grid["w"]) for dy in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_what_is_mounted_is_where_prometheus_and_grafana_look() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert "./deploy/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert scraped["rule_files"] == ["/etc/prometheus/alerts.yml"]
    asked = {config["job_name"]: config for config in scraped["scrape_configs"]}
    for job in ("gateway", "vllm"):
        (found,) = asked[job]["dns_sd_configs"]
        assert found["names"] == [job]
        assert job in services
    (folder,) = yaml.safe_load(
        (ROOT / "deploy" / "grafana" / "provisioning" / "dashboards" / "tokamak.yaml").read_text()
    )["providers"]
    assert f"./deploy/grafana/dashboards:{folder['options']['path']}:ro" in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder['options']['path']}/tokamak.json"


def test_every_alert_says_what_is_the_matter() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith((".", "?")), rule["alert"]
