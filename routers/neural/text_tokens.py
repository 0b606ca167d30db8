"""Texts to rows of a vocabulary, for encoders that are stored with their router."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.query_text import clip
from encoders.wordpiece import CONTINUATION, WordPiece

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL: Final = (PAD, UNKNOWN, START, END)
LEAST_TEXTS = 3
"""A token of fewer training texts is spelled by shorter ones."""
MOST_TOKENS = 8000


class Tokens:
    """A vocabulary of uncased WordPiece tokens that holds the four special ones."""

    def __init__(self, spellings: Sequence[str]) -> None:
        self.spellings = tuple(spellings)
        row = {spelling: index for index, spelling in enumerate(self.spellings)}
        self.pad, self.start, self.end = row[PAD], row[START], row[END]
        self._pieces = WordPiece(self.spellings, row[UNKNOWN])

    def rows(self, texts: Sequence[str], limit: int) -> list[int]:
        """Rows of one or two texts, at most `limit`, each text followed by `[SEP]`; of a long text its two ends."""
        room = (limit - 1 - len(texts)) // len(texts)
        found = [self.start]
        for text in texts:
            pieces = list(chain.from_iterable(map(self._pieces.rows, clip(text).lower().split())))
            if len(pieces) > room:
                head = (room + 1) // 2
                pieces = pieces[:head] + pieces[len(pieces) - (room - head) :]
            found += [*pieces, self.end]
        return found

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows [n, T] filled up to the longest, and which of them are text."""
        longest = max(map(len, rows), default=0)
        ids = np.full((len(rows), longest), self.pad, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.bool_)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = True
        return ids, mask

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The spellings as UTF-8, one a line."""
        return {"tokens": np.frombuffer("\n".join(self.spellings).encode(), dtype=np.uint8).copy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Tokens:
        return cls(arrays["tokens"].tobytes().decode().split("\n"))


def used_tokens(texts: Iterable[str], spellings: Sequence[str]) -> list[str]:
    """The special tokens, all single characters, and the tokens of a vocabulary that several of the texts use."""
    pieces = WordPiece(spellings)
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(set(chain.from_iterable(map(pieces.rows, clip(text).lower().split()))))
    short = {s for s in spellings if len(s.removeprefix(CONTINUATION)) == 1 and s.isascii()}
    frequent = [
        row for row, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= LEAST_TEXTS
    ]
    kept = short | {spellings[row] for row in frequent[:MOST_TOKENS]}
    return [*SPECIAL, *sorted(kept - set(SPECIAL))]
