"""Models, endpoints and arms: immutable descriptions of what can answer a query. Health and load live elsewhere.

An arm is a model and a way of asking it, written `model` for the direct way and `model#way` otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Way = Literal["direct", "think", "thought"]
WAYS: tuple[Way, ...] = ("direct", "think", "thought")
Capability = Literal["tools", "vision", "json_schema", "logprobs", "n", "completions", "embeddings", "chat"]
CAPABILITIES: tuple[Capability, ...] = (
    "chat", "completions", "embeddings", "tools", "vision", "json_schema", "logprobs", "n",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens. None means not known, and then no cost is computed."""

    prompt_per_1m: float | None = None
    completion_per_1m: float | None = None
    cached_input_per_1m: float | None = None
    cache_write_per_1m: float | None = None

    def cost(self, prompt: int | None, completion: int | None, cached: int | None = None) -> float | None:
        """Cost in USD of one answer, or None if a count or a price that it needs is not known.

        `cached` tokens are part of `prompt`; without a price of their own they cost as much as any prompt token.
        """
        if prompt is None or completion is None or self.prompt_per_1m is None or self.completion_per_1m is None:
            return None
        cached = min(cached or 0, prompt)
        cached_price = self.prompt_per_1m if self.cached_input_per_1m is None else self.cached_input_per_1m
        fresh = (prompt - cached) * self.prompt_per_1m
        return (fresh + cached * cached_price + completion * self.completion_per_1m) / 1e6


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that speaks the OpenAI API. `base_url` ends before `/chat/completions`, usually in `/v1`."""

    name: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 120.0
    total_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model runs: an upstream and the name the model has there; `concurrency` is how many calls it takes."""

    upstream: Upstream
    model: str
    concurrency: int | None = None
    id: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.upstream.name}/{self.model}")


@dataclass(frozen=True, slots=True)
class Model:
    """A logical model: what clients and routers name. It runs on one or more endpoints, tried in order."""

    name: str
    endpoints: tuple[Endpoint, ...]
    ways: tuple[Way, ...] = ("direct",)
    prices: Prices = Prices()
    context_window: int | None = None
    capabilities: frozenset[Capability] = frozenset(CAPABILITIES)
    quality_prior: float | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer a query."""

    id: str
    model: Model
    way: Way


def arm_id(model: str, way: Way) -> str:
    """`model` for the direct way, `model#way` for the others."""
    return model if way == "direct" else f"{model}#{way}"


def twin_of(arm: Arm) -> Arm:
    """The same model, asked directly."""
    return Arm(arm.model.name, arm.model, "direct")


class Pool:
    """An immutable snapshot of all models and their arms, in the order of the config.

    `counts_load`: an endpoint says how many calls it takes at a time. `twins`: for each `thought` arm, by position, the
    arm that asks its model directly, which may be no arm of the pool.
    """

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.models: dict[str, Model] = {model.name: model for model in models}
        self.counts_load = any(e.concurrency is not None for model in models for e in model.endpoints)
        arms = [Arm(arm_id(m.name, way), m, way) for m in models if "chat" in m.capabilities for way in m.ways]
        self.arms: dict[str, Arm] = {arm.id: arm for arm in arms}
        self.twins: dict[int, Arm] = {at: twin_of(arm) for at, arm in enumerate(arms) if arm.way == "thought"}

    def matching(self, globs: tuple[str, ...]) -> tuple[Arm, ...]:
        """The arms whose id or model name matches one of the globs (`*`, `gpt-*`, `llama#think`)."""
        if "*" in globs:
            return tuple(self.arms.values())
        return tuple(
            arm for arm in self.arms.values()
            if any(fnmatchcase(arm.id, glob) or fnmatchcase(arm.model.name, glob) for glob in globs)
        )  # fmt: skip
