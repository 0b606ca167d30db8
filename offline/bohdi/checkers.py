"""Checkers decide contests without a judge: they work the answer out themselves, or do not speak.

A checker is a function of the path's names, the question and an answer: True or False if it is sure, None where it does
not apply. One that is not sure must not guess: what it says is believed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
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


BUILT_IN: Final[tuple[Checker, ...]] = (arithmetic,)
