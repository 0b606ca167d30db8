"""What a round is expected to take, before anybody is asked, and what the next contests will, once some are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from offline.bohdi.budget import FRAME_TOKENS, Most
from offline.bohdi.judging import ORDERS, may_judge
from offline.bohdi.prompts import Asked, PromptSet
from offline.bohdi.settings import Settings
from registry.arms import Arm
from templates_store.augment import estimate_tokens

TYPICAL_SHARE = 0.35
"""What a reply has of the tokens that it may have, about."""


class RoundEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Of a whole round, sprouts included as if every fifth walk needed one. `most_*`: if every reply is as long as it
    may be and nothing has to be asked again. USD are None if a model has no prices."""

    contests: int
    calls: int
    tokens: int
    most_tokens: int
    usd: float | None
    most_usd: float | None

    def told(self) -> str:
        """One sentence."""
        usd = (
            "the price is not known" if self.usd is None else f"about {self.usd:.4f} USD (at most {self.most_usd:.4f})"
        )
        return (
            f"a round of {self.contests} questions takes about {self.calls} calls and {self.tokens:,} tokens "
            f"(at most {self.most_tokens:,}); {usd}"
        )


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of call in a contest: `times` calls to `arm` with about so many tokens asked and answered."""

    arm: str
    times: float
    prompt_tokens: int
    max_tokens: int


def estimate_round(settings: Settings, arms: Mapping[str, Arm], prompts: PromptSet) -> RoundEstimate:
    """What a round with these settings is expected to take, without checkers, which save the judges' calls."""
    contests = settings.paths_per_round
    loads = contest_loads(settings, arms, prompts)
    sprouts = [
        Load(arm=source, times=prompts.reading.propose.samples / 5, prompt_tokens=_length(prompts, "propose"),
             max_tokens=prompts.reading.propose.max_tokens)
        for source in settings.sources
    ]  # fmt: skip
    wanted = [*loads, *sprouts]
    return RoundEstimate(
        contests=contests,
        calls=round(contests * sum(load.times for load in wanted)),
        tokens=round(contests * _tokens(wanted, TYPICAL_SHARE)),
        most_tokens=round(contests * _tokens(wanted, 1.0)),
        usd=_usd(wanted, arms, TYPICAL_SHARE, contests),
        most_usd=_usd(wanted, arms, 1.0, contests),
    )


def longest_call(settings: Settings, arms: Mapping[str, Arm], prompts: PromptSet) -> Most:
    """The most that one call of a contest is expected to use."""
    mosts = [
        Most(
            load.prompt_tokens + load.max_tokens,
            arms[load.arm].model.prices.cost(load.prompt_tokens, load.max_tokens),
        )
        for load in contest_loads(settings, arms, prompts)
    ]
    return Most(max(most.tokens for most in mosts), max(most.usd or 0.0 for most in mosts))


def contest_loads(settings: Settings, arms: Mapping[str, Arm], prompts: PromptSet) -> list[Load]:
    """The calls of one contest: a question, an answer of every model, and the judges' calls."""
    reading = prompts.reading
    question = round(TYPICAL_SHARE * reading.ask.max_tokens)
    answer = round(TYPICAL_SHARE * reading.answer.max_tokens)
    share = 1.0 / len(settings.sources)
    loads = [_load(source, share, _length(prompts, "ask"), reading.ask) for source in settings.sources]
    for model in (settings.target, *settings.sources):
        loads.append(_load(model, 1.0, _length(prompts, "answer") + question, reading.answer))
    if not prompts.judges:
        return loads
    model_of = {name: arm.model.name for name, arm in arms.items()}
    outside = may_judge(settings.judges, [settings.target, *settings.sources], model_of)
    if prompts.chooses and len(settings.sources) > 1:
        asked = _length(prompts, "choose") + question + len(settings.sources) * answer
        loads += [_load(judge, ORDERS, asked, reading.judge) for judge in outside]
    judges = settings.judges or settings.sources
    part = 1.0 if settings.judges else (len(settings.sources) - 1) * share
    asked = _length(prompts, "compare") + question + 2 * answer
    return loads + [_load(judge, ORDERS * part, asked, reading.judge) for judge in judges]


def _load(arm: str, times: float, prompt_tokens: int, asked: Asked) -> Load:
    return Load(arm=arm, times=times, prompt_tokens=prompt_tokens + FRAME_TOKENS, max_tokens=asked.max_tokens)


def _length(prompts: PromptSet, kind: str) -> int:
    return estimate_tokens(prompts.text(kind))


def _tokens(loads: Sequence[Load], share: float) -> float:
    return sum(load.times * (load.prompt_tokens + share * load.max_tokens) for load in loads)


def _usd(loads: Sequence[Load], arms: Mapping[str, Arm], share: float, contests: int) -> float | None:
    costs = [arms[load.arm].model.prices.cost(load.prompt_tokens, round(share * load.max_tokens)) for load in loads]
    if any(cost is None for cost in costs):
        return None
    return contests * sum(load.times * (cost or 0.0) for load, cost in zip(loads, costs, strict=True))
