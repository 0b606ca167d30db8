"""What is erased is gone from the files, from the index, and from what the next build makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis

from offline.answers import answers_from_log
from templates_store.create import create_template
from templates_store.erasure import erase, erased_from
from templates_store.index import load_index
from templates_store.index_files import INDEX_FOLDER, write_index
from templates_store.live_index import LiveIndex
from templates_store.shared_store import SharedTemplateStore
from templates_store.store import BuildRecord, TemplateStore
from templates_store.template import Template, Worth
from tests.gateway.live import until
from tests.templates.solved import ANSWERS, GOOD
from tests.templates.test_best_answers import chat_answer, logged, scored
from tests.templates.words import ENCODER
from tests.traffic.conftest import RedisServer
from traffic.stores import open_log

CANARY = "zebrafish quagga"


def made(query: str, *interactions: str, text: str = GOOD, tenant: str | None = None) -> Template:
    return create_template(
        ENCODER, query, text, builder="test", tenant=tenant, interactions=interactions, created_at=1.0
    )


def secret(number: int = 0, **fields: object) -> Template:
    text = GOOD.replace("Several agents", f"Several {CANARY} agents{number}")
    template = made(f"how long does the {CANARY} number{number} swim", f"i{number}", text=text, **fields)  # type: ignore[arg-type]
    # A dense vector, whose bytes are found nowhere else.
    vector = np.random.default_rng(number).standard_normal(ENCODER.dim).astype("<f4")
    return msgspec.structs.replace(template, vector=(vector / np.linalg.norm(vector)).tobytes())


def traces(folder: Path, template: Template) -> list[str]:
    """The files in the folder with anything of the template's content, as it is or as it is packed."""
    words = [word.encode() for word in (*CANARY.split(), template.query, template.text)]
    signs = [*words, template.vector, template.vector[64:256]]
    return [
        f"{path.relative_to(folder)}: {sign[:30]!r}"
        for path in folder.rglob("*") if path.is_file()
        for content in [path.read_bytes()]
        for sign in signs if sign in content
    ]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TemplateStore]:
    with TemplateStore(tmp_path / "templates.db") as opened:
        yield opened


def test_nothing_of_an_erased_template_is_left_in_the_files(tmp_path: Path, store: TemplateStore) -> None:
    template = secret()
    others = [made(f"how long does pipe number{i} take", f"o{i}") for i in range(40)]
    store.add_all([*others[:20], template, *others[20:]])
    worth = Worth(shown=1, control=1, wins=1, losses=0, uplift=None, low=None, high=None, updated_at=1.0)
    store.set_worth({template.id: worth})
    # Every change leaves an older copy of the record somewhere in the file.
    store.set_state(template.id, "quarantined", f"the {CANARY} looks odd")
    store.set_state(template.id, "active")
    store.record_build("b", BuildRecord("k1", "rejected", f"template {template.id} says nearly the same"))
    store.record_build("b", BuildRecord("k2", "built", others[0].id))
    index = load_index(store, ENCODER.hash)
    folder = tmp_path / INDEX_FOLDER
    write_index(folder, index.block, ENCODER.hash, index.version, store.mark(index.version), 0)
    assert len(traces(tmp_path, template)) >= 4, "the test would show nothing"
    found = erase(store, interactions=["i0", "unheard of"], index_folder=folder)
    assert found.template_ids == (template.id,)
    assert traces(tmp_path, template) == []
    assert store.get(template.id) is None
    assert store.worth() == {}
    assert store.made_from(["i0"]) == []
    assert set(store.builds("b")) == {"k2"}
    assert store.templates() == others
    assert [change.event for change in store.history(template.id)][-1] == "erased"


def test_an_erased_template_is_not_brought_back_by_an_import(store: TemplateStore) -> None:
    template = secret()
    store.add(template)
    erase(store, interactions=["i0"])
    assert not store.add(template)
    assert store.get(template.id) is None


def test_erasing_a_key_takes_its_templates_and_leaves_those_of_others(store: TemplateStore) -> None:
    mine, theirs = secret(0, tenant="ann"), secret(1, tenant="ben")
    store.add_all([mine, theirs])
    assert erase(store, key="ann").template_ids == (mine.id,)
    assert store.templates() == [theirs]
    assert erase(store, key="ann").template_ids == ()


async def test_erasing_a_user_takes_what_came_from_the_log_and_no_build_makes_it_again(
    tmp_path: Path, store: TemplateStore
) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'traffic.db'}")
    for record in (
        logged("i0", response=chat_answer(ANSWERS[0]), user="dora", created_at=5.0), scored("i0", "exact_match", 1.0),
        logged("i1", response=chat_answer(ANSWERS[0]), user="emil", created_at=5.0), scored("i1", "exact_match", 1.0),
    ):  # fmt: skip
        log.append(record)
    await log.flush()
    mine, theirs = secret(0, tenant="team"), secret(1, tenant="team")
    store.add_all([mine, theirs])
    found = erase(store, user="dora", log=log)
    assert (found.template_ids, found.interactions) == ((mine.id,), 1)
    assert [answer.id for answer in answers_from_log(log, erased=erased_from(store))] == ["i1"]
    later = logged("i2", user="dora", created_at=9e9)
    assert not erased_from(store)(later), "what is sent after the erasure is a new matter"
    await log.close()


def test_something_must_be_named(store: TemplateStore) -> None:
    with pytest.raises(ValueError, match="name a user, a key or a request"):
        erase(store)
    with pytest.raises(ValueError, match="found in the traffic log"):
        erase(store, user="dora")


def test_a_served_index_forgets_it_and_writes_its_files_anew(
    tmp_path: Path, store: TemplateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("templates_store.live_index._FILES_FROM", 1)
    template = secret()
    store.add_all([template, *(made(f"question number{i}", f"o{i}") for i in range(30))])
    folder = tmp_path / INDEX_FOLDER
    index = load_index(store, ENCODER.hash)
    write_index(folder, index.block, ENCODER.hash, index.version, store.mark(index.version), 0)
    live = LiveIndex(store, ENCODER.hash, folder)
    vector = np.frombuffer(template.vector, dtype="<f4")
    assert live.current.search(vector)[0].template.id == template.id
    erase(store, interactions=["i0"])
    live.refresh()
    assert template.id not in {hit.template.id for hit in live.current.search(vector, 40, -1.0)}
    until(lambda: (live.refresh() or True) and not live.building and traces(tmp_path, template) == [], "still there")
    assert len(live.current) == 30
    live.close()


def test_replicas_forget_it_too(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    server.start()
    template = secret()
    one, two = (SharedTemplateStore(server.url, tmp_path / name / "copy.db") for name in ("one", "two"))
    one.add(template)
    one.record_build("b", BuildRecord("k", "built", template.id))
    two.catch_up()
    assert two.get(template.id) == template
    assert erase(one, interactions=["i0"]).template_ids == (template.id,)
    two.catch_up()
    for name, store in (("one", one), ("two", two)):
        assert store.get(template.id) is None
        assert traces(tmp_path / name, template) == []
        assert store.builds("b") == {}
        assert store.erasures()
        store.close()
    with redis.Redis.from_url(server.url) as client:
        assert client.hgetall("tokamak:templates:records") == {}
    server.kill()
