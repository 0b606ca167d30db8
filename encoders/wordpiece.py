"""Words to token rows: the uncased WordPiece segmentation of BERT, in plain Python and bounded in time.

Agrees with the reference tokenizer on the chunks between white space (which is what Python calls so). Encoders remember
words or are slow anyway, so it is written for clarity and for a bounded worst case. Segmentation: Wu et al., 2016
(Google's neural machine translation system), section 4.1; text cleaning: Devlin et al., 2019 (BERT), uncased models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

PREPROCESSING = "1"
"""Part of the hash of every encoder built on this file: raise it when the same text may give other tokens."""
MAX_WORD = 100
"""A longer word is no word of any language (an encoded blob): it has no tokens."""
CONTINUATION = "##"
STEM = 3
"""Characters that tell how long a token may get: random letters are then refused in a few look-ups."""

_MARKS = r"!-/:-@\[-`{-~"
_IDEOGRAPHS = (
    ("\u4e00", "\u9fff"),
    ("\u3400", "\u4dbf"),
    ("\U00020000", "\U0002a6df"),
    ("\U0002a700", "\U0002ceaf"),
    ("\uf900", "\ufaff"),
    ("\U0002f800", "\U0002fa1f"),
)
_ALONE = _MARKS + "".join(f"{first}-{last}" for first, last in _IDEOGRAPHS)
_ASCII_PIECES = re.compile(f"[a-z0-9]+|[{_MARKS}]")
_PARTS = re.compile(f"[{_ALONE}]|[^{_ALONE}]+")


class WordPiece:
    """The rows of a vocabulary that spell a word, longest match first."""

    def __init__(self, tokens: Sequence[str], unknown: int | None = None) -> None:
        """Index a vocabulary.

        Parameters
        ----------
        tokens: `tokens[i]` is the spelling of row i; a token inside a word starts with `##`.
        unknown: row of a word that cannot be spelled; without it such a word is left out.
        """
        self._unknown = [] if unknown is None else [unknown]
        self._starts: dict[str, int] = {}
        self._inners: dict[str, int] = {}
        for row, token in enumerate(tokens):
            if token.startswith(CONTINUATION) and len(token) > len(CONTINUATION):
                self._inners[token[len(CONTINUATION) :]] = row
            else:
                self._starts[token] = row
        self._start_reach = _reach(self._starts)
        self._inner_reach = _reach(self._inners)

    def rows(self, chunk: str) -> list[int]:
        """Rows of a lower-case chunk without white space; words out of the vocabulary as `unknown` says."""
        return [row for piece in pieces(chunk) for row in self._piece_rows(piece)]

    def _piece_rows(self, piece: str) -> list[int]:
        whole = self._starts.get(piece)
        if whole is not None:
            return [whole]
        if len(piece) > MAX_WORD:
            return self._unknown
        rows: list[int] = []
        at, table, reach = 0, self._starts, self._start_reach
        while at < len(piece):
            for end in range(min(len(piece), at + reach.get(piece[at : at + STEM], STEM - 1)), at, -1):
                row = table.get(piece[at:end])
                if row is not None:
                    break
            else:
                return self._unknown
            rows.append(row)
            at, table, reach = end, self._inners, self._inner_reach
        return rows


def _reach(table: Iterable[str]) -> dict[str, int]:
    """For each beginning of `STEM` characters, the length of the longest token that begins so."""
    reach: dict[str, int] = {}
    for token in table:
        stem = token[:STEM]
        if len(token) > reach.get(stem, 0):
            reach[stem] = len(token)
    return reach


def parts(chunk: str) -> list[str]:
    """A chunk cut before and after each ideograph and ASCII mark: its rows are those of its parts, in order."""
    return _PARTS.findall(chunk)


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
        alone = _is_ideograph(char) or category.startswith("P") or _is_ascii_mark(char)
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


def _is_ideograph(char: str) -> bool:
    return any(first <= char <= last for first, last in _IDEOGRAPHS)
