"""Are arms asked as often as the log says, with a control share on top of every kind of choice?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from templates_store.sanitize import TAG_WORD
from tests.gateway.live import Fleet, fleet
from tests.gateway.test_ways_of_asking import ASK, add_template
from tests.upstream import answer, failing
from tests.upstream.script import Received, Steps


def model(ways: list[str], prior: float, price: float) -> dict[str, Any]:
    prices = {"prompt_per_1m": price, "completion_per_1m": 4 * price}
    return {"ways": ways, "quality_prior": prior, "prices": prices}


MODELS = {
    "alpha": model(["direct", "thought"], 0.4, 0.1),
    "beta": model(["thought"], 0.6, 1.0),
    "gamma": model(["direct", "thought"], 0.9, 10.0),
}
SHARE = 0.3
DRAWS = 400
CASCADE = {"signal": "logprob", "first": ["*#thought"]}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("control")
    add_template(folder)
    thoughts = ["*#thought"]
    routes: dict[str, Any] = {
        "auto": {"exploration": 0.4},
        "greedy": {"models": [*thoughts, "alpha"], "preference": 1.0},
        "only": {"models": thoughts, "exploration": 0.5},
        "floor": {"exploration_floor": 0.1, "preference": 0.0},
        "staged": {"models": ["alpha#thought", "gamma"], "preference": 0.9, "exploration": 0.5, "cascade": CASCADE},
    }
    pair = {"strong": "gamma#thought", "weak": "alpha#thought"}
    with fleet(folder, MODELS, routes=routes, templates={"control_share": SHARE}, routers={"pair": pair}) as made:
        yield made


@pytest.mark.parametrize(
    ("model", "routing"),
    [
        ("auto", {}),
        ("greedy", {}),
        ("only", {}),
        ("floor", {}),
        ("staged", {}),
        ("router-prior-0.5", {"exploration": 0.5}),
        ("auto", {"models": ["*#thought", "gamma"]}),
        ("auto", {"exploration": 1.0}),
    ],
)
def test_arms_are_asked_as_often_as_the_log_says(live: Fleet, model: str, routing: dict[str, Any]) -> None:
    asked: Counter[str] = Counter()
    staged = 0
    chances: dict[str, float] = {}
    for _ in range(DRAWS):
        decided = live.post("/v1/route", {"model": model, "messages": ASK, "routing": routing}).json()
        said = {each["arm"]: each["propensity"] for each in decided["candidates"] if each["propensity"] > 0.0}
        assert said.get(decided["arm"]) == decided["propensity"]
        assert chances in ({}, said), "the propensities are those of the policy, whatever was drawn"
        chances = said
        asked[decided["arm"]] += 1
        staged += decided["cascade"] is not None
        if decided["withheld_from"] is not None:
            assert decided["withheld_from"] == f"{decided['arm']}#thought"
    assert math.isclose(sum(chances.values()), 1.0)
    assert set(asked) <= set(chances)
    assert (0 < staged < DRAWS) is (model == "staged")
    for arm, chance in chances.items():
        spread = math.sqrt(DRAWS * chance * (1.0 - chance))
        assert abs(asked[arm] - DRAWS * chance) <= 4.5 * spread + 1e-9, arm


def test_a_conversation_goes_on_with_what_was_drawn(live: Fleet) -> None:
    """A control changes one answer; the arm that the conversation stays with is the one that the policy chose."""
    session = {"metadata": {"session_id": "one"}}
    turns = [live.record_of(live.chat("greedy", messages=ASK, **session)) for _ in range(30)]
    decisions = [turn.decision for turn in turns if turn.decision is not None]
    drawn = {decision.withheld_from or decision.arm for decision in decisions}
    assert len(drawn) == 1
    assert any(turn.withheld for turn in turns)
    assert [decision.affinity for decision in decisions] == ["init"] + ["retain"] * 29
    assert {decision.previous_arm for decision in decisions[1:]} == drawn


def fails_without_templates(request: Received) -> Steps:
    return (answer() if TAG_WORD in str(request.json["messages"]) else failing(500))(request)


def test_a_control_that_fails_falls_back_and_is_no_observation(tmp_path: Path) -> None:
    add_template(tmp_path)
    models = {name: MODELS[name] for name in ("alpha", "beta")}
    routes = {"auto": {"models": ["beta#thought", "alpha"], "preference": 1.0}}
    with fleet(tmp_path, models, routes=routes, templates={"control_share": 0.5}) as live:
        live["beta"].default = fails_without_templates
        records = [live.record_of(live.chat(messages=ASK)) for _ in range(30)]
    controls = [record for record in records if record.withheld]
    assert 0 < len(controls) < 30
    for record in controls:
        assert record.decision is not None
        assert (record.decision.arm, record.decision.withheld_from, record.arm) == ("beta", "beta#thought", "alpha")
        assert record.template_ids == ()
    assert {record.arm for record in records if not record.withheld} == {"beta#thought"}
