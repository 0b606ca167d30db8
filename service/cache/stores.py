"""Where kept answers are: what a store can do, and the one in this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from service.cache.kept import KeptAnswer

ENTRY_BYTES = 1_000
"""Memory that an entry takes beside its body, rounded up."""


class StoreAway(Exception):
    """The store cannot be asked now."""


class AnswerStore(Protocol):
    """All raise StoreAway if the store cannot be asked."""

    async def get(self, key: bytes) -> KeptAnswer | None: ...
    async def put(self, answer: KeptAnswer) -> None: ...
    async def clear(self) -> int: ...
    async def close(self) -> None: ...


class MemoryStore:
    """In this process, at most `max_bytes` in all; the least recently used answers go first."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.evicted = 0
        self._clock = clock
        self._answers: OrderedDict[bytes, KeptAnswer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    async def get(self, key: bytes) -> KeptAnswer | None:
        answer = self._answers.get(key)
        if answer is None:
            return None
        if answer.until <= self._clock():
            self._remove(key)
            return None
        self._answers.move_to_end(key)
        return answer

    async def put(self, answer: KeptAnswer) -> None:
        size = _size(answer)
        self._remove(answer.key)
        if size > self.max_bytes:
            return
        while self.bytes + size > self.max_bytes:
            self._remove(next(iter(self._answers)))
            self.evicted += 1
        self._answers[answer.key] = answer
        self.bytes += size

    async def clear(self) -> int:
        count = len(self._answers)
        self._answers.clear()
        self.bytes = 0
        return count

    async def close(self) -> None:
        """Nothing outlives the process."""

    def _remove(self, key: bytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.bytes -= _size(answer)


def _size(answer: KeptAnswer) -> int:
    return len(answer.body) + ENTRY_BYTES
