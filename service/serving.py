"""What is served right now: one immutable snapshot of the pool, the router, the encoder and the templates.

A request takes the snapshot once and keeps it; a reload or a hot swap replaces the snapshot as a whole. So no request
ever sees half of a change, and none waits for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from encoders.protocol import Encoder, Vectors
from registry.arms import Arm, Capability, Pool
from registry.config import Config, RouteConfig
from registry.rollouts import Trial
from routers.lineup import Lineup
from routers.policy.threshold import NAME as THRESHOLD_NAME
from service.errors import ApiError, invalid, model_not_found
from service.routing_options import PRESETS, unknown_preset
from templates_store.index import TemplateIndex

if TYPE_CHECKING:
    from encoders.batching import BatchingEncoder

ENCODER_MODEL_PREFIX = "tokamak-encoder-"


@dataclass(frozen=True, slots=True)
class Target:
    """What a model's name stands for: one pinned arm, or a route with the preference of its preset.

    With a `threshold` the choice is between a strong and a weak arm, by the odds of the serving router.
    """

    name: str
    pinned: Arm | None = None
    route: RouteConfig | None = None
    preference: float = 1.0
    threshold: float | None = None

    @property
    def base(self) -> str:
        """The route's name without its preset."""
        return self.name.partition(":")[0]


class Standing(NamedTuple):
    """Which arms requests of one kind may have whatever is up and however long they are: by index, and why not others.

    `least_window` is the smallest context window of the allowed ones, in tokens.
    """

    allowed: tuple[int, ...]
    eliminated: Mapping[int, str]
    least_window: float


Kind = tuple[tuple[str, ...], tuple[str, ...], frozenset[Capability]]
"""The globs of a route and of a key, and what a request needs."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The snapshot. `lineup` predicts for `arms`, in that order; `router` is its version, name@digest.

    While a version is on `trial`, `tried` is the same snapshot with that version as its router. `standings` remembers,
    for the kinds of requests that came, which of the arms they may have.
    """

    config: Config
    pool: Pool
    arms: tuple[Arm, ...]
    arm_ids: tuple[str, ...]
    encoder: Encoder
    batching: BatchingEncoder | None
    lineup: Lineup
    router: str
    templates: TemplateIndex | None
    targets: dict[str, Target] = field(default_factory=dict)
    trial: Trial | None = None
    tried: Serving | None = None
    standings: dict[Kind, Standing] = field(default_factory=dict)

    def routed_by(self, router: str, lineup: Lineup) -> Serving:
        """The same with another champion."""
        return replace(self, router=router, lineup=lineup).trying(self.trial, self.tried)

    def trying(self, trial: Trial | None, tried: Serving | None) -> Serving:
        """The same with that version (its router, its lineup) on trial, or none."""
        if trial is None or tried is None:
            return replace(self, trial=None, tried=None)
        same = replace(self, router=tried.router, lineup=tried.lineup, trial=None, tried=None)
        return replace(self, trial=trial, tried=same)

    def with_templates(self, templates: TemplateIndex) -> Serving:
        return replace(self, templates=templates).trying(self.trial, self.tried)

    async def encode(self, text: str) -> Vectors:
        """The unit vector of a text; in the event loop if that takes microseconds, else batched in a thread."""
        if self.batching is None:
            return self.encoder.encode_one(text)
        return await self.batching.encode_one(text)

    def target(self, name: str) -> Target:
        """What the name stands for. Raises ApiError 404, or 400 for an unknown preset."""
        found = self.targets.get(name)
        if found is not None:
            return found
        if name.startswith(ENCODER_MODEL_PREFIX):
            raise invalid(f"The model {name!r} makes embeddings; use /v1/embeddings.", "model", "unsupported_model")
        odds = THRESHOLD_NAME.fullmatch(name)
        if odds is not None:
            return self._by_odds(name, odds["router"], float(odds["threshold"]))
        route, _, preset = name.partition(":")
        if preset and route in self.targets and preset not in PRESETS:
            raise unknown_preset(preset)
        raise model_not_found(name, self.targets)

    def _by_odds(self, name: str, router: str, threshold: float) -> Target:
        serves = self.lineup.router.name
        if router != serves:
            raise ApiError(
                404, "not_found_error", "model_not_found",
                f"No router {router!r} serves; this gateway has {serves!r} ({self.router}). Ask for "
                f"'router-{serves}-{threshold:g}', or deploy a {router!r} router.", param="model",
            )  # fmt: skip
        if threshold > 1.0:
            raise invalid(
                f"The threshold of {name!r} is a probability: it must lie in [0, 1], got {threshold:g}. "
                "`tokamak calibrate` prints one for a share of strong answers.",
                "model",
            )
        return Target(name, route=self.targets["auto"].route, threshold=threshold)


def targets_of(config: Config, pool: Pool) -> dict[str, Target]:
    """Every name a client may ask for: models, arms, routes and routes with a preset. Models win over routes."""
    found: dict[str, Target] = {}
    for name, route in {"auto": RouteConfig(), **config.routes}.items():
        found[name] = Target(name, route=route, preference=route.preference)
        for preset, preference in PRESETS.items():
            found[f"{name}:{preset}"] = Target(f"{name}:{preset}", route=route, preference=preference)
    for arm in pool.arms.values():
        found[arm.id] = Target(arm.id, pinned=arm)
    for model in pool.models.values():
        found[model.name] = Target(model.name, pinned=Arm(model.name, model, "direct"))
    return found


def encoder_model(encoder: Encoder) -> str:
    """The name under which the service's own encoder answers `/v1/embeddings`."""
    return ENCODER_MODEL_PREFIX + encoder.name.replace(":", "-").replace("/", "-")


def refuse_window(prompt_tokens: int, answer_tokens: int | None, largest: int) -> ApiError:
    asked = prompt_tokens + (answer_tokens or 0)
    return ApiError(
        400, "invalid_request_error", "context_length_exceeded",
        f"The request needs about {asked} tokens (prompt and answer); the largest context window that may serve it "
        f"holds {largest}. Shorten the messages or lower the number of tokens asked for.", param="messages",
    )  # fmt: skip
