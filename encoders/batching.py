"""Micro-batching: coroutines ask for one vector each, a worker thread encodes them together off the event loop.

While one batch is being encoded the next one gathers, so batches grow with the load and a lone caller waits for nobody
longer than `max_wait_s`. For encoders that are not `inline`; a static one is faster called directly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from encoders.protocol import Encoder, Vectors


class EncoderClosed(RuntimeError):
    """`encode_one` was called on a batching encoder that is closed or closing."""


class BatchingEncoder:
    """One encoder shared by the coroutines of one event loop."""

    def __init__(
        self, encoder: Encoder, max_batch: int = 32, max_wait_s: float = 0.001, max_in_flight: int = 1024
    ) -> None:
        """Wrap `encoder`.

        Parameters
        ----------
        max_batch: texts encoded in one call, at least 1.
        max_wait_s: seconds the first text of a batch waits for company, at least 0.
        max_in_flight: texts taken in and not yet answered; further callers wait for a place.
        """
        if max_batch < 1 or max_in_flight < 1 or max_wait_s < 0:
            raise ValueError(
                "expected max_batch >= 1, max_in_flight >= 1 and max_wait_s >= 0; "
                f"got {max_batch}, {max_in_flight} and {max_wait_s}"
            )
        self.encoder = encoder
        self.max_batch = max_batch
        self.max_wait_s = max_wait_s
        self._places = asyncio.Semaphore(max_in_flight)
        self._pending: deque[tuple[str, asyncio.Future[Vectors]]] = deque()
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._gathering: asyncio.Task[None] | None = None
        self._closed = False

    async def encode_one(self, text: str) -> Vectors:
        """Float32 array of shape [dim]; see `encoders.protocol.Encoder.encode_one`.

        Cancelling the caller takes its text out of the batch if encoding has not begun, and harms nobody else's.

        Raises
        ------
        EncoderClosed: `close` was called before the text was taken in.
        Exception: whatever the encoder raised on the batch this text was in.
        """
        async with self._places:
            if self._closed:
                raise EncoderClosed(f"the batching encoder of {self.encoder.name} is closed")
            if self._gathering is None:
                self._gathering = asyncio.create_task(self._gather(), name="encoder-batches")
            answer: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
            self._pending.append((text, answer))
            self._arrived.set()
            if len(self._pending) >= self.max_batch:
                self._full.set()
            return await answer

    async def close(self) -> None:
        """Answer what was taken in, refuse what comes later, end the thread. May be called again."""
        self._closed = True
        self._arrived.set()
        self._full.set()
        if self._gathering is not None:
            await self._gathering
        self._thread.shutdown(wait=False)

    async def _gather(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._closed:
                await self._company()
            batch = self._next_batch()
            if batch:
                await self._answer(batch)
            elif self._closed:
                return

    async def _company(self) -> None:
        if self.max_wait_s == 0 or len(self._pending) >= self.max_batch:
            return
        self._full.clear()
        try:
            async with asyncio.timeout(self.max_wait_s):
                await self._full.wait()
        except TimeoutError:
            return

    def _next_batch(self) -> list[tuple[str, asyncio.Future[Vectors]]]:
        batch: list[tuple[str, asyncio.Future[Vectors]]] = []
        while self._pending and len(batch) < self.max_batch:
            text, answer = self._pending.popleft()
            if not answer.done():
                batch.append((text, answer))
        if not self._pending and not self._closed:
            self._arrived.clear()
        return batch

    async def _answer(self, batch: list[tuple[str, asyncio.Future[Vectors]]]) -> None:
        texts = [text for text, _ in batch]
        loop = asyncio.get_running_loop()
        try:
            vectors = await loop.run_in_executor(self._thread, self.encoder.encode, texts)
        except Exception as error:  # noqa: BLE001  (the root of the batch: any failure belongs to its callers)
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), vector in zip(batch, vectors, strict=True):
            if not answer.done():
                answer.set_result(vector)
