"""The two workloads: disjoint sides, stable splits, and judges that notice an altered answer."""

from __future__ import annotations

import pytest

from demo.fleet import tasks
from demo.replay.load import load_sample
from demo.replay.sample import content_hash
from demo.workload import FleetWorkload, ReplayWorkload, WrongAnswer


def test_replay_sides_are_disjoint_and_use_every_query() -> None:
    sample = load_sample("llmrouter14")
    workload = ReplayWorkload(sample)
    train, test = ({q.id for q in side} for side in (workload.train, workload.test))
    assert not train & test
    assert len(train) + len(test) == len(sample.queries)
    assert workload.models == sample.models


def test_fewer_queries_keep_their_sides_and_proportion() -> None:
    sample = load_sample("llmrouter14")
    whole, part = ReplayWorkload(sample), ReplayWorkload(sample, queries=500)
    assert len(part.train) + len(part.test) == 500
    assert {q.id for q in part.test} <= {q.id for q in whole.test}
    assert {q.id for q in part.train} <= {q.id for q in whole.train}
    assert 0.4 < len(part.test) / 500 < 0.6
    assert len({q.task for q in part.train}) == 14


def test_too_few_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        ReplayWorkload(load_sample("llmrouter14"), queries=1)


def test_the_note_says_what_costs_are_made_of() -> None:
    assert "kept no answers" in ReplayWorkload(load_sample("llmrouter14"), queries=300).note
    assert "answers to 26 %" in ReplayWorkload(load_sample("mmlu_pro")).note
    assert "invented" in FleetWorkload(5, 5).note


def test_replay_score_is_the_logged_one_and_only_for_the_logged_answer() -> None:
    sample = load_sample("mmlu_pro")
    workload = ReplayWorkload(sample, queries=300)
    for question in workload.test[:50]:
        query = sample.find(question.text)
        assert query is not None
        assert question.id == content_hash(query.text)
        for model in sample.models:
            reply = sample.reply(query, model)
            assert reply is not None
            assert workload.score(question, model, reply.text) == sample.score(query, model)
        with pytest.raises(WrongAnswer, match="not what was logged"):
            workload.score(question, sample.models[0], "altered")


def test_fleet_sides_share_no_text_and_are_judged_exactly() -> None:
    workload = FleetWorkload(train_per_family=5, test_per_family=5)
    assert not {q.text for q in workload.train} & {q.text for q in workload.test}
    assert len(workload.test) == len(workload.train) > 5
    drawn = {q.id: q for q in tasks.mixed("test", 5)}
    for question in workload.test:
        assert workload.score(question, "any", drawn[question.id].answer) == 1.0
        assert workload.score(question, "any", "something else") == 0.0
