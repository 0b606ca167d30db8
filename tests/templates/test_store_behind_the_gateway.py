"""What a running gateway makes of a damaged index, and of a store that replicas share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from encoders.catalogue import load_encoder
from templates_store.create import create_template
from templates_store.index_files import INDEX_FOLDER, read_index
from templates_store.live_index import reindex
from templates_store.opening import open_store
from templates_store.store import STORE_FILE, TemplateStore
from templates_store.template import Template
from tests.gateway.live import Fleet, fleet, until
from tests.templates.solved import ANSWERS, GOOD, TANK
from tests.traffic.conftest import RedisServer
from tests.upstream.answers import answer

MODELS = {"solo": {"ways": ["direct", "thought"]}}
ASKED: list[Any] = [{"role": "user", "content": TANK}]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    made = RedisServer(tmp_path / "redis")
    made.start()
    yield made
    made.kill()


def made() -> Template:
    return create_template(load_encoder("static"), TANK, GOOD, builder="test")


def ask(live: Fleet, arm: str) -> Any:
    return live.chat(messages=ASKED, routing={"models": [arm]})


def uses(live: Fleet, id_: str) -> bool:
    return bool(ask(live, "solo#thought").headers.get("x-tokamak-template") == id_)


def test_with_a_damaged_index_the_gateway_serves_and_makes_it_anew(tmp_path: Path) -> None:
    folder, encoder = tmp_path / INDEX_FOLDER, load_encoder("static")
    with TemplateStore(tmp_path / STORE_FILE) as store:
        store.add(made())
        reindex(store, encoder.hash, folder)
    next(folder.glob("g-*/vectors.f32")).write_bytes(b"nothing of the kind")
    with fleet(tmp_path, MODELS) as live:
        live["solo"].default = answer(ANSWERS[0])
        assert ask(live, "solo").status_code == 200
        until(lambda: uses(live, made().id), "the template was never found again")
    assert len(read_index(folder, encoder.hash).block) == 1


def test_replicas_that_share_a_store_take_a_template_in_and_out(tmp_path: Path, server: RedisServer) -> None:
    shared = {"url": server.url}
    with (
        fleet(tmp_path / "one", MODELS, templates=shared) as one,
        fleet(tmp_path / "two", MODELS, templates=shared) as two,
        open_store(tmp_path / "writer", server.url) as writer,
    ):
        for live in (one, two):
            live["solo"].default = answer(ANSWERS[0])
            assert ask(live, "solo#thought").status_code == 400
        template = made()
        writer.add(template)
        for live in (one, two):
            until(lambda live=live: uses(live, template.id), "the template did not reach a replica")
        writer.retire(template.id)
        for live in (one, two):
            until(lambda live=live: ask(live, "solo#thought").status_code == 400, "a replica goes on using it")
        assert not (tmp_path / "one" / STORE_FILE).exists()
