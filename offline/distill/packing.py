"""Several conversations in one block of tokens, each seeing itself alone, and what is learned in a batch of blocks."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from offline.distill.fused_loss import TeacherRows
from offline.distill.samples import DataError, Sample
from offline.distill.signals import AlignedRows

if TYPE_CHECKING:
    from torch import Tensor


def pack(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of the samples of each block of at most `limit` tokens: best fit, the longest first. Deterministic.

    Raises
    ------
    DataError: a sample is longer than a block.
    """
    blocks: list[list[int]] = []
    spaces: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        need = lengths[index]
        if need > limit:
            raise DataError(
                f"expected samples of at most {limit} tokens, number {index} has {need}; "
                "raise training.length or leave long samples out"
            )
        place = bisect_left(spaces, (need, -1))
        if place == len(spaces):
            blocks.append([index])
            insort(spaces, (limit - need, len(blocks) - 1))
            continue
        space, block = spaces.pop(place)
        blocks[block].append(index)
        insort(spaces, (space - need, block))
    return blocks


@dataclass(frozen=True, slots=True)
class Batch:
    """B blocks of L tokens, and the N reply tokens in them that are learned.

    `ids`, `positions` int64 [B, L]; `mask` bool [B, 1, L, L]: who sees whom, within its own conversation and backward.
    `at` int64 [N]: flat index (of B * L) of the position that predicts each reply token; `labels` int64 [N];
    `weights` float [N, K] of the sources; `counts` float [N]: how much each token counts. `names`: ids of the samples.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    at: Tensor
    labels: Tensor
    counts: Tensor
    weights: Tensor
    rows: tuple[TeacherRows, ...]
    names: tuple[str, ...]


def batch(
    blocks: Sequence[Sequence[int]], samples: Sequence[Sample], source_weights: np.ndarray, pad: int,
) -> Batch:  # fmt: skip
    """The samples of these blocks, as tensors. `source_weights` [D, K]: of each source for each of all D samples."""
    import torch

    length = max(sum(samples[index].length for index in block) for block in blocks)
    ids = np.full((len(blocks), length), pad, dtype=np.int64)
    positions = np.zeros_like(ids)
    owner = np.full_like(ids, -1)
    at, inside = [], []
    for row, block in enumerate(blocks):
        start = 0
        for index in block:
            sample = samples[index]
            end = start + sample.length
            ids[row, start:end] = np.concatenate([sample.prompt, sample.reply])
            positions[row, start:end] = np.arange(sample.length)
            owner[row, start:end] = index
            first = row * length + start + len(sample.prompt) - 1
            at.append(np.arange(first, first + len(sample.reply)))
            inside.append(index)
            start = end
    chosen = [samples[index] for index in inside]
    tokens = np.concatenate([np.full(len(samples[i].reply), i) for i in inside])
    return Batch(
        ids=torch.from_numpy(ids), positions=torch.from_numpy(positions), mask=_mask(torch.from_numpy(owner)),
        at=torch.from_numpy(np.concatenate(at)),
        labels=torch.from_numpy(np.concatenate([sample.reply for sample in chosen]).astype(np.int64)),
        counts=torch.tensor([samples[i].weight for i in tokens], dtype=torch.float32),
        weights=torch.from_numpy(source_weights[tokens].astype(np.float32)),
        rows=tuple(_rows(chosen, source) for source in range(source_weights.shape[1])),
        names=tuple(sample.id for sample in chosen),
    )  # fmt: skip


def _mask(owner: Tensor) -> Tensor:
    """bool [B, 1, L, L]. Padding sees itself, or its softmax would be over nothing."""
    import torch

    length = owner.shape[1]
    same = owner[:, :, None] == owner[:, None, :]
    backward = torch.ones(length, length, dtype=torch.bool).tril()
    return (same & backward)[:, None]


def _rows(samples: Sequence[Sample], source: int) -> TeacherRows:
    """The rows of one source over all reply tokens of the samples, as wide as the widest."""
    import torch

    said = [(sample, sample.signals[source] if sample.signals else None) for sample in samples]
    width = max((rows.ids.shape[1] for _, rows in said if rows is not None), default=1)
    made = [_padded(rows, len(sample.reply), width) for sample, rows in said]
    ids, probs, other, valid = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return TeacherRows(
        torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(probs.astype(np.float32)),
        torch.from_numpy(other.astype(np.float32)), torch.from_numpy(valid),
    )  # fmt: skip


def _padded(rows: AlignedRows | None, count: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if rows is None:
        return (
            np.full((count, width), -1), np.zeros((count, width)), np.zeros(count), np.zeros(count, dtype=np.bool_)
        )  # fmt: skip
    missing = ((0, 0), (0, width - rows.ids.shape[1]))
    return np.pad(rows.ids, missing, constant_values=-1), np.pad(rows.probs, missing), rows.other, rows.valid
