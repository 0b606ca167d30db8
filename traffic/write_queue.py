"""The way of a record from the caller to its store: a bounded queue and one writer thread that commits in groups.

The caller pays for one append to a deque. The thread encodes and writes; a store that is away is asked again with
growing pauses while the queue fills, and a full queue drops what comes (counted, and alarmed by the thread).
A record leaves the queue only when it is durable or was dropped, so everything else can still be found in it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import msgspec

from traffic.log import LogError, LogStats
from traffic.records import Feedback, Interaction, Score

Record = Interaction | Feedback | Score

log = logging.getLogger("tokamak.traffic")


Find = Callable[[str, str], Interaction | None]
"""Looks a field of `INTERACTION_IDS` up in the store: the newest interaction that has this value there."""
INTERACTION_IDS = ("id", "answer_id", "client_request_id")
"""The fields by which an interaction is found, in the order in which they are tried."""


class StoreUnavailable(Exception):
    """The store cannot take records now (locked, full, away); the same records may be written later."""


class Store(Protocol):
    """Where groups of records go. Called from the writer thread only."""

    def write(self, group: Sequence[Record], group_id: str) -> int:
        """Make the records durable in one step and return how many were new (a known id is not written twice).

        `group_id` is the same when a group is written again after a failure. Raises StoreUnavailable if none was
        written and it may be tried again; any other error means that a record of the group cannot be written.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of the queue and of the groups that are written at once."""

    max_records: int = 20_000
    max_bytes: int = 64 * 1024 * 1024
    group_s: float = 0.05
    group_records: int = 512
    group_bytes: int = 8 * 1024 * 1024
    patience_s: float = 10.0
    first_pause_s: float = 0.05
    longest_pause_s: float = 2.0
    alarm_s: float = 10.0


class WriteQueue:
    """Takes records from any thread and writes them to `store`, in order."""

    def __init__(self, store: Store, name: str, limits: QueueLimits | None = None) -> None:
        self._store = store
        self._name = name
        self._limits = limits or QueueLimits()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        self._queue: deque[Record] = deque()
        self._bytes = 0
        self._idle = False
        self._accepted = 0
        self._settled = 0
        self._written = 0
        self._dropped = 0
        self._reported_drops = 0
        self._flushed_drops = 0
        self._next_alarm = 0.0
        self._groups = 0
        self._content_refused = False
        self._failing_since: float | None = None
        self._give_up_at: float | None = None
        self._last_error: str | None = None
        self._waiters: list[tuple[int, Future[None]]] = []
        self._thread = threading.Thread(target=self._run, name=f"log-writer {name}", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Enqueue; never blocks on the store. Raises RuntimeError after `close`."""
        if type(record) is Interaction and not record.stored:
            record = self._without_content(record)
        size = _record_bytes(record)
        limits = self._limits
        with self._lock:
            if self._closing.is_set():
                raise RuntimeError(f"the log {self._name} is closed; nothing can be appended")
            if len(self._queue) >= limits.max_records or self._bytes + size > limits.max_bytes:
                self._dropped += 1
                return
            self._queue.append(record)
            self._bytes += size
            self._accepted += 1
            wake, self._idle = self._idle, False
        if wake:
            self._wake.set()

    def pending(self) -> list[Record]:
        """Everything that is not durable yet, oldest first."""
        with self._lock:
            return list(self._queue)

    async def find_interaction(self, value: str, find: Find) -> Interaction | None:
        """The interaction that `value` names, queued or in the store; `find` is called in a thread."""
        for field in INTERACTION_IDS:
            # The queue first: a record leaves it only after the store has it.
            for record in reversed(self.pending()):
                if type(record) is Interaction and getattr(record, field) == value:
                    return record
            found = await asyncio.to_thread(find, field, value)
            if found is not None:
                return found
        return None

    def backlog(self) -> int:
        """Records in the queue; reads one length, takes no lock."""
        return len(self._queue)

    def stats(self) -> LogStats:
        with self._lock:
            return LogStats(
                queue_depth=len(self._queue), written=self._written, dropped=self._dropped, last_error=self._last_error
            )

    async def flush(self) -> None:
        """Wait until everything appended before is durable; raises LogError as `TrafficLog.flush` says."""
        await asyncio.wrap_future(self._barrier())
        with self._lock:
            lost = self._dropped - self._flushed_drops
            self._flushed_drops = self._dropped
        if lost:
            raise LogError(f"the log {self._name} dropped {lost} records since the last flush: {self._last_error}")

    async def close(self) -> None:
        """Write what is queued, for at most `patience_s` if the store refuses, stop the thread and close the store."""
        with self._lock:
            self._closing.set()
        self._wake.set()
        self._hurry.set()
        await asyncio.to_thread(self._thread.join)
        with self._lock:
            lost = self._dropped - self._flushed_drops
            self._flushed_drops = self._dropped
        if lost:
            raise LogError(f"the log {self._name} was closed and {lost} records are lost: {self._last_error}")

    def _barrier(self) -> Future[None]:
        """A future that is done when every record accepted so far is settled."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # whoever stops waiting must not cancel it under the writer's hands
        with self._lock:
            if self._settled >= self._accepted:
                future.set_result(None)
                return future
            self._waiters.append((self._accepted, future))
        self._hurry.set()
        self._wake.set()
        return future

    def _without_content(self, record: Interaction) -> Interaction:
        """The record if it holds no content, as it must; else a copy without, and an alarm."""
        if not (record.request or record.response or record.query_text or record.vector or record.features):
            return record
        if not self._content_refused:
            self._content_refused = True
            log.error("interaction %s came with content although stored=False; the content was not logged", record.id)
        return msgspec.structs.replace(record, request=None, response=None, query_text=None, vector=None, features=None)

    def _run(self) -> None:
        while self._wait_for_records():
            self._groups += 1
            self._settle(self._next_group(), str(self._groups))
            self._alarm()
        self._alarm(at_once=True)
        self._store.close()

    def _wait_for_records(self) -> bool:
        """Wait for records, then a little longer for others to join them; False when closed and nothing is left."""
        with self._lock:
            if not self._queue:
                self._wake.clear()
                self._idle = True
        while self._idle and not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
        if len(self._queue) < self._limits.group_records and not self._closing.is_set():
            self._hurry.wait(self._limits.group_s)
        self._hurry.clear()
        return bool(self._queue)

    def _next_group(self) -> list[Record]:
        """The oldest records, within the bounds of a group. They stay in the queue."""
        group: list[Record] = []
        size = 0
        with self._lock:
            for record in islice(self._queue, self._limits.group_records):
                size += _record_bytes(record)
                if group and size > self._limits.group_bytes:
                    break
                group.append(record)
        return group

    def _settle(self, group: Sequence[Record], group_id: str) -> None:
        """Write the group; drop those of its records that cannot be written whatever the state of the store."""
        try:
            written = self._write(group, group_id)
        except Exception as error:  # noqa: BLE001  task root: one bad record must not stop the log or take others along
            if len(group) > 1:
                half = len(group) // 2
                self._settle(group[:half], group_id + "a")
                self._settle(group[half:], group_id + "b")
                return
            written = 0
            self._last_error = f"{type(error).__name__}: {error}"
        self._done(group, written)

    def _write(self, group: Sequence[Record], group_id: str) -> int:
        """Write the group, again and again while the store is away; 0 if the log was closed and patience ran out."""
        pause = self._limits.first_pause_s
        while True:
            try:
                written = self._store.write(group, group_id)
            except StoreUnavailable as error:
                now = time.monotonic()
                self._refused(error, now)
                if self._closing.is_set():
                    # One patience for all that is queued, not for each group.
                    self._give_up_at = self._give_up_at or now + self._limits.patience_s
                    if now >= self._give_up_at:
                        return 0
                    time.sleep(self._limits.first_pause_s)
                else:
                    self._closing.wait(pause)
                    pause = min(pause * 2, self._limits.longest_pause_s)
            else:
                if self._failing_since is not None:
                    log.warning("the log %s takes records again", self._name)
                    self._failing_since = None
                return written

    def _refused(self, error: StoreUnavailable, now: float) -> None:
        """Keep the error; let go of those who wait in `flush` once the store has refused for too long."""
        self._last_error = str(error)
        if self._failing_since is None:
            self._failing_since = now
            log.error("the log %s refuses records, they are kept and tried again: %s", self._name, error)
        self._alarm()
        if now - self._failing_since < self._limits.patience_s:
            return
        with self._lock:
            waiters, self._waiters = self._waiters, []
            depth = len(self._queue)
        for _, future in waiters:
            future.set_exception(LogError(f"{depth} records of the log {self._name} are not durable yet: {error}"))

    def _done(self, group: Sequence[Record], written: int) -> None:
        """Take settled records off the queue and wake those who waited for them."""
        if 0 < written < len(group):
            self._last_error = f"{len(group) - written} records had the id of a record that was logged before"
        with self._lock:
            for record in group:
                self._queue.popleft()
                self._bytes -= _record_bytes(record)
            self._settled += len(group)
            self._written += written
            self._dropped += len(group) - written
            ready = [future for target, future in self._waiters if target <= self._settled]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > self._settled]
        for future in ready:
            future.set_result(None)

    def _alarm(self, at_once: bool = False) -> None:
        """Say how many records were dropped, at most every `alarm_s`."""
        now = time.monotonic()
        if self._dropped == self._reported_drops or (now < self._next_alarm and not at_once):
            return
        log.error(
            "the log %s has dropped %d records (queue %d of %d, last error: %s)",
            self._name, self._dropped, len(self._queue), self._limits.max_records, self._last_error,
        )  # fmt: skip
        self._reported_drops = self._dropped
        self._next_alarm = now + self._limits.alarm_s


def _record_bytes(record: Record) -> int:
    """Roughly what a record holds in memory, in bytes; decisions and attempts are taken for a flat 1,000."""
    if type(record) is not Interaction:
        return 1000
    size = 1000
    if record.request is not None:
        size += len(record.request)
    if record.response is not None:
        size += len(record.response)
    if record.query_text is not None:
        size += len(record.query_text)
    return size
