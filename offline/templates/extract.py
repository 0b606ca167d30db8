"""Writes thought templates without any model: the steps of the best answer, made general.

The sentences of the best answers are cut out, what belongs to the one question is masked (its numbers, names and
formulas), and each sentence is weighed: do the other right answers say the same, does it say what to do, is it free of
the question's own particulars? The plan is the answer whose best sentences weigh most, in their order. It reads worse
than what a model writes, but it costs nothing, lets nothing out of the house and works on any log.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

from offline.answers import Answer
from offline.best_answers import SolvedQuery
from offline.templates.shared_openings import Question, SharedOpenings
from offline.templates.text import (
    MOST_STEPS,
    Parts,
    TextRejected,
    given_away,
    options,
    shares_run,
    split_sentences,
    validated,
)

VERSION = 2
_STEP_WORDS = range(5, 36)
_STEP_CHARS = 260
_KEYWORDS = 3
_BOILERPLATE = {5: 0.02, 3: 0.08}
"""What begins a sentence of this share of the queries (three at least), by its first so many words, is common."""
_SHORT_STEP_WORDS = 3
"""A step that many related questions share may be this short."""
_COPIED_WORDS = 6
"""A sentence with a run of this many words of the question tells what was given, not what to do with it."""

_Replacement = str | Callable[[re.Match[str]], str]


def _formula(match: re.Match[str]) -> str:
    """A law in letters is what a plan is made of; a formula with the question's figures in it is masked."""
    inner = match.group().strip("$").removeprefix("\\(").removesuffix("\\)").strip()
    return " [formula] " if len(inner) > 60 or re.search(r"\\|\d\d|\d[.,]\d|\n", inner) else f" {inner} "


_MASKS: tuple[tuple[re.Pattern[str], _Replacement], ...] = (
    (re.compile(r"```.*?(?:```|$)", re.S), " [code] "),
    (re.compile(r"\\\[.*?(?:\\\]|$)|\$\$.*?(?:\$\$|$)|\\\(.*?(?:\\\)|$)|\$[^$\n]{1,300}\$", re.S), _formula),
    (re.compile(r"\\[a-zA-Z]+(?:\{[^{}]*\})*"), " [formula] "),
    (
        re.compile(r"[^\s=<>≈]{1,40}(?: [-+*/×·^] [^\s=]{1,40})* ?(?:[=≈≤≥]|<=|>=) ?[^.;,\n]*(?:\.\d[^.;,\n]*)*"),
        _formula,
    ),
    (re.compile(r"[$€£]?(?<![\w.\]])-?(?:\d{2,}(?:[.,:/]\d+)*|\d(?:[.,:/]\d+)+|\.\d+)(?:\s?%|°\s?[CF]?)?"), "[number]"),
)
_RUN_ON = re.compile(r"\n\s*(?:Question|Q|Options|Problem \d+)\s*:")
"""Where a base model goes on to ask itself the next question."""
_LISTED = re.compile(r"^\s*(?:step\s+)?(?:\d{1,2}[.):]|[-*•])\s+", re.I)
_CONCLUSION = re.compile(
    r"\b(?:final|correct|right|best|closest) (?:answer|option|choice)\b|\banswer is\b|\b(?:option|choice)s? \(?[A-J]\b"
    r"|\([A-J]\)|\?|\bof the following\b|\b(?:the|this) question\b|\b(?:the|other|given|remaining) options\b",
    re.I,
)
"""Says what the answer is, or speaks of the question itself."""
_OPENING = re.compile(
    r"^(?:(?:first(?:ly)?|second(?:ly)?|third(?:ly)?|next|then|now|finally|lastly|so|thus|hence|therefore|also|and|but|however"
    r"|let's think step by step|in this case)\b[,:]?\s*)+", re.I
)  # fmt: skip
_ACTION = re.compile(
    r"^(?:to \w+|(?:we|you) (?:can|need|must|should|have|first|use|know|find|apply|look)|let(?:'s| us)?|by \w+ing|using"
    r"|since|given|if|for|calculate|compute|find|determine|identify|use|apply|compare|consider|check|write|set|solve|substitute|divide"
    r"|multiply|add|subtract|convert|recall|note|analy[sz]e|evaluate|define|choose|select|look|count|draw|express|take|read)\b",
    re.I,
)  # fmt: skip
_COMMAND = re.compile(
    r"^(?!(?:all|also|any|are|at|because|both|but|by|can|did|do|does|even|from|had|has|have|here|how|if|in|is|just|not|of|on"
    r"|once|only|over|since|so|some|such|than|that|the|then|there|this|thus|to|under|was|were|what|when|where|which|while|who"
    r"|why|with|yet)\b)[a-z]{3,}(?: (?:out|up|down|off|back|together))? (?:(?:the|an?|each|every|all|both|any|its|their"
    r"|this|that|these|those|one|two|three|whether|how|what|which|it|them|in|from|by|to|with)\b|\[)",
    re.I,
)
"""A verb with its object: `reverse the letters`, `sort them`, `carry out each`."""
_DANGLING = re.compile(r"\b(?:is|are|was|as|by|for|to|of|the|a|an|and|or|that|follows|following|have|get)\.$", re.I)
"""Left over where a formula stood on a line of its own."""
_LEANS = re.compile(r"^(?:it|he|she|they|this|that|these|those|which|such|there|here|their|his|her|its)\b", re.I)
"""Begins with a word that leans on the sentence before, which may not be taken."""
_METHOD = re.compile(
    r"\b(?:formula|equation|law|theorem|principle|rule|definition|theory|method|rate|ratio|sum|difference|product|relation(?:ship)?"
    r"|defined as|given by|equal to|depends on|refers to|means that|is the|proportional)\b", re.I
)  # fmt: skip
_STOP = frozenset(
    re.findall(
        r"[a-z]+",
        """
        about above after again against also among another because been before being below between both could does doing
        down during each either every first following from given have having here into itself just know less like made
        make many more most much must need only other over please question same second should since some such than that
        their them then there these they this those through true under until used uses using very were what when where
        which while will with within without would your answer statement best describes likely called example find
        determine calculate assume suppose consider correct option options number value values according refers
        information based
        """,
    )
)
"""Words that say nothing about what a question is about."""


