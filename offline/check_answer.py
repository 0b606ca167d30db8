"""Checks an answer against a right one: final numbers, chosen letters, short texts. No model is asked.

The published checkers have holes (fusionfactory.md 6.13-15): a gold answer that is a substring ("no" in "Norway"), a
decimal point that is stripped (3.5 becomes 35), the last "(x)" anywhere ("(B), because option (A) is wrong"). So here a
final answer is looked for where answers are stated, numbers are compared as numbers, and texts as whole texts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from decimal import Decimal, InvalidOperation

CHECKED_KINDS = frozenset({"exact_match", "em_mc", "gsm8k", "math", "f1_score", "agreement"})
"""Kinds of score, in lower case, that can be checked without running code or asking a judge."""

_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?%?")
_LETTER = re.compile(r"\(?([A-J])\)?[.:)]?")
_STATED_LETTERS = (
    re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-J])\)?\}?\s*\}"),
    re.compile(r"(?i:answer)(?i:\s+is)?\s*:?\s*\**\s*\(?([A-J])\)?(?![\w'’])"),
    re.compile(r"^\s*\**\(?([A-J])[).:,](?!\s*(?:and|or)\b)"),
    re.compile(r"(?i:choice|option)(?i:\s+is|\s*:)\s*:?\s*\**\s*\(?([A-J])\)?(?![\w'’])"),
)
_PARENTHESISED = re.compile(r"\(([A-J])\)")
_STATED = re.compile(r"(?:####|final answer(?:\s+is)?\s*:?|(?:the )?answer(?:\s+is)?\s*:|(?:the )?answer is)\s*", re.I)
_BOXED = re.compile(r"\\boxed\s*\{")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SHORT_WORDS = 6


def can_check(kind: str | None) -> bool:
    """Whether answers scored by this kind can be checked here."""
    return kind is None or kind.lower() in CHECKED_KINDS


def check(answer: str, reference: str, kind: str | None = None) -> float:
    """Score in [0, 1] of an answer. An answer in which no final answer is found is wrong, as it is for the known arms.

    `kind` is how the known arms were scored (`f1_score` and texts of more than six words give a share of the words,
    everything else is right or wrong); None and `agreement` read it from the reference.
    """
    kind = (kind or "agreement").lower()
    right = _last_boxed(reference) or _after_mark(reference) or reference.strip()
    if kind == "f1_score":
        return word_overlap(answer, reference)
    if _LETTER.fullmatch(right) and kind != "math":
        return float(chosen_letter(answer) == right.strip("().: "))
    number = as_number(right)
    if number is not None:
        found = final_number(answer)
        return float(found is not None and found == number)
    if kind == "agreement" and len(right.split()) > _SHORT_WORDS:
        return word_overlap(answer, reference)
    wanted = normalized(right)
    return float(wanted != "" and wanted in {normalized(text) for text in _statements(answer)})


def chosen_letter(answer: str) -> str | None:
    """The option that an answer chooses: alone, boxed, called the answer, put first, or the only one in parentheses."""
    alone = _LETTER.fullmatch(answer.strip().strip("*"))
    if alone:
        return alone[1]
    for pattern in _STATED_LETTERS:
        stated = pattern.findall(answer)
        if stated:
            return str(stated[-1])
    named = set(_PARENTHESISED.findall(answer))
    return str(named.pop()) if len(named) == 1 else None


def final_number(answer: str) -> Decimal | None:
    """The number an answer ends on: boxed, after "####" or "the answer is", else the last one in its last line."""
    for stated in (_last_boxed(answer), _after_mark(answer)):
        if stated:
            numbers = _NUMBER.findall(stated)
            return as_number(numbers[0]) if numbers else None
    lines = [line for line in answer.splitlines() if line.strip()]
    numbers = _NUMBER.findall(lines[-1]) if lines else []
    return as_number(numbers[-1]) if numbers else None


def as_number(text: str) -> Decimal | None:
    """The number that a text is, with its point where it stands; None if it is more than a number."""
    plain = (
        text.strip().strip("#").strip().removesuffix(".").replace(",", "").replace("$", "").removesuffix("%").strip()
    )
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def normalized(text: str) -> str:
    """Lower case, without articles, punctuation at the ends and repeated spaces."""
    words = _ARTICLES.sub(" ", text.casefold()).split()
    return " ".join(words).strip(string.punctuation + string.whitespace)


def word_overlap(answer: str, reference: str) -> float:
    """F1 of the words of the two, each counted as often as it occurs."""
    said, wanted = (Counter(word.strip(string.punctuation) for word in normalized(text).split()) for text in
                    (answer, reference))  # fmt: skip
    shared = sum((said & wanted).values())
    return 2 * shared / (said.total() + wanted.total()) if shared else 0.0


def _statements(answer: str) -> list[str]:
    """The places at which an answer may state its result: the whole, its first and last line, what is marked."""
    lines = [line for line in answer.splitlines() if line.strip()]
    marked = [_last_boxed(answer), _after_mark(answer)]
    return [answer, *(lines[:1] + lines[-1:]), *(text for text in marked if text)]


def _after_mark(text: str) -> str | None:
    """What follows the last mark of a final answer, to the end of its line."""
    marks = list(_STATED.finditer(text))
    rest = text[marks[-1].end() :].strip() if marks else ""
    return rest.splitlines()[0].strip().strip("*").strip() if rest else None


def _last_boxed(text: str) -> str | None:
    starts = list(_BOXED.finditer(text))
    if not starts:
        return None
    depth, begin = 1, starts[-1].end()
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place].strip()
    return None
