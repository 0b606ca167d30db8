"""Are `think` and `thought` arms like any other: chosen by routing, asked for by name, logged, used if possible?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from encoders.catalogue import load_encoder
from templates_store.create import create_template
from templates_store.store import STORE_FILE, TemplateStore
from tests.gateway.live import Fleet, assert_error, fleet, until
from tests.gateway.test_auto import TOOL

QUESTION = "How many apples are left if I buy seven apples and eat three of them?"
PLAN = "Count what there is at first, subtract what is taken away, and state the rest as a number."
ASK: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
NAMES = {"direct": "alpha", "think": "alpha#think", "thought": "alpha#thought"}


def add_template(data_dir: Path, query: str = QUESTION, text: str = PLAN, tenant: str | None = None) -> str:
    template = create_template(load_encoder("static"), query, text, builder="test", tenant=tenant)
    with TemplateStore(data_dir / STORE_FILE) as store:
        store.add(template)
    return template.id


@pytest.fixture(scope="module")
def _live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("ways")
    add_template(folder)
    with fleet(folder, {"alpha": {"ways": ["direct", "think", "thought"]}}, routers={"poll_s": 0.05}) as made:
        yield made


@pytest.fixture
def live(_live: Fleet) -> Fleet:
    _live.forget()
    return _live


@pytest.mark.parametrize("way", NAMES)
def test_each_way_is_an_arm_that_routing_may_choose(live: Fleet, way: str) -> None:
    response = live.chat(messages=ASK, routing={"models": [NAMES[way]]})
    assert response.headers["x-tokamak-model"] == NAMES[way]
    received = live["alpha"].last.json
    assert received["model"] == "alpha"
    assert received["messages"][0] == ASK[0]
    said = received["messages"][-1]["content"]
    assert (said == QUESTION) is (way == "direct")
    assert ("step by step" in said) is (way == "think")
    assert (PLAN in str(received["messages"])) is (way == "thought")
    assert QUESTION in said


def test_all_ways_stand_in_the_explanation(live: Fleet) -> None:
    route = live.post("/v1/route", {"model": "auto", "messages": ASK}).json()
    assert {candidate["arm"] for candidate in route["candidates"]} == set(NAMES.values())


def test_a_thought_names_its_templates(live: Fleet) -> None:
    response = live.chat(messages=ASK, routing={"models": ["alpha#thought"]})
    (template,) = live.record_of(response).template_ids
    assert response.headers["x-tokamak-template"] == template
    other = live.chat(messages=ASK, routing={"models": ["alpha"]})
    assert "x-tokamak-template" not in other.headers or other.headers["x-tokamak-template"] == "none"
    assert live.record_of(other).template_ids == ()


def test_the_log_keeps_the_request_as_the_client_sent_it(live: Fleet) -> None:
    record = live.record_of(live.chat(messages=ASK, routing={"models": ["alpha#thought"]}))
    assert record.request is not None
    assert PLAN.encode() not in record.request
    assert record.query_text == QUESTION
    assert (record.arm, record.model) == ("alpha#thought", "alpha")


def test_without_a_template_that_is_close_enough_the_thought_arm_is_out(live: Fleet) -> None:
    messages = [{"role": "user", "content": "Translate 'good morning' into Japanese."}]
    route = live.post("/v1/route", {"model": "auto", "messages": messages}).json()
    reasons = {candidate["arm"]: candidate["reason"] for candidate in route["candidates"]}
    assert "template" in reasons["alpha#thought"]
    response = live.chat(messages=messages, routing={"models": ["alpha#thought"]})
    assert_error(response, 400, "invalid_request_error", "no_eligible_model")


@pytest.mark.parametrize("way", ["think", "thought"])
def test_an_arm_can_be_asked_for_by_name(live: Fleet, way: str) -> None:
    response = live.chat(NAMES[way], messages=ASK)
    assert response.status_code == 200, response.text
    assert response.headers["x-tokamak-route"] == "pinned"
    assert live["alpha"].last.json["messages"][-1]["content"] != QUESTION


def test_where_a_program_reads_the_answer_the_steps_stay_silent(live: Fleet) -> None:
    live.chat(messages=ASK, routing={"models": ["alpha#think"]})
    free = live["alpha"].last.json["messages"][-1]["content"]
    bounds: list[dict[str, Any]] = [
        {"tools": [TOOL]},
        {"response_format": {"type": "json_object"}},
        {"guided_json": {}, "tools": []},
    ]
    for bound in bounds:
        live.chat(messages=ASK, routing={"models": ["alpha#think"]}, **bound)
        received = live["alpha"].last.json
        if "guided_json" not in bound:
            assert received["messages"][-1]["content"] != free
        assert all(received[name] == value for name, value in bound.items())


def test_parts_of_a_message_are_kept(live: Fleet) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]
    for way in ("think", "thought"):
        live.chat(NAMES[way], messages=messages)
        assert image in live["alpha"].last.json["messages"][-1]["content"]


def test_only_chat_is_asked_in_other_ways(live: Fleet) -> None:
    response = live.post("/v1/completions", {"model": "auto", "prompt": QUESTION})
    assert response.headers["x-tokamak-model"] == "alpha"
    assert live["alpha"].last.json["prompt"] == QUESTION


def test_a_new_template_serves_without_a_restart(live: Fleet) -> None:
    question = "What is the derivative of a polynomial of the third degree?"
    messages = [{"role": "user", "content": question}]
    assert live.chat(messages=messages, routing={"models": ["alpha#thought"]}).status_code == 400
    text = "Bring each exponent down as a factor and lower it by one, term after term."
    added = add_template(live.gateway.data_dir, question, text)

    def used() -> bool:
        response = live.chat(messages=messages, routing={"models": ["alpha#thought"]})
        return bool(response.headers.get("x-tokamak-template") == added)

    until(used, "the new template was never used")


def test_templates_of_another_tenant_are_never_used(live: Fleet) -> None:
    question = "Which of our warehouses holds the spare parts for the blue press?"
    mine = "Look up the part number first and then the warehouse that keeps its series."
    add_template(live.gateway.data_dir, question, mine, tenant="another-key")
    public = add_template(live.gateway.data_dir, "How do I boil an egg until it is hard?", "Time it from the boil.")
    egg = [{"role": "user", "content": "How do I boil an egg until it is hard?"}]
    allowed = {"models": ["alpha#thought"]}
    until(
        lambda: live.chat(messages=egg, routing=allowed).headers.get("x-tokamak-template") == public,
        "the templates were never taken in",
    )
    live.forget()
    response = live.chat(messages=[{"role": "user", "content": question}], routing=allowed)
    assert_error(response, 400, "invalid_request_error", "no_eligible_model")
    assert live.called() == []


def test_templates_can_be_switched_off(tmp_path: Path) -> None:
    add_template(tmp_path)
    models = {"alpha": {"ways": ["direct", "thought"]}}
    with fleet(tmp_path, models, templates={"enabled": False}) as live:
        response = live.chat(messages=ASK, routing={"models": ["alpha#thought"]})
        assert_error(response, 400, "invalid_request_error", "no_eligible_model")
        assert live.chat(messages=ASK).headers["x-tokamak-model"] == "alpha"
