"""Building as a job: what it takes is said before, a cap holds, and a worker that is killed loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offline.answers import answers_from_log
from offline.best_answers import Selection, select_answers
from offline.spending import CapReached, Spending
from offline.templates.build import build_templates
from offline.templates.build_estimate import estimate_build
from offline.templates.summarize import PROMPT_VERSION, Summarizer, SummarizerModel, prompt
from offline.worker import RUNNERS, Worker
from registry.arms import Prices
from registry.config import ModelConfig, PricesConfig, TemplatesConfig, UpstreamConfig
from registry.job_kinds import BUILD_TEMPLATES
from registry.jobs import Job, Jobs
from registry.worker_settings import VARIABLE, WorkerSettings
from templates_store.augment import estimate_tokens
from templates_store.store import STORE_FILE, TemplateStore
from tests.gateway.live import until
from tests.house import ROOT
from tests.templates.solved import ANSWERS, GOOD, answer, solved
from tests.templates.test_best_answers import chat_answer, logged, scored
from tests.templates.test_build_templates import ByQuestion
from tests.templates.words import ENCODER
from tests.upstream import ScriptedUpstream
from tests.upstream import answer as answered
from tests.upstream.answers import failing
from traffic.stores import open_log

PRICES = Prices(1.0, 2.0)
TOPICS = (
    "rivers of the north", "the price of tea", "how birds sing", "the law of levers", "old roman roads",
    "wind over hills", "the colour of stars", "salt in the sea", "games of chance", "the age of trees",
    "bridges of stone", "sleep of bears",
)  # fmt: skip


def written(folder: Path, count: int = len(TOPICS), **changes: Any) -> None:
    """A log with so many questions, each with an answer that is right, and one task that nobody could do."""

    async def write() -> None:
        log = open_log(f"sqlite:///{folder / 'traffic.db'}")
        for number in range(count):
            topic = f"{TOPICS[number % len(TOPICS)]} in the case number{number} of set{number // len(TOPICS)}"
            text = f"To weigh {topic}, first gather what is known of it. {ANSWERS[0]}"
            log.append(logged(f"i{number}", query_text=f"What of {topic}?", response=chat_answer(text), **changes))
            log.append(scored(f"i{number}", "exact_match", 1.0))
        log.append(logged("bad", query_text="Who knows?", workload="riddles"))
        log.append(scored("bad", "exact_match", 0.0))
        await log.close()

    asyncio.run(write())


def reply(number: int = 0) -> str:
    topic = " ".join(f"{word}{number}" for word in ("alpha", "beta", "gamma", "delta", "omega"))
    return f"Problem: A question about {topic}. Steps: Weigh {topic} with care. Sum {topic}. Answer: Name {topic}."


def settings_for(
    folder: Path, url: str = "http://127.0.0.1:9/v1", *, priced: bool = True, **templates: Any
) -> WorkerSettings:
    prices = PricesConfig(prompt_per_1m=1.0, completion_per_1m=2.0) if priced else None
    model = ModelConfig.model_validate({"endpoints": [{"upstream": "up", "model": "served"}], "prices": prices})
    return WorkerSettings(
        data_dir=folder, log_url=f"sqlite:///{folder / 'traffic.db'}", templates=TemplatesConfig(**templates),
        upstreams={"up": UpstreamConfig(base_url=url)}, models={"writer": model},
    )  # fmt: skip


def done(settings: WorkerSettings, **arguments: Any) -> Job:
    """Queue a build and let a worker in this process do it."""
    jobs = Jobs(settings.data_dir)
    job = jobs.submit(BUILD_TEMPLATES, arguments).job
    Worker(settings, RUNNERS).run(until_idle=True)
    found = jobs.get(job.id)
    assert found is not None
    return found


def lines(settings: WorkerSettings, job: Job) -> list[str]:
    return [line.text for line in Jobs(settings.data_dir).lines(job.id)]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(default=failing(500, "nothing is scripted")) as server:
        yield server


def test_a_job_builds_from_the_log_and_says_what_had_no_good_answer(tmp_path: Path) -> None:
    written(tmp_path)
    settings = settings_for(tmp_path)
    job = done(settings)
    assert (job.state, job.error) == ("succeeded", None)
    assert job.result is not None
    assert job.result["questions"] == len(TOPICS)
    assert job.result["built"] + job.result["rejected"] == len(TOPICS)
    assert job.result["built"] >= 1
    assert (job.result["unsolved"], job.result["unsolved_tasks"], job.result["usd"]) == (1, ["riddles"], 0.0)
    assert "no question at all has one in: riddles" in " ".join(lines(settings, job))
    with TemplateStore(tmp_path / STORE_FILE) as store:
        assert {made.tenant for made in store.templates(state="active")} == {"team"}
    again = done(settings)
    assert again.result == job.result


def test_what_is_built_waits_for_approval_where_the_config_or_the_job_says_so(tmp_path: Path) -> None:
    written(tmp_path)
    assert (done(settings_for(tmp_path, approve="manual")).result or {})["state"] == "candidate"
    with TemplateStore(tmp_path / STORE_FILE) as store:
        assert {made.state for made in store.templates()} == {"candidate"}


def test_what_comes_from_a_shared_workload_is_for_all(tmp_path: Path) -> None:
    written(tmp_path)
    done(settings_for(tmp_path, shared_workloads=["no*", "rat?s"]))
    with TemplateStore(tmp_path / STORE_FILE) as store:
        assert {made.tenant for made in store.templates()} == {None}


async def test_only_the_workloads_that_are_named_are_shared(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'traffic.db'}")
    for record in (
        logged("open", workload="faq-public"), logged("own", workload="faq"), logged("bare", workload=None),
        logged("unsaved", workload="faq-public", stored=False),
    ):  # fmt: skip
        log.append(record)
    await log.flush()
    found = {made.id: made.tenant for made in answers_from_log(log, shared_workloads=["*-public"])}
    await log.close()
    assert found == {"open": None, "own": "team", "bare": "team"}


def test_a_dry_run_says_what_it_takes_and_asks_nobody(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    written(tmp_path)
    settings = settings_for(tmp_path, upstream.url)
    job = done(settings, builder="llm", model="writer", dry_run=True)
    estimate = (job.result or {})["estimate"]
    assert (estimate["questions"], estimate["calls"], estimate["most_calls"]) == (12, 12, 36)
    assert 0 < estimate["usd"] < estimate["most_usd"]
    assert upstream.requests == []
    assert "12 calls of served" in " ".join(lines(settings, job))
    free = done(settings_for(tmp_path, upstream.url, priced=False), builder="llm", model="writer", dry_run=True)
    assert (free.result or {})["estimate"]["usd"] is None
    assert "the price of served is not known" in " ".join(lines(settings, free))


def test_the_estimate_is_what_the_calls_come_to() -> None:
    queries = [solved(), solved("How long do three pumps need?")]
    asked = sum(estimate_tokens(prompt(query)) for query in queries)
    model = SummarizerModel("http://x", "m", attempts=2, max_tokens=100)
    found = estimate_build(queries, 3, model, PRICES)
    assert (found.questions, found.done_before, found.calls, found.most_calls) == (5, 3, 2, 4)
    assert (found.prompt_tokens, found.completion_tokens) == (asked, 200)
    assert found.usd == pytest.approx((asked * 1.0 + 200 * 2.0) / 1e6)
    assert found.most_usd == pytest.approx((2 * asked + 2 * 160 + 2 * 2 * 100 * 2.0) / 1e6)


def test_a_cap_ends_the_job_cleanly_and_a_higher_one_goes_on(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    written(tmp_path)
    settings = settings_for(tmp_path, upstream.url)
    # Without a word on its usage a call counts as having cost what it could have cost at most.
    upstream.script(*(answered(reply(number), usage_place="absent") for number in range(len(TOPICS))))
    arguments = {"builder": "llm", "model": "writer", "concurrency": 2}
    job = done(settings, **arguments, max_usd=0.006)
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert "the cap of 0.006 USD is reached" in job.result["stopped"]
    assert 0 < job.result["usd"] <= 0.006
    assert 0 < job.result["built"] < len(TOPICS)
    assert job.result["missing"] == len(TOPICS) - job.result["built"]
    assert len(upstream.requests) == job.result["calls"]
    rest = done(settings, **arguments, max_usd=1.0)
    assert rest.result is not None
    assert (rest.result["built"], rest.result["missing"], rest.result["stopped"]) == (len(TOPICS), 0, None)
    assert len(upstream.requests) == len(TOPICS), "a question was paid for twice"
    with TemplateStore(tmp_path / STORE_FILE) as store:
        assert {made.builder for made in store.templates()} == {f"llm:writer@{PROMPT_VERSION}"}


def test_a_cap_without_a_price_and_an_unknown_model_are_refused(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    written(tmp_path)
    bare = settings_for(tmp_path, upstream.url, priced=False)
    assert "needs the prices" in (done(bare, builder="llm", model="writer", max_usd=1.0).error or "")
    assert "there are: writer" in (done(bare, builder="llm", model="other").error or "")
    assert "names the model that writes" in (done(bare, model="writer").error or "")
    assert upstream.requests == []


def test_a_model_that_is_away_fails_the_job_and_keeps_what_is_done(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    written(tmp_path)
    upstream.script(answered(reply(1)), answered(reply(2)))
    upstream.default = failing(401, "bad key")
    settings = settings_for(tmp_path, upstream.url)
    job = done(settings, builder="llm", model="writer", concurrency=1)
    assert job.state == "failed"
    assert "8 failures in a row" in (job.error or "")
    assert "queue it again" in (job.error or "")
    with TemplateStore(tmp_path / STORE_FILE) as store:
        assert len(store.templates()) == 2


SLOW_WORKER = """
import sys, time
import offline.templates.build as building
from offline.worker import Worker
from registry.worker_settings import settings_from
import os

