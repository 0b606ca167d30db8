"""The gateway's config for a replayed pool: every model of the sample on one upstream, with its recorded prices."""

from __future__ import annotations

from typing import Any

from demo.replay.load import load_sample
from demo.replay.sample import ReplaySample
from registry.config import Config

UPSTREAM = "replay"
EXPLORE = "explore"
"""Name of the route that draws its arm uniformly: the traffic a router learns from."""


def replay_config(base_url: str, pool: str | ReplaySample = "llmrouter14") -> dict[str, Any]:
    """The config as a mapping that `registry.config.Config` accepts. `base_url` ends in `/v1`.

    Raises
    ------
    SampleError: no sample of that name.
    """
    sample = load_sample(pool) if isinstance(pool, str) else pool
    models: dict[str, Any] = {}
    for model in sample.header.models:
        models[model.name] = {"endpoints": [{"upstream": UPSTREAM}], "capabilities": ["chat"]}
        if model.prompt_per_1m is not None and model.completion_per_1m is not None:
            prices = {"prompt_per_1m": model.prompt_per_1m, "completion_per_1m": model.completion_per_1m}
            models[model.name]["prices"] = prices
    config = {
        "version": 1,
        "upstreams": {UPSTREAM: {"base_url": base_url}},
        "models": models,
        "routes": {"auto": {}, EXPLORE: {"exploration": 1.0}},
    }
    Config.model_validate(config)
    return config
