"""The words of a question as they are compared with those of others, in any script.

Case, punctuation and width do not count; signs that change what is asked (`+`, `<`, `%`) do. A script without spaces
between words gives one word for each character.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Final

from offline.minhash import MinHash, Runs, runs_of, shared_part

SAME_QUESTION: Final = 0.8
"""Questions with this part of their runs of words in common, and with equal numbers and signs, are one."""
_RUN: Final = 3

_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_SIGN = r"[+*/=<>^%&|~#@$\\√∑∏∫≤≥≠±×÷−∈∉∪∩→¬∧∨]|-(?=[\s\d(])"
_WORD = re.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})\w)+|{_SIGN}")
_SIGNS = re.compile(_SIGN)


def words_of(text: str) -> list[str]:
    """The words and signs of a text, in order."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class Questions:
    """Questions by a name, to find the one that says the same as another. Grows with `add`."""

    def __init__(self) -> None:
        self._hashes = MinHash()
        self._bands: dict[tuple[int, bytes], list[tuple[str, Runs, Counter[str]]]] = {}

    def add(self, name: str, words: list[str]) -> None:
        """Add a question, which must have words."""
        entry = (name, runs_of(words, _RUN), _figures(words))
        for place, band in enumerate(self._hashes.bands(entry[1])):
            self._bands.setdefault((place, band), []).append(entry)

    def same(self, words: list[str]) -> str | None:
        """The name of a question that says the same, or None.

        Equal wording with other numbers is another question: it has another answer.
        """
        runs, figures = runs_of(words, _RUN), _figures(words)
        for place, band in enumerate(self._hashes.bands(runs)):
            for name, known, known_figures in self._bands.get((place, band), ()):
                if figures == known_figures and shared_part(runs, known) >= SAME_QUESTION:
                    return name
        return None


def _figures(words: list[str]) -> Counter[str]:
    """The numbers and signs among the words."""
    return Counter(word for word in words if any(c.isdigit() for c in word) or _SIGNS.fullmatch(word))
