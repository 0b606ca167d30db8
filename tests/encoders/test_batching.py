"""Batches form, answers reach their callers, failures stay in their batch, cancelling and closing are clean."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from encoders.batching import BatchingEncoder, EncoderClosed
from encoders.protocol import Vectors
from encoders.static import StaticEncoder


class Recording:
    """The static encoder, remembering its batches; holds at `gate`, and refuses the text `poison`."""

    name = "recording"
    inline = False

    def __init__(self) -> None:
        self._static = StaticEncoder.load()
        self.hash, self.dim = self._static.hash, self._static.dim
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(list(texts))
        self.threads.add(threading.get_ident())
        self.started.set()
        assert self.gate.wait(10)
        if "poison" in texts:
            raise ValueError("a poisoned batch")
        return self._static.encode(texts)

    def encode_one(self, text: str) -> Vectors:
        return self._static.encode_one(text)


async def _until_started(encoder: Recording) -> None:
    assert await asyncio.to_thread(encoder.started.wait, 10)


async def test_each_caller_gets_the_vector_of_its_text() -> None:
    encoder = Recording()
    batching = BatchingEncoder(encoder, max_batch=8, max_wait_s=0.01)
    texts = [f"text number {i}" for i in range(50)]
    vectors = await asyncio.gather(*map(batching.encode_one, texts))
    await batching.close()
    for text, vector in zip(texts, vectors, strict=True):
        assert np.array_equal(vector, encoder.encode_one(text))
    assert sorted(text for batch in encoder.batches for text in batch) == sorted(texts)
    assert max(map(len, encoder.batches)) == 8
    assert threading.get_ident() not in encoder.threads


async def test_a_lone_caller_is_answered() -> None:
    batching = BatchingEncoder(Recording(), max_wait_s=0.0)
    assert np.linalg.norm(await batching.encode_one("alone")) == pytest.approx(1.0, abs=1e-6)
    await batching.close()


async def test_the_next_batch_gathers_while_one_is_encoded() -> None:
    encoder = Recording()
    encoder.gate.clear()
    batching = BatchingEncoder(encoder, max_batch=16, max_wait_s=0.0)
    first = asyncio.create_task(batching.encode_one("first"))
    await _until_started(encoder)
    rest = [asyncio.create_task(batching.encode_one(f"later {i}")) for i in range(5)]
    await asyncio.sleep(0)
    encoder.gate.set()
    await asyncio.gather(first, *rest)
    await batching.close()
    assert [len(batch) for batch in encoder.batches] == [1, 5]


async def test_a_failure_reaches_the_callers_of_its_batch_and_no_others() -> None:
    encoder = Recording()
    encoder.gate.clear()
    batching = BatchingEncoder(encoder, max_batch=2, max_wait_s=0.0)
    first = asyncio.create_task(batching.encode_one("first"))
    await _until_started(encoder)
    rest = [asyncio.create_task(batching.encode_one(text)) for text in ("poison", "unlucky", "fine", "also fine")]
    await asyncio.sleep(0)
    encoder.gate.set()
    outcomes = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [False, True, True, False, False]
    assert (await batching.encode_one("works again")).any()
    await batching.close()


async def test_a_cancelled_caller_is_not_encoded_and_harms_nobody() -> None:
    encoder = Recording()
    encoder.gate.clear()
    batching = BatchingEncoder(encoder, max_batch=4, max_wait_s=0.0)
    running = asyncio.create_task(batching.encode_one("running"))
    await _until_started(encoder)
    waiting = asyncio.create_task(batching.encode_one("given up"))
    kept = asyncio.create_task(batching.encode_one("kept"))
    await asyncio.sleep(0)
    running.cancel()
    waiting.cancel()
    encoder.gate.set()
    assert np.array_equal(await kept, encoder.encode_one("kept"))
    await batching.close()
    assert encoder.batches == [["running"], ["kept"]]
    assert running.cancelled()
    assert waiting.cancelled()


async def test_places_are_bounded_and_given_back() -> None:
    encoder = Recording()
    encoder.gate.clear()
    batching = BatchingEncoder(encoder, max_batch=2, max_wait_s=0.0, max_in_flight=3)
    callers = [asyncio.create_task(batching.encode_one(f"text {i}")) for i in range(10)]
    await _until_started(encoder)
    await asyncio.sleep(0)
    assert len(batching._pending) + sum(map(len, encoder.batches)) <= 3
    encoder.gate.set()
    assert len(await asyncio.gather(*callers)) == 10
    await batching.close()


async def test_closing_answers_what_was_taken_in_and_refuses_the_rest() -> None:
    encoder = Recording()
    encoder.gate.clear()
    batching = BatchingEncoder(encoder, max_batch=1, max_wait_s=5.0, max_in_flight=2)
    taken = [asyncio.create_task(batching.encode_one(f"taken {i}")) for i in range(2)]
    late = asyncio.create_task(batching.encode_one("no place yet"))
    await _until_started(encoder)
    closing = asyncio.create_task(batching.close())
    await asyncio.sleep(0)
    encoder.gate.set()
    assert all(vector.any() for vector in await asyncio.gather(*taken))
    await closing
    with pytest.raises(EncoderClosed):
        await late
    with pytest.raises(EncoderClosed):
        await batching.encode_one("after")
    await batching.close()


async def test_closing_an_unused_one_is_fine() -> None:
    encoder = Recording()
    batching = BatchingEncoder(encoder)
    await batching.close()
    assert encoder.batches == []
    with pytest.raises(EncoderClosed):
        await batching.encode_one("after")


@pytest.mark.parametrize(("max_batch", "max_wait_s", "max_in_flight"), [(0, 0.0, 1), (1, -1.0, 1), (1, 0.0, 0)])
def test_impossible_limits_are_refused(max_batch: int, max_wait_s: float, max_in_flight: int) -> None:
    with pytest.raises(ValueError, match="max_batch >= 1"):
        BatchingEncoder(Recording(), max_batch, max_wait_s, max_in_flight)