_CALCULATE = "by setting up the relation between the quantities and calculating"
_EXCLUDE = "by going through the options and excluding those that do not fit"
_REASON = "by recalling the relevant definitions and reasoning from them"
_FIGURES = 0.1
"""Answers with more numbers and equals signs than this per word calculate."""
_LAST_STEP = {
    _CALCULATE: "Put in the given quantities, keep track of the units and compare the result with the options.",
    _EXCLUDE: "Check every option against this and exclude those that contradict it.",
    _REASON: "Compare every option with this and exclude those that contradict it.",
}
"""What multiple-choice answers do last and seldom say."""


class _Step(NamedTuple):
    text: str
    position: int
    weight: float
    method: bool = False
    """Whether related questions share it: then it is the method and not an accident of one answer."""


class ExtractiveBuilder:
    """The builder without a model. `corpus` is what is being built from: it tells what is common to many questions."""

    name = f"extractive@{VERSION}"

    def __init__(self, corpus: Sequence[SolvedQuery]) -> None:
        self._queries = max(len(corpus), 1)
        self._word_queries: Counter[str] = Counter()
        self._openings = SharedOpenings(_BOILERPLATE)
        self._lower_words: set[str] = set()
        for solved in corpus:
            self._word_queries.update(set(_content_words(_stem(solved.query))))
            sentences = (sentence for answer in solved.answers for sentence in _sentences(answer.text))
            self._openings.add(Question(_stem(solved.query), solved.task), sentences)
            self._lower_words.update(*(re.findall(r"(?<![\w'])[a-z]+", answer.text) for answer in solved.answers))

    async def write(self, solved: SolvedQuery) -> str:
        """A valid template text for this query. Raises TextRejected if the answers show no steps that can be reused."""
        plans = [plan for answer in solved.answers if (plan := self._steps(answer, solved))]
        plans.sort(key=lambda plan: -sum(step.weight for step in plan))
        refused = TextRejected("none of the best answers shows a step that could be used again")
        for number, plan in enumerate(plans):
            try:
                return self._written(plan, solved)
            except TextRejected as reason:
                refused = reason if number == 0 else refused
        raise refused

    def _written(self, plan: Sequence[_Step], solved: SolvedQuery) -> str:
        in_order = sorted(plan, key=lambda step: step.position)
        steps = _in_sentences([_instruction(step.text, self._lower_words) for step in in_order])
        if options(solved.query) and len(steps) < MOST_STEPS:
            steps.append(_LAST_STEP[_approach(solved.answers)])
        return validated(Parts(self._problem(solved), " ".join(steps), _answer_form(solved)).text(), solved)

    def _steps(self, answer: Answer, solved: SolvedQuery) -> list[_Step]:
        """The sentences of an answer that are the method, if related questions show it; else the three worth most."""
        others = [set(_content_words(other.text)) for other in solved.answers if other is not answer]
        names, numbers = _names(_stem(solved.query)), set(re.findall(r"\d+", _stem(solved.query)))
        steps = []
        for position, sentence in enumerate(_sentences(answer.text)):
            sharing, text = self._openings.sharing(sentence), _general(sentence, names, numbers)
            method = sharing == "related" and _acts(text)
            if (
                (sharing != "rare" and not method)
                or _CONCLUSION.search(sentence)
                or shares_run(sentence, solved.query, _COPIED_WORDS)
            ):
                continue
            weight = self._weight(text, others, solved, method=method)
            if weight is not None:
                steps.append(_Step(text, position, weight, method))
        shared = list({step.text: step for step in steps if step.method}.values())
        if len(shared) > 1:
            return shared
        return sorted(steps, key=lambda step: (-step.weight, step.position))[:MOST_STEPS]

    def _weight(
        self, text: str, others: Sequence[set[str]], solved: SolvedQuery, *, method: bool = False
    ) -> float | None:
        """What a sentence is worth as a step, in about [0, 2]; None if it cannot be one."""
        words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\[\w+\]", "", text))
        masked = len(re.findall(r"\[\w+\]", text))
        least = _SHORT_STEP_WORDS if method else _STEP_WORDS.start
        if not least <= len(words) < _STEP_WORDS.stop or masked > 0.25 * len(words) or len(text) > _STEP_CHARS:
            return None
        if _DANGLING.search(text) or _LEANS.match(text) or given_away(text, solved) is not None:
            return None
        lowered = text.casefold()
        if any(len(option) > 3 and option.casefold() in lowered for option in options(solved.query).values()):
            return None
        content = set(_content_words(text))
        if len(content) < (1 if method else 3):
            return None
        agreement = sum(len(content & other) / len(content) for other in others) / max(len(others), 1)
        known = sum(self._word_queries[word] > 1 for word in content) / len(content)
        acts = 0.5 if _ACTION.match(text) else 0.0
        named = 0.3 if _METHOD.search(text) else 0.0
        return max(0.05, 0.6 * agreement + 0.6 * known + acts + named - 0.15 * masked)

    def _problem(self, solved: SolvedQuery) -> str:
        field = (solved.task or "").rsplit("/", 1)[-1].replace("_", " ").strip()
        kind = "multiple-choice question" if options(solved.query) else "question"
        about = self._topics(solved)
        topic = f" about {_listed(about)}" if about else ""
        where = f" in {field}" if field and field != "other" else ""
        return f"A {kind}{where}{topic}, to be solved {_approach(solved.answers)}."

    def _topics(self, solved: SolvedQuery) -> list[str]:
        """The words of the question that its answers speak of too and that other questions share; rarest first."""
        spoken = Counter(word for answer in solved.answers for word in set(_content_words(answer.text)))
        common = max(3.0, 0.1 * self._queries)
        shared_by = 2 if self._queries >= 20 else 1
        names = _names(_stem(solved.query))
        words = [
            word
            for word in dict.fromkeys(_content_words(_stem(solved.query)))
            if spoken[word]
            and word not in names
            and shared_by <= self._word_queries[word] <= common
            and given_away(word, solved) is None
        ]
        ranked = sorted(words, key=lambda word: (-spoken[word], self._word_queries[word], word))[:_KEYWORDS]
        return [word for word in words if word in ranked]


