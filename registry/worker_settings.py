"""What a worker must know of the service: handed over in the environment, so that no secret shows in a command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.config import AutomaticConfig, Config, RouteConfig

VARIABLE: Final = "TOKAMAK_WORKER_SETTINGS"


class WorkerSettings(BaseModel):
    """`preference` is that of the route `auto`; `arms` are the ids of the pool's arms, empty if not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    log_url: str
    encoder: str = "static"
    preference: float = RouteConfig.model_fields["preference"].default
    arms: tuple[str, ...] = ()
    lease_s: float = 30.0
    automatic: AutomaticConfig = AutomaticConfig()


def settings_of(config: Config) -> WorkerSettings:
    """The settings of a worker beside the service of this config."""
    data_dir = Path(config.server.data_dir).absolute()
    arms = [name if way == "direct" else f"{name}#{way}" for name, m in config.models.items() for way in m.ways]
    return WorkerSettings(
        data_dir=data_dir,
        log_url=config.log.url or f"sqlite:///{data_dir / 'traffic.db'}",
        encoder=config.routers.encoder,
        preference=config.routes.get("auto", RouteConfig()).preference,
        arms=tuple(arms),
        lease_s=config.jobs.lease_s,
        automatic=config.routers.automatic,
    )


def settings_from(environ: Mapping[str, str]) -> WorkerSettings | None:
    """The settings that a gateway has handed over, if it has. Raises ValueError if they cannot be read."""
    stated = environ.get(VARIABLE)
    if stated is None:
        return None
    try:
        return WorkerSettings.model_validate_json(stated)
    except ValidationError as error:
        raise ValueError(f"{VARIABLE} cannot be read: {error.errors()[0]['msg']}; name a config instead") from error
