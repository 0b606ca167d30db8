"""The queue between callers and a store: many threads, waiters that leave, groups, and who pays for a bad record."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from tests.traffic.samples import bare
from traffic.log import LogError
from traffic.write_queue import QueueLimits, Record, StoreUnavailable, WriteQueue


class ListStore:
    """Keeps records in a list; refuses while `shut`, cannot take the ids in `bad`."""

    def __init__(self, bad: frozenset[str] = frozenset()) -> None:
        self.groups: list[list[str]] = []
        self.attempts: list[str] = []
        self.shut = threading.Event()
        self.closed = False
        self._bad = bad

    @property
    def ids(self) -> list[str]:
        return [name for group in self.groups for name in group]

    def write(self, group: Sequence[Record], group_id: str) -> int:
        self.attempts.append(group_id)
        if self.shut.is_set():
            raise StoreUnavailable("shut")
        names = [getattr(record, "id", "") for record in group]
        if self._bad.intersection(names):
            raise TypeError("a field is of the wrong type")
        self.groups.append(names)
        return len(group)

    def close(self) -> None:
        self.closed = True


def limits(**changes: float) -> QueueLimits:
    fields = {"group_s": 0.005, "patience_s": 0.1, "first_pause_s": 0.005, "longest_pause_s": 0.01, "alarm_s": 0.01}
    return QueueLimits(**(fields | changes))  # type: ignore[arg-type]


async def test_records_of_many_threads_all_arrive_and_each_thread_in_its_order() -> None:
    store = ListStore()
    queue = WriteQueue(store, "test", limits())

    def append(thread: int) -> None:
        for number in range(1_000):
            queue.append(bare(thread * 10_000 + number))

    await asyncio.gather(*(asyncio.to_thread(append, thread) for thread in range(4)))
    await queue.close()
    assert len(store.ids) == 4_000
    for thread in range(4):
        own = [name for name in store.ids if int(name[-6:]) // 10_000 == thread]
        assert own == sorted(own)
    assert store.closed


async def test_records_that_come_together_are_written_together_within_bounds() -> None:
    store = ListStore()
    queue = WriteQueue(store, "test", limits(group_records=100, group_bytes=1_000_000))
    for number in range(1_000):
        queue.append(bare(number))
    for number in range(10):
        queue.append(bare(2_000 + number, response=b"x" * 400_000))
    await queue.close()
    assert max(len(group) for group in store.groups) == 100
    assert len(store.groups) < 30
    large = [group for group in store.groups if any(name >= "chatcmpl-002000" for name in group)]
    assert max(sum(name >= "chatcmpl-002000" for name in group) for group in large) == 2


async def test_a_record_larger_than_a_group_may_be_is_written_alone() -> None:
    store = ListStore()
    queue = WriteQueue(store, "test", limits(group_bytes=1_000))
    queue.append(bare(1, response=b"x" * 100_000))
    queue.append(bare(2))
    await queue.close()
    assert store.groups == [["chatcmpl-000001"], ["chatcmpl-000002"]]


async def test_only_the_bad_records_are_dropped() -> None:
    bad = frozenset(f"chatcmpl-{number:06d}" for number in (3, 4, 77))
    store = ListStore(bad)
    queue = WriteQueue(store, "test", limits())
    for number in range(100):
        queue.append(bare(number))
    with pytest.raises(LogError, match=r"dropped 3 records .*TypeError: a field is of the wrong type"):
        await queue.flush()
    assert store.ids == [f"chatcmpl-{n:06d}" for n in range(100) if f"chatcmpl-{n:06d}" not in bad]
    assert (queue.stats().written, queue.stats().dropped, queue.stats().queue_depth) == (97, 3, 0)
    await queue.close()


async def test_a_group_keeps_its_id_while_it_is_tried_again() -> None:
    store = ListStore()
    queue = WriteQueue(store, "test", limits())
    store.shut.set()
    queue.append(bare(1))
    with pytest.raises(LogError, match="1 records .* not durable yet: shut"):  # noqa: RUF043
        await queue.flush()
    store.shut.clear()
    await queue.flush()
    queue.append(bare(2))
    await queue.close()
    assert len(store.attempts) > 3
    assert set(store.attempts[:-1]) == {"1"}
    assert store.attempts[-1] == "2"


async def test_who_stops_waiting_for_a_flush_disturbs_nobody() -> None:
    store = ListStore()
    queue = WriteQueue(store, "test", limits(patience_s=60))
    store.shut.set()
    queue.append(bare(1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.flush(), 0.05)
    waiting = asyncio.create_task(queue.flush())
    await asyncio.sleep(0)
    store.shut.clear()
    await waiting
    assert store.ids == ["chatcmpl-000001"]
    await queue.close()


async def test_flushing_and_closing_an_idle_queue_returns_at_once() -> None:
    store = ListStore()
    queue = WriteQueue(store, "test", limits())
    await queue.flush()
    await queue.close()
    await queue.close()
    assert store.groups == []
    assert store.closed
