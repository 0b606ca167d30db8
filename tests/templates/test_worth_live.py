"""Control group, worth, quarantine and floor through a live gateway whose model is misled by a template."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from encoders.catalogue import load_encoder
from offline.templates.commands import templates_app
from offline.worker import Worker
from registry.job_kinds import TEMPLATE_WORTH
from registry.jobs import Jobs
from registry.worker_settings import settings_of
from service.worth_schedule import WorthSchedule
from templates_store.sanitize import TAG_WORD
from templates_store.store import STORE_FILE, TemplateStore
from templates_store.worth import Floor, write_floor
from tests.gateway.live import Fleet, fleet, until
from tests.gateway.test_ways_of_asking import PLAN, QUESTION, add_template
from tests.templates.trials import dealt
from tests.upstream.answers import answer
from tests.upstream.script import Received, Steps
from traffic.records import Interaction

SHARE = 0.5
OWN: list[Any] = [{"role": "user", "content": QUESTION}]
# Near the template's question, but not the same: that one would not be measured.
ASK: list[Any] = [
    {"role": "user", "content": "How many apples are left if you buy nine apples and give away four of them?"}
]
THOUGHT_ALONE: dict[str, Any] = {"messages": ASK, "routing": {"models": ["alpha#thought"]}}


def misled(request: Received) -> Steps:
    """Right without the block of templates, wrong with it."""
    return answer("wrong" if TAG_WORD in str(request.json["messages"]) else "4")(request)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Fleet]:
    templates = {"control_share": SHARE}
    add_template(tmp_path)
    settings: dict[str, Any] = {"routers": {"poll_s": 0.05}, "jobs": {"worker": "external"}}
    with fleet(tmp_path, {"alpha": {"ways": ["thought"]}}, templates=templates, **settings) as made:
        made["alpha"].default = misled
        yield made


def judged(live: Fleet, n: int) -> list[Interaction]:
    """n requests with feedback that says whether the answer was right; their records."""
    ids: list[str] = []
    for _ in range(n):
        response = live.chat(messages=ASK)
        assert response.status_code == 200, response.text
        right = response.json()["choices"][0]["message"]["content"] == "4"
        ids.append(response.headers["x-tokamak-decision-id"])
        live.post("/v1/feedback", {"request_id": ids[-1], "metric": "right", "value": right})
    until(lambda: len(list(live.gateway.log.read_scores())) >= n, "the feedback was not scored")
    return [record for record in live.gateway.log.read_interactions() if record.id in set(ids)]


def run(live: Fleet, *arguments: str) -> Any:
    found = CliRunner().invoke(templates_app, [*arguments, "--data-dir", str(live.gateway.data_dir)])
    assert found.exit_code == 0, found.output
    return found


def test_a_harmful_template_is_found_quarantined_and_brought_back(live: Fleet) -> None:
    records = judged(live, 80)
    withheld = [record for record in records if record.withheld]
    # Seven standard deviations of a fair coin.
    assert abs(len(withheld) - 40) < 7 * math.sqrt(80 * 0.25)
    for record in records:
        assert record.decision is not None
        assert [id_ for id_, _ in record.retrieved] != []
        assert {c.arm: c.propensity for c in record.decision.candidates} == {"alpha#thought": 0.5, "alpha": 0.5}
        assert record.decision.propensity == 0.5
        assert record.arm == record.decision.arm == ("alpha" if record.withheld else "alpha#thought")
        assert (record.template_ids == ()) is record.withheld
    for number, request in enumerate(live["alpha"].requests):
        assert (TAG_WORD in str(request.json["messages"])) is not records[number].withheld
    (id_,) = {id_ for record in records for id_, _ in record.retrieved}
    said = run(live, "worth")
    assert f"quarantined {id_}" in said.stderr
    with TemplateStore(live.gateway.data_dir / STORE_FILE) as store:
        worth = store.worth()[id_]
    assert (worth.shown, worth.control) == (80 - len(withheld), len(withheld))
    assert worth.high is not None
    assert worth.high < 0.0
    until(lambda: live.chat(messages=ASK).status_code == 400, "the quarantined template was still used")
    run(live, "activate", id_)
    until(lambda: live.chat(messages=ASK).status_code == 200, "the template was not brought back")
    assert json.loads(run(live, "worth", "--json").stdout)["templates"] == []


def test_the_job_does_the_same_and_is_queued_by_itself(live: Fleet) -> None:
    judged(live, 60)
    now = [0.0]
    jobs = Jobs(live.gateway.data_dir)
    schedule = WorthSchedule(jobs, 10.0, clock=lambda: now[0])
    (seen, _) = dealt(1, (("t", 0.9),), 1.0, shown=True)
    assert isinstance(seen, Interaction)
    assert not schedule.queue()
    schedule.note(seen)
    assert not schedule.queue()
    now[0] = 11.0
    assert schedule.queue()
    now[0] = 22.0
    assert not schedule.queue()
    assert Worker(settings_of(live.gateway.config)).run_one()
    (job,) = jobs.find(kind=TEMPLATE_WORTH)
    assert job.state == "succeeded", job
    assert job.result is not None
    assert len(job.result["quarantined"]) == 1
    assert job.result["log"]["used"] == 60
    queued = httpx.post(f"{live.gateway.admin_url}/admin/templates/worth", json={"quarantine": False})
    assert queued.status_code == 202, queued.text
    assert (queued.json()["job"]["kind"], queued.json()["job"]["arguments"]) == (TEMPLATE_WORTH, {"quarantine": False})
    (harmful,) = job.result["quarantined"]
    moved = httpx.post(f"{live.gateway.admin_url}/admin/templates/{harmful}/activate", json={})
    assert moved.status_code == 200, moved.text
    with TemplateStore(live.gateway.data_dir / STORE_FILE) as store:
        assert (store.worth()[harmful].shown, store.worth()[harmful].uplift) == (0, None)


def test_a_request_that_names_the_way_itself_is_no_experiment(live: Fleet) -> None:
    ways: tuple[dict[str, Any], ...] = (THOUGHT_ALONE, {"messages": ASK, "model": "alpha#thought"})
    for fields in ways:
        for _ in range(20):
            live.chat(**fields)
    until(lambda: len(list(live.gateway.log.read_interactions())) == 40, "the requests were not logged")
    records = list(live.gateway.log.read_interactions())
    assert not any(record.withheld for record in records)
    assert {record.arm for record in records} == {"alpha#thought"}
    assert {1.0 if record.decision is None else record.decision.propensity for record in records} == {1.0}


def test_unless_the_operator_wants_it_and_then_the_propensity_is_logged(tmp_path: Path) -> None:
    add_template(tmp_path)
    templates = {"control_share": SHARE, "control_pinned": True}
    with fleet(tmp_path, {"alpha": {"ways": ["direct", "thought"]}}, templates=templates) as live:
        for number in range(30):
            fields: dict[str, Any] = THOUGHT_ALONE if number % 2 else {"messages": ASK, "model": "alpha#thought"}
            response = live.chat(**fields)
            record = live.record_of(response)
            assert record.decision is not None
            assert record.decision.propensity == SHARE
            assert record.decision.withheld_from == ("alpha#thought" if record.withheld else None)
            assert record.arm == ("alpha" if record.withheld else "alpha#thought")
        withheld = [record.withheld for record in live.gateway.log.read_interactions()]
    assert 0 < sum(withheld) < 30


def test_the_explanation_says_why_a_template_is_shown_or_not(live: Fleet) -> None:
    far = add_template(live.gateway.data_dir, "Who was the second king of the Franks?", "Name the dynasty, then count.")

    def explained() -> Any:
        route = live.chat(messages=OWN, routing={"explain": True}).json()["route"]
        return route if len(route["templates"]) == 2 else None

    fates: set[str] = set()
    for _ in range(60):
        route = until(explained, "the second template was never considered")
        near, other = route["templates"]
        assert (other["id"], other["fate"], other["worth"]) == (far, "below the floor", 1.0)
        assert near["similarity"] == pytest.approx(1.0)
        assert (near["fate"] == "shown") is (route["withheld_from"] is None)
        fates.add(near["fate"])
        reasons = {candidate["arm"]: candidate["reason"] for candidate in route["candidates"]}
        if route["withheld_from"]:
            assert "control" in reasons["alpha"]
            assert "asked without templates" in reasons["alpha#thought"]
        if len(fates) == 2:
            break
    assert fates == {"shown", "withheld: a control request"}


def refused(live: Fleet) -> bool:
    return live.chat(**THOUGHT_ALONE).status_code == 400


def test_a_calibrated_floor_is_taken_in_and_the_config_goes_before_it(tmp_path: Path) -> None:
    floor = Floor(
        min_similarity=1.0 + 1e-3, encoder=load_encoder("static").hash, uplift=0.1, low=0.01, high=0.2, exposures=500,
        calibrated_at=1.0,
    )  # fmt: skip
    for stated, status in ((None, 400), (0.7, 200)):
        folder = tmp_path / str(stated)
        folder.mkdir()
        add_template(folder)
        templates: dict[str, Any] = {} if stated is None else {"min_similarity": stated}
        with fleet(folder, {"alpha": {"ways": ["thought"]}}, templates=templates, routers={"poll_s": 0.05}) as live:
            assert live.chat(**THOUGHT_ALONE).status_code == 200
            write_floor(folder, floor)
            if status == 400:
                until(partial(refused, live), "the floor was not taken in")
            else:
                live.post("/v1/route", {"model": "auto", "messages": ASK})
                assert live.chat(**THOUGHT_ALONE).status_code == status


def test_a_control_keeps_history_tools_and_json_mode_as_they_came(live: Fleet) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    history = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": QUESTION},
    ]  # fmt: skip
    bound: dict[str, Any] = {"tools": [tool], "response_format": {"type": "json_object"}}
    seen = set()
    for _ in range(60):
        live.chat(messages=history, **bound)
        sent = live["alpha"].last.json
        assert {name: sent[name] for name in bound} == bound
        assert sent["messages"][:3] == history[:3]
        assert sent["messages"][3]["content"].endswith(QUESTION)
        seen.add(PLAN in sent["messages"][3]["content"])
        assert sent["messages"][3]["content"] == QUESTION or PLAN in sent["messages"][3]["content"]
        if len(seen) == 2:
            break
    assert seen == {True, False}
