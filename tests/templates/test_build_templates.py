from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from offline.best_answers import SolvedQuery
from offline.templates.build import FAILURES_IN_A_ROW, build_templates
from offline.templates.leave_one_out import search_without_own
from offline.templates.summarize import BuilderFailed
from offline.templates.text import TextRejected
from templates_store.create import create_template
from templates_store.index import load_index
from templates_store.store import BuildRecord, TemplateStore
from tests.templates.solved import GOOD, solved
from tests.templates.words import ENCODER

TAIL = GOOD[GOOD.index("Answer:") :].split()


class ByQuestion:
    """Writes a good text, unless the question asks for a failure. Notes what it was asked and how much at once."""

    name = "by-question@1"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.running = 0
        self.most_running = 0

    async def write(self, made: SolvedQuery) -> str:
        self.asked.append(made.query)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if "reject" in made.query:
            raise TextRejected("not good enough")
        if "fail" in made.query:
            raise BuilderFailed("the model is away")
        # Each question needs a text of its own: what says the same is stored once.
        topic = " ".join(f"{word}ish" for word in made.query.lower().replace("?", "").split())
        return f"Problem: A question about {topic} and its kind. Steps: Weigh the {topic}. {' '.join(TAIL)}"


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "templates.db")


QUESTIONS = ("how fast is a train", "reject this one", "fail this one", "what does a pound of tea cost")


async def test_each_question_is_built_rejected_or_failed_and_remembered(store: TemplateStore) -> None:
    builder, seen = ByQuestion(), list[BuildRecord | None]()
    queries = [solved(question, tenant="team") for question in QUESTIONS]
    report = await build_templates(store, queries, builder, ENCODER, concurrency=2, on_progress=seen.append)
    assert (report.built, report.rejected, report.failed, report.skipped, report.stopped) == (2, 1, 1, 0, None)
    assert dict(report.reasons) == {"not good enough": 1, "the model is away": 1}
    assert sorted(record.outcome for record in seen if record) == ["built", "built", "failed", "rejected"]
    made = store.templates()[0]
    assert made.text.startswith("Problem: A question about howish fastish")
    assert (made.builder, made.tenant, made.task) == ("by-question@1", "team", "rates")
    assert made.query_keys == (queries[0].key,)
    assert (made.source_models, made.interactions, made.state) == (("m",), ("i0", "i1"), "active")
    assert builder.most_running == 2


async def test_an_interrupted_build_goes_on_and_tries_failures_again(store: TemplateStore) -> None:
    queries = [solved(question) for question in QUESTIONS]
    await build_templates(store, queries[:2], ByQuestion(), ENCODER)
    again, seen = ByQuestion(), list[BuildRecord | None]()
    report = await build_templates(store, queries, again, ENCODER, on_progress=seen.append)
    assert (report.built, report.failed, report.skipped) == (1, 1, 2)
    assert sorted(again.asked) == sorted(QUESTIONS[2:])
    assert len(seen) == 4
    third = ByQuestion()
    await build_templates(store, queries, third, ENCODER)
    assert third.asked == ["fail this one"]


async def test_a_near_duplicate_of_a_known_template_is_not_built(store: TemplateStore) -> None:
    first = solved("how fast is the train that left Paris")
    await build_templates(store, [first], ByQuestion(), ENCODER)
    known = store.templates()[0].id
    twin, other_tenant = solved("How fast is the train that left paris?"), solved("what does tea cost", tenant="a")
    report = await build_templates(store, [twin, other_tenant], ByQuestion(), ENCODER)
    assert report.reasons == ((f"template {known} is for nearly the same question", 1),)
    private_twin = solved("how fast is the train that left paris", tenant="b")
    assert (await build_templates(store, [private_twin], ByQuestion(), ENCODER)).rejected == 1
    of_another = solved("What does tea cost?", tenant="b")
    assert (await build_templates(store, [of_another], ByQuestion(), ENCODER)).built == 1


async def test_more_templates_than_fit_at_first_are_compared(store: TemplateStore) -> None:
    queries = [solved(f"question number{i} on subject{i} of kind{i}") for i in range(150)]
    assert (await build_templates(store, queries, ByQuestion(), ENCODER)).built == 150
    repeats = [solved(f"Question: number{i} on subject{i} of kind{i}?") for i in range(150)]
    assert (await build_templates(store, repeats, ByQuestion(), ENCODER)).rejected == 150


async def test_a_builder_that_is_down_stops_the_build(store: TemplateStore) -> None:
    queries = [solved(f"fail {i}") for i in range(50)]
    builder = ByQuestion()
    report = await build_templates(store, queries, builder, ENCODER, concurrency=1)
    assert report.failed == len(builder.asked) == FAILURES_IN_A_ROW
    assert report.stopped is not None
    assert "the model is away" in report.stopped


async def test_candidates_are_not_served_before_they_are_activated(store: TemplateStore) -> None:
    await build_templates(store, [solved()], ByQuestion(), ENCODER, state="candidate")
    assert len(load_index(store, ENCODER.hash)) == 0


async def test_nothing_to_do_is_a_report_too(store: TemplateStore) -> None:
    report = await build_templates(store, [], ByQuestion(), ENCODER)
    assert (report.built, report.rejected, report.failed, report.skipped) == (0, 0, 0, 0)


async def test_leave_one_out_never_finds_the_question_itself_or_its_near_duplicates(store: TemplateStore) -> None:
    stem = " ".join(f"word{i}" for i in range(40))
    queries = [solved(f"{stem} variant{i}") for i in range(3)] + [
        solved(f"{stem} and this is some more of it {i} {i}") for i in range(4)
    ]
    for query in queries:
        store.add(create_template(ENCODER, query.query, GOOD, builder="test"))
    index = load_index(store, ENCODER.hash)
    vector = ENCODER.encode_one(queries[0].query)
    assert index.search(vector, 3)[0].similarity > 0.999
    hits = search_without_own(index, queries[0].query, vector, 3)
    assert len(hits) == 3
    assert all(hit.similarity < 0.97 for hit in hits)
    all_of_them = search_without_own(index, queries[0].query, vector, 20, -1.0, near_duplicate=1.1)
    assert queries[0].query not in {hit.template.query for hit in all_of_them}
    assert len(all_of_them) == len(queries) - 1
