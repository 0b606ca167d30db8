from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from templates_store import block as block_module
from templates_store.database import TemplateStoreError
from templates_store.index import TemplateIndex, load_index, re_embed
from templates_store.store import TemplateStore
from templates_store.template import Template
from tests.templates.words import ENCODER, WordEncoder, template


def random_templates(count: int, seed: int = 0, tenants: tuple[str | None, ...] = (None,)) -> list[Template]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    base = template()
    return [
        msgspec.structs.replace(base, id=f"{i:016x}", vector=row.tobytes(), tenant=tenants[i % len(tenants)])
        for i, row in enumerate(vectors)
    ]


def vector_of(made: Template) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(made.vector, dtype=np.float32)


def test_the_most_similar_come_first() -> None:
    tank, train = template("two pipes fill a tank"), template("two trains meet at noon")
    index = TemplateIndex([tank, train], ENCODER.hash)
    hits = index.search(ENCODER.encode_one("three pipes fill a tank"), k=2, min_similarity=-1.0)
    assert [hit.template for hit in hits] == [tank, train]
    assert hits[0].similarity == pytest.approx(0.8)
    assert index.search(ENCODER.encode_one("three pipes fill a tank"), k=2, min_similarity=0.81) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.floats(-1, 1), st.sampled_from([None, "a", "b", "stranger"]))
def test_search_equals_comparing_everything(count: int, k: int, floor: float, tenant: str | None) -> None:
    made = random_templates(count, seed=count, tenants=(None, "a", "b"))
    query = vector_of(random_templates(1, seed=1000 + k)[0])
    hits = TemplateIndex(made, ENCODER.hash).search(query, k, floor, tenant)
    visible = [t for t in made if t.tenant in (None, tenant)]
    expected = sorted((float(vector_of(t) @ query) for t in visible), reverse=True)[:k]
    assert [hit.similarity for hit in hits] == pytest.approx([s for s in expected if s >= floor], abs=1e-5)
    assert all(hit.template.tenant in (None, tenant) for hit in hits)


def test_another_tenants_templates_are_never_found() -> None:
    mine, theirs = template("two pipes fill a tank", tenant="me"), template("two pipes fill a tub", tenant="them")
    index = TemplateIndex([mine, theirs], ENCODER.hash)
    query = ENCODER.encode_one("two pipes fill a tub")
    assert [hit.template.tenant for hit in index.search(query, 10, -1.0, "me")] == ["me"]
    assert index.search(query, 10, -1.0, None) == []
    assert index.search(query, 10, -1.0, "someone") == []


@pytest.mark.parametrize("state", ["candidate", "quarantined", "retired"])
def test_only_active_ones_are_found(tmp_path: Path, state: str) -> None:
    store = TemplateStore(tmp_path / "t.db")
    made = template()
    store.add(msgspec.structs.replace(made, state=state))
    assert len(load_index(store, ENCODER.hash)) == 0


def test_quarantine_takes_effect_with_the_next_version_and_can_be_undone(tmp_path: Path) -> None:
    store = TemplateStore(tmp_path / "t.db")
    made = template()
    store.add(made)
    before = load_index(store, ENCODER.hash)
    store.set_state(made.id, "quarantined")
    after = load_index(store, ENCODER.hash)
    assert (before.version, len(before), after.version, len(after)) == (1, 1, 2, 0)
    store.set_state(made.id, "active")
    assert load_index(store, ENCODER.hash).search(ENCODER.encode_one(made.query))[0].template == made


def test_templates_of_another_encoder_are_left_out_counted_and_can_be_embedded_anew(tmp_path: Path) -> None:
    store = TemplateStore(tmp_path / "t.db")
    other = WordEncoder(dim=64, salt="x")
    old, new = template("old question", encoder=other), template("new question")
    gone = template("gone question", encoder=other, state="retired")
    store.add_all([old, new, gone])
    index = load_index(store, ENCODER.hash)
    assert (len(index), index.left_out) == (1, 1)
    assert re_embed(store, ENCODER) == 1
    assert re_embed(store, ENCODER) == 0
    index = load_index(store, ENCODER.hash)
    assert (len(index), index.left_out) == (2, 0)
    assert index.search(ENCODER.encode_one("old question"), 1, 0.99)[0].template.id == old.id
    assert store.get(gone.id) == gone


def test_an_empty_index_and_an_empty_text_find_nothing() -> None:
    assert TemplateIndex([], ENCODER.hash).search(np.zeros(7, dtype=np.float32)) == []
    assert TemplateIndex([template()], ENCODER.hash).search(ENCODER.encode_one(""), 3, -1.0) == []


@pytest.mark.parametrize(
    "vector",
    [
        np.ones(16, np.float32) / 4,
        np.ones(256, np.float32),
        np.full(256, np.nan, np.float32),
        np.ones((1, 256), np.float32),
    ],
)
def test_a_vector_that_cannot_be_compared_is_refused(vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    with pytest.raises(ValueError, match=r"made by another encoder|unit norm"):
        TemplateIndex([template()], ENCODER.hash).search(vector)


def test_vectors_of_different_lengths_are_refused() -> None:
    short = msgspec.structs.replace(template("short", encoder=WordEncoder(dim=8)), encoder=ENCODER.hash)
    with pytest.raises(TemplateStoreError, match="reembed"):
        TemplateIndex([template(), short], ENCODER.hash)


def test_the_graph_finds_what_the_flat_index_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = random_templates(2000)
    flat = TemplateIndex(made, ENCODER.hash)
    monkeypatch.setattr(block_module, "FLAT_LIMIT", 100)
    graph = TemplateIndex(made, ENCODER.hash)
    queries = [vector_of(t) for t in random_templates(50, seed=1)]
    found = sum(
        len({h.template.id for h in flat.search(q, 10, -1.0)} & {h.template.id for h in graph.search(q, 10, -1.0)})
        for q in queries
    )
    assert found >= 0.98 * 10 * len(queries)
