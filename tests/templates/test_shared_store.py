"""Templates that replicas share over a real Redis, each with a copy of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from templates_store.database import TemplateStoreError
from templates_store.live_index import LiveIndex
from templates_store.opening import open_store
from templates_store.shared_store import SharedTemplateStore
from templates_store.store import BuildRecord, TemplateStore
from templates_store.template import Worth
from tests.gateway.live import until
from tests.templates.words import ENCODER, template
from tests.traffic.conftest import RedisServer

WORTH = Worth(shown=9, control=3, wins=4, losses=1, uplift=0.2, low=0.1, high=0.3, updated_at=5.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    made = RedisServer(tmp_path / "redis")
    made.start()
    yield made
    made.kill()


Replica = Callable[..., TemplateStore]


@pytest.fixture
def replica(server: RedisServer, tmp_path: Path) -> Iterator[Replica]:
    """Opens the shared store with the copy of a replica of that name."""
    opened: list[TemplateStore] = []

    def open_(name: str, follow: bool = False) -> TemplateStore:
        opened.append(open_store(tmp_path / name, server.url, follow=follow))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


def test_what_one_replica_writes_another_reads(replica: Replica) -> None:
    one, two = replica("one"), replica("two")
    made, own = template("two pipes", tenant="ann"), template("two trains")
    assert one.add_all([made, own]) == 2
    assert two.add(made) is False
    assert two.templates() == [made, own]
    two.set_state(made.id, "quarantined", "looks odd")
    one.retire(own.id)
    with pytest.raises(TemplateStoreError, match="is retired and cannot become active"):
        two.set_state(own.id, "active")
    assert [(c.event, c.reason) for c in one.history(made.id)] == [("added", None), ("quarantined", "looks odd")]
    two.set_worth({made.id: WORTH})
    three = replica("three")
    assert three.worth() == {made.id: WORTH}
    assert three.version() == 5
    assert three.counts() == {"quarantined": 1, "retired": 1}
    assert [t.id for t in three.templates()] == [made.id, own.id]


def test_a_change_reaches_the_index_of_every_replica_that_follows(replica: Replica) -> None:
    writer, replicas = replica("writer"), [replica(name, follow=True) for name in ("one", "two")]
    indexes = [LiveIndex(store, ENCODER.hash) for store in replicas]
    made = template("two pipes fill a tank")
    writer.add(made)
    for index in indexes:
        until(lambda index=index: index.refresh(), "the template did not arrive")
        assert index.current.search(ENCODER.encode_one(made.query))[0].template == made
    replicas[0].retire(made.id)
    for index in indexes:
        until(lambda index=index: index.refresh(), "the retirement did not arrive")
        assert index.current.search(ENCODER.encode_one(made.query)) == []
        index.close()


def test_builds_are_remembered_for_all(replica: Replica) -> None:
    one, two = replica("one"), replica("two")
    made = template()
    assert one.record_build("llm", BuildRecord("k1", "built", made.id), made)
    one.record_build("llm", BuildRecord("k2", "rejected", "no steps"))
    assert two.builds("llm") == {
        "k1": BuildRecord("k1", "built", made.id), "k2": BuildRecord("k2", "rejected", "no steps"),
    }  # fmt: skip
    assert two.builds("other") == {}
    assert two.add(made) is False


def test_writers_at_the_same_time_lose_nothing(replica: Replica) -> None:
    stores = [replica(f"writer-{i}") for i in range(3)]

    def write(part: int) -> None:
        for i in range(15):
            stores[part].add(template(f"question {part} {i}"))

    threads = [threading.Thread(target=write, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = replica("fresh")
    assert fresh.version() == 45
    assert len(fresh.templates()) == 45


def test_while_the_redis_is_away_the_copy_serves_writing_says_so_and_nothing_is_lost(
    server: RedisServer, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    store = replica("one", follow=True)
    acknowledged = [template(f"question {i}") for i in range(5)]
    for made in acknowledged:
        store.add(made)
    server.kill()
    with pytest.raises(TemplateStoreError, match="is away"):
        store.add(template("unlucky"))
    assert store.templates() == acknowledged
    with caplog.at_level(logging.ERROR):
        again = replica("one")
    assert "until it comes back" in caplog.text
    assert again.templates() == acknowledged
    with pytest.raises(TemplateStoreError, match="there is no copy"):
        replica("new")
    server.start()
    other = replica("two")
    assert other.templates() == acknowledged
    other.add(template("after the restart"))
    until(lambda: store.version() == 6, "the follower did not come back")


def test_a_redis_that_has_lost_data_is_noticed_and_the_copy_is_put_aside(
    server: RedisServer, replica: Replica, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    store = replica("one")
    made = template()
    store.add(made)
    with redis.Redis(port=server.port) as client:
        client.flushall()
    with pytest.raises(TemplateStoreError, match="lost data"):
        store.add(template("another question"))
    assert store.templates() == [made]
    store.close()
    with caplog.at_level(logging.ERROR):
        again = replica("one")
    assert "put aside" in caplog.text
    assert again.templates() == []
    aside = [path for path in (tmp_path / "one").iterdir() if path.suffix not in (".db", "") and "-" not in path.suffix]
    with TemplateStore(aside[0]) as saved:
        assert saved.templates() == [made]
    assert again.add(made)


def test_a_newer_layout_and_a_wrong_url_are_refused(server: RedisServer, replica: Replica, tmp_path: Path) -> None:
    with redis.Redis(port=server.port) as client:
        client.set("tokamak:templates:layout", 9)
    with pytest.raises(TemplateStoreError, match="newer version"):
        replica("one")
    with pytest.raises(TemplateStoreError, match="must look like redis://"):
        SharedTemplateStore("http://user:secret@nowhere", tmp_path / "x.db")


def test_passwords_are_never_shown(tmp_path: Path) -> None:
    with pytest.raises(TemplateStoreError) as caught:
        SharedTemplateStore("redis://user:secret@127.0.0.1:1/0", tmp_path / "x.db")
    assert "secret" not in str(caught.value)
