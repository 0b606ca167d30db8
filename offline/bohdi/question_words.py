"""The words of a question as they are compared with those of others, in any script.

Case, punctuation and width do not count; signs that change what is asked (`+`, `<`, `%`) do. A script without spaces
between words gives one word for each character.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from offline.minhash import MinHash, Runs, runs_of, shared_part

SAME_QUESTION: Final = 0.8
"""Questions with this part of their runs of words in common, and with equal numbers and signs, are one."""
_RUN: Final = 3

_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_SIGN = r"[+*/=<>^%&|~#@$\\√∑∏∫≤≥≠±×÷−∈∉∪∩→¬∧∨]|-(?=[\s\d(])"
_WORD = re.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})\w)+|{_SIGN}")
_FIGURE = re.compile(rf"\d|^(?:{_SIGN}|-)$")


def words_of(text: str) -> list[str]:
    """The words and signs of a text, in order."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold().strip())


class Questions:
    """Questions by a name, to find the one that says the same as another. Grows with `same_or_add`."""

    def __init__(self) -> None:
        # Made-up questions are often alike without being the same: bands that few of them share spare comparisons.
        self._hashes = MinHash(bands=32, rows=8)
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        self._known: list[tuple[str, Runs]] = []

    def same(self, words: list[str]) -> str | None:
        """The name of a question that says the same as one of these words, or None if there is none.

        Equal wording with other numbers is another question: it has another answer.
        """
        if not self._known:
            return None
        runs = runs_of(words, _RUN)
        return self._same(self._keys(words, runs), runs)

    def same_or_add(self, name: str, words: list[str]) -> str | None:
        """As `same`; where it finds none, the question is added. It must have words."""
        runs = runs_of(words, _RUN)
        keys = self._keys(words, runs)
        found = self._same(keys, runs)
        if found is None:
            for key in keys:
                self._bands.setdefault(key, []).append(len(self._known))
            self._known.append((name, runs))
        return found

    def _same(self, keys: list[tuple[int, bytes]], runs: Runs) -> str | None:
        seen: set[int] = set()
        for key in keys:
            for place in self._bands.get(key, ()):
                if place not in seen and shared_part(runs, self._known[place][1]) >= SAME_QUESTION:
                    return self._known[place][0]
                seen.add(place)
        return None

    def _keys(self, words: list[str], runs: Runs) -> list[tuple[int, bytes]]:
        """Under which questions that may say the same meet: a band, and the numbers and signs."""
        figures = sorted(word for word in words if _FIGURE.search(word))
        told = " ".join(figures).encode()
        return [(place, band + told) for place, band in enumerate(self._hashes.bands(runs))]
