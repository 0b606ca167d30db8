"""The demo fleet as the gateway sees it: a config of one upstream and all its models, read from `fleet.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FLEET_FILE = Path(__file__).parent / "fleet.json"
OUTCOMES_FILE = Path(__file__).parent / "outcomes.jsonl.gz"
ACCURACY_FILE = Path(__file__).parent / "accuracy.json"
CODES_FILE = Path(__file__).parent / "codes.json"


def fleet_models() -> dict[str, dict[str, Any]]:
    """What `fleet.json` says of each model, by name.

    Keys: role, architecture, families, parameters, context_window, prices (USD per million tokens, invented by size).
    """
    models: dict[str, dict[str, Any]] = json.loads(FLEET_FILE.read_text())["models"]
    return models


def fleet_config(base_url: str) -> dict[str, Any]:
    """A config (for `registry.config.Config`) that routes over the demo fleet served at `base_url` (ending in `/v1`).

    The untrained target model is listed, so that it can be called by name, but the route `auto` does not choose it.
    """
    models = fleet_models()
    routed = [name for name, about in models.items() if about["role"] != "target"]
    return {
        "version": 1,
        "upstreams": {"fleet": {"base_url": base_url.rstrip("/")}},
        "models": {
            name: {
                "endpoints": [{"upstream": "fleet"}],
                "ways": ["direct"],
                "prices": about["prices"],
                "context_window": about["context_window"],
                "capabilities": ["chat", "completions", "logprobs", "n"],
            }
            for name, about in models.items()
        },
        "routes": {"auto": {"models": routed}},
    }


def spread_config(urls: Mapping[str, str]) -> dict[str, Any]:
    """The same fleet where each model has a server of its own (as with vLLM); `urls` by model name, ending in `/v1`."""
    document = fleet_config("http://127.0.0.1/v1")
    document["upstreams"] = {name: {"base_url": url.rstrip("/")} for name, url in urls.items()}
    for name, model in document["models"].items():
        model["endpoints"] = [{"upstream": name}]
    return document
