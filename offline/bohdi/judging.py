"""Judging: which of two answers serves better, where no checker can say. Nobody judges a contest it takes part in.

Each judge sees a pair twice, with the places changed. What it says counts only if it says the same both times: a judge
that always prefers the first place abstains. The answers stand under labels drawn at random and between marks that
nobody could know when they were written, so "the best answer is 2" names nothing, and a reply that holds no label, or
more than one, is an abstention.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from offline.bohdi.calls import Call, call_seed
from offline.bohdi.log import StoredReply
from offline.bohdi.prompts import PromptSet
from offline.bohdi.sprout import extracted

TIE: Final = "="
"""A vote for neither."""
ABSTAINED: Final = ""
ORDERS: Final = 2
_CONSONANTS: Final = "BCDFGHJKLMNPQRSTVWXZ"
_TIE_WORD: Final = "TIE"

Votes = tuple[tuple[str, str], ...]
"""Judge and winner of each call: a model, `TIE` or `ABSTAINED`."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer by its author."""

    model: str
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What judges came to. `margin` in [-1, 1]: votes for the source less those for the target, by votes given."""

    winner: str | None
    margin: float
    votes: Votes
    method: Literal["judge", "majority"]

    @property
    def reward(self) -> float:
        """The gain of the source over the target, in [0, 1]."""
        return max(self.margin, 0.0)


def compare_calls(
    step: str, question: str, one: Answered, other: Answered, judges: Sequence[str], prompts: PromptSet, seed: int
) -> list[Call]:
    """Two calls for each judge: the pair, and the pair with the places changed."""
    calls = []
    for judge in judges:
        for order in range(ORDERS):
            place = f"{step}/compare/{judge}/{order}"
            shown = (one, other) if order == 0 else (other, one)
            labels = _labels(seed, place, 2)
            text = prompts.text(
                "compare",
                question=question,
                first=shown[0].text,
                second=shown[1].text,
                left=labels[0],
                right=labels[1],
                tag=_tag(seed, place, question, one.text, other.text),
            )
            calls.append(_judge_call(place, judge, text, prompts, seed))
    return calls


def compared(
    step: str, one: Answered, other: Answered, judges: Sequence[str], replies: Sequence[StoredReply],
    prompts: PromptSet, seed: int,
) -> Votes:  # fmt: skip
    """The votes in the replies to `compare_calls`."""
    votes = []
    places = ((judge, order) for judge in judges for order in range(ORDERS))
    for (judge, order), reply in zip(places, replies, strict=True):
        labels = _labels(seed, f"{step}/compare/{judge}/{order}", 2)
        shown = (one.model, other.model) if order == 0 else (other.model, one.model)
        votes.append((judge, read_vote(reply, dict(zip(labels, shown, strict=True)), prompts)))
    return tuple(votes)


def choose_calls(
    step: str, question: str, answers: Sequence[Answered], judges: Sequence[str], prompts: PromptSet, seed: int
) -> list[Call]:
    """Two calls for each judge that ask for the best of several answers: in an order drawn at random, and reversed."""
    calls = []
    for judge in judges:
        for order in range(ORDERS):
            place = f"{step}/choose/{judge}/{order}"
            shown, labels = _line_up(step, answers, order, seed), _labels(seed, place, len(answers))
            tag = _tag(seed, place, question, *(answer.text for answer in answers))
            quoted = "\n\n".join(
                f"[{tag} solution {label}]\n{answer.text}\n[{tag} end]"
                for label, answer in zip(labels, shown, strict=True)
            )
            text = prompts.text("choose", question=question, answers=quoted, labels=", ".join(labels), tag=tag)
            calls.append(_judge_call(place, judge, text, prompts, seed))
    return calls


def chosen(
    step: str, answers: Sequence[Answered], judges: Sequence[str], replies: Sequence[StoredReply], prompts: PromptSet,
    seed: int,
) -> str:  # fmt: skip
    """The model whose answer got most votes in the replies to `choose_calls`; among equals one is drawn by the seed."""
    votes: Counter[str] = Counter()
    places = ((judge, order) for judge in judges for order in range(ORDERS))
    for (judge, order), reply in zip(places, replies, strict=True):
        labels = _labels(seed, f"{step}/choose/{judge}/{order}", len(answers))
        shown = [answer.model for answer in _line_up(step, answers, order, seed)]
        votes[read_vote(reply, dict(zip(labels, shown, strict=True)), prompts)] += 1
    models = sorted(answer.model for answer in answers)
    most = max(votes[model] for model in models)
    return random.Random(call_seed(seed, f"{step}/chosen")).choice([m for m in models if votes[m] == most])


def read_vote(reply: StoredReply, labels: dict[str, str], prompts: PromptSet) -> str:
    """The model that a reply decides for, `TIE`, or `ABSTAINED` if it does not say so in the form asked for."""
    if reply.text is None:
        return ABSTAINED
    said = extracted(reply.text, prompts.reading.judge)
    words = set() if said is None else set(re.findall(r"\w+", said.upper()))
    found = words & {*labels, _TIE_WORD}
    if len(found) != 1:
        return ABSTAINED
    word = found.pop()
    return TIE if word == _TIE_WORD else labels[word]


def decide(votes: Votes, source: str, target: str) -> Decision | None:
    """The decision of the judges who said the same in both orders, each with one vote; None if all abstained."""
    judges = list(dict.fromkeys(judge for judge, _ in votes))
    said = [in_both_orders([vote for by, vote in votes if by == judge]) for judge in judges]
    given = [vote for vote in said if vote != ABSTAINED]
    if not given:
        return None
    margin = (given.count(source) - given.count(target)) / len(given)
    winner = source if margin > 0 else target if margin < 0 else None
    return Decision(winner, margin, votes, "judge" if len(given) == 1 else "majority")


def may_judge(candidates: Sequence[str], contestants: Sequence[str], model_of: Mapping[str, str]) -> tuple[str, ...]:
    """Who of the candidates wrote none of the answers; arms of one model are one author."""
    authors = {model_of[name] for name in contestants}
    return tuple(name for name in candidates if model_of[name] not in authors)


def in_both_orders(votes: Sequence[str]) -> str:
    """What a judge said of a pair seen in both orders: a tie in one of them is a tie, a contradiction an abstention."""
    if ABSTAINED in votes or len(votes) < ORDERS:
        return ABSTAINED
    first, second = votes
    if first == second:
        return first
    return TIE if TIE in votes else ABSTAINED


def _judge_call(step: str, judge: str, text: str, prompts: PromptSet, seed: int) -> Call:
    asked = prompts.reading.judge
    return Call(
        step=step, arm=judge, prompt=text, max_tokens=asked.max_tokens, seed=call_seed(seed, step),
        temperature=asked.temperature, top_p=asked.top_p,
    )  # fmt: skip


def _line_up(step: str, answers: Sequence[Answered], order: int, seed: int) -> list[Answered]:
    shown = sorted(answers, key=lambda answer: answer.model)
    random.Random(call_seed(seed, f"{step}/line-up")).shuffle(shown)
    return shown if order == 0 else shown[::-1]


def _labels(seed: int, step: str, count: int) -> list[str]:
    """So many different labels of three consonants: no word, no number and no letter that an answer would name."""
    rng = random.Random(call_seed(seed, f"{step}/labels"))
    found: list[str] = []
    while len(found) < count:
        label = "".join(rng.choice(_CONSONANTS) for _ in range(3))
        if label not in found:
            found.append(label)
    return found


def _tag(seed: int, step: str, *texts: str) -> str:
    """A mark that stands in none of the texts, and could not be known to those who wrote them."""
    digest = hashlib.sha256("\0".join((str(seed), step, *texts)).encode()).hexdigest()
    return next(
        tag for start in range(0, 56, 8) if not any((tag := digest[start : start + 8]) in text for text in texts)
    )