real = building._build_one
async def slow(*arguments):
    time.sleep(0.03)
    return await real(*arguments)
building._build_one = slow
print("ready", flush=True)
Worker(settings_from(os.environ)).run(until_idle=True)
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing_and_nothing_is_done_twice(tmp_path: Path) -> None:
    written(tmp_path, 60)
    settings = settings_for(tmp_path).model_copy(update={"lease_s": 1.0})
    jobs = Jobs(tmp_path, 1.0)
    job = jobs.submit(BUILD_TEMPLATES, {}).job
    environ = {**os.environ, VARIABLE: settings.model_dump_json(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    path, seen = tmp_path / STORE_FILE, 0
    for kill_at in (3, 9, 15):
        until(jobs.waiting, "the dead worker's lease did not run out")
        worker = subprocess.Popen([sys.executable, "-c", SLOW_WORKER], env=environ, stdout=subprocess.PIPE)
        until(lambda wanted=kill_at: _recorded(path) >= wanted, "the build did not begin")  # type: ignore[misc]
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert _recorded(path) >= seen
        seen = _recorded(path)
        assert 0 < seen < 60
    with TemplateStore(path) as store:
        before = {made.id: made.created_at for made in store.templates()}
    until(jobs.waiting, "the dead worker's lease did not run out")
    Worker(settings).run(until_idle=True)
    found = jobs.get(job.id)
    assert found is not None
    assert found.state == "succeeded", found.error
    assert found.attempts == 4
    with TemplateStore(path) as store:
        after = {made.id: made.created_at for made in store.templates()}
    assert before.items() <= after.items()
    clean = tmp_path / "clean"
    clean.mkdir()
    (clean / "traffic.db").write_bytes((tmp_path / "traffic.db").read_bytes())
    assert done(settings_for(clean)).result == found.result


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_gives_the_job_back_and_the_next_goes_on(tmp_path: Path) -> None:
    written(tmp_path, 60)
    settings, jobs = settings_for(tmp_path), Jobs(tmp_path)
    job = jobs.submit(BUILD_TEMPLATES, {}).job
    environ = {**os.environ, VARIABLE: settings.model_dump_json(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen([sys.executable, "-c", SLOW_WORKER], env=environ, stdout=subprocess.PIPE)
    until(lambda: _recorded(tmp_path / STORE_FILE) >= 3, "the build did not begin")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    given_back = jobs.get(job.id)
    assert given_back is not None
    assert (given_back.state, given_back.attempts) == ("queued", 0)
    assert 3 <= _recorded(tmp_path / STORE_FILE) < 60
    Worker(settings).run(until_idle=True)
    found = jobs.get(job.id)
    assert found is not None
    assert found.state == "succeeded", found.error
    assert (found.result or {})["missing"] == 0


def _recorded(path: Path) -> int:
    if not path.exists():
        return 0
    with TemplateStore(path) as store:
        return sum(len(store.builds(name)) for name in ("extractive@1", "extractive@2", "extractive@3"))


async def test_a_job_that_is_cancelled_ends_the_build_with_its_own_error(tmp_path: Path) -> None:
    def cancelled(record: object) -> None:
        raise LookupError("the job is lost")

    with TemplateStore(tmp_path / STORE_FILE) as store:
        with pytest.raises(LookupError, match="the job is lost"):
            await build_templates(
                store, [solved(f"q {i}") for i in range(5)], ByQuestion(), ENCODER, on_progress=cancelled
            )
        assert store.templates()


def test_an_account_survives_a_crash_and_counts_what_was_under_way_as_spent(tmp_path: Path) -> None:
    book = tmp_path / "books" / "job.json"
    account = Spending(PRICES, 0.01, book)
    paid = account.reserve(1_000, 500)
    assert paid == pytest.approx(0.002)
    account.settle(paid, 900, 100)
    account.reserve(1_000, 500)
    after = Spending(PRICES, 0.01, book)
    assert after.usd == pytest.approx(0.0011 + 0.002)
    assert after.tokens == (900, 100)
    after.reserve(4_000, 1_000)
    with pytest.raises(CapReached, match=r"0\.0031 USD are spent"):
        after.reserve(1_000, 0)
    book.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Spending(PRICES, 0.01, book)


async def test_what_a_call_cost_is_what_the_upstream_says(upstream: ScriptedUpstream) -> None:
    upstream.script(answered(GOOD, usage={"prompt_tokens": 70, "completion_tokens": 30}))
    account = Spending(PRICES)
    async with Summarizer(SummarizerModel(upstream.url, "m"), spending=account) as summarizer:
        await summarizer.write(solved())
    assert account.calls == 1
    assert account.tokens == (70, 30)
    assert account.usd == pytest.approx(130e-6)
    assert upstream.last.json["store"] is False


@pytest.mark.parametrize(
    ("select", "expected"),
    [("performance", ["a", "b", "c"]), ("judge", ["e", "d", "c"]), ("hybrid", ["e", "d", "c"])],
)
def test_the_three_selections_in_a_case_by_hand(select: Selection, expected: list[str]) -> None:
    """All are right; a is the cheapest and e the dearest, the judge likes them the other way round."""
    made = [
        answer(id=i, cost_usd=cost, judge=judge)
        for i, cost, judge in zip("abcde", (1, 2, 3, 4, 5), (5, 6, 7, 8, 9), strict=True)
    ]
    made = [answer(id=a.id, cost_usd=a.cost_usd, judge=(a.judge or 0) / 10) for a in made]
    (query,) = select_answers(made, select).queries
    assert [a.id for a in query.answers] == expected


def test_hybrid_takes_the_judges_word_only_among_the_five_best_by_performance() -> None:
    made = [answer(id=f"cheap{i}", cost_usd=float(i), judge=0.7 + i / 100) for i in range(5)]
    made.append(answer(id="dear", cost_usd=99.0, judge=1.0))
    assert [a.id for a in select_answers(made, "hybrid").queries[0].answers] == ["cheap4", "cheap3", "cheap2"]
    assert select_answers(made, "judge").queries[0].answers[0].id == "dear"
    wrong = answer(id="wrong", score=0.0, judge=1.0, cost_usd=0.0)
    for select in ("performance", "judge", "hybrid"):
        assert "wrong" not in [a.id for a in select_answers([*made, wrong], select).queries[0].answers]


def test_a_task_without_any_good_answer_is_named_and_is_no_error() -> None:
    found = select_answers(
        [
            answer(task="a", query="one"),
            answer(task="a", query="two", score=0.0),
            answer(task="b", query="three", score=0.0),
        ]
    )
    assert (len(found.queries), found.unsolved, found.unsolved_tasks) == (1, 2, ("b",))


async def test_what_says_the_same_is_stored_once_for_a_tenant(tmp_path: Path) -> None:
    class Same:
        name = "same@1"

        async def write(self, made: Any) -> str:
            return GOOD.replace("Give the time", "Give the whole time") if "third" in made.query else GOOD

    queries = [solved("the first of all"), solved("a wholly other matter"), solved("and a third one here")]
    theirs = solved("what ben wants to know of it", tenant="ben")
    with TemplateStore(tmp_path / STORE_FILE) as store:
        own = [solved("ann asks for something", tenant="ann"), solved("ben asks for something", tenant="ben")]
        report = await build_templates(store, own, Same(), ENCODER, concurrency=1)
        assert report.built == 2, "what another tenant has is not known to this one"
        report = await build_templates(store, [*queries, theirs], Same(), ENCODER, concurrency=1)
        assert report.built == 1
        assert [reason.split(" says ")[1] for reason, _ in report.reasons] == ["nearly the same"] * len(report.reasons)
        assert len(store.templates()) == 3
