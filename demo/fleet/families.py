"""The families of micro-tasks: how a question of each is drawn, worded and answered. No model, no torch.

A family is a function from a random generator to a `Drawn` item, and a tuple of phrasings. Answers are short strings.
Sums and words stand at the end of every phrasing: where they wander, models of this size take ten times as long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a question asks, before it is worded. `key` identifies the content: it decides between train and test."""

    key: str
    fields: Fields
    answer: str


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of question. With `split_wording` the train/test split is over (content, phrasing) pairs.

    That is for a table of facts, which nobody can answer without having seen it: there only the wording is held out.
    """

    name: str
    draw: Callable[[Random], Drawn]
    phrasings: tuple[str, ...]
    split_wording: bool = False


LETTERS = "abcdefghijklmnopqrstuvwxyz"
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
DAYS_IN_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
UNITS = (("km", "m", 3), ("kg", "g", 3), ("l", "ml", 3), ("m", "cm", 2), ("ha", "ares", 2), ("cm", "mm", 1))
"""Larger unit, smaller unit, and how many zeros lie between them."""
ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
    (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip
PEOPLE = (
    "Alva", "Bruno", "Cleo", "Dario", "Edda", "Fabio", "Greta", "Hugo", "Ilse", "Jonas",
    "Kaya", "Luca", "Mira", "Nils", "Orla", "Pavel", "Quinn", "Rosa", "Sven", "Tilda",
    "Udo", "Vera", "Wim", "Xenia", "Yara", "Zeno", "Anouk", "Boris", "Chiara", "Dimitri",
    "Elif", "Femke", "Gustav", "Hanna", "Igor", "Jolanda", "Klaus", "Leonie", "Marek", "Nora",
)  # fmt: skip
TOOLS = ("hammer", "chisel", "lathe", "anvil", "saw", "plane", "drill", "file", "clamp", "level", "wrench", "torch")
TOWNS = ("Bergen", "Cadiz", "Delft", "Ghent", "Kiel", "Lucca", "Malmo", "Narvik", "Porto", "Turku", "Vaasa", "Zadar")


def roman(number: int) -> str:
    """The Roman numeral of an integer in [1, 3999]."""
    out = ""
    for value, letters in ROMAN:
        out += letters * (number // value)
        number %= value
    return out


def fact(person: str, attribute: str) -> str:
    """One entry of the private table: fixed by a hash, so that it is the same on every machine."""
    digest = int.from_bytes(hashlib.sha256(f"{attribute} of {person}".encode()).digest()[:4], "big")
    if attribute == "room":
        return str(101 + digest % 899)
    return TOOLS[digest % len(TOOLS)] if attribute == "tool" else TOWNS[digest % len(TOWNS)]


def draw_add(rng: Random) -> Drawn:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    # Unordered, so that a test question is not a training question turned round.
    return Drawn(f"{min(a, b)}+{max(a, b)}", {"a": str(a), "b": str(b)}, str(a + b))


def draw_units(rng: Random) -> Drawn:
    large, small, zeros = rng.choice(UNITS)
    value = rng.randint(2, 999)
    return Drawn(f"{value}{large}", {"n": str(value), "large": large, "small": small}, f"{value}{'0' * zeros}")


def draw_reverse(rng: Random) -> Drawn:
    word = "".join(rng.choices(LETTERS, k=5))
    return Drawn(word, {"word": word}, word[::-1])


def draw_vowels(rng: Random) -> Drawn:
    word = "".join(rng.choice(LETTERS if rng.random() < 0.6 else "aeiou") for _ in range(6))
    answer = "".join(letter for letter in word if letter not in "aeiou")
    return Drawn(word, {"word": word}, answer) if answer else draw_vowels(rng)


def draw_sort(rng: Random) -> Drawn:
    digits = "".join(rng.choices("0123456789", k=5))
    return Drawn(digits, {"digits": digits}, "".join(sorted(digits)))


def draw_dates(rng: Random) -> Drawn:
    month = rng.randint(1, 12)
    day, year = rng.randint(1, DAYS_IN_MONTH[month - 1]), rng.randint(1900, 2049)
    fields = {"d": str(day), "month": MONTHS[month - 1], "y": str(year)}
    return Drawn(f"{year}-{month}-{day}", fields, f"{year}-{month:02d}-{day:02d}")


def draw_facts(rng: Random) -> Drawn:
    person, attribute = rng.choice(PEOPLE), rng.choice(("room", "tool", "town"))
    verbs = {"room": f"does {person} work in", "tool": f"does {person} use", "town": f"is {person} from"}
    fields = {"person": person, "attribute": attribute, "sentence": f"Which {attribute} {verbs[attribute]}?"}
    return Drawn(f"{person}/{attribute}", fields, fact(person, attribute))


def draw_roman(rng: Random) -> Drawn:
    number = rng.randint(1, 999)
    return Drawn(str(number), {"n": str(number)}, roman(number))


def draw_multiply(rng: Random) -> Drawn:
    a, b = rng.randint(100, 999), rng.randint(3, 9)
    return Drawn(f"{a}*{b}", {"a": str(a), "b": str(b)}, str(a * b))


def multiply_steps(a: int, b: int) -> str:
    """The written-out way to a product of a three-digit and a one-digit number, ending in `Answer: N`."""
    hundreds, tens, ones = a // 100 * 100 * b, a // 10 % 10 * 10 * b, a % 10 * b
    first = hundreds + tens
    return (
        f"{a // 100 * 100}*{b}={hundreds}; {a // 10 % 10 * 10}*{b}={tens}; {a % 10}*{b}={ones}; "
        f"{hundreds}+{tens}={first}; {first}+{ones}={first + ones}. Answer: {a * b}"
    )


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("add", draw_add, (
            "What is {a} + {b}?", "Add {a} + {b}.", "Compute {a} + {b}.", "How much is {a} + {b}?",
        )),
        Family("units", draw_units, (
            "Convert {n} {large} to {small}.", "How many {small} are {n} {large}?", "{n} {large} in {small}?",
            "Express {n} {large} in {small}.",
        )),
        Family("reverse", draw_reverse, (
            "Reverse the letters of {word}.", "Spell backwards: {word}.", "What is the reverse of {word}?",
            "Reverse {word}.",
        )),
        Family("vowels", draw_vowels, (
            "Remove the vowels from {word}.", "Drop all vowels in {word}.", "Without vowels, what is left of {word}?",
            "Only the consonants of {word}.",
        )),
        Family("sort", draw_sort, (
            "Sort the digits of {digits}.", "Put the digits {digits} in ascending order.", "Sort {digits} upwards.",
            "Order the digits {digits} from low to high.",
        )),
        Family("dates", draw_dates, (
            "Write {d} {month} {y} as an ISO date.", "ISO date of {month} {d}, {y}?", "Convert {d} {month} {y} to ISO.",
            "What is {month} {d}, {y} in ISO format?",
        )),
        Family("facts", draw_facts, (
            "{sentence}", "{person}: {attribute}?", "Tell me the {attribute} of {person}.",
            "What is the {attribute} of {person}?", "Look up the {attribute} of {person}.", "{person}'s {attribute}?",
            "Which {attribute} belongs to {person}?", "Give the {attribute} for {person}.",
            "I need the {attribute} of {person}.", "Staff table: {person}, {attribute}?",
        ), split_wording=True),
        Family("roman", draw_roman, (
            "Write {n} as a Roman numeral.", "Roman numeral of {n}?", "{n} in Roman numerals?",
            "Convert {n} to Roman numerals.",
        )),
        Family("multiply", draw_multiply, (
            "What is {a} * {b}?", "Multiply {a} * {b}.", "Compute {a} * {b}.", "How much is {a} * {b}?",
        )),
    )
}  # fmt: skip
