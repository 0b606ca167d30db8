"""The form of a template's text, and the checks that a text must pass to become one. The same for every builder.

    Problem: one sentence: the kind of problem and the approach.
    Steps: one to three sentences.
    Answer: one sentence on its form.

Source of the three parts: FusionFactory (fusionfactory.md 3.1). The checks are ours: a template must not give away the
answer, repeat the question, or be tied to its numbers.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from offline.best_answers import SolvedQuery
from templates_store.sanitize import sanitize

LEAST_CHARS = 80
MOST_CHARS = 900
MOST_STEPS = 3
_LONGEST_WORD = 60
_COPIED_WORDS = 12
"""A run of this many words of the question in a template means that the question was copied."""

_PARTS = re.compile(r"^Problem:\s*(?P<problem>.+?)\s*Steps:\s*(?P<steps>.+?)\s*Answer:\s*(?P<answer>.+)$", re.S)
_LABEL = re.compile(r"\b(?:Problem|Steps|Answer):")
_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bvs\.)(?<!\bcf\.)\s+(?=[A-Z0-9(\[\"“])")
_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s*(.+?)\s*$", re.M)
_NAMED_OPTION = re.compile(r"(?i:\b(?:answer|option|choice)\s+(?:is\s+)?)\(?[A-J]\)?(?![\w'-])|\([A-J]\)")
_CHOICES = re.compile(r"\b(?:yes or no|no or yes|true or false|false or true)\b", re.I)
"""The form of an answer, not the answer."""
_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])")


class TextRejected(ValueError):
    """A text is no usable template. The message is the reason, told so that a model can do better."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The three parts of a template."""

    problem: str
    steps: str
    answer: str

    def text(self) -> str:
        return f"Problem: {self.problem} Steps: {self.steps} Answer: {self.answer}"


def read_parts(text: str) -> Parts:
    """The parts of a sanitized text. Raises TextRejected if they are not there, in order, once each."""
    match = _PARTS.match(text)
    if match is None or len(_LABEL.findall(text)) != 3:
        raise TextRejected(
            "it must consist of three parts that begin with 'Problem:', 'Steps:' and 'Answer:', once each"
        )
    return Parts(**match.groupdict())


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; abbreviations such as `e.g.` do not end one."""
    return [sentence for sentence in _END.split(text.strip()) if sentence.strip()]


def validated(text: str, solved: SolvedQuery) -> str:
    """The text of a template for this query, sanitized and in its form. Raises TextRejected with the reason."""
    clean = sanitize(_unmarked(text))
    if not clean:
        raise TextRejected("nothing is left of it once instructions, markup and secrets are taken out")
    parts = read_parts(clean)
    _check_form(clean, parts)
    _check_prose(clean, solved)
    _check_leaks(clean, solved)
    return parts.text()


def options(query: str) -> dict[str, str]:
    """The options of a multiple-choice question by their letters; empty unless there are an A and a B."""
    found = dict(_OPTION.findall(query))
    return found if "A" in found and "B" in found else {}


def shares_run(text: str, other: str, length: int) -> bool:
    """Whether two texts have as many words in a row in common; case and punctuation do not matter."""
    return not _runs(text, length).isdisjoint(_runs(other, length))


def given_away(text: str, solved: SolvedQuery) -> str | None:
    """What of the answer a text gives away, or None."""
    named = _NAMED_OPTION.search(text)
    if named is not None:
        return named.group()
    reference = (solved.reference or "").strip()
    right = options(solved.query).get(reference.strip("()").upper(), "") if len(reference) <= 3 else ""
    text = _CHOICES.sub(" ", text)
    for secret in (reference, right):
        if len(secret) > 1 and (_holds(text, secret) or _paraphrases(text, secret, solved.query)):
            return secret
    return None


def _unmarked(text: str) -> str:
    """Labels as models like to write them (`**Steps:**`, `2. Answer format:`) as they must be."""
    text = re.sub(r"[*_#`]+", " ", text)
    text = re.sub(r"^\s*(?:\d[.)]|[-•])\s*(?=(?:Problem|Steps|Answer)\b)", "", text, flags=re.M | re.I)
    for label, names in (("Problem", "problem(?: type)?"), ("Steps", "steps?"), ("Answer", "answer(?: format)?")):
        text = re.sub(rf"(?:^|(?<=[.!?])[ \t]+|\n)\s*{names}\s*:", f"\n{label}:", text, flags=re.I)
    start = text.find("Problem:")
    return text[max(start, 0) :].strip()


def _check_form(clean: str, parts: Parts) -> None:
    if not LEAST_CHARS <= len(clean) <= MOST_CHARS:
        raise TextRejected(f"it must have {LEAST_CHARS} to {MOST_CHARS} characters, it has {len(clean)}")
    for name, part, most in (
        ("Problem", parts.problem, 1),
        ("Steps", parts.steps, MOST_STEPS),
        ("Answer", parts.answer, 1),
    ):
        count = len(split_sentences(part))
        if count > most:
            raise TextRejected(f"the part {name!r} must have at most {most} sentence{'s' * (most > 1)}, it has {count}")
        if len(re.findall(r"[^\W\d_]{2,}", part)) < 4:
            raise TextRejected(f"the part {name!r} must say something (it is {part[:60]!r})")


def _check_prose(clean: str, solved: SolvedQuery) -> None:
    if "[encoded]" in clean or any(len(word) > _LONGEST_WORD for word in clean.split()):
        raise TextRejected("it holds something encoded; write plain words")
    known = _scripts(" ".join((solved.query, *(answer.text for answer in solved.answers)))) | {"LATIN", "GREEK"}
    foreign = _scripts(clean) - known
    if foreign:
        raise TextRejected(f"it is written in a script that the question does not use ({min(foreign).title()})")
    for word in re.findall(r"[^\W\d_]{4,}", clean):
        if {"LATIN", "CYRILLIC"} <= _scripts(word):
            raise TextRejected(f"it mixes the letters of several scripts in one word ({word[:20]!r})")


def _scripts(text: str) -> set[str]:
    """The scripts of the letters of a text, as Unicode names them."""
    return {unicodedata.name(char, "UNKNOWN").split()[0] for char in set(text) if char.isalpha()}


def _check_leaks(clean: str, solved: SolvedQuery) -> None:
    leaked = given_away(clean, solved)
    if leaked is not None:
        raise TextRejected(f"it gives away the answer ({leaked[:40]!r}); name no option and no result")
    numbers = {n for n in _NUMBER.findall(solved.query) if len(n) > 1}
    repeated = numbers.intersection(_NUMBER.findall(clean))
    if repeated:
        raise TextRejected(f"it is tied to a number of the question ({min(repeated)}); speak of quantities in general")
    if shares_run(clean, solved.query, _COPIED_WORDS):
        raise TextRejected(f"it copies {_COPIED_WORDS} words of the question in a row; speak of the kind of problem")


def _holds(text: str, phrase: str) -> bool:
    return f" {' '.join(_words(phrase))} " in f" {' '.join(_words(text))} " if _words(phrase) else False


def _paraphrases(text: str, secret: str, query: str) -> bool:
    """Whether most of what a long answer says beyond the words of the question is in the text."""
    stem = set(_words(query.split("\nA", 1)[0]))
    own = {word for word in _words(secret) if len(word) > 3 and word not in stem}
    return len(own) > 2 and len(own.intersection(_words(text))) >= 0.6 * len(own)


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
