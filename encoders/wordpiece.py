"""Words to token rows: the uncased WordPiece segmentation of BERT, in plain Python and bounded in time.

Agrees with the reference tokenizer on every chunk it can segment; a word that it cannot is left out, where BERT would
write `[UNK]`, and the caller has split the text at all that Python calls white space. It runs only on words that were not met before (`encoders.static` remembers the rest), so it is written
for clarity and for a bounded worst case. Segmentation: Wu et al., 2016 (Google's neural machine translation system),
section 4.1; text cleaning: Devlin et al., 2019 (BERT), uncased models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

PREPROCESSING = "1"
"""Part of the hash of every encoder built on this file: raise it when the same text may give other tokens."""
MAX_WORD = 100
"""A longer word is no word of any language (an encoded blob): it has no tokens."""
CONTINUATION = "##"

_ASCII_PIECES = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")


class WordPiece:
    """The rows of a vocabulary that spell a word, longest match first."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """`tokens[i]` is the spelling of row i; a token inside a word starts with `##`."""
        self._starts: dict[str, int] = {}
        self._inners: dict[str, int] = {}
        for row, token in enumerate(tokens):
            if token.startswith(CONTINUATION) and len(token) > len(CONTINUATION):
                self._inners[token[len(CONTINUATION) :]] = row
            else:
                self._starts[token] = row
        self._longest_start = max(map(len, self._starts), default=0)
        self._longest_inner = max(map(len, self._inners), default=0)

    def rows(self, chunk: str) -> list[int]:
        """Rows of a lower-case chunk without white space; empty if nothing of it is in the vocabulary."""
        return [row for piece in pieces(chunk) for row in self._piece_rows(piece)]

    def _piece_rows(self, piece: str) -> list[int]:
        whole = self._starts.get(piece)
        if whole is not None:
            return [whole]
        if len(piece) > MAX_WORD:
            return []
        rows: list[int] = []
        at, table, longest = 0, self._starts, self._longest_start
        while at < len(piece):
            for end in range(min(len(piece), at + longest), at, -1):
                row = table.get(piece[at:end])
                if row is not None:
                    break
            else:
                return []
            rows.append(row)
            at, table, longest = end, self._inners, self._longest_inner
        return rows


def pieces(chunk: str) -> list[str]:
    """The words and punctuation marks of a lower-case chunk: accents stripped, control characters dropped."""
    if chunk.isascii():
        if not chunk.isprintable():
            chunk = "".join(filter(str.isprintable, chunk))
        return _ASCII_PIECES.findall(chunk)
    return list(_unicode_pieces(chunk))


def _unicode_pieces(chunk: str) -> Iterator[str]:
    word: list[str] = []
    for char in unicodedata.normalize("NFD", chunk):
        category = unicodedata.category(char)
        if category == "Mn" or category.startswith("C") or char == "\ufffd":
            continue
        # An ideograph is a word of its own, and so is a mark; symbols beyond ASCII belong to their word, as in BERT.
        alone = _is_ideograph(ord(char)) or category.startswith("P") or _is_ascii_mark(char)
        if not alone and not char.isspace():
            word.append(char)
            continue
        if word:
            yield "".join(word)
            word.clear()
        if alone:
            yield char
    if word:
        yield "".join(word)


def _is_ascii_mark(char: str) -> bool:
    return char.isascii() and char.isprintable() and not char.isalnum() and char != " "


def _is_ideograph(code: int) -> bool:
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )
