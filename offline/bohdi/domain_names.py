"""Names of domains: how one is read from a reply, and which are none. Any script, and the punctuation that names need.

A name goes into later prompts, so it must be a name and nothing else: short, on one line, without brackets, quotes,
links or sentences.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from offline.bohdi.reply_faults import script_of

LONGEST_CHARS: Final = 60
MOST_WORDS: Final = 8
_MARKS: Final = frozenset(" +#&/'’.,-–—·:()°*!@%・ʼ־،⁺⁻₊₋\u200c\u200d")
"""What may stand in a name besides letters, their marks and digits: C++, C#, R&D, I/O, .NET, Actor–network, C*.

The last two join or part letters in Persian and in Indian scripts."""
_WRAPPING: Final = " \t\r\n\"'“”„«»‘’`*_"
_BULLET: Final = re.compile(r"^(?:[-–•*]\s+|\(?\d{1,2}[.)]\s+)")
_NO_NAMES: Final = frozenset(
    (
        "unk", "unknown", "none", "null", "n/a", "na", "nil", "other", "others", "misc", "miscellaneous", "general",
        "root", "field", "subject", "topic", "domain", "name", "sub-domain", "subfield", "and", "or", "the",
    )
)  # fmt: skip
_ADDRESS: Final = re.compile(r"(?i)https?:|www\.|\w@\w+\.\w|\w\.(?:com|org)\b")
_SENTENCE: Final = re.compile(r"\w{4,}[.!:;]\s+\S+\s+\S+\s+\S+\s+\S+|\w{4,}[.:]\s+[a-z]\w*\s+\S+\s+\S+|[:,]$")
_LEAST_SHARED: Final = 0.6
_SHORT_COSINE: Final = 0.5
_STEM: Final = 4
_UNSAFE_FILE: Final = Path(__file__).parent / "unsafe_domains.txt"


class NotAName(ValueError):
    """A text is no name of a domain. The message is the reason."""


def read_name(text: str) -> str:
    """The name in a proposal, in the spelling in which it came.

    Raises
    ------
    NotAName: it is none.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split()).strip("\u200c\u200d")
    name = _unwrapped(_BULLET.sub("", _unwrapped(name)))
    name = name[:-1] if name.count(".") == 1 and name.endswith(".") else name
    if not name:
        raise NotAName("there is nothing in it")
    if len(name) > LONGEST_CHARS or len(name.split()) > MOST_WORDS:
        raise NotAName(f"a name has at most {LONGEST_CHARS} characters and {MOST_WORDS} words")
    strange = sorted({char for char in name if not (unicodedata.category(char)[0] in "LMN" or char in _MARKS)})
    if strange:
        raise NotAName(f"a name has no {' '.join(repr(char) for char in strange)}")
    if not any(unicodedata.category(char)[0] == "L" for char in name):
        raise NotAName("a name has letters")
    if name.casefold() in _NO_NAMES:
        raise NotAName("that names no domain")
    if _ADDRESS.search(name):
        raise NotAName("that is an address")
    if _SENTENCE.search(name):
        raise NotAName("that is a sentence")
    return name


def _unwrapped(name: str) -> str:
    """Without quotes and emphasis around it; a mark that belongs to the name ("C*") is kept where one end has it."""
    while len(name) > 1 and name[0] in _WRAPPING and name[-1] in _WRAPPING:
        name = name[1:-1].strip()
    return name


def same_name(name: str, other: str) -> bool:
    """Whether two names differ in nothing but case and spaces."""
    return " ".join(name.split()).casefold() == " ".join(other.split()).casefold()


def unsafe(names: Iterable[str]) -> bool:
    """Whether the last domain of a path is one that no questions may be set on: how to harm, not what harms.

    It is looked at alone and together with its parent, so that "Explosives" > "Home Synthesis" is found too.
    """
    path = [_plain(name) for name in names]
    said = [path[-1], " ".join(path[-2:]), " ".join(reversed(path[-2:]))] if path else []
    return any(pattern.search(text) for text in said for pattern in _unsafe_patterns())


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", name.casefold()).split())


@cache
def _unsafe_patterns() -> tuple[re.Pattern[str], ...]:
    lines = _UNSAFE_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(re.compile(line) for line in lines if line.strip() and not line.startswith("#"))


def alike(name: str, other: str, cosine: float, threshold: float) -> bool:
    """Whether two names under one parent stand for one domain, going by their embeddings' cosine and their letters.

    An encoder does not tell "Calculus I" from "Calculus II", and knows next to nothing of words in a script that it was
    not made for. So numbers have to agree, and names in other scripts than the Latin one have to share letters, too.
    """
    if same_name(name, other):
        return True
    if _numbers(name) != _numbers(other):
        return False
    if not all(script_of(text) == "LATIN" for text in (name, other)):
        return cosine >= threshold and _shared_pairs(name, other) >= _LEAST_SHARED
    return cosine >= threshold or (cosine >= _SHORT_COSINE and _short_form(name.casefold(), other.casefold()))


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+|\b[IVX]+\b", name)


def _shared_pairs(name: str, other: str) -> float:
    """Dice's coefficient of the pairs of neighbouring characters."""
    one, two = ({text[i : i + 2] for i in range(len(text) - 1)} for text in (name.casefold(), other.casefold()))
    return 2 * len(one & two) / max(len(one) + len(two), 1)


def _short_form(name: str, other: str) -> bool:
    """Whether one is the usual four letters of the other: Math(s) and Mathematics."""
    short, full = sorted((name, other), key=len)
    return len(short.removesuffix("s")) == _STEM and full.startswith(short.removesuffix("s")) and " " not in full
