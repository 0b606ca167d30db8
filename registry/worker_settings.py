"""What a worker must know of the service: handed over in the environment, so that no secret shows in a command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.arms import Pool
from registry.config import AutomaticConfig, Config, ModelConfig, RouteConfig, TemplatesConfig, UpstreamConfig
from registry.config_file import build_pool

VARIABLE: Final = "TOKAMAK_WORKER_SETTINGS"


class WorkerSettings(BaseModel):
    """`preference` is that of the route `auto`; `arms` are the ids of the pool's arms, empty if not known.

    `upstreams` and `models` are those of the config, for jobs that ask a model themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    log_url: str
    encoder: str = "static"
    preference: float = RouteConfig.model_fields["preference"].default
    arms: tuple[str, ...] = ()
    lease_s: float = 30.0
    automatic: AutomaticConfig = AutomaticConfig()
    templates: TemplatesConfig = TemplatesConfig()
    upstreams: dict[str, UpstreamConfig] = {}
    models: dict[str, ModelConfig] = {}

    def pool(self, environ: Mapping[str, str]) -> Pool:
        """The models with their keys and prices. Raises ValueError if there are none, or a key is not set."""
        if not self.models:
            raise ValueError("this worker knows no models; start it with `--config <the config of the service>`")
        try:
            return build_pool(Config(version=1, upstreams=self.upstreams, models=self.models), environ)
        except KeyError as error:
            raise ValueError(f"the environment variable {error} is not set where this worker runs") from None


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
        templates=config.templates,
        upstreams=config.upstreams,
        models=config.models,
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
