"""The domains of the live proof: the names that its sources know, and the exact checker of each. Needs no torch.

A question that a model wrote is read back against the phrasings of its family; what cannot be read is no question of
that family. The answer is then worked out here, so no model has to be believed. Words and numbers may be somewhat
longer or shorter than those that the fleet was trained on: the models write such, and they have right answers too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from random import Random
from typing import Final

from demo.fleet.families import (
    DAYS_IN_MONTH,
    FAMILIES,
    MONTHS,
    PEOPLE,
    UNITS,
    Drawn,
    Fields,
    fact,
    roman,
)
from demo.fleet.tasks import Question, Split, final_answer, question, split_of

DOMAINS: Final[dict[str, dict[str, str]]] = {
    "Arithmetic": {"Metric Units": "units", "Products": "multiply"},
    "Spelling": {"Reversal": "reverse", "Consonants": "vowels"},
    "Lookup": {"Staff Table": "facts", "Roman Numerals": "roman"},
    "Ordering": {"Sorted Digits": "sort", "ISO Dates": "dates"},
}
"""Families by domain and sub-domain. No source can answer products: a domain that all name and nobody masters.

Sums are left out: a pupil of this size answers none before it has seen more than ten thousand of them.
"""
PLACES: Final[dict[str, tuple[str, str]]] = {
    family: (domain, part) for domain, parts in DOMAINS.items() for part, family in parts.items()
}
"""Domain and sub-domain of each family."""
TAUGHT: Final = tuple(family for family in PLACES if family != "multiply")
"""Families that some source masters: what a target can learn."""
WORDINGS: Final[dict[str, tuple[int, ...]]] = {
    "units": (2,), "multiply": (2,), "reverse": (3,), "vowels": (1,), "facts": (1, 5, 9), "roman": (1,), "sort": (2,),
    "dates": (2,),
}  # fmt: skip
"""Phrasings that sources ask in: the short ones. Of facts only wordings are held out, so there have to be several."""
EXAM_SEED: Final = 2031
_ATTRIBUTES: Final = {"room": "does {p} work in", "tool": "does {p} use", "town": "is {p} from"}


@dataclass(frozen=True, slots=True)
class _Phrasing:
    family: str
    index: int
    pattern: re.Pattern[str]


def read(text: str) -> Question | None:
    """The question that `text` is, of whichever family, with its right answer; None if it is none of theirs."""
    for phrasing in _PHRASINGS:
        found = phrasing.pattern.fullmatch(" ".join(text.split()))
        drawn = None if found is None else _SOLVERS[phrasing.family](found.groupdict())
        if drawn is not None:
            key = f"{phrasing.family}|{drawn.key}"
            wording = f"{key}|{phrasing.index}" if FAMILIES[phrasing.family].split_wording else key
            return Question(key, phrasing.family, text, drawn.answer, split_of(wording))
    return None


def verify(path: tuple[str, ...], question: str, answer: str) -> bool | None:
    """Whether `answer` is right; None if `question` is not one of the sub-domain that `path` (names) leads to."""
    asked = read(question)
    if asked is None or PLACES[asked.family] != path[-2:]:
        return None
    return final_answer(answer) == asked.answer.lower()


def _number(text: str, low: int, high: int) -> int | None:
    plain = text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")
    return int(text) if plain and low <= int(text) <= high else None


def _multiply(fields: Mapping[str, str]) -> Drawn | None:
    a, b = _number(fields["a"], 100, 999), _number(fields["b"], 3, 9)
    return None if a is None or b is None else Drawn(f"{a}*{b}", {}, str(a * b))


def _units(fields: Mapping[str, str]) -> Drawn | None:
    value = _number(fields["n"], 1, 9999)
    zeros = {(large, small): count for large, small, count in UNITS}.get((fields["large"], fields["small"]))
    if value is None or zeros is None:
        return None
    return Drawn(f"{value}{fields['large']}", {}, f"{value}{'0' * zeros}")


def _reverse(fields: Mapping[str, str]) -> Drawn | None:
    word = fields["word"]
    return Drawn(word, {}, word[::-1]) if re.fullmatch("[a-z]{3,8}", word) else None


def _vowels(fields: Mapping[str, str]) -> Drawn | None:
    word = fields["word"]
    left = "".join(letter for letter in word if letter not in "aeiou")
    return Drawn(word, {}, left) if re.fullmatch("[a-z]{3,9}", word) and left else None


def _sort(fields: Mapping[str, str]) -> Drawn | None:
    digits = fields["digits"]
    return Drawn(digits, {}, "".join(sorted(digits))) if re.fullmatch("[0-9]{3,8}", digits) else None


def _dates(fields: Mapping[str, str]) -> Drawn | None:
    if fields["month"] not in MONTHS:
        return None
    month = MONTHS.index(fields["month"]) + 1
    day, year = _number(fields["d"], 1, DAYS_IN_MONTH[month - 1]), _number(fields["y"], 1000, 2999)
    if day is None or year is None:
        return None
    return Drawn(f"{year}-{month}-{day}", {}, date(year, month, day).isoformat())


def _facts(fields: Mapping[str, str]) -> Drawn | None:
    person, attribute = fields["person"], fields["attribute"]
    if person not in PEOPLE or attribute not in _ATTRIBUTES:
        return None
    return Drawn(f"{person}/{attribute}", {}, fact(person, attribute))


def _roman(fields: Mapping[str, str]) -> Drawn | None:
    number = _number(fields["n"], 1, 999)
    return None if number is None else Drawn(str(number), {}, roman(number))


_SOLVERS: Final[dict[str, Callable[[Mapping[str, str]], Drawn | None]]] = {
    "multiply": _multiply, "units": _units, "reverse": _reverse, "vowels": _vowels, "sort": _sort,
    "dates": _dates, "facts": _facts, "roman": _roman,
}  # fmt: skip


def _patterns() -> list[_Phrasing]:
    made = []
    for family in PLACES:
        for index, wording in enumerate(FAMILIES[family].phrasings):
            for text, given in _wordings(wording):
                made.append(_Phrasing(family, index, _pattern(text, given)))
    return made


def _wordings(wording: str) -> list[tuple[str, Fields]]:
    """A wording with what is fixed in it: the staff table's sentence is another one for each attribute."""
    if wording != "{sentence}":
        return [(wording, {})]
    return [(f"Which {name} {verb.format(p='{person}')}?", {"attribute": name}) for name, verb in _ATTRIBUTES.items()]


