"""What the fused loss costs: memory beside stacked dense targets, and time beside plain training, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from offline.distill.fused_loss import TeacherRows, training_loss

Row = dict[str, Any]
DENSE_BYTES = 2
"""Of a probability in the reference's stacked targets (bfloat16)."""
KEPT = 33
"""Tokens of an aligned row: the top 32 and the one that stands there."""


def rows_of(count: int, vocabulary: int, seed: int) -> TeacherRows:
    """One source at `count` positions."""
    made = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, vocabulary // KEPT, (count, KEPT), generator=made)
    probs = torch.rand(count, KEPT, generator=made)
    probs = 0.9 * probs / probs.sum(dim=-1, keepdim=True)
    return TeacherRows(steps.cumsum(dim=-1), probs, 1.0 - probs.sum(dim=-1), torch.ones(count, dtype=torch.bool))


def size_of(rows: TeacherRows) -> int:
    """Bytes of its tensors."""
    return sum(part.numel() * part.element_size() for part in (rows.ids, rows.probs, rows.other, rows.valid))


def memory(blocks: int = 2, length: int = 2048, vocabulary: int = 32_000, sources: int = 5) -> Row:
    """Bytes of the targets of one step, and the most that the loss holds beyond the logits, their gradient and what
    plain training holds; dense targets are counted, not made."""
    count = blocks * length
    rows = [rows_of(count, vocabulary, seed) for seed in range(sources)]
    targets = sum(map(size_of, rows))
    dense = sources * count * vocabulary * DENSE_BYTES
    # On a tenth of the positions: the loss is of each position by itself, so what it holds is proportional to them.
    part = max(count // 10, 64)
    few = [rows_of(part, vocabulary, seed) for seed in range(sources)]
    plain = peak_bytes(lambda: _step_of_loss(part, vocabulary, few, 0.0))
    fused = peak_bytes(lambda: _step_of_loss(part, vocabulary, few, 0.5))
    return {
        "what": "memory", "blocks": blocks, "length": length, "vocabulary": vocabulary, "sources": sources,
        "targets_mb": targets / 1e6, "dense_mb": dense / 1e6, "x_dense": dense / targets,
        "peak_mb_plain": plain / 1e6 * count / part, "peak_mb_fused": fused / 1e6 * count / part,
        "peak_positions": part,
    }  # fmt: skip


def _step_of_loss(count: int, vocabulary: int, rows: list[TeacherRows], mix: float) -> None:
    logits = torch.zeros(count, vocabulary, requires_grad=True)
    labels = torch.zeros(count, dtype=torch.int64)
    weights = torch.full((count, len(rows)), 1.0 / len(rows))
    training_loss(logits, labels, rows, weights, mix=mix).total.backward()


def peak_bytes(work: Callable[[], None]) -> int:
    """The most bytes that tensors made inside `work` held at once."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results = profiled.profiler
    if results is None or results.kineto_results is None:
        raise RuntimeError("the profiler of this torch gives no record of memory; use the pinned version")
    moves = sorted(
        (event.start_ns(), event.nbytes()) for event in results.kineto_results.events() if event.name() == "[memory]"
    )
    held = most = 0
    for _, size in moves:
        held += size
        most = max(most, held)
    return most


def step_time(blocks: int, length: int, vocabulary: int, sources: int, hidden: int, layers: int, pairs: int) -> Row:
    """CPU time of whole training steps of one model with the fused loss over that of plain steps, taken in turns."""
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
            num_attention_heads=max(hidden // 64, 1), num_key_value_heads=max(hidden // 64, 1),
            max_position_embeddings=length, tie_word_embeddings=True,
        )
    )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(0, vocabulary, (blocks, length))
    rows = [rows_of(blocks * length, vocabulary, seed) for seed in range(sources)]
    weights = torch.full((blocks * length, sources), 1.0 / sources)

    def step(mix: float) -> float:
        began = time.process_time()
        logits = model(input_ids=ids, use_cache=False).logits.reshape(-1, vocabulary).float()
        training_loss(logits, ids.reshape(-1), rows, weights, mix=mix).total.backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.process_time() - began

    step(0.0), step(0.5)
    spent = [(step(0.0), step(0.5)) for _ in range(pairs)]
    return {
        "what": "step time", "blocks": blocks, "length": length, "vocabulary": vocabulary, "sources": sources,
        "parameters": sum(parameter.numel() for parameter in model.parameters()), "pairs": pairs,
        "clm_cpu_s": median(plain for plain, _ in spent), "fused_cpu_s": median(fused for _, fused in spent),
        "x_clm": median(fused / plain for plain, fused in spent),
        "x_clm_of_pairs": [round(fused / plain, 3) for plain, fused in spent],
    }  # fmt: skip
