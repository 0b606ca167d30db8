"""What `TrafficLog` promises, asked of both logs: a caller cannot tell which one it has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.traffic.conftest import RedisServer
from tests.traffic.samples import CASCADE, bare, decision, feedback, interaction, score
from traffic.log import LogError, TrafficLog
from traffic.records import Usage
from traffic.stores import open_log


@pytest.fixture(params=["sqlite", "redis"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TrafficLog]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'deep' / 'traffic.db'}"
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    opened = open_log(url)
    yield opened
    await opened.close()


async def test_every_field_comes_back_as_it_went_in(log: TrafficLog) -> None:
    records = [
        interaction(1),
        bare(2),
        interaction(3, stream=True, outcome="aborted", usage=Usage(cached_tokens=0), response=b"data: x\n\n\xff\x00"),
        interaction(
            4,
            session="s",
            workload="w",
            error_code="deadline_exceeded",
            overhead_s=0.001,
            ttft_s=0.2,
            cached_from="i-1",
        ),
        interaction(5, decision=decision(cascade=CASCADE)),
    ]
    for record in records:
        log.append(record)
    await log.flush()
    assert list(log.read_interactions()) == records
    assert [await log.interaction(record.id) for record in records] == records
    assert log.stats().written == 5
    assert log.stats().queue_depth == 0


async def test_an_interaction_is_found_by_any_of_its_ids_and_the_newest_wins(log: TrafficLog) -> None:
    for number in range(4):
        log.append(interaction(number, answer_id=f"a-{number // 2}", client_request_id=f"c-{number // 2}"))
    for _ in ("queued", "written"):
        for name, expected in (("chatcmpl-000000", 0), ("a-0", 1), ("c-0", 1), ("a-1", 3), ("c-1", 3)):
            found = await log.interaction(name)
            assert found is not None
            assert found.id == f"chatcmpl-{expected:06d}"
        assert await log.interaction("a-2") is None
        await log.flush()


async def test_an_id_goes_before_an_answer_id_and_that_before_a_client_request_id(log: TrafficLog) -> None:
    log.append(interaction(1, id="x"))
    log.append(interaction(2, answer_id="x"))
    log.append(interaction(3, answer_id="y"))
    log.append(interaction(4, client_request_id="y"))
    await log.flush()
    log.append(interaction(5, client_request_id="x"))
    assert await log.interaction("x") == interaction(1, id="x")
    assert await log.interaction("y") == interaction(3, answer_id="y")


def test_the_sample_sets_every_field_so_that_none_can_be_forgotten() -> None:
    sample = interaction(4, session="s", workload="w", error_code="e", overhead_s=0.001, ttft_s=0.2, cached_from="i")
    assert [field for field in sample.__struct_fields__ if getattr(sample, field) is None] == []


@pytest.mark.parametrize("value", [1.0, 0.25, True, False, "a text", None])
async def test_a_feedback_keeps_the_type_of_its_value(log: TrafficLog, value: float | bool | str | None) -> None:
    given = feedback(1, value=value, verdict="failed", demonstration=b"{}", tags={"a": "b"}, idempotency_key="k-1")
    log.append(given)
    await log.flush()
    (read,) = log.read_feedback()
    assert read == given
    assert type(read.value) is type(value)
    assert await log.feedback_by_idempotency_key("k-1") == given
    assert await log.feedback_by_idempotency_key("k-2") is None


async def test_scores_come_back_and_equal_ones_are_kept(log: TrafficLog) -> None:
    given = [score(1, value=0.0), score(1, value=0.0), score(2, source="judge", value=0.5, scorer="judge@2")]
    for record in given:
        log.append(record)
    await log.flush()
    assert list(log.read_scores()) == given


async def test_reading_is_ordered_and_bounded_by_time(log: TrafficLog) -> None:
    for number in (5, 3, 9, 1, 7):
        log.append(interaction(number))
        log.append(score(number))
        log.append(feedback(number))
    await log.flush()
    assert [record.created_at for record in log.read_interactions()] == [1001.0, 1003.0, 1005.0, 1007.0, 1009.0]
    assert [record.created_at for record in log.read_interactions(1003.0, 1007.0)] == [1003.0, 1005.0]
    assert [record.created_at for record in log.read_scores(1005.0)] == [1005.0, 1007.0, 1009.0]
    assert [record.created_at for record in log.read_feedback(until=1005.0)] == [1001.0, 1003.0]


async def test_more_than_a_page_of_the_same_instant_is_read_once_each(log: TrafficLog) -> None:
    for number in range(900):
        log.append(bare(number, created_at=1000.0 + (number > 850)))
    await log.flush()
    read = [record.id for record in log.read_interactions()]
    assert len(read) == 900
    assert set(read) == {f"chatcmpl-{number:06d}" for number in range(900)}


async def test_records_appended_while_reading_do_not_disturb(log: TrafficLog) -> None:
    for number in range(300):
        log.append(bare(number))
    await log.flush()
    reading = log.read_interactions()
    first = next(reading)
    log.append(bare(900))
    await log.flush()
    assert [first.id, *(record.id for record in reading)] == [f"chatcmpl-{n:06d}" for n in (*range(300), 900)]


async def test_reading_without_content_leaves_only_content_out(log: TrafficLog) -> None:
    log.append(interaction(1))
    await log.flush()
    (read,) = log.read_interactions(content=False)
    assert (read.query_text, read.request, read.response) == (None, None, None)
    assert read.vector == interaction(1).vector
    assert read.decision == interaction(1).decision


async def test_content_of_a_record_that_must_not_be_stored_is_refused(
    log: TrafficLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.append(interaction(1, stored=False))
    queued = await log.interaction("chatcmpl-000001")
    await log.flush()
    (read,) = log.read_interactions()
    for record in (queued, read):
        assert record is not None
        assert (record.query_text, record.request, record.response, record.vector, record.features) == (None,) * 5
        assert not record.stored
    assert "stored=False" in caplog.text


async def test_an_id_is_written_once_and_the_second_is_counted_as_dropped(log: TrafficLog) -> None:
    log.append(interaction(1))
    log.append(interaction(2))
    await log.flush()
    log.append(interaction(1, outcome="failed"))
    log.append(interaction(3))
    with pytest.raises(LogError, match="dropped 1 records"):
        await log.flush()
    assert [(record.id, record.outcome) for record in log.read_interactions()] == [
        ("chatcmpl-000001", "ok"),
        ("chatcmpl-000002", "ok"),
        ("chatcmpl-000003", "ok"),
    ]
    assert log.stats().dropped == 1


async def test_a_record_that_cannot_be_encoded_takes_no_other_with_it(log: TrafficLog) -> None:
    for number in range(20):
        log.append(interaction(number, query_text="\ud800" if number == 7 else "fine"))
    with pytest.raises(LogError, match=r"dropped 1 records.*surrogates"):
        await log.flush()
    assert len(list(log.read_interactions())) == 19
    await log.flush()


async def test_appending_after_close_is_an_error(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/traffic.db")
    log.append(interaction(1))
    await log.close()
    with pytest.raises(RuntimeError, match="closed"):
        log.append(interaction(2))
    again = open_log(f"sqlite:///{tmp_path}/traffic.db")
    assert await again.interaction("chatcmpl-000001") == interaction(1)
    await again.close()


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="sqlite:/// or redis://"):
        open_log("postgres://localhost/x")
