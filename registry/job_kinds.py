"""What kinds of jobs there are, and what each may be asked for. Queued by the admin API, run by the worker."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from traffic.records import ScoreSource

TRAIN_ROUTER: Final = "train_router"


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


def train_arguments(stated: Any) -> TrainArguments:
    """Raises ValueError, naming the field, if the arguments are wrong."""
    return msgspec.convert(stated, TrainArguments)
