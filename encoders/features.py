"""What a query's vector does not say: length, form, code and mathematics, tools and format wanted, the task's tag.

One small block of numbers beside the vector, the same for the gateway and for everything that learns. `FEATURE_SET` is
a digest of its definition; a router that read another block refuses to serve, like one of another encoder.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

NAMES: Final = (
    "log_chars", "log_lines", "mean_word_chars", "digit_share", "upper_share", "symbol_share", "non_ascii_share",
    "question_marks", "ends_with_question", "ends_with_colon", "options", "blank", "code_fence", "code_words",
    "math_symbols", "latex", "numbers", "json_like", "quoted", "asks_reasoning",
    "log_turns", "has_system", "tools", "json_wanted", "tag",
)  # fmt: skip
TAG: Final = len(NAMES) - 1
"""Position of the task tag: a category, not a quantity. 0 is no tag; else `tag_code` of the tag."""
FEATURE_SET: Final = hashlib.sha256("1\0".join(NAMES).encode()).hexdigest()[:16]
READ_CHARS: Final = 4000

_WORD = re.compile(r"[A-Za-z]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_OPTION = re.compile(r"(?:^|[\s(])[A-J1-9][).:]\s")
_CODE = re.compile(r"\b(?:def|return|import|class|print|function|const|var|SELECT|FROM|void|int|assert|public)\b|[{};]")
_MATH = re.compile(r"[=+*/^<>\u2200-\u22ff\u221a]|\\frac|\\sqrt")
_REASONING = re.compile(r"step by step|reason|explain|show your work|prove|calculate|how many|solve", re.IGNORECASE)


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
    chars = max(len(text), 1)
    words = _WORD.findall(text)
    stripped = text.rstrip()
    values = (
        math.log1p(len(text)), math.log1p(text.count("\n")), sum(map(len, words)) / max(len(words), 1) / 10.0,
        sum(c.isdigit() for c in text) / chars, sum(c.isupper() for c in text) / chars,
        sum(not (c.isalnum() or c.isspace()) for c in text) / chars, sum(ord(c) > 127 for c in text) / chars,
        math.log1p(text.count("?")), float(stripped.endswith("?")), float(stripped.endswith(":")),
        math.log1p(len(_OPTION.findall(text))), float("__" in text), float("```" in text),
        math.log1p(len(_CODE.findall(text))), math.log1p(len(_MATH.findall(text))), float("\\" in text or "$" in text),
        math.log1p(len(_NUMBER.findall(text))), float("{" in text and "}" in text), math.log1p(text.count('"')),
        float(_REASONING.search(text) is not None),
        math.log1p(shape.turns), float(shape.has_system), float(shape.tools), float(shape.json_wanted),
        0.0 if tag is None else tag_code(tag),
    )  # fmt: skip
    return np.array(values, dtype=np.float32)


def tag_code(tag: str) -> float:
    """A whole number in [1, 2^24) that stands for a tag; exact as a float32."""
    digest = hashlib.sha256(tag.encode()).digest()
    return float(1 + int.from_bytes(digest[:4], "big") % (2**24 - 1))
