"""FuseLLM's alignment, as a baseline: MinED maps tokens by their spelling, dynamic time warping matches positions.

As released (arXiv 2401.10491 and its code): two tokens are one if they are spelled alike, else the nearest by edit
distance is taken; positions are matched by the path of least edit distance; where a position is not matched to exactly
one that means the same, its distribution is replaced by certainty. Of which token is the point: the distribution at a
position is about the *next* token, and the released code puts the certainty on the *current* one (`copy_bug`), which
teaches the target to repeat its input. The corrected code of FuseChat puts it on the next one.

Ours is `offline.distill.alignment`; nothing but benchmarks uses this one.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from offline.distill.signals import AlignedRows, TeacherSignal
from offline.distill.token_bytes import TokenBytes, TokenizedText

LEAST = 1e-9
"""Floor under a probability inside a logarithm."""
Ints = NDArray[np.int32]


class MinED:
    """A map from a source's tokens to the target's by spelling; nearest tokens are looked up when first asked for."""

    def __init__(self, source: TokenBytes, target: TokenBytes) -> None:
        self.source = [_spelled(token) for token in source.by_id]
        self.target = [_spelled(token) for token in target.by_id]
        self._found: dict[int, int] = {}
        self._exact: dict[str, int] = {}
        for index, token in enumerate(self.target):
            if token:
                self._exact.setdefault(token, index)

    @cached_property
    def _letters(self) -> _Letters:
        return _Letters(self.target)

    def target_id(self, index: int) -> int:
        """The target's token of the same spelling, else the nearest one; ties go to the lowest id."""
        if index not in self._found:
            token = self.source[index]
            same = self._exact.get(token)
            self._found[index] = int(self._letters.distances(token).argmin()) if same is None else same
        return self._found[index]


class _Letters:
    """Tokens as a table of characters, so that one can be compared with all."""

    def __init__(self, tokens: list[str]) -> None:
        self.lengths = np.array([len(token) for token in tokens])
        self.table = np.full((len(tokens), max(int(self.lengths.max(initial=0)), 1)), -1, dtype=np.int32)
        for row, token in enumerate(tokens):
            self.table[row, : len(token)] = [ord(character) for character in token]

    def distances(self, token: str) -> Ints:
        """The edit distance of `token` to every token of the table; int32 [V]."""
        count, width = self.table.shape
        line = np.tile(np.arange(width + 1, dtype=np.int32), (count, 1))
        for number, character in enumerate(token, 1):
            swapped = line[:, :-1] + (self.table != ord(character))
            below = np.minimum(line[:, 1:] + 1, swapped)
            line = np.concatenate([np.full((count, 1), number, dtype=np.int32), below.astype(np.int32)], axis=1)
            # An insertion builds on the one before it: the least of (value - column) so far, plus the column.
            steps = np.arange(width + 1, dtype=np.int32)
            line = np.minimum.accumulate(line - steps, axis=1) + steps
        found: Ints = line[np.arange(count), self.lengths]
        return found


def align_mined(target: TokenizedText, signal: TeacherSignal, mapping: MinED, *, copy_bug: bool) -> AlignedRows:
    """The signal in the tokens of `target`, as FuseLLM reads it. Row 0 is never valid: nothing stands before it.

    `copy_bug`: as released. Probabilities of tokens that survive are normalised, so that `other` is always 0.
    """
    count, k = len(target.token_ids), signal.top_ids.shape[1]
    ids = np.full((count, k), -1, dtype=np.int32)
    probs = np.zeros((count, k), dtype=np.float32)
    matched = matches(
        [mapping.source[index] for index in signal.token_ids], [mapping.target[index] for index in target.token_ids]
    )
    for row in range(1, count):
        before, found = row - 1, matched[row - 1]
        alike = len(found) == 1 and mapping.target_id(int(signal.token_ids[found[0]])) == target.token_ids[before]
        if not alike or not _moved(signal, found[0] + 1, mapping, ids[row], probs[row]):
            ids[row], probs[row] = -1, 0.0
            ids[row, 0], probs[row, 0] = target.token_ids[before if copy_bug else row], 1.0
    valid = np.arange(count) > 0
    standing = np.where(ids == target.token_ids[:, None], probs, 0.0).sum(axis=1)
    gold = np.where(valid, np.log(np.maximum(standing, LEAST)), np.nan).astype(np.float32)
    return AlignedRows(ids, probs, np.zeros(count, dtype=np.float32), valid, gold)


def _moved(signal: TeacherSignal, at: int, mapping: MinED, ids: Ints, probs: NDArray[np.float32]) -> bool:
    """Write what the source says at `at` into one row; where two tokens become one, the likelier is kept."""
    if at >= len(signal.known) or not signal.known[at]:
        return False
    taken: dict[int, float] = {}
    for index, log in zip(signal.top_ids[at].tolist(), signal.top_logprobs[at].tolist(), strict=True):
        if index >= 0:
            taken.setdefault(mapping.target_id(index), float(np.exp(log)))
    total = sum(taken.values())
    if total <= 0.0:
        return False
    ids[: len(taken)] = list(taken)
    probs[: len(taken)] = [share / total for share in taken.values()]
    return True


def matches(source: list[str], target: list[str]) -> list[list[int]]:
    """For each target position the source positions that the warping path pairs it with, in order."""
    cost = _costs(source, target)
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for row in range(rows):
        for column in range(columns):
            before = min(total[row, column], total[row, column + 1], total[row + 1, column])
            total[row + 1, column + 1] = cost[row, column] + before
    found: list[list[int]] = [[] for _ in target]
    row, column = rows, columns
    while row > 0 and column > 0:
        found[column - 1].insert(0, row - 1)
        steps = (total[row - 1, column - 1], total[row - 1, column], total[row, column - 1])
        best = int(np.argmin(steps))
        row, column = row - (best != 2), column - (best != 1)
    return found


def _costs(source: list[str], target: list[str]) -> NDArray[np.float64]:
    """[S, T] edit distances."""
    letters = _Letters(target)
    seen = {token: letters.distances(token) for token in set(source)}
    return np.stack([seen[token] for token in source]).astype(np.float64)


def _spelled(token: bytes | None) -> str:
    """A token as text, its word mark as a space; special tokens as nothing."""
    return "" if token is None else token.decode("utf-8", errors="replace")
