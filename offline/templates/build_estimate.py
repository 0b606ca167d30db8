"""What a build is going to take, before it starts: questions, calls, tokens and USD."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from offline.best_answers import SolvedQuery
from offline.templates.summarize import SummarizerModel, prompt
from offline.templates.text import MOST_CHARS
from registry.arms import Prices
from templates_store.augment import BYTES_PER_TOKEN, estimate_tokens

_WRITTEN = MOST_CHARS // BYTES_PER_TOKEN
"""Tokens of an answer: a template of the greatest length, and no more."""
_SAID_AGAIN = 60
"""Tokens of the reason with which a reply is sent back."""


class BuildEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """`questions` to build from, of which `done_before` need nothing.

    `calls`, tokens and `usd` are what is to be expected: one call for each question. `most_calls` and `most_usd` are
    what it comes to if every reply is sent back until the last try and has the greatest length. Both sums are None if
    the prices of the model are not known, and 0 if no model is asked.
    """

    questions: int
    done_before: int
    model: str | None = None
    calls: int = 0
    most_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0
    most_usd: float | None = 0.0

    def told(self) -> str:
        """In one sentence."""
        questions = f"{self.questions} questions, {self.done_before} of them done before"
        if self.model is None:
            return f"{questions}; no model is asked, it costs nothing"
        money = (
            f"the price of {self.model} is not known, so the cost is not either"
            if self.usd is None or self.most_usd is None
            else f"about {self.usd:.4f} USD, at most {self.most_usd:.4f}"
        )
        return (
            f"{questions}; {self.calls} calls of {self.model} (at most {self.most_calls}), about "
            f"{self.prompt_tokens:,} prompt tokens and {self.completion_tokens:,} of answers; {money}"
        )


def estimate_build(
    queries: Sequence[SolvedQuery], done: int, model: SummarizerModel | None, prices: Prices
) -> BuildEstimate:
    """The estimate for `queries`, which are yet to be done, beside `done` that are not. Token counts are estimates."""
    count = len(queries)
    if model is None:
        return BuildEstimate(questions=count + done, done_before=done)
    prompts = [estimate_tokens(prompt(solved)) for solved in queries]
    again = model.max_tokens + _SAID_AGAIN
    growth = again * model.attempts * (model.attempts - 1) // 2
    return BuildEstimate(
        questions=count + done,
        done_before=done,
        model=model.model,
        calls=count,
        most_calls=count * model.attempts,
        prompt_tokens=sum(prompts),
        completion_tokens=count * min(_WRITTEN, model.max_tokens),
        usd=prices.cost(sum(prompts), count * min(_WRITTEN, model.max_tokens)),
        most_usd=prices.cost(sum(prompts) * model.attempts + count * growth, count * model.attempts * model.max_tokens),
    )
