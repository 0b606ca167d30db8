"""Tries to get one key's secrets out of the templates that another key is shown.

Every tenant's templates hold canaries, in the question and in the text, that nobody else may ever see. Each of the
others then asks: the very questions, near duplicates of them, the very texts, parts of them, and questions at random,
with many numbers of templates and floors, under names that are like the owner's or that would match anybody in a store
that built its filter from text. What they would be shown is rendered as it would stand in their prompts and searched.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from encoders.protocol import Encoder, Vectors
from templates_store.augment import render
from templates_store.choosing import Bounds, choose
from templates_store.create import create_template
from templates_store.index import TemplateIndex
from templates_store.live_index import LiveIndex
from templates_store.store import TemplateStore
from templates_store.template import Template

NUMBERS = (1, 3, 20, 1_000)
FLOORS = (-1.0, 0.0, 0.7)
_BUDGET = 10_000_000
_BATCH = 512
_SUBJECTS = (
    "rivers", "prices", "engines", "planets", "poems", "proteins", "taxes", "bridges", "orchids", "metals", "rents",
    "tides",
)  # fmt: skip
_VERBS = ("compare", "estimate", "derive", "explain", "list", "rank", "weigh", "measure")


class IsolationProbe(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked by whom, and what came out that must not.

    `searches`: look-ups in all. `cross_tenant_hits`: templates of another tenant that were found, and canaries that
    stood in a rendered prompt; 0 is the only good number. `own_hits`: look-ups in which the owner found the canary by
    asking its very question, of `own_searches`; it shows that there was something to be found.
    """

    tenants: int
    templates: int
    searches: int
    cross_tenant_hits: int
    own_searches: int
    own_hits: int


class _Planted(NamedTuple):
    template: Template
    canary: str


def cross_tenant_hits(
    folder: Path,
    encoder: Encoder,
    *,
    tenants: int = 8,
    secrets: int = 40,
    public: int = 100,
    questions: int = 3_000,
    seed: int = 0,
) -> IsolationProbe:
    """Plant canaries in a new store in `folder`, and try to get them out; see `IsolationProbe`.

    `secrets` canaries for each of the `tenants`, beside `public` templates for all; `questions` are asked, each by one
    stranger or by nobody, for each of the numbers of templates and floors. The index is the one that serves.
    """
    rng = random.Random(seed)
    names = [f"team-{number}" for number in range(tenants)]
    with TemplateStore(folder / "templates.db") as store:
        planted = [_plant(encoder, name, number, rng) for name in names for number in range(secrets)]
        store.add_all([one.template for one in planted])
        store.add_all([_public(encoder, number) for number in range(public)])
        live = LiveIndex(store, encoder.hash)
        try:
            found, searches = 0, 0
            for part in _batches(_questions(planted, names, questions, rng)):
                vectors = encoder.encode([text for text, _ in part])
                for (_, stranger), vector in zip(part, vectors, strict=True):
                    for k in NUMBERS:
                        for floor in FLOORS:
                            searches += 1
                            found += _leaked(live.current, vector, stranger, Bounds(k, k, floor, _BUDGET), planted)
            own = sum(_shown_to_its_owner(live.current, encoder, one) for one in planted)
        finally:
            live.close()
    return IsolationProbe(
        tenants=tenants, templates=len(planted) + public, searches=searches, cross_tenant_hits=found,
        own_searches=len(planted), own_hits=own,
    )  # fmt: skip


def _plant(encoder: Encoder, tenant: str, number: int, rng: random.Random) -> _Planted:
    canary = "".join(rng.choices(string.ascii_lowercase, k=14))
    subject, verb = rng.choice(_SUBJECTS), rng.choice(_VERBS)
    query = f"How do we {verb} the {subject} of project {canary} in its phase {number}?"
    text = (
        f"Problem: A question on the {subject} of {canary}, to {verb} by its parts. Steps: Gather what {canary} says. "
        f"Then {verb} the parts of {canary} in turn. Answer: State the result for {canary} in one sentence."
    )
    made = create_template(encoder, query, text, builder="probe", tenant=tenant, task=subject, created_at=0.0)
    return _Planted(made, canary)


def _public(encoder: Encoder, number: int) -> Template:
    subject, verb = _SUBJECTS[number % len(_SUBJECTS)], _VERBS[number % len(_VERBS)]
    text = f"Problem: A question on {subject} to {verb}. Steps: Gather the facts {number}. Answer: State the result."
    return create_template(
        encoder, f"How does one {verb} {subject} of kind {number}?", text, builder="probe", created_at=0.0
    )


def _questions(
    planted: Sequence[_Planted], names: Sequence[str], count: int, rng: random.Random
) -> Iterator[tuple[str, str | None]]:
    """Questions with who asks them; never the owner of what is asked for."""
    for _ in range(count):
        target = rng.choice(planted)
        owner = target.template.tenant or ""
        others = [name for name in names if name != owner]
        posing = (
            None, "", "*", "%", "_", "None", "null", owner.upper(), owner + " ", owner[:-1], f"{owner}0", f"{owner}\0",
            "x' OR '1'='1", f"{owner}' --", f"{owner}%",
        )  # fmt: skip
        stranger = rng.choice(others) if others and rng.random() < 0.6 else rng.choice(posing)
        yield _asked(target, rng), stranger if stranger != owner else None


def _asked(target: _Planted, rng: random.Random) -> str:
    query, text = target.template.query, target.template.text
    words = query.split()
    kind = rng.randrange(7)
    if kind == 0:
        return query
    if kind == 1:
        return text
    if kind == 2:
        return f"{query} {rng.choice(_VERBS)} it please"
    if kind == 3:
        return " ".join(word for word in words if rng.random() > 0.15) or query
    if kind == 4:
        return target.canary
    if kind == 5:
        start = rng.randrange(max(len(text) - 60, 1))
        return text[start : start + 60]
    return " ".join(rng.choices([*_SUBJECTS, *_VERBS, *words], k=8))


def _batches(asked: Iterator[tuple[str, str | None]]) -> Iterator[list[tuple[str, str | None]]]:
    part: list[tuple[str, str | None]] = []
    for one in asked:
        part.append(one)
        if len(part) == _BATCH:
            yield part
            part = []
    if part:
        yield part


def _leaked(
    index: TemplateIndex, vector: Vectors, stranger: str | None, bounds: Bounds, planted: Sequence[_Planted]
) -> int:
    selection = choose(index, vector, stranger, bounds)
    block, _ = render(selection.hits, _BUDGET)
    near = {considered.id for considered in selection.considered} | {hit.template.id for hit in selection.hits}
    strange = [one for one in planted if one.template.tenant != stranger]
    return sum(one.template.id in near or one.canary in block for one in strange)


def _shown_to_its_owner(index: TemplateIndex, encoder: Encoder, one: _Planted) -> bool:
    vector = encoder.encode_one(one.template.query)
    selection = choose(index, vector, one.template.tenant, Bounds(3, 3, 0.7, _BUDGET))
    return one.canary in render(selection.hits, _BUDGET)[0]
