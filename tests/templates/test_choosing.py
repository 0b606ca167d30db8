"""Which templates a query gets: nearest first, moved by worth, above the floor, within the budget, and why."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from templates_store.augment import augment, estimate_tokens, render
from templates_store.choosing import Bounds, choose
from templates_store.index import TemplateIndex
from templates_store.worth import unmeasured
from tests.templates.words import ENCODER, template

ASKED = "how long do two pipes need to fill a tank"
NEAR = template(ASKED, "Problem: pipes. Steps: Add the rates up and divide by their sum. Answer: a time.")
LESS = template(
    "how long do three pipes need to fill a pool", "Problem: pools. Steps: Add up the rates. Answer: a time."
)
FAR = template("who wrote the play", "Problem: plays. Steps: Recall the author. Answer: a name.")
LONG = template(
    "how long do two pipes need to fill a big tank", f"Problem: tanks. Steps: {'Add. ' * 80}Answer: a time."
)
ALL = (NEAR, LESS, FAR, LONG)


def index_of(**expected: float) -> TemplateIndex:
    made = TemplateIndex(ALL, ENCODER.hash)
    named = {"near": NEAR, "less": LESS, "far": FAR, "long": LONG}
    made.worth = {
        named[name].id: msgspec.structs.replace(unmeasured(), expected=value) for name, value in expected.items()
    }
    return made


VECTOR = ENCODER.encode_one(ASKED)


def test_without_worth_the_nearest_come_first() -> None:
    found = choose(index_of(), VECTOR, bounds=Bounds(floor=0.5, max_tokens=1000))
    assert [hit.template.id for hit in found.hits] == [NEAR.id, LONG.id, LESS.id]
    assert {near.id: near.fate for near in found.considered} == {
        NEAR.id: "shown", LONG.id: "shown", LESS.id: "shown", FAR.id: "below the floor",
    }  # fmt: skip
    assert found.retrieved[0][0] == NEAR.id
    assert found.retrieved[0][1] == pytest.approx(1.0)


def test_worth_moves_a_template_and_the_floor_looks_at_similarity_alone() -> None:
    found = choose(index_of(near=-0.2, less=0.1, far=1.0), VECTOR, bounds=Bounds(top_k=1, floor=0.5))
    assert [hit.template.id for hit in found.hits] == [LESS.id]
    fates = {near.id: near for near in found.considered}
    assert fates[NEAR.id].fate == "outranked"
    assert fates[NEAR.id].score == pytest.approx(0.5)
    assert fates[FAR.id].fate == "below the floor"


def test_what_does_not_fit_gives_way_to_the_next() -> None:
    found = choose(index_of(), VECTOR, bounds=Bounds(top_k=2, floor=0.5, max_tokens=120))
    assert [hit.template.id for hit in found.hits] == [NEAR.id, LESS.id]
    assert {near.id: near.fate for near in found.considered}[LONG.id] == "over the token budget"
    assert choose(index_of(), VECTOR, bounds=Bounds(max_tokens=20)).hits == ()
    assert choose(index_of(), VECTOR, bounds=Bounds(floor=1.1)).hits == ()


@given(st.integers(1, 4), st.integers(10, 400), st.floats(-1, 1), st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_what_is_chosen_is_what_the_prompt_holds(top_k: int, budget: int, floor: float, worth: list[float]) -> None:
    index = index_of(**dict(zip(("near", "less", "far", "long"), worth, strict=True)))
    found = choose(index, VECTOR, bounds=Bounds(top_k=top_k, floor=floor, max_tokens=budget))
    assert len(found.hits) <= top_k
    assert all(hit.similarity >= floor for hit in found.hits)
    text, ids = render(found.hits, budget)
    assert ids == tuple(hit.template.id for hit in found.hits)
    assert estimate_tokens(text) <= budget
    said = [{"role": "user", "content": "Hello"}]
    assert augment(said, found.hits, budget).template_ids == ids


def test_an_empty_question_gets_none() -> None:
    assert choose(index_of(), np.zeros(ENCODER.dim, dtype=np.float32)).hits == ()
