"""The index that serves: in step with the store, from files, whatever happens to the files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from templates_store import block as block_module
from templates_store import live_index as live_module
from templates_store.index import TemplateIndex
from templates_store.index_files import IndexMissing, IndexUnusable, read_index, write_index
from templates_store.live_index import LiveIndex, reindex
from templates_store.store import TemplateStore
from templates_store.template import Template, Worth
from tests.gateway.live import until
from tests.templates.words import ENCODER, PLAN, WordEncoder, template

WORTH = Worth(shown=9, control=3, wins=4, losses=1, uplift=0.2, low=0.1, high=0.3, updated_at=5.0)


def words(number: int) -> str:
    return f"question w{number % 17} w{number % 29} w{number * 7 % 41} w{number}"


def made(count: int, tenants: tuple[str | None, ...] = (None,)) -> list[Template]:
    return [template(words(i), tenant=tenants[i % len(tenants)]) for i in range(count)]


def found(index: TemplateIndex, query: str, tenant: str | None = None, k: int = 3) -> list[str]:
    return [hit.template.query for hit in index.search(ENCODER.encode_one(query), k, -1.0, tenant)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TemplateStore]:
    with TemplateStore(tmp_path / "templates.db") as opened:
        yield opened


@pytest.fixture
def live(store: TemplateStore) -> Iterator[Callable[..., LiveIndex]]:
    """Opens live indexes of the store, with files beside it, and closes them in the end."""
    opened: list[LiveIndex] = []

    def open_(encoder: WordEncoder = ENCODER, files: bool = True) -> LiveIndex:
        opened.append(LiveIndex(store, encoder.hash, store.path.with_name("templates.index") if files else None))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def ready(index: LiveIndex) -> bool:
    index.refresh()
    return index.current.ready and not index.building


def test_what_is_added_retired_and_brought_back_is_taken_in(
    store: TemplateStore, live: Callable[..., LiveIndex]
) -> None:
    store.add_all(made(20))
    index = live()
    before = index.current
    assert not index.refresh()
    new = template("something quite different")
    store.add(new)
    assert index.refresh()
    assert found(index.current, new.query, k=1) == [new.query]
    assert found(before, new.query, k=20).count(new.query) == 0
    store.set_state(new.id, "quarantined")
    old = template(words(3))
    store.set_state(old.id, "quarantined")
    index.refresh()
    assert new.query not in found(index.current, new.query, k=30)
    assert old.query not in found(index.current, old.query, k=30)
    assert len(index.current) == 19
    for one in (new, old):
        store.set_state(one.id, "active")
    index.refresh()
    assert len(index.current) == 21
    assert [found(index.current, one.query, k=1) for one in (new, old)] == [[new.query], [old.query]]


def test_an_empty_store_takes_its_first_template_in(store: TemplateStore, live: Callable[..., LiveIndex]) -> None:
    index = live()
    assert index.current.search(ENCODER.encode_one("anything")) == []
    store.add(template("the very first"))
    assert index.refresh()
    assert found(index.current, "the very first") == ["the very first"]


def test_a_tenant_finds_its_own_and_what_all_may_see_also_among_what_is_new(
    store: TemplateStore, live: Callable[..., LiveIndex]
) -> None:
    store.add_all(made(40, (None, "ann", "ben")))
    index = live()
    store.add_all([template("zebra of ann", tenant="ann"), template("zebra of ben", tenant="ben")])
    index.refresh()
    assert "zebra of ben" not in found(index.current, "zebra of ben", "ann", k=99)
    assert found(index.current, "zebra of ann", "ann", k=1) == ["zebra of ann"]
    everything = {t.query for t in store.templates() if t.tenant in (None, "ben")}
    assert set(found(index.current, "zebra of ben", "ben", k=99)) == everything


def test_worth_is_taken_in_without_touching_the_rows(store: TemplateStore, live: Callable[..., LiveIndex]) -> None:
    store.add_all(made(5))
    index = live()
    id_ = template(words(1)).id
    store.set_worth({id_: WORTH})
    assert index.refresh()
    assert index.current.worth == {id_: WORTH}
    assert index.current.fresh_rows == 0
    assert live().current.worth == {id_: WORTH}


def test_templates_of_another_encoder_are_left_out_until_they_are_embedded_anew(
    store: TemplateStore, live: Callable[..., LiveIndex]
) -> None:
    other = WordEncoder(salt="x")
    foreign = template("from elsewhere", encoder=other)
    store.add_all([template("from here"), foreign])
    index = live()
    assert (len(index.current), index.current.left_out) == (1, 1)
    store.set_vectors(ENCODER.hash, {foreign.id: ENCODER.encode_one(foreign.query).tobytes()})
    index.refresh()
    assert (len(index.current), index.current.left_out) == (2, 0)
    assert found(index.current, "from elsewhere", k=1) == ["from elsewhere"]


def test_when_enough_has_gathered_a_new_block_takes_its_place(
    store: TemplateStore, live: Callable[..., LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_FEWEST", 10)
    store.add_all(made(30, (None, "ann")))
    index = live()
    store.retire(template(words(0)).id)
    store.add_all([template(f"new {i}", tenant="ann" if i % 2 else None) for i in range(12)])
    index.refresh()
    assert index.current.fresh_rows == 12
    until(lambda: ready(index) and index.current.fresh_rows == 0, "no new block was swapped in")
    assert (len(index.current), len(index.current.block), len(index.current.dead)) == (41, 41, 0)
    assert found(index.current, "new 3", "ann", k=1) == ["new 3"]
    assert found(index.current, words(0), k=60).count(words(0)) == 0


def test_files_are_read_instead_of_the_records_and_then_brought_up_to_date(
    store: TemplateStore, live: Callable[..., LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_all(made(30, (None, "ann")))
    folder = store.path.with_name("templates.index")
    assert reindex(store, ENCODER.hash, folder) == 30
    store.add(template("after the files"))
    store.retire(template(words(2)).id)

    def never(*_: object) -> None:
        raise AssertionError("the records were read although there are files")

    monkeypatch.setattr(live_module, "block_of_records", never)
    index = live().current
    assert len(index) == 30
    assert found(index, "after the files", k=1) == ["after the files"]
    assert words(2) not in found(index, words(2), k=99)
    assert found(index, words(1), "ann", k=1) == [words(1)]


def damage_vectors(folder: Path) -> None:
    path = next(folder.glob("g-*/vectors.f32"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def cut_ids(folder: Path) -> None:
    os.truncate(next(folder.glob("g-*/ids.u64")), 9)


def spoil_manifest(folder: Path) -> None:
    (folder / "current.json").write_bytes(b"{}")


def lose_a_file(folder: Path) -> None:
    next(folder.glob("g-*/vectors.f32")).unlink()


def foreign(folder: Path) -> None:
    with TemplateStore(folder.with_name("other.db")) as other:
        other.add_all(made(9))
        reindex(other, ENCODER.hash, folder)


def other_encoder(folder: Path) -> None:
    write_index(folder, read_index(folder, ENCODER.hash).block, "another", 0, "x", 0)


@pytest.mark.parametrize("harm", [damage_vectors, cut_ids, spoil_manifest, lose_a_file, foreign, other_encoder])
def test_files_that_cannot_be_used_are_reported_and_made_anew_while_serving_without(
    store: TemplateStore,
    live: Callable[..., LiveIndex],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
) -> None:
    store.add_all(made(30, (None, "ann")))
    folder = store.path.with_name("templates.index")
    reindex(store, ENCODER.hash, folder)
    harm(folder)
    with caplog.at_level(logging.ERROR):
        index = live()
    assert "made anew" in caplog.text
    assert index.current.search(ENCODER.encode_one(words(4))) == []
    until(lambda: ready(index), "the index was not made anew")
    assert found(index.current, words(4), k=1) == [words(4)]
    assert len(read_index(folder, ENCODER.hash).block) == 30
    monkeypatch.setattr(live_module, "block_of_records", lambda *_: pytest.fail("the new files were not used"))
    assert len(live().current) == 30


def test_a_large_store_without_files_serves_without_templates_until_it_is_indexed(
    store: TemplateStore, live: Callable[..., LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "AT_ONCE", 10)
    store.add_all(made(30))
    index = live()
    assert not index.current.ready
    store.add(template("came meanwhile"))
    until(lambda: ready(index), "the index was not made")
    assert found(index.current, "came meanwhile", k=1) == ["came meanwhile"]


def test_a_folder_that_cannot_be_written_is_reported_and_the_index_stays_in_memory(
    store: TemplateStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "AT_ONCE", 10)
    monkeypatch.setattr(live_module, "_FILES_FROM", 1)
    store.add_all(made(30))
    blocked = store.path.with_name("blocked")
    blocked.write_text("a file where the folder should be")
    index = LiveIndex(store, ENCODER.hash, blocked)
    until(lambda: ready(index), "the index was not made")
    assert "stays in memory" in caplog.text
    assert found(index.current, words(4), k=1) == [words(4)]
    index.close()


def test_after_very_many_changes_the_index_is_made_from_the_records_and_shows_nothing_retired_meanwhile(
    store: TemplateStore, live: Callable[..., LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_TOO_MANY", 10)
    store.add_all(made(30))
    index = live()
    assert found(index.current, words(4), k=1) == [words(4)]
    store.set_states([template(words(i)).id for i in range(4, 20)], "quarantined")
    index.refresh()
    assert words(4) not in found(index.current, words(4), k=30)
    until(lambda: ready(index) and index.current.version == store.version(), "the index did not come up to date")
    assert len(index.current) == len(index.current.block) == 14
    assert found(index.current, words(25), k=1) == [words(25)]


def test_an_index_written_anew_leaves_one_generation_and_no_leftovers(store: TemplateStore) -> None:
    store.add_all(made(10))
    folder = store.path.with_name("templates.index")
    (folder / ".partial-crashed").mkdir(parents=True)
    for _ in range(3):
        reindex(store, ENCODER.hash, folder)
    names = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    assert names[0] == "current.json"
    assert len(names) == 2
    assert names[1].startswith("g-")


def test_what_is_mapped_stays_readable_when_a_newer_index_takes_its_place(store: TemplateStore) -> None:
    store.add_all(made(10))
    folder = store.path.with_name("templates.index")
    reindex(store, ENCODER.hash, folder)
    kept = read_index(folder, ENCODER.hash)
    rows = np.array(kept.block.vectors)
    store.add_all([template("more")])
    reindex(store, ENCODER.hash, folder)
    assert np.array_equal(kept.block.vectors, rows)
    assert len(read_index(folder, ENCODER.hash).block) == 11


def test_an_empty_index_can_be_written_and_read(store: TemplateStore) -> None:
    folder = store.path.with_name("templates.index")
    with pytest.raises(IndexMissing):
        read_index(folder, ENCODER.hash)
    assert reindex(store, ENCODER.hash, folder) == 0
    assert len(read_index(folder, ENCODER.hash).block) == 0


def test_a_newer_layout_is_not_guessed_at(store: TemplateStore) -> None:
    folder = store.path.with_name("templates.index")
    reindex(store, ENCODER.hash, folder)
    current = folder / "current.json"
    manifest = json.loads(current.read_bytes().partition(b"\n")[2])
    data = json.dumps({**manifest, "layout": 99}).encode()
    current.write_bytes(b"%08x\n%s" % (__import__("zlib").crc32(data), data))
    with pytest.raises(IndexUnusable, match="layout 99"):
        read_index(folder, ENCODER.hash)


def test_a_large_part_has_an_index_of_its_own_which_survives_files_and_growth(
    store: TemplateStore, live: Callable[..., LiveIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_module, "FLAT_LIMIT", 200)
    monkeypatch.setattr(live_module, "_FEWEST", 10)
    store.add_all([*made(400), *[template(f"own {i}", tenant="ann") for i in range(5)]])
    folder = store.path.with_name("templates.index")
    reindex(store, ENCODER.hash, folder)
    index = live()
    assert index.current.block.parts[None].approximate is not None
    assert index.current.block.parts["ann"].approximate is None
    gone = template(words(7))
    store.retire(gone.id)
    index.refresh()
    assert gone.query not in found(index.current, gone.query, k=50)
    assert found(index.current, words(8), k=1) == [words(8)]
    store.add_all([template(f"late {i}") for i in range(20)])
    until(lambda: ready(index) and index.current.fresh_rows == 0, "no new block was swapped in")
    assert found(index.current, "late 4", k=1) == ["late 4"]
    assert gone.query not in found(index.current, gone.query, k=50)
    assert len(index.current) == 424


def test_ten_thousand_tenants_are_ranges_of_one_block() -> None:
    base = template()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30_000, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    many = [
        msgspec.structs.replace(base, id=f"{i:016x}", vector=row.tobytes(), tenant=f"t{i % 10_000}")
        for i, row in enumerate(rows)
    ]
    index = TemplateIndex(many, ENCODER.hash)
    hits = index.search(rows[77], 9, -1.0, "t77")
    assert sorted(hit.template.id for hit in hits) == [f"{i:016x}" for i in (77, 10_077, 20_077)]
    assert hits[0].template.id == f"{77:016x}"
    assert index.search(rows[77], 9, -1.0) == []
    assert all(part.approximate is None for part in index.block.parts.values())


def test_a_plan_is_rendered_from_what_the_search_read(store: TemplateStore, live: Callable[..., LiveIndex]) -> None:
    store.add_all(made(3))
    index = live().current
    candidates = index.candidates(ENCODER.encode_one(words(1)), 2)
    assert [hit.template.text for hit in index.hits(candidates)] == [PLAN, PLAN]
    assert [(c.id, c.similarity) for c in candidates] == [
        (hit.template.id, hit.similarity) for hit in index.hits(candidates)
    ]
    store.set_state(candidates[0].id, "quarantined")
    assert [hit.template.id for hit in live().current.hits(candidates)] == [candidates[1].id]