def _pattern(wording: str, given: Fields) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", wording)
    text = "".join(f"(?P<{piece}>\\w+)" if place % 2 else re.escape(piece) for place, piece in enumerate(pieces))
    for name, value in given.items():
        # The word is fixed: name it where it stands, so that the solver finds it as it finds the others.
        text = text.replace(re.escape(value), f"(?P<{name}>{value})", 1)
    return re.compile(text)


_PHRASINGS: Final = tuple(_patterns())
_WAYS: Final = {
    family: tuple(
        phrasing.pattern for phrasing in _PHRASINGS if phrasing.family == family and phrasing.index in indices
    )
    for family, indices in WORDINGS.items()
}


def worded_so(asked: Question) -> bool:
    """Whether a question is worded as the sources word theirs."""
    return any(pattern.fullmatch(asked.text) for pattern in _WAYS[asked.family])


def worded(family: str, split: Split, count: int, seed: int) -> list[Question]:
    """`count` different questions of a family and split, worded as the sources word theirs.

    Raises ValueError if there are not that many (of facts there are 72 in the test split).
    """
    rng, found = Random(f"{seed}|{family}|{split}"), dict[str, Question]()
    for _ in range(400 * count + 20_000):
        if len(found) == count:
            return list(found.values())
        asked = question(family, rng)
        if asked.split == split and worded_so(asked):
            found.setdefault(asked.text, asked)
    raise ValueError(f"expected {count} different {split} questions of {family!r}, found {len(found)}; ask for fewer")


def exam(family: str, count: int) -> list[Question]:
    """`count` questions of a family that no source asks and nobody is taught."""
    return worded(family, "test", count, EXAM_SEED)
