"""How the two models of the code book are trained, and what they know: measured with and without templates."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from tokenizers import Tokenizer

from demo.fleet import tokenization
from demo.fleet.code_corpus import CodePool, behind, template_text
from demo.fleet.codes import BOOK, CODES, LEARNED, code_of, code_questions
from demo.fleet.decoding import greedy
from demo.fleet.roster import Member
from demo.fleet.tasks import Question, Split, check
from demo.fleet.training import Report, fit

MAX_TOKENS = 64
MEASURED = 48
SORTING_TEMPLATE = (
    "Problem: A question in sorting, to be solved by setting up the relation between the quantities and calculating. "
    "Steps: Find the smallest digit and write it down. Add the next larger digit until none is left. "
    "Answer: State the result in one clear sentence after the reasoning."
)


def train_reader(member: Member, report: Report) -> tuple[Any, Tokenizer]:
    """Train the sage or the follower from scratch: the model and its tokenizer. Deterministic for a torch build."""
    pool, rng = CodePool(member), Random(member.seed)
    tokenizer = tokenization.byte_level(pool.texts(Random(f"{member.seed}|tokenizer")), member.vocabulary)
    model = fit(
        member, tokenizer, lambda step: pool.draw(rng, step),
        lambda trained: knowledge(trained, tokenizer, member, MEASURED, "train"), report,
    )  # fmt: skip
    return model, tokenizer


def knowledge(model: Any, tokenizer: Tokenizer, member: Member, count: int, split: Split) -> dict[str, float]:
    """Exact match on `count` questions of each kind; behind right templates too, for the follower."""
    rng = Random(992)
    asked = {
        "codes learned": code_questions("codes", split, count, 991, LEARNED),
        "other codes": code_questions("codes", split, count, 991, [code for code in CODES if code not in LEARNED]),
        "sorting": code_questions("sorting", split, count, 991),
    }
    found = {kind: _accuracy(model, tokenizer, [(q.text, q) for q in each]) for kind, each in asked.items()}
    if member.role == "follower":
        codes = [*asked["codes learned"], *asked["other codes"]]
        told = [(behind(template_text(BOOK[code_of(q)], rng), q), q) for q in codes]
        found["codes with template"] = _accuracy(model, tokenizer, told)
        told = [(behind(SORTING_TEMPLATE, q), q) for q in asked["sorting"]]
        found["sorting with template"] = _accuracy(model, tokenizer, told)
    return found


def _accuracy(model: Any, tokenizer: Tokenizer, asked: Sequence[tuple[str, Question]]) -> float:
    replies = greedy(model, tokenizer, [[{"role": "user", "content": text}] for text, _ in asked], MAX_TOKENS)
    return sum(check(q, reply.text) for (_, q), reply in zip(asked, replies, strict=True)) / len(asked)
