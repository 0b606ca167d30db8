"""What kinds of jobs there are, and what each may be asked for. Queued by the admin API, run by the worker."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from traffic.records import ScoreSource

TRAIN_ROUTER: Final = "train_router"
BUILD_TEMPLATES: Final = "build_templates"
TEMPLATE_WORTH: Final = "template_worth"


class TrainArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Train a router from the traffic log.

    `router`: a name of `routers.catalogue`, the default one if left out. `since`, `until`: Unix seconds; up to the
    moment of queuing if left out. `sources`: count only scores of these. `preference`: weight of quality at which the
    candidate is compared with the champion; that of the route `auto` if left out.
    """

    router: str | None = None
    since: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    until: Annotated[float, msgspec.Meta(ge=0)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    sources: tuple[ScoreSource, ...] | None = None
    preference: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None

    def to_json(self) -> dict[str, Any]:
        """What is stored with the job; defaults are left out, so that equal wishes are equal."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


class BuildArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Build thought templates from the traffic log.

    `builder`: `extractive` needs no model; `llm` asks `model`, which is one of the pool. `select`: how the best answers
    of a question are chosen. `since`, `until`: Unix seconds; up to the moment of queuing if left out. `limit`: look at
    no more than so many questions. `max_usd`: stop before more than that is spent. `approve`: whether templates are
    used at once; as the config says if left out. `dry_run`: only say what it would take.
    """

    builder: Literal["extractive", "llm"] = "extractive"
    model: str | None = None
    select: Literal["performance", "judge", "hybrid"] = "hybrid"
    since: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    until: Annotated[float, msgspec.Meta(ge=0)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_usd: Annotated[float, msgspec.Meta(gt=0)] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    approve: Literal["auto", "manual"] | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if (self.builder == "llm") != (self.model is not None):
            raise ValueError("`model` names the model that writes for the builder `llm`, and only for that one")

    def to_json(self) -> dict[str, Any]:
        """What is stored with the job; defaults are left out, so that equal wishes are equal."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


def build_arguments(stated: Any) -> BuildArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, BuildArguments)


class WorthArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Measure what templates are worth, from the traffic log.

    `since`: Unix seconds from which requests count. `quarantine`: whether those that do harm are taken out of use.
    """

    since: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    quarantine: bool = True

    def to_json(self) -> dict[str, Any]:
        """What is stored with the job; defaults are left out, so that equal wishes are equal."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


def worth_arguments(stated: Any) -> WorthArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, WorthArguments)


def train_arguments(stated: Any) -> TrainArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, TrainArguments)
