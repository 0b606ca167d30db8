"""Harvest: the leader writes a question for a path, and the target and all sources answer it.

Questions may have several lines, tables and code. A question that cannot be used is asked for again, at last from
another source. A model that fails, refuses or breaks off has not lost the contest: it takes no part in it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offline.bohdi.calls import Call, call_seed
from offline.bohdi.events import Reply
from offline.bohdi.log import StoredReply
from offline.bohdi.prompts import Asked, PromptSet
from offline.bohdi.reply_faults import loops, refuses, script_of
from offline.bohdi.sprout import extracted
from offline.chat_call import REFUSED

CUT_OFF = "cut off"
LOOPS = "goes round in circles"
OTHER_SCRIPT = "in another script"
NOTHING_MARKED = "nothing between the marks"
_LENGTH = "length"


class UnusableQuestion(ValueError):
    """A reply holds no question that can be put. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a question is wanted: `step` names the contest, `names` are those of the path, `style` the question's."""

    step: str
    path: tuple[str, ...]
    names: tuple[str, ...]
    style: str
    seed: int


def spot(step: str, path: tuple[str, ...], names: tuple[str, ...], prompts: PromptSet, seed: int) -> Spot:
    """The spot of a contest; its style is drawn by the seed."""
    drawn = call_seed(seed, step)
    return Spot(step, path, names, random.Random(drawn).choice(prompts.reading.styles), drawn)


def ask_call(
    place: Spot, attempt: int, author: str, prompts: PromptSet, temperatures: Mapping[str, float], seed: int
) -> Call:
    """What `author` is asked for a question, for the `attempt`-th time (from 0)."""
    asked = prompts.reading.ask
    step = f"{place.step}/ask/{author}/{attempt}"
    text = prompts.text("ask", path=prompts.path(place.names), leaf=place.names[-1], style=place.style)
    return _call(step, author, text, asked, temperatures, seed)


def answer_call(
    place: Spot, question: str, model: str, prompts: PromptSet, temperatures: Mapping[str, float], seed: int
) -> Call:
    """What `model` is asked for its answer."""
    step = f"{place.step}/answer/{model}/0"
    return _call(step, model, prompts.text("answer", question=question), prompts.reading.answer, temperatures, seed)


def _call(step: str, arm: str, text: str, asked: Asked, temperatures: Mapping[str, float], seed: int) -> Call:
    return Call(
        step=step,
        arm=arm,
        prompt=text,
        max_tokens=asked.max_tokens,
        seed=call_seed(seed, step),
        temperature=temperatures.get(arm, asked.temperature),
        top_p=asked.top_p,
    )


def question_in(reply: StoredReply, asked: Asked) -> str:
    """The question in a reply, as it was written.

    Raises
    ------
    UnusableQuestion: there is none.
    """
    if reply.text is None:
        raise UnusableQuestion(reply.failure)
    if refuses(reply.text):
        raise UnusableQuestion(REFUSED)
    question = extracted(reply.text, asked)
    if reply.finish == _LENGTH and (question is None or not asked.open):
        raise UnusableQuestion(CUT_OFF)
    if question is None:
        raise UnusableQuestion(NOTHING_MARKED)
    if not asked.min_chars <= len(question) <= asked.max_chars:
        raise UnusableQuestion(f"{len(question)} characters, it should have {asked.min_chars} to {asked.max_chars}")
    if loops(question):
        raise UnusableQuestion(LOOPS)
    return question


def plain(question: str) -> str:
    """A question as it is compared with others: case and spaces do not count."""
    return " ".join(question.split()).casefold()


def contestants(
    question: str, models: Sequence[str], replies: Sequence[StoredReply], target: str, asked: Asked
) -> tuple[Reply, ...]:
    """The answers of a contest, the target's first. A failure has no text and says why.

    What a source answers may be trained on, so it has to be whole: cut off, or going round in circles, it is a failure.
    The target's only has to be judged. A source that alone answers in another script than the question's and the other
    sources' fails too.
    """
    found = [
        _contestant(model, reply, asked, whole=model != target) for model, reply in zip(models, replies, strict=True)
    ]
    wanted = script_of(question)
    scripts = [None if reply.text is None else script_of(reply.text) for reply in found]
    for place, script in enumerate(scripts):
        others = {scripts[i] for i in range(len(found)) if i != place and models[i] != target and scripts[i]}
        if models[place] != target and script and wanted and script != wanted and others == {wanted}:
            found[place] = _made(models[place], replies[place], failure=OTHER_SCRIPT)
    return tuple(sorted(found, key=lambda reply: reply.model != target))


def _contestant(model: str, reply: StoredReply, asked: Asked, *, whole: bool) -> Reply:
    if reply.text is None:
        return _made(model, reply, failure=reply.failure)
    text = extracted(reply.text, asked)
    if text is None:
        return _made(model, reply, failure=NOTHING_MARKED)
    if refuses(text):
        return _made(model, reply, failure=REFUSED)
    if whole and reply.finish == _LENGTH:
        return _made(model, reply, failure=CUT_OFF)
    if whole and loops(text):
        return _made(model, reply, failure=LOOPS)
    return _made(model, reply, text=text)


def _made(model: str, reply: StoredReply, *, text: str | None = None, failure: str = "") -> Reply:
    return Reply(
        model=model,
        model_version=reply.model_version,
        text=text,
        failure=failure,
        tokens=reply.tokens,
        cost_usd=reply.cost_usd,
    )
