"""Checkers decide contests without a judge: they work the answer out themselves, or do not speak.

A checker is a function of the path's names, the question and an answer: True or False if it is sure, None where it does
not apply. One that is not sure must not guess: what it says is believed.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, Inexact, localcontext
from fractions import Fraction
from typing import Final, Protocol

from offline.check_answer import final_number


class Checker(Protocol):
    """See the module docstring."""

    def __call__(self, path: tuple[str, ...], question: str, answer: str, /) -> bool | None: ...


def checked(checkers: Sequence[Checker], path: tuple[str, ...], question: str, answer: str) -> bool | None:
    """What the first checker that applies says; None if none does."""
    for checker in checkers:
        said = checker(path, question, answer)
        if said is not None:
            return said
    return None


_ASKED: Final = re.compile(
    r"(?:what\s+is|what's|calculate|compute|evaluate|work\s+out|find|how\s+much\s+is)?\s*(?:the\s+value\s+of\s+)?:?\s*"
    r"(?P<sum>[-\d(][\d\s.,()+\-*/^×÷·−–]*[\d)])\s*(?:=\s*\??)?\s*[?.]?",
    re.I,
)
_SIGNS: Final = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**"})
_MOST_CHARS: Final = 120
_MOST_POWER: Final = 64
_MOST_DIGITS: Final = 40


def arithmetic(path: tuple[str, ...], question: str, answer: str) -> bool | None:
    """Checks questions that are nothing but a sum to work out ("What is 17 × (3 + 4)?"), exactly.

    None for any other question, and for results that have no finite decimal expansion.
    """
    asked = _ASKED.fullmatch(question.strip()) if len(question) <= _MOST_CHARS else None
    if asked is None or not re.search(r"[+*/^×÷·−–]|\d\s*-", asked["sum"]):
        return None
    value = _value(asked["sum"])
    if value is None:
        return None
    right = _decimal(value)
    if right is None:
        return None
    given = final_number(answer)
    return given is not None and given == right


def _value(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers; None if it is not one."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression.translate(_SIGNS))
    if "," in plain or re.search(r"\d\s+\d|\b0\d", plain):
        return None
    try:
        return _worked_out(ast.parse(plain.strip(), mode="eval").body, plain)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _worked_out(node: ast.expr, source: str) -> Fraction:
    """Raises ValueError for what is no arithmetic."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        # From the text: a float would have lost digits.
        return Fraction(ast.get_source_segment(source.strip(), node) or "")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _worked_out(node.operand, source)
        return -value if isinstance(node.op, ast.USub) else value
    if not isinstance(node, ast.BinOp):
        raise ValueError("no arithmetic")
    left, right = _worked_out(node.left, source), _worked_out(node.right, source)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow() if right.denominator == 1 and abs(right) <= _MOST_POWER:
            return Fraction(left ** int(right))
    raise ValueError("no arithmetic")


def _decimal(value: Fraction) -> Decimal | None:
    """The value as a decimal number if it is exactly one of moderate length."""
    with localcontext(prec=_MOST_DIGITS) as context:
        found = Decimal(value.numerator) / Decimal(value.denominator)
        return None if context.flags[Inexact] else found


_NUMBER: Final = r"(-?\d{1,12}(?:\.\d+)?)"
_WHOLE: Final = r"(\d{1,12})"
_START: Final = r"(?:what\s+is|what's|calculate|compute|determine|find)\s+(?:the\s+)?"
_END: Final = r"\s*[?.]?"
_MOST_FACTORIAL: Final = 20


def _percent(share: Fraction, of: Fraction) -> Fraction | None:
    return share * of / 100


def _common_divisor(one: Fraction, other: Fraction) -> Fraction | None:
    return Fraction(math.gcd(int(one), int(other)))


def _common_multiple(one: Fraction, other: Fraction) -> Fraction | None:
    return Fraction(math.lcm(int(one), int(other)))


def _remainder(number: Fraction, by: Fraction) -> Fraction | None:
    return number % by if by else None


def _square_root(number: Fraction) -> Fraction | None:
    root = math.isqrt(int(number))
    return Fraction(root) if root * root == number else None


def _factorial(number: Fraction) -> Fraction | None:
    return Fraction(math.factorial(int(number))) if number <= _MOST_FACTORIAL else None


def _sum_of_range(first: Fraction, last: Fraction) -> Fraction | None:
    return (first + last) * (last - first + 1) / 2 if first <= last else None


_RULES: Final[tuple[tuple[re.Pattern[str], Callable[..., Fraction | None]], ...]] = tuple(
    (re.compile(_START + asked + _END, re.I), rule)
    for asked, rule in (
        (rf"{_NUMBER}\s*(?:%|percent)\s+of\s+{_NUMBER}", _percent),
        (rf"(?:greatest common divisor|gcd|highest common factor)\s+of\s+{_WHOLE}\s+and\s+{_WHOLE}", _common_divisor),
        (rf"(?:least|lowest|smallest) common multiple\s+of\s+{_WHOLE}\s+and\s+{_WHOLE}", _common_multiple),
        (rf"remainder\s+(?:when|of)\s+{_WHOLE}\s+(?:is\s+)?divided\s+by\s+{_WHOLE}", _remainder),
        (rf"square\s+root\s+of\s+{_WHOLE}", _square_root),
        (rf"factorial\s+of\s+{_WHOLE}", _factorial),
        (rf"sum\s+of\s+(?:the\s+)?(?:integers|numbers)\s+from\s+{_WHOLE}\s+to\s+{_WHOLE}", _sum_of_range),
    )
)
"""Questions with one right number, and how it is worked out; None where there is none that can be stated plainly."""


def number_facts(path: tuple[str, ...], question: str, answer: str) -> bool | None:
    """Checks questions for one number of school arithmetic: percentages, divisors, remainders, roots and the like."""
    asked = " ".join(question.split())
    for pattern, rule in _RULES:
        found = pattern.fullmatch(asked)
        value = None if found is None else rule(*(Fraction(number) for number in found.groups()))
        right = None if value is None else _decimal(value)
        if right is not None:
            given = final_number(answer)
            return given is not None and given == right
    return None


BUILT_IN: Final[tuple[Checker, ...]] = (arithmetic, number_facts)
