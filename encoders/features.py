"""What a query's vector does not say: its form. Length, punctuation, letter cases and their order, how it begins and
ends, tools and format wanted, the task's tag.

The vector knows the topic; the form tells the kind of task (a multiple choice, a program to complete, a bare question),
and arms differ by kind at least as much as by topic. One small block of numbers beside the vector, the same for the
gateway and for everything that learns. Nothing in it knows any benchmark: ASCII signs are counted, so are pairs of
neighbouring character classes, and the first and last words fall into hashed places. `FEATURE_SET` is a digest of its
definition; a router that read another block refuses to serve, like one of another encoder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import log1p
from struct import Struct
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

READ_CHARS: Final = 4000
"""So many characters are read, as many as the encoder's text has at most."""
SIGNS: Final = ".,:;?!()[]{}'\"`_=+-*/\\$%&#@<>|^~"
CLASSES: Final = ("other", "lower", "upper", "digit", "blank", "newline", "stop", "sign")
"""Classes of the bytes of a text in UTF-8; a stop is one of `.,:;?!`, a sign any other of `SIGNS`."""
PLACES: Final = 8
"""Hashed places of a word at each of the four positions that are read."""
EDGE_CHARS: Final = 96
"""So far the first and the last words are looked for."""

CUES: Final = (
    "log_chars", "log_lines", "log_words", "word_chars", "lower_share", "upper_share", "digit_share", "blank_share",
    "other_share", "begins_upper", "begins_digit", "begins_blank", "ends_question", "ends_stop", "ends_colon",
    "ends_sign", "ends_word", "log_paragraphs", "code_fence", "long_blank", "ellipsis_or_gap",
)  # fmt: skip
SHAPE: Final = ("log_turns", "has_system", "tools", "json_wanted")
NAMES: Final = (
    *CUES,
    *SHAPE,
    *(f"count {sign}" for sign in SIGNS),
    *(f"{first} {second}" for first in CLASSES for second in CLASSES),
    *(
        f"{position} word {place}"
        for position in ("first", "second", "last but one", "last")
        for place in range(PLACES)
    ),
    "tag",
)
TAG: Final = len(NAMES) - 1
"""Position of the task tag: a category, not a quantity. 0 is no tag; else `tag_code` of the tag."""
FEATURE_SET: Final = hashlib.sha256("3\0".join(NAMES).encode()).hexdigest()[:16]


def _class_table() -> bytes:
    members = ("", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " \t", "\n\r", ".,:;?!")
    table = bytearray(256)
    for sign in SIGNS:
        table[ord(sign)] = CLASSES.index("sign")
    for index, characters in enumerate(members):
        for character in characters:
            table[ord(character)] = index
    return bytes(table)


_TABLE: Final = _class_table()
_SIGN_BYTES: Final = np.array([ord(sign) for sign in SIGNS], dtype=np.intp)
_COUNTS: Final = len(CUES) + len(SHAPE)
_PAIRS: Final = _COUNTS + len(SIGNS)
_PAIR_COUNT: Final = len(CLASSES) ** 2
_NO_PAIRS: Final = np.zeros(_PAIR_COUNT, dtype=np.intp)
_EDGES: Final = _PAIRS + _PAIR_COUNT
_HEAD: Final = Struct(f"{_COUNTS}f")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the request says beside its text: number of turns, and whether a system prompt, tools or JSON are there."""

    turns: int = 1
    has_system: bool = False
    tools: bool = False
    json_wanted: bool = False


PLAIN: Final = Shape()


def query_features(text: str, shape: Shape = PLAIN, tag: str | None = None) -> Features:
    """The block of one query, float32 [len(NAMES)]; counts are on a logarithmic scale, shares in [0, 1]."""
    text = text[:READ_CHARS]
    raw = text.encode("utf-8", "replace")
    classes = raw.translate(_TABLE)
    codes = np.frombuffer(classes, np.uint8)
    pairs = np.bincount((codes[:-1] << 3) | codes[1:], minlength=_PAIR_COUNT) if len(raw) > 1 else _NO_PAIRS
    # Packing plain numbers into the block's bytes takes a third of the time of assigning them to an array.
    packed = bytearray(4 * len(NAMES))
    _HEAD.pack_into(
        packed, 0, *_cues(text, classes, pairs),
        log1p(shape.turns), shape.has_system, shape.tools, shape.json_wanted,
    )  # fmt: skip
    block = np.frombuffer(packed, np.float32)
    counted = block[_COUNTS:_EDGES]
    counted[: len(SIGNS)] = np.bincount(np.frombuffer(raw, np.uint8), minlength=256)[_SIGN_BYTES]
    counted[len(SIGNS) :] = pairs
    np.log1p(counted, counted)
    # The first two and the last two words, each as a sign (+1 or -1) in one of the places of its position.
    for position, word in enumerate(text[:EDGE_CHARS].lower().split(None, 2)[:2]):
        place, sign = _edge(position, word)
        block[place] = sign
    last = text[-EDGE_CHARS:].lower().rsplit(None, 2)[-2:]
    for position, word in enumerate(last, 4 - len(last)):
        place, sign = _edge(position, word)
        block[place] = sign
    if tag is not None:
        block[TAG] = tag_code(tag)
    return block


def _cues(text: str, classes: bytes, pairs: NDArray[np.intp]) -> tuple[float, ...]:
    """The numbers of `CUES`. `pairs` are the counts of neighbouring classes: as first of a pair, and as last of all,
    every byte counts once."""
    firsts = pairs.reshape(len(CLASSES), len(CLASSES)).sum(1).tolist()
    if classes:
        firsts[classes[-1]] += 1
    other, lower, upper, digit, blank, newline = firsts[:6]
    size = max(len(classes), 1)
    words = blank + newline + 1
    last = text.rstrip()[-1:]
    return (
        log1p(len(text)), log1p(newline), log1p(words), (len(classes) - blank - newline) / words / 10.0, lower / size,
        upper / size, digit / size, blank / size, other / size, text[:1].isupper(), text[:1].isdigit(),
        text[:1].isspace(), last == "?", last == ".", last == ":", last != "" and last in ")]}\"'`", last.isalnum(),
        log1p(text.count("\n\n")), "```" in text, "  " in text, "__" in text or "..." in text,
    )  # fmt: skip


@lru_cache(maxsize=8_192)
def _edge(position: int, word: str) -> tuple[int, float]:
    """Where in the block a word at one of the four positions is told, and as what."""
    code = crc32(word.encode("utf-8", "replace"))
    return _EDGES + position * PLACES + code % PLACES, 1.0 if code & 0x10000 else -1.0


def tag_code(tag: str) -> float:
    """A whole number in [1, 2^24) that stands for a tag; exact as a float32."""
    digest = hashlib.sha256(tag.encode()).digest()
    return float(1 + int.from_bytes(digest[:4], "big") % (2**24 - 1))