def _stem(query: str) -> str:
    """The question without its options."""
    return re.split(r"^\s*\(?A[.):]\s", query, maxsplit=1, flags=re.M)[0]


def _content_words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]{4,}", text.casefold()) if word not in _STOP]


def _sentences(text: str) -> list[str]:
    """The sentences of an answer, masked; of an item of a list, only what comes before its details."""
    text = _RUN_ON.split(text, maxsplit=1)[0]
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    found: list[str] = []
    for line in text.splitlines():
        item = _LISTED.match(line)
        line = re.sub(r"[*_`#]+", "", _LISTED.sub("", line)).strip()
        sentences = split_sentences(" ".join(line.split()))
        if item and sentences:
            sentences = [sentences[0].split(": ", 1)[0]]
        found += [sentence for sentence in sentences if sentence]
    return found


def _acts(text: str) -> bool:
    """Whether a sentence, without its opening word, says what to do."""
    return _ACTION.match(text) is not None or _COMMAND.match(text) is not None


def _in_sentences(steps: Sequence[str]) -> list[str]:
    """The steps in order, in no more sentences than a template may have: neighbours share one where there are more."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    size, longer = divmod(len(steps), MOST_STEPS)
    made, start = [], 0
    for number in range(MOST_STEPS):
        stop = start + size + (number < longer)
        first, *rest = steps[start:stop]
        made.append("; then ".join([first.rstrip("."), *(f"{s[:1].lower()}{s[1:].rstrip('.')}" for s in rest)]) + ".")
        start = stop
    return made


def _names(query: str) -> frozenset[str]:
    """The names in a question, in lower case: capitalised words that do not open a sentence or stand in a row."""
    inside = re.findall(r"(?<=[\w,;] )[A-Z][a-z]\w+", query)
    in_a_row = (word for row in re.findall(r"\b[A-Z][a-z]\w+(?: [A-Z][a-z]\w+)+", query) for word in row.split())
    return frozenset(word.casefold() for word in (*inside, *in_a_row))


def _instruction(step: str, lower_words: Set[str]) -> str:
    """A step that only states something is told as what to recall."""
    if _acts(step):
        return step
    first = step.split()[0]
    if first in ("We", "You"):
        return step
    return f"Recall that {first.lower() if first.lower() in lower_words else first}{step[len(first) :]}"


def _general(sentence: str, names: Set[str], numbers: Set[str]) -> str:
    """A sentence as a step: without its opening word, with the question's own names and numbers masked."""
    text = _OPENING.sub("", sentence)
    text = re.sub(
        r"\b[A-Z][a-z]\w+(?!(?:'s|-\w+)? (?:law|theorem|method|principle|equation|rule|effect|model|theory|cycle)\b)",
        lambda m: "[name]" if m.group().casefold() in names else m.group(), text,
    )  # fmt: skip
    text = re.sub(r"(?<![\w.])\d+(?!\w|\.\d)", lambda m: "[number]" if m.group() in numbers else m.group(), text)
    text = re.sub(r"(\[\w+\])(?:[\s,]+(?:and )?\1)+", r"\1", text)
    text = re.sub(r"\s+([,.;:!?)])", r"\1", " ".join(text.split())).rstrip(" .:;,-")
    return text[:1].upper() + text[1:] + "." if text else ""


def _approach(answers: Sequence[Answer]) -> str:
    text = " ".join(answer.text for answer in answers)
    if len(re.findall(r"\d+|=", text)) > _FIGURES * max(len(text.split()), 1):
        return _CALCULATE
    return _EXCLUDE if len(set(re.findall(r"\(([A-J])\)", text))) > 2 else _REASON


def _answer_form(solved: SolvedQuery) -> str:
    reference = (solved.reference or "").strip()
    if options(solved.query):
        return "End with the letter of the one option that the steps lead to."
    if re.fullmatch(r"[-+$€£]?\d[\d.,/]*\s?%?", reference):
        return "End with the resulting number alone, in the unit that is asked for."
    if any("```" in answer.text for answer in solved.answers):
        return "Give the finished code in one block, ready to run."
    if reference and len(reference.split()) <= 5:
        return "End with the short phrase that is asked for and nothing more."
    return "State the result in one clear sentence after the reasoning."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
