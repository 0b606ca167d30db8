"""The default encoder: one row per token, summed and normalised. Microseconds per text, NumPy only.

The rows are int8 and share one scale, so a text's sum is made of integers, and its length is computed exactly in
float64: the same text has the same bits alone, in a batch, and on every machine. The rows are distilled from MiniLM by
`encoders.build_static`; the idea is model2vec's (Tulkens and van Dongen, 2024) with the frequency weights of SIF
(Arora et al., 2017). The order of words is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from math import sqrt
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from encoders.protocol import EncoderUnavailable, Vectors
from encoders.wordpiece import PREPROCESSING, WordPiece, parts

WEIGHTS = Path(__file__).resolve().parent / "weights"
TABLE_FILE = "static.safetensors"
TOKENS_FILE = "static.tokens.json"
BUILD_COMMAND = "python -m encoders.build_static"

MAX_CHARS = 16_000
"""A longer text is represented by its two ends of half this length each."""
REMEMBERED_CHUNKS = 32_768
"""Chunks of text whose tokens are kept; about 6 MB when full."""
REMEMBERED_CHARS = 40
"""Longer chunks are code, blobs or unspaced scripts: cut into their parts, and never kept whole."""
INT16_ROWS = 258
"""So many int8 rows sum without overflow in int16: 258 * 127 <= 32767."""
FOLD = 16
"""Rows of a longer text that are laid end to end before they are summed: long rows add up faster than many."""


class StaticEncoder:
    """Mean of token rows, 256-d by default; see the module docstring and `encoders.protocol.Encoder`."""

    name = "static"
    inline = True

    def __init__(self, table: NDArray[np.int8], tokens: Sequence[str], digest: str) -> None:
        """`table`: int8 array of shape [len(tokens), dim]; `digest`: the hash under which artifacts know it."""
        if table.dtype != np.int8 or table.ndim != 2 or len(table) != len(tokens):
            raise ValueError(f"expected int8 rows for {len(tokens)} tokens; got {table.dtype} of shape {table.shape}")
        self.hash = digest
        self.dim = int(table.shape[1])
        self._take = np.ascontiguousarray(table).take
        self._row_bytes = _RowBytes(WordPiece(tokens)).__getitem__

    @classmethod
    def load(cls, folder: Path = WEIGHTS) -> StaticEncoder:
        """Read the table and its tokens.

        Raises
        ------
        EncoderUnavailable: the files are missing or damaged; names the command that builds them.
        """
        try:
            weights, spelling = (folder / TABLE_FILE).read_bytes(), (folder / TOKENS_FILE).read_bytes()
        except OSError as error:
            raise EncoderUnavailable(
                f"the static encoder expects {TABLE_FILE} and {TOKENS_FILE} in {folder}: {error}. "
                f"Build them with `{BUILD_COMMAND}`."
            ) from error
        try:
            table = load_safetensors(weights)["table"]
            tokens = orjson.loads(spelling)["tokens"]
            return cls(table, tokens, digest_of(weights, spelling, int(table.shape[-1])))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise EncoderUnavailable(
                f"the static encoder's files in {folder} are damaged: {error}. Build them with `{BUILD_COMMAND}`."
            ) from error

    def encode_one(self, text: str) -> Vectors:
        """Float32 array of shape [dim] and unit norm; zero if no part of the text is in the vocabulary."""
        if len(text) > MAX_CHARS:
            text = text[: MAX_CHARS // 2] + "\n" + text[-MAX_CHARS // 2 :]
        # One bytes object per chunk, joined: the row numbers reach NumPy without a Python list of integers.
        rows = np.frombuffer(b"".join(map(self._row_bytes, text.lower().split())), np.intp)
        exact = _sum(self._take(rows, 0)).astype(np.float64)
        square = float(exact.dot(exact))
        vector: Vectors = np.multiply(
            exact, 1.0 / sqrt(square) if square else 0.0, dtype=np.float32, casting="same_kind"
        )
        return vector

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Float32 array of shape [len(texts), dim]: `encode_one` of each text."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self.encode_one(text)
        return vectors


def _sum(rows: NDArray[np.int8]) -> NDArray[np.integer]:
    """The sum of rows of shape [n, dim]: int16 or int32 of shape [dim], without overflow."""
    count, dim = rows.shape
    total: NDArray[np.integer]
    if count <= INT16_ROWS:
        total = np.add.reduce(rows, 0, np.int16)
    elif count > INT16_ROWS * FOLD:
        total = np.add.reduce(rows, 0, np.int32)
    else:
        whole = count // FOLD * FOLD
        folded = np.add.reduce(rows[:whole].reshape(-1, FOLD * dim), 0, np.int16).reshape(FOLD, dim)
        total = np.add.reduce(folded, 0, np.int32)
        total += np.add.reduce(rows[whole:], 0, np.int16)
    return total


class _RowBytes(dict[str, bytes]):
    """Remembers, for each chunk of text met, its row numbers as the bytes of an intp array; bounded."""

    def __init__(self, segmenter: WordPiece) -> None:
        super().__init__()
        self._rows = segmenter.rows

    def __missing__(self, chunk: str) -> bytes:
        if len(chunk) > REMEMBERED_CHARS:
            cut = parts(chunk)
            if len(cut) > 1:
                return b"".join(map(self.__getitem__, cut))
            return self._bytes(chunk)
        if len(self) >= REMEMBERED_CHUNKS:
            self.clear()
        self[chunk] = found = self._bytes(chunk)
        return found

    def _bytes(self, chunk: str) -> bytes:
        return np.array(self._rows(chunk), np.intp).tobytes()


def digest_of(weights: bytes, spelling: bytes, dim: int) -> str:
    """16 hex digits over weights, tokenizer, preprocessing and dimension."""
    digest = sha256(weights)
    digest.update(spelling)
    digest.update(f"static:{PREPROCESSING}:{MAX_CHARS}:{dim}".encode())
    return digest.hexdigest()[:16]
