"""No key is ever shown what was made from another key's traffic, whatever it asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoders.catalogue import load_encoder
from offline.templates.probe_isolation import cross_tenant_hits
from templates_store import block as block_module
from templates_store.choosing import Bounds, choose
from templates_store.index import TemplateIndex
from tests.templates.words import ENCODER, template


def test_thousands_of_questions_get_no_secret_of_another_key(tmp_path: Path) -> None:
    probe = cross_tenant_hits(tmp_path, ENCODER, tenants=6, secrets=15, public=40, questions=400)
    assert probe.searches == 400 * 12
    assert probe.cross_tenant_hits == 0
    assert probe.own_hits == probe.own_searches == 90, "nothing was there to be found"


def test_neither_do_they_from_parts_that_are_searched_approximately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_module, "FLAT_LIMIT", 20)
    probe = cross_tenant_hits(tmp_path, ENCODER, tenants=3, secrets=40, public=60, questions=150)
    assert probe.cross_tenant_hits == 0
    assert probe.own_hits >= 0.9 * probe.own_searches


@pytest.mark.slow
def test_nor_with_the_encoder_that_is_the_default(tmp_path: Path) -> None:
    probe = cross_tenant_hits(tmp_path, load_encoder("static"), questions=3_000)
    assert probe.cross_tenant_hits == 0
    assert probe.own_hits == probe.own_searches


def test_the_probe_sees_a_leak_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = TemplateIndex.candidates

    def leaky(self: TemplateIndex, vector: object, k: int, floor: float = -1.0, tenant: str | None = None) -> object:
        return real(self, vector, k, floor, "team-0")  # type: ignore[arg-type]

    monkeypatch.setattr(TemplateIndex, "candidates", leaky)
    assert cross_tenant_hits(tmp_path, ENCODER, tenants=2, secrets=5, public=2, questions=20).cross_tenant_hits > 0


NAMES = st.sampled_from(["ann", "ben", "", "ANN", "ann ", "None", "*", "%", "an", "ann\0"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    owners=st.lists(st.none() | NAMES, min_size=1, max_size=12),
    asker=st.none() | NAMES,
    k=st.integers(1, 30),
    floor=st.sampled_from([-1.0, 0.0, 0.9]),
    moved=st.lists(st.integers(0, 11), max_size=6),
)
def test_whoever_asks_sees_only_own_and_public_templates(
    owners: list[str | None], asker: str | None, k: int, floor: float, moved: list[int]
) -> None:
    made = [template(f"the question number {i}", tenant=owner) for i, owner in enumerate(owners)]
    index = TemplateIndex(made[: len(made) // 2], ENCODER.hash)
    index = index.changed({t.id: t for t in made}, 1, 0, {})
    gone = {made[i].id for i in moved if i < len(made)}
    index = index.changed(dict.fromkeys(gone), 2, 0, {})
    by_id = {t.id: t for t in made}
    vector = np.asarray(ENCODER.encode_one("the question number 3"))
    near = {candidate.id for candidate in index.candidates(vector, k, floor, asker)}
    near |= {row.id for row in choose(index, vector, asker, Bounds(k, k, floor)).considered}
    assert not near & gone
    assert {by_id[id_].tenant for id_ in near} <= {None, asker}
