"""Templates end to end: from answers that the gateway logged, over a build, into the prompts of a running gateway."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from encoders.catalogue import load_encoder
from offline.templates.commands import templates_app
from templates_store.create import create_template
from templates_store.sanitize import TAG_WORD
from templates_store.store import STORE_FILE, TemplateStore
from tests.gateway.live import Fleet, assert_error, fleet, until
from tests.templates.solved import ANSWERS, GOOD, TANK
from tests.upstream.answers import answer

ASKED: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TANK}]
THOUGHT = {"models": ["solo#thought"]}
KEYS = ("ann", "ben")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Fleet]:
    keys = [{"id": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in KEYS]
    models = {"solo": {"ways": ["direct", "think", "thought"]}}
    with fleet(tmp_path, models, key="ann", limits={"keys": keys}, routers={"poll_s": 0.05}) as made:
        made["solo"].default = answer(ANSWERS[0])
        yield made


def ask(live: Fleet, key: str = "ann", **fields: Any) -> Any:
    fields = {"messages": ASKED, "routing": THOUGHT, **fields}
    return live.chat(headers={"authorization": f"Bearer {key}"}, **fields)


def add(live: Fleet, text: str = GOOD, tenant: str | None = None) -> str:
    """Add a template to the store of the running gateway; returns its id."""
    with TemplateStore(live.gateway.data_dir / STORE_FILE) as store:
        made = create_template(load_encoder("static"), TANK, text, builder="test", tenant=tenant)
        store.add(made)
    return made.id


def served(live: Fleet, key: str = "ann", **fields: Any) -> Any:
    """The answer to a request in the `thought` way, once a template is there for it."""

    def once() -> Any:
        response = ask(live, key, **fields)
        return response if response.status_code == 200 else None

    return until(once, "no template was taken in")


def test_without_a_template_the_thought_arm_is_not_eligible_and_says_why(live: Fleet) -> None:
    message = assert_error(ask(live), 400, "invalid_request_error", "no_eligible_model")
    assert "solo#thought: no template is close enough" in message
    assert live.called() == []


def test_a_template_added_while_serving_reaches_the_prompt_and_the_log(live: Fleet) -> None:
    id_ = add(live)
    response = served(live)
    sent = live["solo"].last.json["messages"]
    assert sent[0] == ASKED[0]
    assert sent[1]["content"].startswith(f"<{TAG_WORD}>")
    assert sent[1]["content"].endswith(f"1. {GOOD}\n</{TAG_WORD}>\n\n{TANK}")
    assert response.headers["x-tokamak-template"] == id_
    record = live.record_of(response)
    assert (record.arm, record.template_ids, record.query_text) == ("solo#thought", (id_,), TANK)


def test_a_quarantined_template_is_used_no_more_until_it_is_brought_back(live: Fleet) -> None:
    id_ = add(live)
    served(live)
    with TemplateStore(live.gateway.data_dir / STORE_FILE) as store:
        store.set_state(id_, "quarantined")
        until(lambda: ask(live).status_code == 400, "the quarantined template was still used")
        assert_error(ask(live), 400, "invalid_request_error", "no_eligible_model")
        store.set_state(id_, "active")
    assert served(live).headers["x-tokamak-template"] == id_


def test_a_secret_planted_in_one_keys_template_is_in_no_prompt_of_another(live: Fleet) -> None:
    add(live, GOOD.replace("Several agents", "Several zebrafish agents"), tenant="ann")
    served(live, "ann")
    assert b"zebrafish" in live["solo"].last.body
    live.forget()
    assert_error(ask(live, "ben"), 400, "invalid_request_error", "no_eligible_model")
    for model in ("solo", "auto"):
        assert ask(live, "ben", model=model, routing={"models": ["solo", "solo#think"]}).status_code == 200
    assert all(b"zebrafish" not in request.raw for request in live["solo"].requests)


def test_tools_and_json_mode_are_left_alone(live: Fleet) -> None:
    add(live)
    bound = {"response_format": {"type": "json_object"}, "tools": [{"type": "function", "function": {"name": "f"}}]}
    served(live, **bound)
    sent = live["solo"].last.json
    assert {name: sent[name] for name in bound} == bound
    assert sent["messages"][0] == ASKED[0]


def test_what_was_logged_and_liked_becomes_a_template_that_is_served(live: Fleet) -> None:
    liked = ask(live, routing={"models": ["solo"]})
    unsaved = ask(live, routing={"models": ["solo"]}, store=False)
    for response in (liked, unsaved):
        live.record_of(response)
        given = {"request_id": response.headers["x-request-id"], "metric": "helpful", "value": True}
        assert live.post("/v1/feedback", given).status_code == 200
    live.record_of(liked)
    until(lambda: len(list(live.gateway.log.read_scores())) == 2, "the feedback was not scored")
    built = CliRunner().invoke(templates_app, ["build", "--data-dir", str(live.gateway.data_dir)])
    assert built.stdout == "1 built, 0 rejected, 0 failed, 0 done before\n", built.output
    with TemplateStore(live.gateway.data_dir / STORE_FILE) as store:
        (made,) = store.templates()
    assert made.interactions == (live.record_of(liked).id,)
    assert made.tenant == "ann"
    response = served(live)
    assert response.headers["x-tokamak-template"] == made.id
    assert made.text in live["solo"].last.json["messages"][1]["content"]
