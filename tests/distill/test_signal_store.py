"""Stored signals come back as they were, whatever the size of the vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.distill_lab.store import stored
from offline.distill.signal_store import SignalStore
from offline.distill.signals import TeacherSignal


def signal(largest: int, rows: int = 40, k: int = 7) -> TeacherSignal:
    rng = np.random.default_rng(largest)
    ids = rng.integers(0, largest + 1, (rows, k)).astype(np.int32)
    ids[3, 2:], ids[5, 0] = -1, largest
    ends = np.cumsum(rng.integers(0, 4, rows)).astype(np.int32)
    spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int32)
    logs = rng.normal(size=(rows, k)).astype(np.float16)
    return TeacherSignal(
        "m", "t", "text", "logits", ids[:, 0].copy(), spans, ids, logs, logs[:, 0], logs[:, 0].astype(np.float32),
        rng.random(rows) < 0.9,
    )  # fmt: skip


@pytest.mark.parametrize("largest", [0, 255, 65_534, 65_535, 65_536, 151_935, 262_142, 262_143, 400_000])
def test_a_signal_comes_back_as_it_was(tmp_path: Path, largest: int) -> None:
    made = signal(largest)
    SignalStore(tmp_path, "m", "t").put([made])
    found = SignalStore(tmp_path, "m", "t").get("text")
    assert found is not None
    for name in ("token_ids", "byte_spans", "top_ids", "top_logprobs", "tail_logprob", "gold_logprob", "known"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(made, name).dtype


@pytest.mark.parametrize("vocabulary", [50_000, 150_000, 256_000])
def test_a_token_takes_under_150_bytes_at_the_top_32(tmp_path: Path, vocabulary: int) -> None:
    assert stored(tmp_path, 64, vocabulary=vocabulary, rounds=1)["bytes_per_token"] < 150
