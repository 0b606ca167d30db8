"""The shared log when Redis is killed, away, refuses, or is shared by many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.traffic.conftest import RedisServer
from tests.traffic.samples import bare, feedback, interaction, score
from traffic.log import LogError
from traffic.redis_log import RedisLog, RedisStore
from traffic.write_queue import QueueLimits, Record

HASTY = QueueLimits(group_s=0.005, patience_s=0.3, first_pause_s=0.02, longest_pause_s=0.05, alarm_s=0.05)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


async def until(condition: str, log: RedisLog) -> None:
    for _ in range(1000):
        stats = log.stats()
        if (condition == "refused" and stats.last_error) or (condition == "written" and stats.queue_depth == 0):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the log was not {condition} within ten seconds: {log.stats()}")


async def test_a_killed_and_restarted_redis_loses_no_record(own_redis: RedisServer) -> None:
    log = RedisLog(own_redis.url, HASTY)
    for number in range(100):
        log.append(interaction(number))
    await log.flush()
    own_redis.kill()
    for number in range(100, 200):
        log.append(interaction(number))
    await until("refused", log)
    assert log.stats().queue_depth == 100
    assert await log.interaction("chatcmpl-000150") == interaction(150)
    with pytest.raises(LogError, match=r"100 records .* not durable yet"):
        await log.flush()
    own_redis.start()
    await log.flush()
    assert list(log.read_interactions()) == [interaction(number) for number in range(200)]
    assert log.stats().dropped == 0
    await log.close()


async def test_a_redis_that_stays_away_fills_the_queue_and_then_costs_records_that_are_counted(
    own_redis: RedisServer,
) -> None:
    own_redis.kill()
    log = RedisLog(own_redis.url, QueueLimits(max_records=10, patience_s=0.2, first_pause_s=0.02, longest_pause_s=0.05))
    for number in range(30):
        log.append(bare(number))
    await until("refused", log)
    assert (log.stats().queue_depth, log.stats().dropped) == (10, 20)
    with pytest.raises(LogError, match="30 records are lost"):
        await log.close()


async def test_the_log_starts_without_redis_and_writes_when_it_comes(own_redis: RedisServer) -> None:
    own_redis.kill()
    log = RedisLog(own_redis.url, HASTY)
    log.append(interaction(1))
    await until("refused", log)
    own_redis.start()
    await until("written", log)
    assert await log.interaction("chatcmpl-000001") == interaction(1)
    own_redis.kill()
    with pytest.raises(LogError, match="cannot read the log"):
        await log.interaction("chatcmpl-000001")
    with pytest.raises(LogError, match="cannot read interactions"):
        list(log.read_interactions())
    await log.close()


async def test_many_replicas_write_one_log(redis_server: RedisServer) -> None:
    logs = [RedisLog(redis_server.url, HASTY) for _ in range(4)]
    for number in range(400):
        logs[number % 4].append(interaction(number))
    await asyncio.gather(*(log.flush() for log in logs))
    assert list(logs[0].read_interactions()) == [interaction(number) for number in range(400)]
    for log in logs:
        await log.close()


def test_a_group_whose_acknowledgement_was_lost_is_not_written_twice(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        store = RedisStore(client, "tokamak", 1000)
        group: list[Record] = [interaction(1), score(1), feedback(1)]
        assert store.write(group, "1") == 3
        assert store.write(group, "1") == 3
        more: list[Record] = [interaction(1), score(2)]
        assert store.write(more, "2") == 1
        lengths = [client.xlen(f"tokamak:{kind}") for kind in ("interactions", "scores", "feedback")]
        assert lengths == [1, 2, 1]


async def test_a_full_stream_forgets_the_oldest_everywhere(redis_server: RedisServer) -> None:
    log = RedisLog(redis_server.url, HASTY, max_entries=50)
    for number in range(120):
        log.append(bare(number))
        log.append(feedback(number, idempotency_key=f"k-{number}"))
        if number % 30 == 0:
            await log.flush()
    await log.flush()
    assert [record.id for record in log.read_interactions()] == [f"chatcmpl-{number:06d}" for number in range(70, 120)]
    assert await log.interaction("chatcmpl-000069") is None
    assert await log.interaction("chatcmpl-000070") == bare(70)
    assert await log.feedback_by_idempotency_key("k-69") is None
    with redis.Redis.from_url(redis_server.url) as client:
        sizes = {
            client.hlen("tokamak:interactions:by_id"), client.zcard("tokamak:interactions:by_time"),
            client.xlen("tokamak:interactions"), client.hlen("tokamak:feedback:by_alias"),
        }  # fmt: skip
    assert sizes == {50}
    await log.close()


async def test_two_prefixes_share_a_redis_without_seeing_each_other(redis_server: RedisServer) -> None:
    one, two = (RedisLog(redis_server.url, HASTY, prefix=prefix) for prefix in ("one", "two"))
    one.append(interaction(1))
    await one.flush()
    assert await two.interaction("chatcmpl-000001") is None
    assert list(two.read_interactions()) == []
    await one.close()
    await two.close()


def test_a_newer_layout_is_refused(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("tokamak:layout", 99)
    with pytest.raises(LogError, match=r"newer version .*layout 99.*install that version"):
        RedisLog(redis_server.url)


def test_a_refused_password_is_an_error_that_does_not_show_it(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("requirepass", "right")
        try:
            with pytest.raises(LogError, match="refuses us") as caught:
                RedisLog(redis_server.url.replace("redis://", "redis://:s3cret@"))
            assert "s3cret" not in str(caught.value)
        finally:
            client.config_set("requirepass", "")


def test_a_key_of_another_kind_is_refused(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.lpush("tokamak:layout", "x")
    with pytest.raises(LogError, match="cannot hold the log"):
        RedisLog(redis_server.url)


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(LogError, match=r"redis://host:port/db"):
        RedisLog("redis://localhost:port/0")
