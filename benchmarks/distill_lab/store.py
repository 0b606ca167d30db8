"""What a stored signal takes: bytes for each token, and time beside a plain copy of as many bytes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from offline.distill.signal_store import SignalStore
from offline.distill.signals import TeacherSignal
from registry.atomic_files import write_synced

Row = dict[str, Any]
LENGTH = 256
"""Tokens of a reply."""


def stored(folder: Path, signals: int, *, k: int = 32, vocabulary: int = 50_000, rounds: int = 7) -> Row:
    """Write and read a shard of so many signals, write its bytes as they are, and copy its file, in turns; synced."""
    made = [_signal(seed, k, vocabulary) for seed in range(signals)]
    times: dict[str, list[float]] = {"write": [], "write_plain": [], "copy": [], "read": [], "read_plain": []}
    for number in range(rounds):
        root = folder / f"{vocabulary}-{number}"
        times["write"].append(_seconds(partial(SignalStore(root, "m" * 64, "t" * 64).put, made)))
        shard = next(root.rglob("*.safetensors"))
        times["write_plain"].append(_seconds(partial(write_synced, root / "plain", shard.read_bytes())))
        (root / "plain").unlink()
        times["copy"].append(_seconds(partial(_copied, shard)))
        store = SignalStore(root, "m" * 64, "t" * 64)
        times["read"].append(_seconds(partial(_read, store, made)))
        times["read_plain"].append(_seconds(shard.read_bytes))
    size = shard.stat().st_size / 1e6
    spent = {name: median(seconds) for name, seconds in times.items()}
    return {
        "what": "signal store", "k": k, "vocabulary": vocabulary, "tokens": signals * LENGTH,
        "bytes_per_token": store.bytes_per_token(), "shard_mb": size,
        "write_mb_s": size / spent["write"], "write_plain_mb_s": size / spent["write_plain"],
        "copy_mb_s": size / spent["copy"],
        "read_mb_s": size / spent["read"], "read_plain_mb_s": size / spent["read_plain"],
        "write_x_plain": spent["write"] / spent["write_plain"], "write_x_copy": spent["write"] / spent["copy"],
        "read_tokens_per_s": signals * LENGTH / spent["read"],
    }  # fmt: skip


def _signal(seed: int, k: int, vocabulary: int) -> TeacherSignal:
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, 8, LENGTH)).astype(np.int32)
    log = np.sort(rng.normal(-6.0, 2.0, (LENGTH, k)), axis=1)[:, ::-1]
    return TeacherSignal(
        model_hash="m" * 64, tokenizer_hash="t" * 64, text_hash=f"{seed:064x}", capability="logits",
        token_ids=rng.integers(0, vocabulary, LENGTH).astype(np.int32),
        byte_spans=np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int32),
        top_ids=rng.integers(0, vocabulary, (LENGTH, k)).astype(np.int32), top_logprobs=log.astype(np.float16),
        tail_logprob=np.full(LENGTH, -3.0, np.float16), gold_logprob=log[:, 0].astype(np.float32),
        known=np.ones(LENGTH, np.bool_),
    )  # fmt: skip


def _copied(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    copy.unlink()


def _read(store: SignalStore, made: list[TeacherSignal]) -> None:
    """Raises RuntimeError: a signal did not come back as it was."""
    for signal in made:
        found = store.get(signal.text_hash)
        if found is None or not np.array_equal(found.top_ids, signal.top_ids):
            raise RuntimeError(f"the signal {signal.text_hash} did not come back from {store.folder} as it was written")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
